"""The retry budget of one upstream: how many further tries the live traffic may cost.

Contract: sans-IO; times are seconds of any clock that never runs backwards, handed in. Each request is
`deposit`ed when it begins; each further try, a retry or a hedge, is asked for by `withdraw`. Over the last
`WINDOW` seconds there are at most `share` tries a request, and `min_per_second` a second besides, so that an
upstream with little traffic may retry at all. So when everything fails, the load upstream grows by `share` and not
by the number of attempts: the algorithm of Finagle's `RetryBudget` and of Linkerd's retry budgets.
"""

from __future__ import annotations

from typing import Final

from gateway.upstream.counts import Deposits

WINDOW: Final = 10
"""Seconds that are looked back on (Finagle's and Linkerd's `ttl`)."""


class RetryBudget(Deposits):
    """Counts by slots of one second; nothing is allocated after it was made."""

    __slots__ = ("_min", "_share", "_tries")

    def __init__(self, share: float, min_per_second: float) -> None:
        """`share`: tries a request, 0 to 1; `min_per_second`: tries a second that there always are."""
        self._share = share
        self._min = min_per_second
        self._requests = [0] * WINDOW
        self._tries = [0] * WINDOW
        self._slot = -1

    def withdraw(self, now: float) -> bool:
        """Whether one further try may be made; it is counted when it may."""
        slot = int(now)
        if slot != self._slot:
            self._turn(slot)
        if sum(self._tries) + 1 > self._share * sum(self._requests) + self._min * WINDOW:
            return False
        self._tries[slot % WINDOW] += 1
        return True

    def _turn(self, slot: int) -> None:
        """Empty the slots that time has passed; a clock that jumps far empties all."""
        for passed in range(max(self._slot + 1, slot - WINDOW + 1), slot + 1):
            self._requests[passed % WINDOW] = 0
            self._tries[passed % WINDOW] = 0
        self._slot = max(slot, self._slot)
