# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The cells of `kernels.counters` in C; the specification is `_counters_py.py`.

Design:
a) `extern` helpers: whole reads and writes of float64 cells (relaxed), atomic operations on uint64 cells
   (sequentially consistent, GCC/Clang `__atomic` builtins, lock-free on every 64-bit machine);
b) `_Cells` holds the exported buffer and checks indices once, where an object is made, for cells that are
   fixed, and at each call for those that are not;
c) the classes. A method runs with the GIL held, so that threads of one process are one writer.
"""

cimport cython
from cpython.buffer cimport PyBUF_ANY_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport isnan
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memset

cdef extern from *:
    """
    #include <stdint.h>
    _Static_assert(__atomic_always_lock_free(8, 0), "64-bit atomics must be lock-free");
    static inline uint64_t tg_load(uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void tg_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline uint64_t tg_add(uint64_t *p, uint64_t v) {
        return __atomic_add_fetch(p, v, __ATOMIC_SEQ_CST);
    }
    static inline int tg_cas(uint64_t *p, uint64_t *expected, uint64_t desired) {
        return __atomic_compare_exchange_n(p, expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline double tg_read(double *p) { double v; __atomic_load(p, &v, __ATOMIC_RELAXED); return v; }
    static inline void tg_write(double *p, double v) { __atomic_store(p, &v, __ATOMIC_RELAXED); }
    """
    uint64_t tg_load(uint64_t *p) noexcept nogil
    void tg_store(uint64_t *p, uint64_t v) noexcept nogil
    uint64_t tg_add(uint64_t *p, uint64_t v) noexcept nogil
    bint tg_cas(uint64_t *p, uint64_t *expected, uint64_t desired) noexcept nogil
    double tg_read(double *p) noexcept nogil
    void tg_write(double *p, double v) noexcept nogil

SHARED = True

cdef enum:
    _WINDOW = 16
    _PIN_CELLS = 3

cdef uint64_t _BUSY = 0xFFFFFFFFFFFFFFFF
cdef uint64_t _GOLDEN = 0x9E3779B97F4A7C15
cdef uint64_t _DAY_BYTES = (<uint64_t>1 << 48) - 1
# A writer is BUSY for a few stores; when it is not done after so many looks it was descheduled or is dead.
cdef int _SPINS = 4096


cdef class _Cells:
    """A buffer kept exported, seen as cells."""

    cdef Py_buffer _buffer
    cdef uint64_t *_words
    cdef Py_ssize_t _count

    def __cinit__(self, buffer, *_args):
        memset(&self._buffer, 0, sizeof(Py_buffer))
        PyObject_GetBuffer(buffer, &self._buffer, PyBUF_WRITABLE | PyBUF_ANY_CONTIGUOUS)
        if self._buffer.len % 8:
            raise ValueError("buffer is no whole number of 8-byte cells")
        if <uintptr_t>self._buffer.buf % 8:
            raise ValueError("buffer is not aligned to 8 bytes")
        self._words = <uint64_t *>self._buffer.buf
        self._count = self._buffer.len // 8

    def __dealloc__(self):
        PyBuffer_Release(&self._buffer)

    cdef int _check(self, Py_ssize_t first, Py_ssize_t count) except -1:
        if first < 0 or count < 1 or count > self._count or first > self._count - count:
            raise IndexError("cell index out of range")
        return 0


@cython.final
cdef class Counter(_Cells):
    """One float64 cell that only grows. One writer; anyone may read."""

    cdef double *_cell

    def __init__(self, buffer, Py_ssize_t index):
        self._check(index, 1)
        self._cell = <double *>(self._words + index)

    def inc(self, double amount=1.0):
        """Adds `amount`. ValueError when it is negative or NaN."""
        if not amount >= 0.0:
            raise ValueError("counters only grow")
        tg_write(self._cell, tg_read(self._cell) + amount)

    def value(self):
        """What the cell holds."""
        return tg_read(self._cell)


@cython.final
cdef class Gauge(_Cells):
    """One float64 cell that goes up and down. One writer; anyone may read."""

    cdef double *_cell

    def __init__(self, buffer, Py_ssize_t index):
        self._check(index, 1)
        self._cell = <double *>(self._words + index)

    def set(self, double value):
        """Writes `value`."""
        tg_write(self._cell, value)

    def add(self, double amount):
        """Adds `amount`, which may be negative."""
        tg_write(self._cell, tg_read(self._cell) + amount)

    def raise_to(self, double value):
        """Writes `value` when it is larger than what is there; NaN is ignored."""
        if value > tg_read(self._cell):
            tg_write(self._cell, value)

    def value(self):
        """What the cell holds."""
        return tg_read(self._cell)


@cython.final
cdef class Histogram(_Cells):
    """A histogram of fixed, ascending upper bounds; the layout is in the specification."""

    cdef double *_bounds
    cdef Py_ssize_t _bound_count
    cdef double *_sum
    cdef double *_buckets
    cdef uint64_t *_version

    def __init__(self, buffer, Py_ssize_t first, bounds):
        values = [float(b) for b in bounds]
        if not values or any(isnan(b) for b in values):
            raise ValueError("bounds must be numbers")
        if any(a >= b for a, b in zip(values, values[1:])):
            raise ValueError("bounds must ascend")
        self._check(first, Histogram.cells(len(values)))
        if self._bounds != NULL:
            raise TypeError("already made")
        self._bounds = <double *>PyMem_Malloc(len(values) * sizeof(double))
        if self._bounds == NULL:
            raise MemoryError
        self._bound_count = len(values)
        for i, bound in enumerate(values):
            self._bounds[i] = bound
        self._sum = <double *>(self._words + first)
        self._buckets = self._sum + 1
        self._version = <uint64_t *>(self._buckets + self._bound_count + 1)

    def __dealloc__(self):
        PyMem_Free(self._bounds)

    @staticmethod
    def cells(Py_ssize_t bounds):
        """Cells that a histogram of so many bounds takes."""
        return 2 + (bounds + 1) * 6

    cdef Py_ssize_t _bucket(self, double value) noexcept:
        # First bound that is not below the value. About 18 doubles: two or three cache lines, and a binary
        # search keeps the slow buckets, which matter most, as cheap as the fast ones.
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self._bound_count
        cdef Py_ssize_t middle
        if isnan(value):
            return high
        while low < high:
            middle = (low + high) // 2
            if self._bounds[middle] < value:
                low = middle + 1
            else:
                high = middle
        return low

    def observe(self, double value):
        """Counts `value`; a NaN counts into +Inf, as in Prometheus' own clients."""
        self._observe(value)

    cdef void _observe(self, double value) noexcept:
        cdef double *bucket = self._buckets + self._bucket(value)
        tg_write(bucket, tg_read(bucket) + 1.0)
        tg_write(self._sum, tg_read(self._sum) + value)

    def exemplar(self, double value, uint64_t trace_high, uint64_t trace_low, uint64_t span, double time):
        """Keeps the span as the latest example of the bucket of `value`; does not count it."""
        cdef uint64_t *at = self._version + 1 + 5 * self._bucket(value)
        tg_store(self._version, tg_load(self._version) | 1)
        tg_store(at, trace_high)
        tg_store(at + 1, trace_low)
        tg_store(at + 2, span)
        tg_write(<double *>(at + 3), value)
        tg_write(<double *>(at + 4), time)
        tg_store(self._version, tg_load(self._version) + 1)


@cython.final
cdef class Tally:
    """What a request of one outcome counts in; see the specification."""

    cdef Counter _requests
    cdef readonly Histogram duration
    cdef Histogram _upstream
    cdef Histogram _overhead

    def __init__(
        self, Counter requests not None, Histogram duration not None, Histogram upstream=None, Histogram overhead=None
    ):
        self._requests, self.duration, self._upstream, self._overhead = requests, duration, upstream, overhead

    def count(self, double seconds, double upstream_seconds):
        """One request that took so long, of which so much upstream."""
        tg_write(self._requests._cell, tg_read(self._requests._cell) + 1.0)
        self.duration._observe(seconds)
        if self._upstream is not None:
            self._upstream._observe(upstream_seconds)
        if self._overhead is not None:
            self._overhead._observe(seconds - upstream_seconds)


@cython.final
cdef class Atomics(_Cells):
    """Unsigned 64-bit cells that several processes change at once (sequentially consistent)."""

    def __init__(self, buffer):
        pass

    def __len__(self):
        return self._count

    def load(self, Py_ssize_t index):
        """The cell's value."""
        self._check(index, 1)
        return tg_load(self._words + index)

    def store(self, Py_ssize_t index, uint64_t value):
        """Writes the cell."""
        self._check(index, 1)
        tg_store(self._words + index, value)

    def add(self, Py_ssize_t index, int64_t delta):
        """Adds `delta` (signed; wraps at 2^64) and returns the new value."""
        self._check(index, 1)
        return tg_add(self._words + index, <uint64_t>delta)

    def compare_exchange(self, Py_ssize_t index, uint64_t expected, uint64_t desired):
        """Writes `desired` when the cell holds `expected`; whether it did."""
        self._check(index, 1)
        return bool(tg_cas(self._words + index, &expected, desired))

    def gcra_take(self, Py_ssize_t index, uint64_t now_ns, uint64_t emission_ns, uint64_t burst_ns):
        """Takes one token; 0 when admitted, else the nanoseconds until there is one."""
        cdef uint64_t *cell
        cdef uint64_t seen, tat, full, new
        self._check(index, 1)
        if now_ns > _BUSY - burst_ns or now_ns + burst_ns > _BUSY - emission_ns:
            raise OverflowError("times do not fit 64 bits")
        cell = self._words + index
        full = now_ns + burst_ns
        seen = tg_load(cell)
        while True:
            tat = seen if seen > now_ns else now_ns
            if tat > full:
                tat = full
            new = tat + emission_ns
            if new > full:
                return new - full
            if tg_cas(cell, &seen, new):
                return 0

    def enter(self, Py_ssize_t first, Py_ssize_t count, Py_ssize_t own, uint64_t limit):
        """One more in cell `first + own`, unless the sum of the `count` cells is `limit` already."""
        cdef uint64_t *cells
        cdef int _attempt
        self._check(first, count)
        if own < 0 or own >= count:
            raise IndexError("cell index out of range")
        cells = self._words + first
        # Announce first, then look: of two that meet at the limit each sees the other's announcement, so the
        # limit cannot be passed. Both may draw back; a second look keeps that from turning both away.
        for _attempt in range(4):
            if self._sum(cells, count) >= limit:
                return False
            tg_add(cells + own, 1)
            if self._sum(cells, count) <= limit:
                return True
            tg_add(cells + own, <uint64_t>-1)
        return False

    cdef uint64_t _sum(self, uint64_t *cells, Py_ssize_t count) noexcept:
        cdef uint64_t total = 0
        cdef Py_ssize_t i
        for i in range(count):
            total += tg_load(cells + i)
        return total

    def total(self, Py_ssize_t first, Py_ssize_t count):
        """The sum of `count` cells, modulo 2^64."""
        self._check(first, count)
        return self._sum(self._words + first, count)

    def day_take(self, Py_ssize_t index, int64_t day, uint64_t nbytes, uint64_t limit):
        """Adds to a counter of bytes that starts at 0 each day; its new value, or -1 when beyond `limit`."""
        cdef uint64_t *cell
        cdef uint64_t seen, used, new, today
        self._check(index, 1)
        if day < 0 or day > 0xFFFF:
            raise ValueError("day out of range")
        cell = self._words + index
        seen = tg_load(cell)
        while True:
            today = <uint64_t>day
            used = 0
            if seen >> 48 >= today:
                today = seen >> 48
                used = seen & _DAY_BYTES
            new = _DAY_BYTES if nbytes > _DAY_BYTES - used else used + nbytes
            if new > limit:
                return -1
            if tg_cas(cell, &seen, today << 48 | new):
                return new


@cython.final
cdef class Pins(_Cells):
    """A table of 64-bit keys to 64-bit values of fixed size, which forgets what was used longest ago.

    A place changes hands by compare-and-swap of its key to BUSY; whoever won writes value and stamp, then the
    key. A reader takes a value only when the key is the same before and after.
    """

    cdef uint64_t *_table
    cdef uint64_t _mask
    cdef int _shift

    def __init__(self, buffer, Py_ssize_t first, Py_ssize_t capacity):
        cdef Py_ssize_t size = capacity
        if capacity < _WINDOW or capacity & (capacity - 1):
            raise ValueError("capacity must be a power of two, at least 16")
        self._check(first, Pins.cells(capacity))
        self._table = self._words + first
        self._mask = <uint64_t>capacity - 1
        self._shift = 64
        while size > 1:
            size >>= 1
            self._shift -= 1

    @staticmethod
    def cells(Py_ssize_t capacity):
        """Cells that a table of so many entries takes."""
        return capacity * _PIN_CELLS

    cdef int _valid(self, uint64_t key) except -1:
        if key == 0 or key == _BUSY:
            raise ValueError("key must be 1 to 2^64 - 2")
        return 0

    cdef inline uint64_t *_place(self, uint64_t key, int i) noexcept:
        return self._table + (((key * _GOLDEN) >> self._shift) + i & self._mask) * _PIN_CELLS

    cdef uint64_t _get(self, uint64_t key, uint64_t stamp) noexcept:
        cdef uint64_t *at
        cdef uint64_t value
        cdef int i
        for i in range(_WINDOW):
            at = self._place(key, i)
            if tg_load(at) == key:
                value = tg_load(at + 1)
                if tg_load(at) == key:
                    tg_store(at + 2, stamp)
                    return value
        return 0

    def get(self, uint64_t key, uint64_t stamp):
        """The key's value, which counts as used at `stamp`; 0 when there is none."""
        self._valid(key)
        return self._get(key, stamp)

    def put(self, uint64_t key, uint64_t value, uint64_t stamp):
        """Keeps `value` unless the key has one; the value that holds now, or 0 when no place could be had."""
        cdef uint64_t *at
        cdef uint64_t *best
        cdef uint64_t held, oldest, seen, best_key
        cdef int i, spin
        cdef bint busy
        if value == 0:
            raise ValueError("value must not be 0")
        self._valid(key)
        for spin in range(_SPINS):
            held = self._get(key, stamp)
            if held:
                return held
            best = NULL
            best_key = 0
            oldest = 0
            busy = False
            for i in range(_WINDOW):
                at = self._place(key, i)
                seen = tg_load(at)
                if seen == _BUSY:
                    # It may be this very key that is being written: wait for it, but not for ever.
                    busy = True
                    continue
                if seen == 0:
                    best = at
                    best_key = 0
                    break
                if best == NULL or tg_load(at + 2) < oldest:
                    best = at
                    best_key = seen
                    oldest = tg_load(at + 2)
            if best == NULL or (busy and spin < _SPINS // 2):
                continue
            if not tg_cas(best, &best_key, _BUSY):
                continue
            tg_store(best + 1, value)
            tg_store(best + 2, stamp)
            tg_store(best, key)
            return value
        return 0

    def drop(self, uint64_t key):
        """Forgets the key; whether it was there."""
        cdef uint64_t expected
        cdef bint found = False
        cdef int i
        self._valid(key)
        for i in range(_WINDOW):
            expected = key
            if tg_cas(self._place(key, i), &expected, 0):
                found = True
        return found
