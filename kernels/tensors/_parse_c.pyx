# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: autotestdict=False
"""JSON arrays to raw tensors in C++; `_parse_py` is the specification.

Runs of numbers go to a quick reader (`decimal.hpp`), which takes what nearly every tensor holds; the plain reader
judges the element where that one stops, so that what is an error, and where, is said in one place. The loop is one
function over a struct: it neither raises nor needs the GIL, which is given up for texts of RELEASE bytes and more.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cpp_bool

from kernels.tensors._tokens cimport (
    AFTER_ROOT,
    MAX_DEPTH,
    NO_COMMA_ARRAY,
    OK,
    digits_end,
    is_digit,
    nonfinite_end,
    number_end,
    read_string,
    skip,
    starts,
)

from kernels.tensors import _powers
from kernels.tensors._faults import CODES
from kernels.tensors._faults import fault as fault_of


cdef extern from "powers.hpp":
    void set_powers "tidegate::set_powers"(const char*) noexcept

cdef extern from "decimal.hpp":
    const uint8_t* quick_floats "tidegate::quick_floats"[T](
        const uint8_t*, const uint8_t*, char*, Py_ssize_t, Py_ssize_t*, cpp_bool*, T
    ) noexcept nogil
    const uint8_t* quick_integers "tidegate::quick_integers"[T](
        const uint8_t*, const uint8_t*, char*, Py_ssize_t, Py_ssize_t*, cpp_bool*, int64_t, uint64_t, T
    ) noexcept nogil
    bint is_large "tidegate::is_large"(const uint8_t*, const uint8_t*) noexcept nogil
    int read_number "tidegate::read_number"[T](const uint8_t*, const uint8_t*, T*) noexcept nogil
    void set_near_tens "tidegate::set_near_tens"() noexcept


set_powers(_powers.table(up=False))
set_near_tens()


cdef enum:
    RELEASE = 65536  # takes 50 us; another thread may keep the GIL for 5 ms, which less work is not worth

cdef enum Kind:
    BOOLEAN
    SIGNED
    UNSIGNED
    SINGLE
    DOUBLE
    STRINGS

# Besides the Faults of `_tokens`.
cdef enum Refusal:
    TOO_DEEP = 100
    TOO_MANY
    NO_NUMBER
    TOO_LARGE
    NO_INTEGER
    OUT_OF_RANGE
    NO_BOOLEAN
    NO_STRING

# Kind, bytes an element, least and greatest value.
cdef dict KINDS = {
    "BOOL": (BOOLEAN, 1, 0, 1),
    "UINT8": (UNSIGNED, 1, 0, 2**8 - 1),
    "UINT16": (UNSIGNED, 2, 0, 2**16 - 1),
    "UINT32": (UNSIGNED, 4, 0, 2**32 - 1),
    "UINT64": (UNSIGNED, 8, 0, 2**64 - 1),
    "INT8": (SIGNED, 1, -(2**7), 2**7 - 1),
    "INT16": (SIGNED, 2, -(2**15), 2**15 - 1),
    "INT32": (SIGNED, 4, -(2**31), 2**31 - 1),
    "INT64": (SIGNED, 8, -(2**63), 2**63 - 1),
    "FP32": (SINGLE, 4, 0, 0),
    "FP64": (DOUBLE, 8, 0, 0),
    "BYTES": (STRINGS, 0, 0, 0),
}


cdef struct Work:
    const uint8_t* p
    Py_ssize_t n
    int kind
    int size
    bint numbers
    int64_t least
    uint64_t greatest
    char* out  # where the next element goes
    Py_ssize_t limit  # elements that there is room for
    Py_ssize_t count  # elements so far
    int depth  # arrays that are open
    Py_ssize_t i  # the token that is next, or wrong
    Py_ssize_t end  # where the element that is out of range ends


cdef int read_integer(
    const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end, bint signed_, int64_t least, uint64_t greatest,
    uint64_t* value
) noexcept nogil:
    cdef Py_ssize_t start = i
    cdef int64_t number
    cdef bint minus = i < n and p[i] == 45
    if minus:
        i += 1
    if i >= n or not is_digit(p[i]):
        return NO_INTEGER
    i = i + 1 if p[i] == 48 else digits_end(p + i, p + n) - p
    if i < n and (p[i] == 46 or p[i] == 101 or p[i] == 69):
        return NO_INTEGER
    end[0] = i
    if signed_:
        if read_number[int64_t](p + start, p + i, &number) or number < least or number > <int64_t> greatest:
            return OUT_OF_RANGE
        value[0] = <uint64_t> number
        return OK
    if read_number[uint64_t](p + start + minus, p + i, value) or value[0] > greatest or (minus and value[0]):
        return OUT_OF_RANGE
    return OK


cdef int read_float(
    const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end, double* value, float* single
) noexcept nogil:
    """`single` is NULL for FP64."""
    cdef uint8_t c = p[i] if i < n else 0
    cdef Py_ssize_t after
    cdef int fault
    if not is_digit(c) and (c != 45 or (i + 1 < n and (p[i + 1] == 78 or p[i + 1] == 73))):
        after = nonfinite_end(p, n, i, value)
        if after:
            if single != NULL:
                single[0] = <float> value[0]
            end[0] = after
            return OK
        if c != 45:
            return NO_NUMBER
    fault = number_end(p, n, i, end)
    if fault:
        return fault
    if single != NULL and read_number[float](p + i, p + end[0], single) == 0:
        return OK
    # What is beyond float32 becomes 0 or infinity, what is too large for a double is refused.
    if read_number[double](p + i, p + end[0], value):
        if is_large(p + i, p + end[0]):
            return TOO_LARGE
        value[0] = -0.0 if c == 45 else 0.0
    if single != NULL:
        single[0] = <float> value[0]
    return OK


cdef bint quick_elements(Work* w) noexcept nogil:
    """Reads as many elements from `w.i` on as are plain; whether `w.i` is behind one then, else one starts there."""
    cdef const uint8_t* p = w.p + w.i
    cdef const uint8_t* end = w.p + w.n
    cdef Py_ssize_t room = w.limit - w.count
    cdef Py_ssize_t count = 0
    cdef cpp_bool behind = False
    # The last argument only says the type.
    if w.kind == SINGLE:
        p = quick_floats[float](p, end, w.out, room, &count, &behind, 0)
    elif w.kind == DOUBLE:
        p = quick_floats[double](p, end, w.out, room, &count, &behind, 0)
    elif w.size == 1:
        p = quick_integers[uint8_t](p, end, w.out, room, &count, &behind, w.least, w.greatest, 0)
    elif w.size == 2:
        p = quick_integers[uint16_t](p, end, w.out, room, &count, &behind, w.least, w.greatest, 0)
    elif w.size == 4:
        p = quick_integers[uint32_t](p, end, w.out, room, &count, &behind, w.least, w.greatest, 0)
    else:
        p = quick_integers[uint64_t](p, end, w.out, room, &count, &behind, w.least, w.greatest, 0)
    w.out += count * w.size
    w.count += count
    w.i = p - w.p
    return behind


cdef int element(Work* w) noexcept nogil:
    """Reads the one element at `w.i`."""
    cdef const uint8_t* p = w.p
    cdef Py_ssize_t n = w.n
    cdef Py_ssize_t i = w.i
    cdef bint escaped = False
    cdef double double_ = 0
    cdef float single = 0
    cdef uint64_t integer = 0
    cdef uint32_t length
    cdef char* begin = w.out
    cdef int fault = OK
    if w.kind == SINGLE:
        fault = read_float(p, n, i, &w.end, &double_, &single)
        memcpy(begin, &single, 4)
    elif w.kind == DOUBLE:
        fault = read_float(p, n, i, &w.end, &double_, NULL)
        memcpy(begin, &double_, 8)
    elif w.kind == SIGNED or w.kind == UNSIGNED:
        fault = read_integer(p, n, i, &w.end, w.kind == SIGNED, w.least, w.greatest, &integer)
        memcpy(begin, &integer, w.size)  # little-endian: the low bytes come first
    elif w.kind == BOOLEAN:
        begin[0] = starts(p, n, i, "true", 4)
        if not begin[0] and not starts(p, n, i, "false", 5):
            return NO_BOOLEAN
        w.end = i + 5 - begin[0]
    else:
        if i >= n or p[i] != 34:
            return NO_STRING
        w.out += 4
        fault = read_string(p, n, i, &w.end, &escaped, &w.out)
        length = <uint32_t> (w.out - begin - 4)
        memcpy(begin, &length, 4)
    if fault:
        return fault
    w.out += w.size
    w.i = w.end
    w.count += 1
    return OK


cdef int read_array(Work* w) noexcept nogil:
    """From `w.i`, behind the first bracket, to the end of the array; stops at what is wrong."""
    cdef const uint8_t* p = w.p
    cdef Py_ssize_t n = w.n
    cdef bint after_comma = False
    cdef uint8_t c
    cdef int fault
    while True:
        c = p[w.i] if w.i < n else 0
        if c == 91:
            if w.depth >= MAX_DEPTH:
                return TOO_DEEP
            w.depth += 1
            w.i = skip(p, n, w.i + 1)
            after_comma = False
            continue
        if c != 93 or after_comma:
            if not w.numbers or not quick_elements(w):
                if w.i < n and p[w.i] == 91:  # behind what was read quickly, and a comma, an array begins
                    continue
                if w.count >= w.limit:
                    return TOO_MANY
                fault = element(w)
                if fault:
                    return fault
            w.i = skip(p, n, w.i)
            c = p[w.i] if w.i < n else 0
        while c == 93 and w.i < n:
            w.depth -= 1
            w.i = skip(p, n, w.i + 1)
            if not w.depth:
                return OK if w.i == n else AFTER_ROOT
            c = p[w.i] if w.i < n else 0
        if w.i >= n or c != 44:
            return NO_COMMA_ARRAY
        w.i = skip(p, n, w.i + 1)
        after_comma = True


cdef object refusal(int code, Work* w, str datatype, expected):
    """The error for a code that is not OK."""
    if code < TOO_DEEP:
        return fault_of(CODES[code], w.i)
    if code == TOO_DEEP:
        return fault_of(f"Nested deeper than {MAX_DEPTH}.", w.i)
    if code == TOO_MANY:
        return ValueError(f"Shape does not match true shape of 'data' field: more than {expected} elements")
    if code == NO_NUMBER:
        reason = "attempt to access JSON non-number as double"
    elif code == TOO_LARGE:
        reason = "Number too big to be stored in double."
    elif code == NO_INTEGER:
        form = "signed-integer" if w.kind == SIGNED else "unsigned-integer"
        reason = f"attempt to access JSON non-{form} as {form}"
    elif code == OUT_OF_RANGE:
        shown = bytes(w.p[w.i : min(w.end, w.i + 40)]).decode()
        reason = f"{shown} is out of range for {datatype}"
    elif code == NO_BOOLEAN:
        reason = "attempt to access JSON non-boolean as boolean"
    else:
        reason = "attempt to access JSON non-string as string"
    return ValueError(f"element {w.count}: {reason}")


def parse_array(const uint8_t[::1] text not None, str datatype not None, expected):
    """See `_parse_py.parse_array`."""
    known = KINDS.get(datatype)
    if known is None:
        raise ValueError(f"no JSON form for {datatype}")
    cdef Work w
    cdef int code
    cdef Py_ssize_t room
    w.n = text.shape[0]
    w.p = &text[0] if w.n else NULL
    if not w.n or w.p[0] != 91:
        raise ValueError("attempt to access JSON non-array as array")
    w.kind, w.size, w.least, w.greatest = known
    w.numbers = w.kind != BOOLEAN and w.kind != STRINGS
    # An element takes a character and a comma at least, so that no client can ask for more memory than it sends.
    w.limit = min(expected, w.n // 2 + 1)
    # A string takes three characters more than its text, and as bytes four more.
    room = w.n + w.n // 3 + 8 if w.kind == STRINGS else w.limit * w.size
    result = PyBytes_FromStringAndSize(NULL, room)
    w.out = PyBytes_AS_STRING(result)
    w.count = 0
    w.depth = 1
    w.end = 0
    w.i = skip(w.p, w.n, 1)
    if w.n >= RELEASE:
        with nogil:
            code = read_array(&w)
    else:
        code = read_array(&w)
    if code:
        raise refusal(code, &w, datatype, expected)
    if w.count != expected:
        raise ValueError(
            f"Shape does not match true shape of 'data' field: expecting {expected} elements, got {w.count}"
        )
    if w.kind == STRINGS:
        return result[: w.out - PyBytes_AS_STRING(result)]
    return result
