# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Entries of one form in C; the specification is `_entry_py.py`.

Design: the length of an entry is known before it is written, so that its bytes are written once, in place; the digests
are taken by the hashing kernel's C function without an object between.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from kernels.hashing._hmac_c cimport HmacSha256

from governance.audit._entry_py import LONGEST_ID, SMALL
from governance.audit.record import MOST_INTEGER, timestamp

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    PIECES = 6
    SECONDS = 19  # YYYY-MM-DDTHH:MM:SS
    MOST_DIGITS = 20

cdef Py_ssize_t _SMALL = SMALL, _LONGEST_ID = LONGEST_ID
cdef int64_t _MOST_INTEGER = MOST_INTEGER
cdef const char *DIGITS = b"0123456789abcdef"

# Formatting the second costs the most and is the same for many.
cdef int64_t _second = -1
cdef char _text[SECONDS]


cdef Py_ssize_t size_of(object body) except -1:
    cdef Py_ssize_t size = 0
    if body is not None:
        for part in body:
            size += len(part)
    return size


cdef char *put(char *at, bytes piece) noexcept:
    memcpy(at, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
    return at + PyBytes_GET_SIZE(piece)


cdef bint plain(const char *text, Py_ssize_t size) noexcept:
    """Printable ASCII that JSON writes as it is."""
    cdef Py_ssize_t i
    for i in range(size):
        if text[i] < 0x20 or text[i] > 0x7E or text[i] == c'"' or text[i] == c"\\":
            return False
    return True


@cython.final
cdef class Form:
    """See `entry.py`."""

    cdef tuple pieces
    cdef HmacSha256 mac
    cdef Py_ssize_t size

    def __init__(self, tuple pieces, HmacSha256 mac not None):
        if len(pieces) != PIECES:
            raise ValueError(f"{len(pieces)} pieces")
        for piece in pieces:
            self.size += PyBytes_GET_SIZE(<bytes?>piece)
        self.pieces = pieces
        self.mac = mac

    def entry(self, str request_id not None, int64_t latency_us, int64_t time_ns, inputs, outputs):
        """The entry of one decision; None: see the specification."""
        cdef char digits[MOST_DIGITS]
        cdef Py_ssize_t id_size, count = 0
        cdef const char *text
        cdef char *at
        cdef bytes entry
        if size_of(inputs) + size_of(outputs) > _SMALL or not PyUnicode_IS_COMPACT_ASCII(request_id):
            return None
        text = PyUnicode_AsUTF8AndSize(request_id, &id_size)
        if id_size == 0 or id_size > _LONGEST_ID or not plain(text, id_size):
            return None
        if latency_us < 0 or latency_us > _MOST_INTEGER:
            return None
        while latency_us or count == 0:
            count += 1
            digits[MOST_DIGITS - count] = <char>(c"0" + latency_us % 10)
            latency_us //= 10
        entry = PyBytes_FromStringAndSize(
            NULL,
            self.size + id_size + (4 if inputs is None else 66) + count + (4 if outputs is None else 66) + SECONDS + 11,
        )
        at = put(PyBytes_AS_STRING(entry), <bytes>self.pieces[0])
        memcpy(at, text, id_size)
        at = self.digest(put(at + id_size, <bytes>self.pieces[1]), inputs)
        at = put(at, <bytes>self.pieces[2])
        memcpy(at, digits + MOST_DIGITS - count, count)
        at = self.digest(put(at + count, <bytes>self.pieces[3]), outputs)
        at = put(at, <bytes>self.pieces[4])
        self.stamp(at, time_ns)
        put(at + SECONDS + 11, <bytes>self.pieces[5])
        return entry

    cdef char *digest(self, char *at, object body) except NULL:
        cdef unsigned char out[32]
        cdef int i
        if body is None:
            memcpy(at, b"null", 4)
            return at + 4
        self.mac._digest(body, out)
        at[0] = at[65] = c'"'
        for i in range(32):
            at[1 + 2 * i] = DIGITS[out[i] >> 4]
            at[2 + 2 * i] = DIGITS[out[i] & 15]
        return at + 66

    cdef int stamp(self, char *at, int64_t time_ns) except -1:
        """As `record.timestamp`, without its end."""
        global _second
        cdef int64_t second = time_ns // 1000000000, rest = time_ns % 1000000000
        cdef int i
        if second != _second:
            text = (<str>timestamp(time_ns)).encode()
            memcpy(_text, PyBytes_AS_STRING(text), SECONDS)
            _second = second
        memcpy(at, _text, SECONDS)
        at[SECONDS] = c"."
        for i in range(9):
            at[SECONDS + 9 - i] = <char>(c"0" + rest % 10)
            rest //= 10
        at[SECONDS + 10] = c"Z"
        return 0
