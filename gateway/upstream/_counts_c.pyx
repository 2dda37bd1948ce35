# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What every call looks at and counts; the specification is `_counts_py.py`."""


cdef class Counted:
    """Has calls under way."""


cdef class Circuit:
    """Of a breaker."""


cdef class Tally:
    """Of a replica's outcomes."""


cdef class Judged:
    """Of an upstream's ejection."""


cdef class Speed:
    """Of a model."""


cdef class Entry:
    """Of a model version."""


cdef class Known:
    """The model versions that are known."""

    def peek(self, model, version):
        """What is known, however old; asks for news in the background when it is old."""
        return self.look(model, version)

    cdef object look(self, object model, object version):
        cdef Entry entry = self._entries.get((model, version))
        if entry is None:
            return None
        if monotonic() > entry.stale_at:
            self._fetch(model, version)
        return entry.signature


cdef class Deposits:
    """Requests by slots of one second."""

    def deposit(self, double now):
        """A request begins."""
        self.put(now)

    cdef int put(self, double now) except -1:
        cdef Py_ssize_t slot = <Py_ssize_t>now
        if slot != self._slot:
            self._turn(slot)
        slot %= len(self._requests)
        self._requests[slot] += 1
        return 0
