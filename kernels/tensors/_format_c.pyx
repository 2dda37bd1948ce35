# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: autotestdict=False
"""Raw tensors to JSON arrays in C++; `_format_py` is the specification.

The longest text that the elements can have is asked for at once, written without further looking, and what is left is
given back: memory that was never touched costs nothing. The GIL is given up for RELEASE bytes and more.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.ref cimport PyObject, Py_DECREF, Py_XDECREF
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kernels.tensors._tokens cimport utf8_width

from kernels.tensors import _powers


# With the reference in plain sight: `_PyBytes_Resize` takes one and gives another.
cdef extern from "Python.h":
    PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t) except NULL
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1

cdef extern from "lanes.hpp":
    const uint8_t* plain_end "tidegate::plain_end"(const uint8_t*, const uint8_t*) noexcept nogil

cdef extern from "powers.hpp":
    void set_powers "tidegate::set_powers"(const char*) noexcept

cdef extern from "shortest.hpp":
    char* write_number "tidegate::write_number"[T](char*, T) noexcept nogil
    Py_ssize_t WIDEST "tidegate::kWidest"


set_powers(_powers.table(up=True))


cdef enum:
    RELEASE = 16384  # see `_parse_c`

cdef enum Kind:
    BOOLEAN
    U8
    U16
    U32
    U64
    I8
    I16
    I32
    I64
    SINGLE
    DOUBLE

# Kind, bytes an element, characters of its longest text.
cdef dict KINDS = {
    "BOOL": (BOOLEAN, 1, 5),
    "UINT8": (U8, 1, 3),
    "UINT16": (U16, 2, 5),
    "UINT32": (U32, 4, 10),
    "UINT64": (U64, 8, 20),
    "INT8": (I8, 1, 4),
    "INT16": (I16, 2, 6),
    "INT32": (I32, 4, 11),
    "INT64": (I64, 8, 20),
    "FP32": (SINGLE, 4, 19),  # -1234567800000000.0
    "FP64": (DOUBLE, 8, 24),  # -1.2345678901234567e-308
}

ctypedef fused Number:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    int8_t
    int16_t
    int32_t
    int64_t
    float
    double


def count_bytes_elements(const uint8_t[::1] buf not None):
    """See `_format_py.count_bytes_elements`."""
    cdef Py_ssize_t n = buf.shape[0]
    cdef const uint8_t* p = &buf[0] if n else NULL
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t count = 0
    cdef uint32_t length
    while i < n:
        if n - i < 4:
            raise ValueError(f"incomplete string length indicator, expecting 4 bytes but only {n - i} bytes available")
        memcpy(&length, p + i, 4)
        i += 4
        if length > n - i:
            raise ValueError(
                f"incomplete string data, expecting string of length {length} but only {n - i} bytes available"
            )
        i += length
        count += 1
    return count


cdef char* put_quoted(char* at, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """The string as JSON; NULL when it is no UTF-8. At most 6 bytes for each of its own and two quotes."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t run
    cdef uint8_t c
    cdef int width
    cdef const char* digits = "0123456789abcdef"
    at[0] = 34
    at += 1
    while i < n:
        run = plain_end(p + i, p + n) - p - i
        memcpy(at, p + i, run)
        at += run
        i += run
        if i == n:
            break
        c = p[i]
        if c >= 128:
            width = utf8_width(p, n, i)
            if width == 0:
                return NULL
            memcpy(at, p + i, width)
            at += width
            i += width
            continue
        i += 1
        at[0] = 92
        at += 1
        if c == 34 or c == 92:
            at[0] = <char> c
        elif c == 10:
            at[0] = 110
        elif c == 13:
            at[0] = 114
        elif c == 9:
            at[0] = 116
        elif c == 8:
            at[0] = 98
        elif c == 12:
            at[0] = 102
        else:
            memcpy(at, "u00", 3)
            at[3] = digits[c >> 4]
            at[4] = digits[c & 15]
            at += 4
        at += 1
    at[0] = 34
    return at + 1


cdef char* put_numbers(char* at, const uint8_t* p, Py_ssize_t n, Number kind) noexcept nogil:
    """Each with a comma behind it; `kind` only says the type."""
    cdef Number value
    cdef Py_ssize_t i
    for i in range(n // <Py_ssize_t> sizeof(Number)):
        memcpy(&value, p + i * sizeof(Number), sizeof(Number))
        at = write_number(at, value)
        at[0] = 44
        at += 1
    return at


cdef char* put_booleans(char* at, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        # Six characters always, without a branch that nobody can foresee.
        memcpy(at, b"true, " if p[i] else b"false,", 6)
        at += 6 - (p[i] != 0)
    return at


cdef char* put_all(char* at, const uint8_t* p, Py_ssize_t n, int kind) noexcept nogil:
    if kind == SINGLE:
        return put_numbers[float](at, p, n, 0)
    if kind == DOUBLE:
        return put_numbers[double](at, p, n, 0)
    if kind == BOOLEAN:
        return put_booleans(at, p, n)
    if kind == U8:
        return put_numbers[uint8_t](at, p, n, 0)
    if kind == U16:
        return put_numbers[uint16_t](at, p, n, 0)
    if kind == U32:
        return put_numbers[uint32_t](at, p, n, 0)
    if kind == U64:
        return put_numbers[uint64_t](at, p, n, 0)
    if kind == I8:
        return put_numbers[int8_t](at, p, n, 0)
    if kind == I16:
        return put_numbers[int16_t](at, p, n, 0)
    if kind == I32:
        return put_numbers[int32_t](at, p, n, 0)
    return put_numbers[int64_t](at, p, n, 0)


cdef char* put_strings(char* at, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Elements that `count_bytes_elements` has found sound; NULL when one is no UTF-8."""
    cdef Py_ssize_t i = 0
    cdef uint32_t length
    while i < n:
        memcpy(&length, p + i, 4)
        i += 4
        at = put_quoted(at, p + i, length)
        if at == NULL:
            return NULL
        i += length
        at[0] = 44
        at += 1
    return at


def format_array(const uint8_t[::1] raw not None, str datatype not None):
    """See `_format_py.format_array`."""
    cdef Py_ssize_t n = raw.shape[0]
    cdef const uint8_t* p = &raw[0] if n else NULL
    cdef Py_ssize_t room
    cdef PyObject* text
    cdef char* begin
    cdef char* at
    cdef int kind = 0
    cdef bint strings = datatype == "BYTES"
    if strings:
        # Six characters for a byte of text, two quotes and a comma for the four of the length.
        room = (n - 4 * <Py_ssize_t> count_bytes_elements(raw)) * 6 + n
    else:
        known = KINDS.get(datatype)
        if known is None:
            raise ValueError(f"no JSON form for {datatype}")
        kind, size, longest = known
        if n % size:
            raise ValueError(f"{n} bytes are no whole number of {datatype} elements")
        room = n // size * (longest + 1)
    text = PyBytes_FromStringAndSize(NULL, room + WIDEST)
    begin = PyBytes_AS_STRING(<object> text)
    begin[0] = 91
    if n >= RELEASE:
        with nogil:
            at = put_strings(begin + 1, p, n) if strings else put_all(begin + 1, p, n, kind)
    else:
        at = put_strings(begin + 1, p, n) if strings else put_all(begin + 1, p, n, kind)
    if at == NULL:
        Py_XDECREF(text)
        raise ValueError("BYTES that are not UTF-8 have no JSON form")
    at -= n != 0  # the last comma
    at[0] = 93
    _PyBytes_Resize(&text, at + 1 - begin)
    result = <object> text
    Py_DECREF(result)
    return result
