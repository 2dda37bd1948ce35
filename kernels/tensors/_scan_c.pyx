# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: autotestdict=False
"""The tensor kernels in C++; `_tensors_py` is the specification and documents each function.

Design: (a) single-token readers are `noexcept nogil` functions over a byte pointer that return an error code,
0 for none; (b) loops call them and keep their state in fixed stacks, so that nothing recurses; (c) the four
Python functions take buffers, hold the GIL (inputs are small or the work is short: 1 GB/s) and turn codes into
ValueError with the text of the specification.

A loop of its own for arrays of numbers in `scan_json` was measured and left out: 2.59 ms instead of 2.72 ms for
150,528 numbers of 19 characters; the sixteen digits at a time of `digits_end` are what counts (from 4.0 ms).

Numbers are read with std::from_chars and written with std::to_chars: no locale, correctly rounded, shortest.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from libcpp.string cimport string as std_string

cdef extern from *:
    r"""
    #include <charconv>
    #include <cmath>
    #include <cstdint>
    #include <deque>
    #include <limits>
    #include <memory>
    #include <set>
    #include <string>
    #include <string_view>
    #include <system_error>
    #include <vector>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    namespace tidegate {

    // The names seen in every open object, innermost last. Few names are compared one by one; many go into a
    // tree, whose worst case no client can choose (a hash table's it can).
    class Names {
      public:
        void open() { levels_.push_back({all_.size(), nullptr}); }
        void close() {
            all_.resize(levels_.back().from);
            levels_.pop_back();
        }
        bool add(const char* text, std::size_t size) { return insert(std::string_view(text, size)); }
        bool add_owned(const std::string& text) {
            owned_.push_back(text);
            return insert(owned_.back());
        }

      private:
        static constexpr std::size_t kFew = 24;
        struct Level {
            std::size_t from;
            std::unique_ptr<std::set<std::string_view>> many;
        };
        bool insert(std::string_view name) {
            Level& level = levels_.back();
            const std::size_t count = all_.size() - level.from;
            if (count < kFew) {
                for (std::size_t i = level.from; i < all_.size(); ++i)
                    if (all_[i] == name) return false;
            } else {
                if (!level.many)
                    level.many = std::make_unique<std::set<std::string_view>>(all_.begin() + level.from, all_.end());
                if (!level.many->insert(name).second) return false;
            }
            all_.push_back(name);
            return true;
        }
        std::vector<std::string_view> all_;
        std::deque<std::string> owned_;
        std::vector<Level> levels_;
    };

    // Where the digits that start at p end. Numbers of tensors have many, so sixteen are looked at together.
    inline const unsigned char* digits_end(const unsigned char* p, const unsigned char* end) {
    #if defined(__SSE2__)
        const __m128i low = _mm_set1_epi8('0'), nine = _mm_set1_epi8(9);
        while (end - p >= 16) {
            const __m128i value = _mm_sub_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), low);
            const int digits = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(value, nine), value));
            if (digits != 0xFFFF) return p + __builtin_ctz(~digits);
            p += 16;
        }
    #endif
        while (p < end && *p >= '0' && *p <= '9') ++p;
        return p;
    }

    // 0: read; 1: not a number of this type; 2: overflows or underflows.
    template <class T>
    inline int read_number(const char* from, const char* to, T* out) {
        const auto result = std::from_chars(from, to, *out);
        if (result.ec == std::errc::result_out_of_range) return 2;
        return result.ec == std::errc() && result.ptr == to ? 0 : 1;
    }

    // Room for any number of any datatype.
    constexpr std::size_t kWidest = 32;

    template <class T>
    inline char* write_integer(char* at, T value) { return std::to_chars(at, at + kWidest, value).ptr; }

    template <class T>
    inline char* write_float(char* at, T value) {
        if (std::isnan(value)) { for (char c : {'N', 'a', 'N'}) *at++ = c; return at; }
        if (std::isinf(value)) {
            if (value < 0) *at++ = '-';
            for (char c : std::string_view("Infinity")) *at++ = c;
            return at;
        }
        char* end = std::to_chars(at, at + kWidest, value).ptr;
        // A reader must not take a float for an integer. Only whole numbers can look like one.
        if (std::fabs(value) >= T(1 << 23) || value == T(static_cast<int>(value))) {
            bool plain = true;
            for (const char* p = at; p < end; ++p) if (*p == '.' || *p == 'e') { plain = false; break; }
            if (plain) { *end++ = '.'; *end++ = '0'; }
        }
        return end;
    }

    }  // namespace tidegate
    """
    cdef cppclass Names "tidegate::Names":
        Names() except +
        void open() except +
        void close() noexcept
        bint add(const char*, size_t) except +
        bint add_owned(const std_string&) except +
    const uint8_t* digits_end "tidegate::digits_end"(const uint8_t*, const uint8_t*) noexcept nogil
    int read_number "tidegate::read_number"[T](const char*, const char*, T*) noexcept nogil
    char* write_integer "tidegate::write_integer"[T](char*, T) noexcept nogil
    char* write_float "tidegate::write_float"[T](char*, T) noexcept nogil
    size_t WIDEST "tidegate::kWidest"


cdef enum:
    MAX_DEPTH = 1000
    TENSOR_DEPTH = 3

# Error codes of the token readers, as indices of MESSAGES.
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

cdef tuple MESSAGES = (
    "",
    "The document is empty.",
    "The document root must not be followed by other values.",
    "Invalid value.",
    "Missing a name for object member.",
    "Missing a colon after a name of object member.",
    "Missing a comma or '}' after an object member.",
    "Missing a comma or ']' after an array element.",
    "Duplicate name of an object member.",
    "Miss fraction part in number.",
    "Miss exponent in number.",
    "Missing a closing quotation mark in string.",
    "Invalid encoding in string.",
    "Invalid escape character in string.",
    "Incorrect hex digit after \\u escape in string.",
    "The surrogate pair in string is invalid.",
)


cdef object fault_at(int code, Py_ssize_t position):
    return ValueError(f"{MESSAGES[code]} at {position}")


cdef inline Py_ssize_t skip(const uint8_t* p, Py_ssize_t n, Py_ssize_t i) noexcept nogil:
    while i < n and (p[i] == 32 or p[i] == 10 or p[i] == 13 or p[i] == 9):
        i += 1
    return i


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return 48 <= c <= 57


cdef int hex4(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, uint32_t* code) noexcept nogil:
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


cdef void put_utf8(std_string* out, uint32_t code) noexcept nogil:
    if code < 0x80:
        out.push_back(<char> code)
    elif code < 0x800:
        out.push_back(<char> (0xC0 | (code >> 6)))
        out.push_back(<char> (0x80 | (code & 0x3F)))
    elif code < 0x10000:
        out.push_back(<char> (0xE0 | (code >> 12)))
        out.push_back(<char> (0x80 | ((code >> 6) & 0x3F)))
        out.push_back(<char> (0x80 | (code & 0x3F)))
    else:
        out.push_back(<char> (0xF0 | (code >> 18)))
        out.push_back(<char> (0x80 | ((code >> 12) & 0x3F)))
        out.push_back(<char> (0x80 | ((code >> 6) & 0x3F)))
        out.push_back(<char> (0x80 | (code & 0x3F)))


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


cdef int read_string(
    const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end, bint* escaped, std_string* out
) noexcept nogil:
    """The string whose opening quote is at i; its text is appended to `out` unless that is NULL."""
    cdef Py_ssize_t run
    cdef uint32_t code, low
    cdef uint8_t c
    cdef int width, fault
    i += 1
    run = i
    while True:
        while i < n and p[i] >= 32 and p[i] != 34 and p[i] != 92 and p[i] < 128:
            i += 1
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
            out.append(<const char*> p + run, i - run)
        if c == 34:
            end[0] = i + 1
            return OK
        if c < 32:
            return ENCODING
        escaped[0] = True
        i += 1
        if i >= n:
            return NO_QUOTE
        c = p[i]
        i += 1
        if c == 34 or c == 92 or c == 47:
            code = c
        elif c == 98:
            code = 8
        elif c == 102:
            code = 12
        elif c == 110:
            code = 10
        elif c == 114:
            code = 13
        elif c == 116:
            code = 9
        elif c == 117:
            fault = hex4(p, n, i, &code)
            if fault:
                return fault
            i += 4
            if 0xD800 <= code <= 0xDFFF:
                if code >= 0xDC00 or i + 2 > n or p[i] != 92 or p[i + 1] != 117:
                    return SURROGATE
                fault = hex4(p, n, i + 2, &low)
                if fault:
                    return fault
                if not 0xDC00 <= low <= 0xDFFF:
                    return SURROGATE
                i += 6
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        else:
            return ESCAPE
        if out != NULL:
            put_utf8(out, code)
        run = i


cdef int number_end(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end) noexcept nogil:
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


cdef inline bint starts(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, const char* word, int size) noexcept nogil:
    return i + size <= n and memcmp(p + i, word, size) == 0


cdef int nonfinite_end(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, double* value) noexcept nogil:
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


cdef int scalar_end(const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end) noexcept nogil:
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


cdef int read_name(
    const uint8_t* p, Py_ssize_t n, Py_ssize_t* at, Names* names, std_string* key, Py_ssize_t* wrong
) except -1:
    """A member's name at `at`, which moves to its value; the name goes to `key`."""
    cdef Py_ssize_t start = at[0]
    cdef Py_ssize_t end = 0
    cdef bint escaped = False
    cdef bint fresh
    cdef int fault
    wrong[0] = start
    if start >= n or p[start] != 34:
        return NO_NAME
    key.clear()
    fault = read_string(p, n, start, &end, &escaped, key)
    if fault:
        return fault
    if escaped:
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


def scan_json(const uint8_t[::1] buf not None, int max_depth, bytes tensors=b""):
    """See `_tensors_py.scan_json`."""
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
        complete = c != 123 and c != 91
        if complete:
            fault = scalar_end(p, n, i, &i)
            if fault:
                raise fault_at(fault, start)
            if is_data:
                spans.append((start, i))
        else:
            if is_data:
                data_from = start
            if depth >= (max_depth if data_from < 0 else max_depth + TENSOR_DEPTH - 1):
                raise ValueError(f"Nested deeper than {max_depth}. at {start}")
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


def count_bytes_elements(const uint8_t[::1] buf not None):
    """See `_tensors_py.count_bytes_elements`."""
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


cdef enum Kind:
    BOOLEAN
    SIGNED
    UNSIGNED
    SINGLE
    DOUBLE
    STRINGS

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


cdef int read_integer(
    const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end, bint signed_, int64_t least, uint64_t greatest,
    uint64_t* value
) noexcept nogil:
    """0: in `value`; 1: no integer; 2: out of range (`end` is set)."""
    cdef Py_ssize_t start = i
    cdef int64_t number
    cdef bint minus = i < n and p[i] == 45
    cdef int fault
    if minus:
        i += 1
    if i >= n or not is_digit(p[i]):
        return 1
    if p[i] == 48:
        i += 1
    else:
        while i < n and is_digit(p[i]):
            i += 1
    if i < n and (p[i] == 46 or p[i] == 101 or p[i] == 69):
        return 1
    end[0] = i
    if signed_:
        if read_number[int64_t](<const char*> p + start, <const char*> p + i, &number):
            return 2
        if number < least or number > <int64_t> greatest:
            return 2
        value[0] = <uint64_t> number
        return 0
    fault = read_number[uint64_t](<const char*> p + start + minus, <const char*> p + i, value)
    if fault or value[0] > greatest or (minus and value[0]):
        return 2
    return 0


cdef inline int read_float(
    const uint8_t* p, Py_ssize_t n, Py_ssize_t i, Py_ssize_t* end, double* value, float* single
) noexcept nogil:
    """OK, a Fault, or 100: no number, 101: from_chars cannot say. `single` is NULL for FP64."""
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
            return 100
    fault = number_end(p, n, i, end)
    if fault:
        return fault
    if single != NULL:
        if read_number[float](<const char*> p + i, <const char*> p + end[0], single) == 0:
            return OK
        # Beyond float32; as a double it says whether it is too large or too small.
        if read_number[double](<const char*> p + i, <const char*> p + end[0], value):
            return 101
        single[0] = <float> value[0]
        return OK
    return 101 if read_number[double](<const char*> p + i, <const char*> p + end[0], value) else OK


def parse_array(const uint8_t[::1] text not None, str datatype not None, expected):
    """See `_tensors_py.parse_array`."""
    known = KINDS.get(datatype)
    if known is None:
        raise ValueError(f"no JSON form for {datatype}")
    cdef Py_ssize_t n = text.shape[0]
    cdef const uint8_t* p = &text[0] if n else NULL
    if not n or p[0] != 91:
        raise ValueError("attempt to access JSON non-array as array")
    cdef int kind = known[0]
    cdef int size = known[1]
    cdef int64_t least = known[2]
    cdef uint64_t greatest = known[3]
    # An element takes a character and a comma at least, so that no client can ask for more memory than it sends.
    cdef Py_ssize_t limit = min(expected, n // 2 + 1)
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t i, end = 0
    cdef int depth = 1
    cdef bint after_comma = False
    cdef bint escaped = False
    cdef uint8_t c
    cdef uint64_t integer = 0
    cdef uint32_t length
    cdef double double_ = 0
    cdef float single = 0
    cdef int fault
    cdef std_string strings
    cdef size_t prefix
    result = PyBytes_FromStringAndSize(NULL, limit * size)
    cdef char* out = PyBytes_AS_STRING(result)
    if kind == STRINGS:
        strings.reserve(n)
    i = skip(p, n, 1)
    while True:
        c = p[i] if i < n else 0
        if c == 91:
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"Nested deeper than {MAX_DEPTH}. at {i}")
            i = skip(p, n, i + 1)
            after_comma = False
            continue
        if c != 93 or after_comma:
            if count >= limit:
                raise ValueError(f"Shape does not match true shape of 'data' field: more than {expected} elements")
            if kind == SINGLE or kind == DOUBLE:
                fault = read_float(p, n, i, &end, &double_, &single if kind == SINGLE else NULL)
                if fault == 100:
                    raise ValueError(f"element {count}: attempt to access JSON non-number as double")
                if fault == 101:
                    # Too large or too small for from_chars, which does not say which.
                    double_ = float((<const char*> p)[i:end])
                    if double_ - double_ != 0:
                        raise ValueError(f"element {count}: Number too big to be stored in double.")
                    single = <float> double_
                    fault = OK
                if fault:
                    raise fault_at(fault, i)
                if kind == SINGLE:
                    memcpy(out + count * 4, &single, 4)
                else:
                    memcpy(out + count * 8, &double_, 8)
            elif kind == SIGNED or kind == UNSIGNED:
                fault = read_integer(p, n, i, &end, kind == SIGNED, least, greatest, &integer)
                if fault == 1:
                    wrong = "signed-integer as signed" if kind == SIGNED else "unsigned-integer as unsigned"
                    raise ValueError(f"element {count}: attempt to access JSON non-{wrong}-integer")
                if fault:
                    shown = bytes(text[i:end])[:40].decode()
                    raise ValueError(f"element {count}: {shown} is out of range for {datatype}")
                memcpy(out + count * size, &integer, size)  # little-endian: the low bytes come first
            elif kind == BOOLEAN:
                if starts(p, n, i, "true", 4):
                    out[count] = 1
                    end = i + 4
                elif starts(p, n, i, "false", 5):
                    out[count] = 0
                    end = i + 5
                else:
                    raise ValueError(f"element {count}: attempt to access JSON non-boolean as boolean")
            else:
                if c != 34:
                    raise ValueError(f"element {count}: attempt to access JSON non-string as string")
                prefix = strings.size()
                strings.append(<size_t> 4, <char> 0)
                fault = read_string(p, n, i, &end, &escaped, &strings)
                if fault:
                    raise fault_at(fault, i)
                length = <uint32_t> (strings.size() - prefix - 4)
                memcpy(&strings[0] + prefix, &length, 4)
            count += 1
            i = skip(p, n, end)
            c = p[i] if i < n else 0
        while c == 93 and i < n:
            depth -= 1
            i = skip(p, n, i + 1)
            if not depth:
                if i != n:
                    raise fault_at(AFTER_ROOT, i)
                if count != expected:
                    raise ValueError(
                        f"Shape does not match true shape of 'data' field: expecting {expected} elements, got {count}"
                    )
                return <bytes> strings if kind == STRINGS else result
            c = p[i] if i < n else 0
        if i >= n or c != 44:
            raise fault_at(NO_COMMA_ARRAY, i)
        i = skip(p, n, i + 1)
        after_comma = True


cdef char* put_quoted(char* at, const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """The string as JSON; NULL when it is no UTF-8. At most 6 bytes for each of its own and two quotes."""
    cdef Py_ssize_t i = 0
    cdef uint8_t c
    cdef int width
    cdef const char* digits = "0123456789abcdef"
    at[0] = 34
    at += 1
    while i < n:
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
        if c >= 32 and c != 34 and c != 92:
            at[0] = <char> c
            at += 1
            continue
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


cdef char* put_number(char* at, const uint8_t* p, str datatype, int kind, int size) noexcept:
    cdef int64_t integer = 0
    cdef uint64_t natural = 0
    cdef double double_
    cdef float single
    if kind == SINGLE:
        memcpy(&single, p, 4)
        return write_float[float](at, single)
    if kind == DOUBLE:
        memcpy(&double_, p, 8)
        return write_float[double](at, double_)
    memcpy(&natural, p, size)
    if kind == UNSIGNED:
        return write_integer[uint64_t](at, natural)
    if kind == BOOLEAN:
        if natural:
            memcpy(at, "true", 4)
            return at + 4
        memcpy(at, "false", 5)
        return at + 5
    integer = <int64_t> (natural << (64 - 8 * size)) >> (64 - 8 * size)
    return write_integer[int64_t](at, integer)


def format_array(const uint8_t[::1] raw not None, str datatype not None):
    """See `_tensors_py.format_array`."""
    known = KINDS.get(datatype)
    if known is None:
        raise ValueError(f"no JSON form for {datatype}")
    cdef Py_ssize_t n = raw.shape[0]
    cdef const uint8_t* p = &raw[0] if n else NULL
    cdef int kind = known[0]
    cdef int size = known[1]
    cdef Py_ssize_t elements, i = 0
    cdef uint32_t length
    cdef std_string out
    cdef char* at
    cdef char* begin
    cdef size_t used = 1
    cdef size_t room
    if kind == STRINGS:
        elements = count_bytes_elements(raw)
        room = 8
    else:
        if n % size:
            raise ValueError(f"{n} bytes are no whole number of {datatype} elements")
        elements = n // size
        room = <size_t> elements * 12 + WIDEST + 8
    out.resize(room)
    out[0] = 91
    while i < n:
        if kind == STRINGS:
            memcpy(&length, p + i, 4)
            i += 4
            room = <size_t> length * 6 + 8
        else:
            room = WIDEST + 8
        if used + room > out.size():
            out.resize((used + room) * 2)
        begin = &out[0]
        at = begin + used
        if used > 1:
            at[0] = 44
            at += 1
        if kind == STRINGS:
            at = put_quoted(at, p + i, length)
            if at == NULL:
                raise ValueError("BYTES that are not UTF-8 have no JSON form")
            i += length
        else:
            at = put_number(at, p + i, datatype, kind, size)
            i += size
        used = at - begin
    out[used] = 93
    return PyBytes_FromStringAndSize(out.data(), used + 1)
