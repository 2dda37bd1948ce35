"""Tokens of JSON for the C++ twins: readers that neither allocate nor raise nor hold the GIL.

Each takes the text as pointer and size, and the offset where the token starts; it returns a Fault, 0 for none, and
says in `end` where the token ends. `_tokens_py` is the specification.
"""

from libc.math cimport INFINITY, NAN
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy


cdef extern from "lanes.hpp":
    const uint8_t* digits_end "tidegate::digits_end"(const uint8_t*, const uint8_t*) noexcept nogil
    const uint8_t* plain_end "tidegate::plain_end"(const uint8_t*, const uint8_t*) noexcept nogil


cdef enum:
    MAX_DEPTH = 1000  # that of `_faults`

# Indices of `_faults.CODES`.
cdef enum Fault:
    OK = 0
    EMPTY = 1
    AFTER_ROOT = 2
    VALUE = 3
    NO_NAME = 4
    NO_COLON = 5
    NO_COMMA_OBJECT = 6
    NO_COMMA_ARRAY = 7
    DUPLICATE = 8
    NO_FRACTION = 9
    NO_EXPONENT = 10
    NO_QUOTE = 11
    ENCODING = 12
    ESCAPE = 13
    NO_HEX = 14
    SURROGATE = 15


cdef inline Py_ssize_t skip(const uint8_t* p, Py_ssize_t n, Py_ssize_t i) noexcept nogil:
    """Past blanks."""
    while i < n and (p[i] == 32 or p[i] == 10 or p[i] == 13 or p[i] == 9):
        i += 1
    return i


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return 48 <= c <= 57


cdef inline bint starts(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, const char* word, int size) noexcept nogil:
    return i + size <= n and memcmp(p + i, word, size) == 0


cdef inline int utf8_width(const uint8_t* p, Py_ssize_t n, Py_ssize_t i) noexcept nogil:
    """Bytes of the well-formed multi-byte character at i (Unicode table 3-7); 0 when it is none."""
    cdef uint8_t c = p[i]
    if 0xC2 <= c <= 0xDF:
        return 2 if i + 1 < n and (p[i + 1] & 0xC0) == 0x80 else 0
    if (c & 0xF0) == 0xE0:
        if i + 2 >= n or (p[i + 1] & 0xC0) != 0x80 or (p[i + 2] & 0xC0) != 0x80:
            return 0
        if (c == 0xE0 and p[i + 1] < 0xA0) or (c == 0xED and p[i + 1] > 0x9F):
            return 0
        return 3
    if 0xF0 <= c <= 0xF4:
        if i + 3 >= n or (p[i + 1] & 0xC0) != 0x80 or (p[i + 2] & 0xC0) != 0x80 or (p[i + 3] & 0xC0) != 0x80:
            return 0
        if (c == 0xF0 and p[i + 1] < 0x90) or (c == 0xF4 and p[i + 1] > 0x8F):
            return 0
        return 4
    return 0


cdef inline int hex4(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, uint32_t* code) noexcept nogil:
    """Four hex digits at i."""
    cdef int k
    cdef uint8_t c
    if i + 4 > n:
        return NO_HEX
    code[0] = 0
    for k in range(4):
        c = p[i + k]
        if is_digit(c):
            c -= 48
        elif 97 <= c <= 102:
            c -= 87
        elif 65 <= c <= 70:
            c -= 55
        else:
            return NO_HEX
        code[0] = code[0] * 16 + c
    return OK


cdef inline char* put_utf8(char* at, uint32_t code) noexcept nogil:
    if code < 0x80:
        at[0] = <char> code
        return at + 1
    if code < 0x800:
        at[0] = <char> (0xC0 | (code >> 6))
        at[1] = <char> (0x80 | (code & 0x3F))
        return at + 2
    if code < 0x10000:
        at[0] = <char> (0xE0 | (code >> 12))
        at[1] = <char> (0x80 | ((code >> 6) & 0x3F))
        at[2] = <char> (0x80 | (code & 0x3F))
        return at + 3
    at[0] = <char> (0xF0 | (code >> 18))
    at[1] = <char> (0x80 | ((code >> 12) & 0x3F))
    at[2] = <char> (0x80 | ((code >> 6) & 0x3F))
    at[3] = <char> (0x80 | (code & 0x3F))
    return at + 4


cdef inline int escape(const uint8_t* p, Py_ssize_t n, Py_ssize_t* at, uint32_t* code) noexcept nogil:
    """The escape whose backslash is before `at`, which moves behind it."""
    cdef Py_ssize_t i = at[0]
    cdef uint32_t low
    cdef int fault
    cdef uint8_t c
    if i >= n:
        return NO_QUOTE
    c = p[i]
    i += 1
    if c == 34 or c == 92 or c == 47:
        code[0] = c
    elif c == 98:
        code[0] = 8
    elif c == 102:
        code[0] = 12
    elif c == 110:
        code[0] = 10
    elif c == 114:
        code[0] = 13
    elif c == 116:
        code[0] = 9
    elif c == 117:
        fault = hex4(p, n, i, code)
        if fault:
            return fault
        i += 4
        if 0xD800 <= code[0] <= 0xDFFF:
            if code[0] >= 0xDC00 or i + 2 > n or p[i] != 92 or p[i + 1] != 117:
                return SURROGATE
            fault = hex4(p, n, i + 2, &low)
            if fault:
                return fault
            if not 0xDC00 <= low <= 0xDFFF:
                return SURROGATE
            i += 6
            code[0] = 0x10000 + ((code[0] - 0xD800) << 10) + (low - 0xDC00)
    else:
        return ESCAPE
    at[0] = i
    return OK


cdef inline int read_string(
    const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end, bint* escaped, char** out
) noexcept nogil:
    """The string whose opening quote is at i. Unless `out` is NULL its text goes there, and `out` moves behind it: no
    more bytes than the string has between its quotes."""
    cdef Py_ssize_t run
    cdef uint32_t code = 0
    cdef uint8_t c
    cdef int width, fault
    i += 1
    run = i
    while True:
        i = plain_end(p + i, p + n) - p
        if i >= n:
            return NO_QUOTE
        c = p[i]
        if c >= 128:
            width = utf8_width(p, n, i)
            if width == 0:
                return ENCODING
            i += width
            continue
        if out != NULL:
            memcpy(out[0], p + run, i - run)
            out[0] += i - run
        if c == 34:
            end[0] = i + 1
            return OK
        if c < 32:
            return ENCODING
        escaped[0] = True
        i += 1
        fault = escape(p, n, &i, &code)
        if fault:
            return fault
        if out != NULL:
            out[0] = put_utf8(out[0], code)
        run = i


cdef inline int number_end(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end) noexcept nogil:
    """JSON's number grammar."""
    if i < n and p[i] == 45:
        i += 1
    if i >= n or not is_digit(p[i]):
        return VALUE
    if p[i] == 48:
        i += 1
    else:
        while i < n and is_digit(p[i]):
            i += 1
    if i < n and p[i] == 46:
        i += 1
        if i >= n or not is_digit(p[i]):
            return NO_FRACTION
        i = digits_end(p + i, p + n) - p
    if i < n and (p[i] == 101 or p[i] == 69):
        i += 1
        if i < n and (p[i] == 43 or p[i] == 45):
            i += 1
        if i >= n or not is_digit(p[i]):
            return NO_EXPONENT
        while i < n and is_digit(p[i]):
            i += 1
    end[0] = i
    return OK


cdef inline Py_ssize_t nonfinite_end(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, double* value) noexcept nogil:
    """Where NaN, Infinity or Inf, with or without a minus, ends; 0 when there is none at i."""
    cdef bint minus = i < n and p[i] == 45
    if minus:
        i += 1
    if starts(p, n, i, "NaN", 3):
        value[0] = NAN
        return i + 3
    value[0] = -INFINITY if minus else INFINITY
    if starts(p, n, i, "Infinity", 8):
        return i + 8
    if starts(p, n, i, "Inf", 3):
        return i + 3
    return 0


cdef inline int scalar_end(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end) noexcept nogil:
    """A string, number or literal."""
    cdef uint8_t c = p[i] if i < n else 0
    cdef bint escaped = False
    cdef double ignored
    cdef Py_ssize_t after = 0
    if is_digit(c) or (c == 45 and i + 1 < n and is_digit(p[i + 1])):
        return number_end(p, n, i, end)
    if c == 34:
        return read_string(p, n, i, end, &escaped, NULL)
    if starts(p, n, i, "true", 4) or starts(p, n, i, "null", 4):
        after = i + 4
    elif starts(p, n, i, "false", 5):
        after = i + 5
    else:
        after = nonfinite_end(p, n, i, &ignored)
    if after:
        end[0] = after
        return OK
    return number_end(p, n, i, end)
