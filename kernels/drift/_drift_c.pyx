# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The drift shard in C; the specification is `_drift_py.py`.

Design:
a) `extern` helpers: one value to its bin and its moments. The loop over the 32 edges has no branch, so that the
   compiler makes vector code of it, for AVX2 too where the machine has it (`target_clones`): 2 to 3 ns a value,
   where a search that branches costs 28 ns once its branches are not the same in each row;
b) one loop for each datatype, rows outer: a request has one row, and its features lie side by side;
c) the class, which checks sizes once. Without the GIL only where the rows are many enough to pay for it.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <math.h>
    #include <stdint.h>
    #include <string.h>
    #define TG_BINS 32
    #define TG_COUNTS 40
    #define TG_MOMENTS 6
    #if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
    #define TG_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define TG_CLONES
    #endif

    typedef struct {
        const float *edges;
        const double *centre, *scale;
        uint32_t *counts;
        uint64_t *moments;
    } tg_shard;

    static inline __attribute__((always_inline)) void tg_count(const tg_shard *s, Py_ssize_t f, float v) {
        uint32_t *counts = s->counts + f * TG_COUNTS;
        if (v != v) { counts[TG_BINS]++; return; }
        const float *e = s->edges + f * TG_BINS;
        uint32_t bin = 0;
        for (int i = 0; i < TG_BINS; i++) bin += e[i] < v;
        counts[bin]++;
        uint64_t *m = s->moments + f * TG_MOMENTS;
        double scaled = rint(((double)v - s->centre[f]) * s->scale[f]);
        if (fabs(scaled) <= 2147483647.0) {
            int64_t k = (int64_t)scaled;
            uint64_t square = (uint64_t)(k * k), low = m[2] + square;
            m[1] += (uint64_t)k;
            m[3] += low < square;
            m[2] = low;
        } else {
            m[0]++;
            if (isinf(v)) return;
        }
        float plain = v + 0.0f;
        uint32_t bits;
        memcpy(&bits, &plain, 4);
        uint64_t key = bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);
        if (key + 1 > m[4]) m[4] = key + 1;
        if (4294967296u - key > m[5]) m[5] = 4294967296u - key;
    }

    static inline float tg_half(uint16_t h) {
        uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023, bits;
        float found;
        if (exponent == 31) bits = sign | 0x7F800000u | (mantissa << 13);
        else if (exponent) bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
        else {
            found = (float)mantissa * 0x1p-24f;
            return sign ? -found : found;
        }
        memcpy(&found, &bits, 4);
        return found;
    }
    static inline float tg_brain(uint16_t h) {
        uint32_t bits = (uint32_t)h << 16;
        float found;
        memcpy(&found, &bits, 4);
        return found;
    }
    #define TG_CAST(x) ((float)(double)(x))
    #define TG_TRUTH(x) ((x) ? 1.0f : 0.0f)
    #define TG_LOOP(name, type, convert)                                                          \\
        TG_CLONES static void name(const tg_shard *s, Py_ssize_t first, Py_ssize_t width,         \\
                                   Py_ssize_t rows, const char *data) {                           \\
            for (Py_ssize_t row = 0; row < rows; row++)                                           \\
                for (Py_ssize_t f = 0; f < width; f++, data += sizeof(type)) {                    \\
                    type x;                                                                       \\
                    memcpy(&x, data, sizeof x);                                                   \\
                    tg_count(s, first + f, convert(x));                                           \\
                }                                                                                 \\
        }
    TG_LOOP(tg_bool, uint8_t, TG_TRUTH)
    TG_LOOP(tg_uint8, uint8_t, TG_CAST)
    TG_LOOP(tg_uint16, uint16_t, TG_CAST)
    TG_LOOP(tg_uint32, uint32_t, TG_CAST)
    TG_LOOP(tg_uint64, uint64_t, TG_CAST)
    TG_LOOP(tg_int8, int8_t, TG_CAST)
    TG_LOOP(tg_int16, int16_t, TG_CAST)
    TG_LOOP(tg_int32, int32_t, TG_CAST)
    TG_LOOP(tg_int64, int64_t, TG_CAST)
    TG_LOOP(tg_fp16, uint16_t, tg_half)
    TG_LOOP(tg_fp32, float, TG_CAST)
    TG_LOOP(tg_fp64, double, TG_CAST)
    TG_LOOP(tg_bf16, uint16_t, tg_brain)
    typedef void (*tg_loop)(const tg_shard *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const char *);
    static const tg_loop tg_loops[] = {
        tg_bool, tg_uint8, tg_uint16, tg_uint32, tg_uint64, tg_int8, tg_int16, tg_int32, tg_int64,
        tg_fp16, tg_fp32, tg_fp64, tg_bf16,
    };
    """
    ctypedef struct tg_shard:
        const float *edges
        const double *centre
        const double *scale
        uint32_t *counts
        uint64_t *moments
    ctypedef void (*tg_loop)(const tg_shard *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const char *) noexcept nogil
    const tg_loop *tg_loops

BINS = 32
NAN = 32
MISSING = 33
COUNTS = 40
CLIPPED, SUM, SQUARES_LOW, SQUARES_HIGH, HIGHEST, LOWEST = range(6)
MOMENTS = 6
DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16",
)

cdef enum:
    _BINS = 32
    _MISSING = 33
    _COUNTS = 40
    _MOMENTS = 6
    _HEADER = 64
    _MANY = 4096  # values from which on letting go of the GIL (some 100 ns) is nothing

cdef dict _CODES = {name: code for code, name in enumerate(DATATYPES)}
cdef int[13] _SIZES
_SIZES[:] = [1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 2]


cdef Py_ssize_t _half(Py_ssize_t features) noexcept:
    return features * (_COUNTS * 4 + _MOMENTS * 8)


def nbytes(Py_ssize_t features):
    if not 1 <= features <= 1 << 20:
        raise ValueError("a shard has 1 to 1048576 features")
    return _HEADER + 2 * _half(features)


cdef object _copy(object source, Py_ssize_t size, void *into, str what):
    """The bytes of a buffer that has to have so many."""
    cdef Py_buffer view
    PyObject_GetBuffer(source, &view, PyBUF_C_CONTIGUOUS)
    try:
        if view.len != size:
            raise ValueError(what)
        memcpy(into, view.buf, size)
    finally:
        PyBuffer_Release(&view)


@cython.final
cdef class Shard:
    cdef Py_buffer _buffer
    cdef Py_ssize_t _features
    cdef double *_centre  # and behind it the scale, and behind that the edges
    cdef tg_shard[2] _halves

    def __cinit__(self, buffer, edges, centre, scale):
        cdef Py_buffer view
        cdef Py_ssize_t features, rest, at
        PyObject_GetBuffer(buffer, &self._buffer, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        PyObject_GetBuffer(scale, &view, PyBUF_C_CONTIGUOUS)
        features, rest = view.len // 8, view.len % 8
        PyBuffer_Release(&view)
        if rest or self._buffer.len != nbytes(features):
            raise ValueError("the buffer has another number of features than the scale")
        self._features = features
        self._centre = <double *>PyMem_Malloc(features * (16 + _BINS * 4))
        if not self._centre:
            raise MemoryError
        cdef double *own_scale = self._centre + features
        cdef float *own_edges = <float *>(own_scale + features)
        cdef str unequal = "edges, centre and scale are of different numbers of features"
        _copy(centre, 8 * features, self._centre, unequal)
        _copy(scale, 8 * features, own_scale, unequal)
        _copy(edges, 4 * _BINS * features, own_edges, unequal)
        cdef char *start = <char *>self._buffer.buf + _HEADER
        for at in range(2):
            self._halves[at].edges = own_edges
            self._halves[at].centre = self._centre
            self._halves[at].scale = own_scale
            self._halves[at].counts = <uint32_t *>start
            self._halves[at].moments = <uint64_t *>(start + features * _COUNTS * 4)
            start += _half(features)
        cdef float *row
        cdef Py_ssize_t feature, edge
        for feature in range(features):
            row = own_edges + feature * _BINS
            for edge in range(_BINS - 1):
                if not row[edge] <= row[edge + 1]:
                    raise ValueError("edges do not ascend to infinity")
            if row[_BINS - 1] <= 3.4028234663852886e38:
                raise ValueError("edges do not ascend to infinity")
        for feature in range(features):
            if not (isfinite(self._centre[feature]) and isfinite(own_scale[feature]) and own_scale[feature] > 0):
                raise ValueError("a centre is not finite, or a scale not above 0")

    def __dealloc__(self):
        PyMem_Free(self._centre)
        PyBuffer_Release(&self._buffer)  # does nothing where there is none

    @property
    def features(self):
        return self._features

    @property
    def active(self):
        return <int>((<uint64_t *>self._buffer.buf)[0] & 1)

    def swap(self):
        cdef uint64_t *epoch = <uint64_t *>self._buffer.buf
        epoch[0] += 1
        return <int>((epoch[0] - 1) & 1)

    cdef char *_start(self, which) except NULL:
        if which not in (0, 1):
            raise ValueError("a shard has the halves 0 and 1")
        return <char *>self._buffer.buf + _HEADER + (<Py_ssize_t>which) * _half(self._features)

    def half(self, which):
        return PyBytes_FromStringAndSize(self._start(which), _half(self._features))

    def clear(self, which):
        memset(self._start(which), 0, _half(self._features))

    def update(self, Py_ssize_t first, Py_ssize_t width, str datatype, values):
        cdef object code = _CODES.get(datatype)
        if code is None:
            raise ValueError(f"{datatype} is no number")
        if first < 0 or width < 1 or first > self._features - width:
            raise ValueError("features out of range")
        cdef int at = code
        cdef Py_buffer view
        PyObject_GetBuffer(values, &view, PyBUF_C_CONTIGUOUS)
        cdef Py_ssize_t row = width * _SIZES[at], rows = view.len // row
        cdef const tg_shard *shard = &self._halves[(<uint64_t *>self._buffer.buf)[0] & 1]
        try:
            if rows * row != view.len:
                raise ValueError("no whole number of rows")
            if rows * width < _MANY:
                tg_loops[at](shard, first, width, rows, <const char *>view.buf)
            else:
                with nogil:
                    tg_loops[at](shard, first, width, rows, <const char *>view.buf)
        finally:
            PyBuffer_Release(&view)
        return rows

    def missing(self, Py_ssize_t feature, int64_t count=1):
        if not 0 <= feature < self._features:
            raise ValueError("features out of range")
        if not 0 <= count <= 0xFFFFFFFF:
            raise ValueError("count out of range")
        self._halves[(<uint64_t *>self._buffer.buf)[0] & 1].counts[feature * _COUNTS + _MISSING] += <uint32_t>count
