"""The circuit breaker of one model on one replica.

Contract: sans-IO; times are seconds of any clock that never runs backwards, handed in. Closed, it counts failures
in a row; at `failures` it opens and nothing is sent for `open_seconds`. Then it is half open: `probes` requests at a
time are let through. One that succeeds closes it; one that fails opens it again for twice as long, up to
`LONGEST`. `recovered`, an active health check that sees the replica come back, ends the waiting at once.

The pattern is Nygard's (Release It!, 2007), as in Hystrix and resilience4j. An outcome counts only for the state that
its request began in (`epoch`): what was sent before the circuit opened says nothing of the replica as it is now.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from gateway.upstream.counts import Circuit

LONGEST: Final = 30.0
"""Seconds; the opening time doubles up to it."""

State: TypeAlias = Literal["closed", "open", "half_open"]


class Breaker(Circuit):
    """One circuit."""

    __slots__ = (
        "_limit",
        "_most_probes",
        "_open_first",
        "_open_now",
        "_probes",
        "_until",
    )

    def __init__(self, failures: int, open_seconds: float, probes: int) -> None:
        self._limit = failures
        self._open_first = open_seconds
        self._most_probes = probes
        self.closed = True
        self.epoch = 0
        self.failures = 0
        self._open_now = open_seconds
        self._until = 0.0
        self._probes = 0

    def state(self, now: float) -> State:
        """What it is at this time."""
        if self.closed:
            return "closed"
        return "open" if now < self._until else "half_open"

    def allows(self, now: float) -> bool:
        """Whether a request would be let through; counts nothing."""
        return self.closed or (now >= self._until and self._probes < self._most_probes)

    def enter(self, now: float) -> int | None:
        """A request begins: the epoch that its `leave` must give back; None: it must not be sent."""
        if not self.closed:
            if now < self._until or self._probes >= self._most_probes:
                return None
            self._probes += 1
        return self.epoch

    def leave(self, epoch: int, now: float, *, failed: bool | None) -> bool:
        """It ended; `failed` None: its end says nothing (the client left). Returns whether the circuit opened by it."""
        if epoch != self.epoch:
            return False
        if self.closed:
            if failed is None:
                return False
            self.failures = self.failures + 1 if failed else 0
            if self.failures < self._limit:
                return False
            self._open_now = self._open_first
        else:
            self._probes -= 1
            if failed is None:
                return False
            if not failed:
                self._change(closed=True)
                return False
            self._open_now = min(self._open_now * 2, max(LONGEST, self._open_first))
        self._change(closed=False)
        self._until = now + self._open_now
        return True

    def recovered(self, now: float) -> bool:
        """The replica came back: probe at once. Returns whether that changed anything."""
        self.failures = 0
        if self.closed or now >= self._until:
            return False
        self._until = now
        return True

    def opens_in(self, now: float) -> float:
        """Seconds until it lets a probe through; 0 when it does already."""
        return 0.0 if self.closed else max(self._until - now, 0.0)

    def _change(self, *, closed: bool) -> None:
        self.closed = closed
        self.epoch += 1
        self.failures = 0
        self._probes = 0
