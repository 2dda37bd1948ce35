# cython: language_level=3
"""The classes of `_counts_c.pyx`, for cimport."""

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


cdef inline double monotonic() noexcept:
    """As `time.monotonic`."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef class Counted:
    cdef public Py_ssize_t in_flight


cdef class Circuit:
    cdef public bint closed
    cdef public Py_ssize_t epoch
    cdef public Py_ssize_t failures


cdef class Tally:
    cdef public bint out
    cdef public Py_ssize_t consecutive
    cdef public Py_ssize_t requests


cdef class Judged:
    cdef public double judge_at


cdef class Speed:
    cdef public double bound
    cdef public bint quick
    cdef public bint sure


cdef class Entry:
    cdef public object signature
    cdef public double stale_at


cdef class Known:
    cdef public dict _entries

    cdef object look(self, object model, object version)


cdef class Deposits:
    cdef public list _requests
    cdef public Py_ssize_t _slot

    cdef int put(self, double now) except -1
