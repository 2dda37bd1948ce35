"""Other limiters as they were published, in the place of a `Gate`, to be compared with under the same load.

- `Gradient2`, `Vegas`: Netflix' concurrency-limits, with its defaults (initial limit 20; Gradient2 never goes below
  20 nor above 200) and its averages over windows of a second with at least 10 answers. Who finds no place is refused.
- `Codel`: RFC 8289 in front of as many places as the model has instances, a number that it has to be told; target
  5 ms, interval 100 ms. Drops as requests leave the queue.
- `Unlimited`: what happens without any.
"""

from __future__ import annotations

from collections import deque
from math import ceil, log10, sqrt
from random import Random

from gateway.admission.priority import Waiter


class Unlimited:
    """All go at once."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.limit = float("inf")

    def try_enter(self, _now: float) -> int:
        if self.in_flight + 1 > self.limit:
            return 0
        self.in_flight += 1
        return self.in_flight

    def queue(self, waiter: Waiter, _now: float) -> None:
        waiter.tell(0, "limit")

    def leave(self, _place: int, began: float, now: float, _answered: bool) -> None:
        self.answer(now - began, self.in_flight, now)
        self.in_flight -= 1

    def answer(self, rtt: float, in_flight: int, now: float) -> None:
        """One came back."""


class Windowed(Unlimited):
    """`WindowedLimit`: hands on the mean latency and the most in flight of each second."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 20.0
        self._until = self._sum = 0.0
        self._count = self._most = 0

    def answer(self, rtt: float, in_flight: int, now: float) -> None:
        self._sum += rtt
        self._count += 1
        self._most = max(self._most, in_flight)
        if now > self._until:
            if self._count >= 10:
                self.update(self._sum / self._count, self._most)
            self._until, self._sum, self._count, self._most = now + 1.0, 0.0, 0, 0

    def update(self, rtt: float, in_flight: int) -> None:
        """A window is over."""
        raise NotImplementedError


class Gradient2(Windowed):
    """`Gradient2Limit`: the long-term mean latency over the last window's."""

    def __init__(self) -> None:
        super().__init__()
        self._long = self._warm_sum = 0.0
        self._seen = 0

    def update(self, rtt: float, in_flight: int) -> None:
        self._seen += 1
        if self._seen <= 10:  # `ExpAvgMeasurement(600, 10)`
            self._warm_sum += rtt
            self._long = self._warm_sum / self._seen
        else:
            factor = 2.0 / 601
            self._long = self._long * (1 - factor) + rtt * factor
        long = self._long
        if long / rtt > 2:
            self._long *= 0.9
        if in_flight < self.limit / 2:
            return
        gradient = max(0.5, min(1.0, long / rtt))
        raised = self.limit * 0.8 + (self.limit * gradient + 4) * 0.2
        self.limit = max(20.0, min(200.0, raised))


class Vegas(Windowed):
    """`VegasLimit`: the queue that the limit makes, by the lowest latency; looked for again every 15 to 30 limits."""

    def __init__(self) -> None:
        super().__init__()
        self._unloaded = 0.0
        self._updates = 0
        self._rng = Random(1)
        self._jitter = self._rng.uniform(0.5, 1.0)

    def update(self, rtt: float, in_flight: int) -> None:
        self._updates += 1
        if self._jitter * 30 * self.limit <= self._updates:
            self._jitter, self._updates, self._unloaded = self._rng.uniform(0.5, 1.0), 0, rtt
            return
        if not self._unloaded or rtt < self._unloaded:
            self._unloaded = rtt
            return
        queue = ceil(self.limit * (1 - self._unloaded / rtt))
        if in_flight * 2 < self.limit:
            return
        step = max(1, int(log10(int(self.limit))))
        if queue <= step:
            self.limit += 6 * step
        elif queue < 3 * step:
            self.limit += step
        elif queue > 6 * step:
            self.limit -= step
        self.limit = max(1.0, min(1000.0, self.limit))


class Codel(Unlimited):
    """RFC 8289 section 5: `dodequeue` and `dequeue`, by the names there."""

    TARGET, INTERVAL = 0.005, 0.1

    def __init__(self, places: int) -> None:
        super().__init__()
        self.limit = places
        self._waiting: deque[Waiter] = deque()
        self._first_above = self._drop_next = 0.0
        self._count = self._last_count = 0
        self._dropping = False

    def try_enter(self, now: float) -> int:
        return 0 if self._waiting else super().try_enter(now)

    def queue(self, waiter: Waiter, _now: float) -> None:
        self._waiting.append(waiter)

    def leave(self, place: int, began: float, now: float, answered: bool) -> None:
        super().leave(place, began, now, answered)
        if (waiter := self._dequeue(now)) is not None:
            self.in_flight += 1
            waiter.tell(self.in_flight, "")

    def _do_dequeue(self, now: float) -> tuple[Waiter | None, bool]:
        if not self._waiting:
            self._first_above = 0.0
            return None, False
        waiter = self._waiting.popleft()
        if now - waiter.came < self.TARGET or not self._waiting:
            self._first_above = 0.0
            return waiter, False
        if not self._first_above:
            self._first_above = now + self.INTERVAL
            return waiter, False
        return waiter, now >= self._first_above

    def _dequeue(self, now: float) -> Waiter | None:
        waiter, may_drop = self._do_dequeue(now)
        if self._dropping:
            if not may_drop:
                self._dropping = False
            while self._dropping and now >= self._drop_next and waiter is not None:
                waiter.tell(0, "codel")
                self._count += 1
                waiter, may_drop = self._do_dequeue(now)
                if not may_drop:
                    self._dropping = False
                else:
                    self._drop_next += self.INTERVAL / sqrt(self._count)
        elif may_drop and waiter is not None:
            waiter.tell(0, "codel")
            waiter, _ = self._do_dequeue(now)
            self._dropping = True
            delta = self._count - self._last_count
            recent = delta > 1 and now - self._drop_next < 16 * self.INTERVAL
            self._count = delta if recent else 1
            self._drop_next = now + self.INTERVAL / sqrt(self._count)
            self._last_count = self._count
        return waiter
