# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: autotestdict=False
"""The JSON document in C++; `_scan_py` is the specification.

One pass with its state in fixed stacks, so that nothing recurses. The GIL is held: tensor data of numbers is passed
over at 10 GB/s, all else is small or strings.

A loop of its own for arrays of numbers, for documents that are not skimmed, was measured and left out: 2.59 ms instead
of 2.72 ms for 150,528 numbers of 19 characters; the sixteen digits at a time of `digits_end` are what counts (from
4.0 ms).
"""

from libc.stdint cimport uint8_t
from libcpp.string cimport string as std_string

from kernels.tensors._tokens cimport (
    AFTER_ROOT,
    DUPLICATE,
    EMPTY,
    MAX_DEPTH,
    NO_COLON,
    NO_COMMA_ARRAY,
    NO_COMMA_OBJECT,
    NO_NAME,
    OK,
    read_string,
    scalar_end,
    skip,
)

from kernels.tensors._faults import CODES
from kernels.tensors._faults import fault as fault_of


cdef extern from "lanes.hpp":
    const uint8_t* array_end "tidegate::array_end"(const uint8_t*, const uint8_t*, int) noexcept nogil

cdef extern from "names.hpp":
    cdef cppclass Names "tidegate::Names":
        Names() except +
        void open() except +
        void close() noexcept
        bint add(const char*, size_t) except +
        bint add_owned(const std_string&) except +


cdef enum:
    TENSOR_DEPTH = 3


cdef object fault_at(int code, Py_ssize_t position):
    return fault_of(CODES[code], position)


cdef int read_name(
    const uint8_t* p, Py_ssize_t n, Py_ssize_t* at, Names* names, std_string* key, Py_ssize_t* wrong
) except -1:
    """A member's name at `at`, which moves to its value; the name goes to `key`."""
    cdef Py_ssize_t start = at[0]
    cdef Py_ssize_t end = 0
    cdef bint escaped = False
    cdef bint fresh
    cdef int fault
    cdef char* text
    wrong[0] = start
    if start >= n or p[start] != 34:
        return NO_NAME
    fault = read_string(p, n, start, &end, &escaped, NULL)
    if fault:
        return fault
    key.assign(<const char*> p + start + 1, end - start - 2)
    if escaped:
        text = &key[0][0]
        read_string(p, n, start, &end, &escaped, &text)
        key.resize(text - &key[0][0])
        fresh = names.add_owned(key[0])
    else:
        fresh = names.add(<const char*> p + start + 1, end - start - 2)
    if not fresh:
        return DUPLICATE
    end = skip(p, n, end)
    if end >= n or p[end] != 58:
        wrong[0] = end
        return NO_COLON
    at[0] = skip(p, n, end + 1)
    return OK


def scan_json(const uint8_t[::1] buf not None, int max_depth, bytes tensors=b"", *, bint skim=False):
    """See `_scan_py.scan_json`."""
    if not 1 <= max_depth <= MAX_DEPTH:
        raise ValueError(f"max_depth must be within 1 and {MAX_DEPTH}")
    cdef Py_ssize_t n = buf.shape[0]
    cdef const uint8_t* p = &buf[0] if n else NULL
    cdef bint[MAX_DEPTH + TENSOR_DEPTH] is_object
    cdef int depth = 0
    cdef int fault
    cdef bint in_tensors = False
    cdef bint complete, is_data
    cdef Py_ssize_t data_from = -1
    cdef Py_ssize_t i, start, wrong = 0
    cdef const uint8_t* passed
    cdef uint8_t c
    cdef Names names
    cdef std_string key
    cdef std_string wanted = tensors
    cdef std_string data = b"data"
    spans = []
    i = skip(p, n, 0)
    if i == n:
        raise fault_at(EMPTY, i)
    while True:
        # A value starts here.
        start = i
        c = p[i] if i < n else 0
        is_data = depth == TENSOR_DEPTH and in_tensors and is_object[2] and key == data
        passed = NULL
        if is_data and skim and c == 91:
            passed = array_end(p + i, p + n, max_depth - 1)
        complete = passed != NULL or (c != 123 and c != 91)
        if complete:
            if passed != NULL:
                i = passed - p
            else:
                fault = scalar_end(p, n, i, &i)
                if fault:
                    raise fault_at(fault, start)
            if is_data:
                spans.append((start, i))
        else:
            if is_data:
                data_from = start
            if depth >= (max_depth if data_from < 0 else max_depth + TENSOR_DEPTH - 1):
                raise fault_of(f"Nested deeper than {max_depth}.", start)
            if depth == 1 and is_object[0] and c == 91 and wanted.size() and key == wanted:
                in_tensors = True
            is_object[depth] = c == 123
            depth += 1
            if c == 123:
                names.open()
            i = skip(p, n, i + 1)
            if i >= n or p[i] != c + 2:  # the closing bracket is two further on in ASCII, for both kinds
                if c == 123:
                    fault = read_name(p, n, &i, &names, &key, &wrong)
                    if fault:
                        raise fault_at(fault, wrong)
                continue
        # What follows a value: containers that end, then a comma and the next member.
        while depth:
            i = skip(p, n, i)
            c = p[i] if i < n else 0
            if c == 44 and complete:
                break
            if i >= n or c != (125 if is_object[depth - 1] else 93):
                raise fault_at(NO_COMMA_OBJECT if is_object[depth - 1] else NO_COMMA_ARRAY, i)
            i += 1
            depth -= 1
            if is_object[depth]:
                names.close()
            complete = True
            if data_from >= 0 and depth == TENSOR_DEPTH:
                spans.append((data_from, i))
                data_from = -1
            if depth <= 1:
                in_tensors = False
        else:
            i = skip(p, n, i)
            if i != n:
                raise fault_at(AFTER_ROOT, i)
            return spans
        i = skip(p, n, i + 1)
        if is_object[depth - 1]:
            fault = read_name(p, n, &i, &names, &key, &wrong)
            if fault:
                raise fault_at(fault, wrong)
