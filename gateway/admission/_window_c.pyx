# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""`gateway.admission._window_py`, its specification, in C: times and counts are numbers here and no objects."""


cdef class Window:
    """What every request changes: how many are in flight, and what the window under way has seen of them."""

    cdef public Py_ssize_t in_flight
    cdef public Py_ssize_t limit
    cdef public double _area
    cdef public Py_ssize_t _done
    cdef public bint _full
    cdef public double _last
    cdef public double _until
    cdef public double _probe_due
    cdef public bint _quiet

    def __init__(self, Py_ssize_t limit, double now):
        self.limit = limit
        self._last = self._until = now
        self._quiet = True

    def enter(self, double now):
        """A request goes now: the number in flight with it, or 0: there is no room."""
        cdef Py_ssize_t n = self.in_flight
        if n >= self.limit:
            return 0
        self._area += n * (now - self._last)
        self._last = now
        self.in_flight = n = n + 1
        if n >= self.limit:
            self._full = True
        return n

    def leave(self, Py_ssize_t place, double began, double now, bint answered):
        """The request that was given `place` is through."""
        cdef Py_ssize_t n = self.in_flight
        self._area += n * (now - self._last)
        self._last = now
        self.in_flight = n - 1
        if answered:
            self._done += 1
        if self._probe_due:
            self._left_in_probe(place, now - began, now, answered)
        elif place == 1 and answered and self._quiet:
            self._was_alone(now - began, now)
        if now >= self._until:
            self._window_over(now - began, now, answered)

    def _left_in_probe(self, place, seconds, now, answered):
        """A request is through during a probe."""

    def _was_alone(self, seconds, now):
        """A request was answered that began alone."""

    def _window_over(self, seconds, now, answered):
        """The window may end with this request."""
