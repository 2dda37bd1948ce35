# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""HMAC-SHA-256 in C; the specification is `_hmac_py.py`.

Design:
a) `sha256.hpp`: SHA-256 by the processor's instructions, where it has them (`available`), on the stack;
b) the class keeps the state after the block of each padded key, so that a digest begins there;
c) without the GIL only where the part is large enough to pay for it: another thread that waits for the interpreter
   costs more than the digest of a small request.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "sha256.hpp" nogil:
    const uint32_t TG_SHA256_BEGIN[8]
    bint tg_sha256_available()
    void tg_sha256_begin(tg_sha256 *it, const uint32_t *state, uint64_t length)
    void tg_sha256_add(tg_sha256 *it, const unsigned char *data, size_t size)
    void tg_sha256_end(tg_sha256 *it, unsigned char *out)

cdef extern from "Python.h":
    unicode PyUnicode_DecodeASCII(const char *text, Py_ssize_t size, const char *errors)

# 36 us; the interpreter changes hands in some 10.
cdef Py_ssize_t LARGE = 65536
cdef const char *DIGITS = b"0123456789abcdef"


def available() -> bool:
    """Whether this processor has the instructions; else nothing of this module may be used."""
    return tg_sha256_available()


@cython.final
cdef class HmacSha256:
    """HMAC-SHA-256 under one key of at most 64 bytes."""

    def __init__(self, bytes key):
        cdef unsigned char block[64]
        cdef Py_ssize_t i
        if not tg_sha256_available():
            raise RuntimeError("this processor has no SHA instructions")
        if len(key) > 64:
            raise ValueError("a key of more than 64 bytes")
        padded = key.ljust(64, b"\0")
        for i in range(64):
            block[i] = <unsigned char>(padded[i]) ^ 0x36
        tg_sha256_begin(&self._inner, TG_SHA256_BEGIN, 0)
        tg_sha256_add(&self._inner, block, 64)
        for i in range(64):
            block[i] ^= 0x36 ^ 0x5C
        tg_sha256_begin(&self._outer, TG_SHA256_BEGIN, 0)
        tg_sha256_add(&self._outer, block, 64)

    cdef int _digest(self, object parts, unsigned char *out) except -1:
        cdef tg_sha256 it
        cdef Py_buffer view
        tg_sha256_begin(&it, self._inner.state, 64)
        for part in parts:
            PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
            if view.len >= LARGE:
                with nogil:
                    tg_sha256_add(&it, <const unsigned char *>view.buf, <size_t>view.len)
            else:
                tg_sha256_add(&it, <const unsigned char *>view.buf, <size_t>view.len)
            PyBuffer_Release(&view)
        tg_sha256_end(&it, out)
        tg_sha256_begin(&it, self._outer.state, 64)
        tg_sha256_add(&it, out, 32)
        tg_sha256_end(&it, out)
        return 0

    def digest(self, parts) -> bytes:
        """Of the parts as one: 32 bytes."""
        cdef unsigned char out[32]
        self._digest(parts, out)
        return PyBytes_FromStringAndSize(<char *>out, 32)

    def hexdigest(self, parts) -> str:
        """The same in hexadecimal."""
        cdef unsigned char out[32]
        cdef char text[64]
        cdef Py_ssize_t i
        self._digest(parts, out)
        for i in range(32):
            text[2 * i] = DIGITS[out[i] >> 4]
            text[2 * i + 1] = DIGITS[out[i] & 15]
        return PyUnicode_DecodeASCII(text, 64, NULL)

    def hex(self, data) -> str:
        """Of some bytes, hexadecimal."""
        return self.hexdigest((data,))
