"""The specification of `_window_c.pyx` in Python; `adaptive` has what becomes of the counts."""

from __future__ import annotations


class Window:
    """What every request changes: how many are in flight, and what the window under way has seen of them."""

    __slots__ = ("_area", "_done", "_full", "_last", "_probe_due", "_quiet", "_until", "in_flight", "limit")

    def __init__(self, limit: int, now: float) -> None:
        """`now`: seconds, as all times here."""
        self.in_flight = 0
        self.limit = limit
        self._area = 0.0  # requests in flight, integrated over the window
        self._done = 0
        self._full = False
        self._last = self._until = now
        self._probe_due = 0.0  # when the probe under way ends at the latest; 0: there is none
        self._quiet = True  # no other worker has lowered its limit: alone here is alone there

    def enter(self, now: float) -> int:
        """A request goes now: the number in flight with it, or 0: there is no room."""
        n = self.in_flight
        if n >= self.limit:
            return 0
        self._area += n * (now - self._last)
        self._last = now
        self.in_flight = n = n + 1
        if n >= self.limit:
            self._full = True
        return n

    def leave(self, place: int, began: float, now: float, answered: bool) -> None:
        """The request that was given `place` is through.

        `answered`: the model gave its result. Requests that were cancelled or timed out count as load that
        yields nothing, which raises R: for the server they were work. So do failures, whose time says nothing:
        a server that refuses quickly must not look like one with room.
        """
        n = self.in_flight
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

    def _left_in_probe(self, place: int, seconds: float, now: float, answered: bool) -> None:
        """A request is through during a probe."""

    def _was_alone(self, seconds: float, now: float) -> None:
        """A request was answered that began alone."""

    def _window_over(self, seconds: float, now: float, answered: bool) -> None:
        """The window may end with this request."""
