"""Who waits for a place at a model, who is next, and who is turned away.

Contract: pure and synchronous; the caller hands the clock in (seconds, monotonic) and wakes or refuses whom
these methods return. Low priority is never given a place while a higher one waits, and never waits while a
higher one is turned away for want of room.

The queue is an adaptive LIFO with CoDel's patience (Maurer, "Fail at scale", ACM Queue 13(8), 2015), for each
priority by itself:

- Normally the longest waiter is first and may wait for long: bursts, and clients that patiently wait for
  their turn one by one, lose nothing.
- A priority is *overloaded* when its longest waiter has waited for `queue` and the queue still grows: more
  comes than is served. From then on the newest is first and whoever has waited for `patience`, some
  milliseconds, is turned away: what is served is served in time, instead of all of it late. This ends when
  nobody had to be turned away for `CALM` times as long.

That the queue grows is what tells overload from a fixed number of clients that each wait for their answer:
theirs is long, but it stays.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable
from math import sqrt

MOST = 2048
"""Waiters of one model in one worker; as many as the connection pool lets wait."""
MOST_BYTES = 256 * 1024 * 1024
"""Request bodies that waiters of one model may keep in memory, four times the default `limits.body`."""
CALM = 4.0
"""Multiples of `queue` (or of `longest`) without a refusal after which a priority is overloaded no more."""
TICKS = 8
"""Looks at the queue within `queue` seconds."""
LEVELS = 32
"""Values of Triton's `priority` that are told apart; larger ones count as the largest of them."""

DEFAULT_CLASS = 10
"""Of tenants without `priority`."""

_SPANS = (TICKS // 2, TICKS, 2 * TICKS, 4 * TICKS, 8 * TICKS)
"""Ticks over which growth is judged; the longer, the smaller the overload that shows."""
_HISTORY = 2 * _SPANS[-1]
_SIGMAS = 1.5
"""Growth beyond so many standard deviations is no chance: of as many arrivals as there were, by Poisson's law."""


def priority_of(tenant_class: int, triton: object) -> int:
    """One number for both, small is first: the tenant's class, then Triton's `priority` parameter.

    As in Triton 1 is the highest. 0 or absent is Triton's "default level", which its model chooses; here such
    requests come after those that say more.
    """
    level = min(triton, LEVELS) if type(triton) is int and triton > 0 else LEVELS + 1
    return tenant_class * (LEVELS + 2) + level


def class_of(priority: int) -> int:
    """The tenant's class in a `priority_of`."""
    return priority // (LEVELS + 2)


class Waiter:
    """One request that waits.

    Args:
        priority: see `priority_of`.
        now: when it came.
        deadline: by when it has to have its place for the answer to be in time.
        nbytes: of its body.
        tell: is called with the place that it gets, or with 0 and why it is turned away.
    """

    __slots__ = ("came", "deadline", "nbytes", "priority", "tell")

    def __init__(
        self, priority: int, now: float, deadline: float, nbytes: int, tell: Callable[[int, str], None]
    ) -> None:
        self.priority = priority
        self.came = now
        self.deadline = deadline
        self.nbytes = nbytes
        self.tell = tell


class _Queue:
    """The waiters of one priority."""

    __slots__ = ("arrived", "lengths", "overloaded_until", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[Waiter] = deque()
        self.overloaded_until = 0.0
        self.arrived = 0
        self.lengths: deque[tuple[int, int]] = deque(maxlen=_HISTORY)  # and `arrived`, at the last ticks

    def grows(self, inside: int) -> bool:
        now, arrived, lengths = len(self.waiters) + inside, self.arrived, self.lengths
        for ticks in _SPANS:
            if len(lengths) < 2 * ticks:  # a queue that has just begun has always grown
                return False
            before, until_then = lengths[-ticks]
            if now - before > 2 + _SIGMAS * sqrt(arrived - until_then):
                return True
        return False


class WaitingRoom:
    """All who wait for one model in one worker."""

    __slots__ = (
        "_bytes",
        "_longest",
        "_next_tick",
        "_order",
        "_queues",
        "_soonest",
        "_tick",
        "most",
        "queue",
        "waiting",
    )

    def __init__(self, queue: float, most: int = MOST) -> None:
        self.queue = queue
        self.most = most
        self.waiting = 0
        self._bytes = 0
        self._longest = queue
        self._queues: dict[int, _Queue] = {}
        self._order: list[int] = []  # priorities that have waiters
        self._soonest = float("inf")  # of the deadlines
        self._tick = queue / TICKS
        self._next_tick = 0.0

    def reload(self, queue: float) -> None:
        """Takes another `queue`."""
        self.queue = queue
        self._tick = queue / TICKS

    def add(self, waiter: Waiter, now: float) -> list[Waiter]:
        """Take one in; returns who is turned away for it: the newest of the lowest priority, perhaps itself."""
        if not self.waiting:
            self._next_tick = now
            for emptied in self._queues.values():
                emptied.lengths.clear()
        queue = self._queues.setdefault(waiter.priority, _Queue())
        if not queue.waiters:
            insort(self._order, waiter.priority)
        queue.waiters.append(waiter)
        queue.arrived += 1
        self.waiting += 1
        self._bytes += waiter.nbytes
        self._soonest = min(self._soonest, waiter.deadline)
        out: list[Waiter] = []
        while self.waiting > self.most or (self._bytes > MOST_BYTES and self.waiting > 1):
            lowest = self._order[-1]
            one = self._queues[lowest].waiters[-1]
            self.remove(one)
            self._refused(lowest, now)
            out.append(one)
        return out

    def next(self, now: float) -> Waiter | None:
        """Who gets the free place."""
        if not self._order:
            return None
        queue = self._queues[self._order[0]]
        waiter = queue.waiters[-1] if queue.overloaded_until > now else queue.waiters[0]
        self.remove(waiter)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """It waits no more. Does nothing when it did not."""
        queue = self._queues.get(waiter.priority)
        if queue is None:
            return
        waiters = queue.waiters
        if waiters and waiters[-1] is waiter:
            waiters.pop()
        elif waiters and waiters[0] is waiter:
            waiters.popleft()
        else:
            try:
                waiters.remove(waiter)
            except ValueError:
                return
        self.waiting -= 1
        self._bytes -= waiter.nbytes
        if not waiters:
            self._order.remove(waiter.priority)
        if not self.waiting:
            self._soonest = float("inf")

    def late(self, now: float) -> list[Waiter]:
        """Who cannot be in time any more; they wait no longer."""
        if now < self._soonest:
            return []
        late = [one for priority in self._order for one in self._queues[priority].waiters if one.deadline <= now]
        for one in late:
            self.remove(one)
        rest = (one.deadline for priority in self._order for one in self._queues[priority].waiters)
        self._soonest = min(rest, default=float("inf"))
        return late

    def expire(
        self, now: float, patience: float, longest: float = 0.0, inside: int = 0, *, held: bool = False
    ) -> list[Waiter]:
        """Who is turned away for having waited too long. To be asked every `pause` seconds.

        `patience`: in overload. `longest`: takes the place of `queue` where it is longer. `inside`: requests that
        have a place; those that move from the server's queue to this one are no growth. `held`: hardly anybody
        gets a place just now, by the limiter's own will (a probe, or more inside than the limit). That all queues
        grow meanwhile says nothing about any but the lowest: the others are judged afterwards.
        """
        self._longest = longest = max(longest, self.queue)
        out: list[Waiter] = []
        ticked = now >= self._next_tick
        if ticked:
            self._next_tick = now + self._tick
        lowest = max(self._queues, default=0)
        for priority in tuple(self._order):
            queue = self._queues[priority]
            if held and priority < lowest and queue.overloaded_until <= now:
                queue.lengths.clear()
                continue
            if ticked:
                queue.lengths.append((len(queue.waiters) + inside, queue.arrived))
            # Once one of a higher priority is turned away, all below it are.
            above = bool(out)
            calm = not above and queue.overloaded_until <= now
            if calm and (now - queue.waiters[0].came < longest or not queue.grows(inside)):
                continue
            while queue.waiters and (above or now - queue.waiters[0].came >= patience):
                one = queue.waiters[0]
                self.remove(one)
                out.append(one)
            if out:
                self._refused(priority, now)
        return out

    def longest_wait(self, now: float) -> float:
        """Seconds that somebody has waited, at most; 0: nobody waits."""
        return max((now - self._queues[priority].waiters[0].came for priority in self._order), default=0.0)

    def pause(self, now: float, patience: float) -> float:
        """Seconds until `expire` has to be asked again, while somebody waits."""
        return min(self._tick, max(patience / 4, 0.002)) if self.overloaded(now) else self._tick

    def overloaded(self, now: float) -> bool:
        """Whether some priority is overloaded."""
        return any(queue.overloaded_until > now for queue in self._queues.values())

    def _refused(self, priority: int, now: float) -> None:
        """This priority and all below it get no more than there is room for."""
        for other, queue in self._queues.items():
            if other >= priority:
                queue.overloaded_until = now + CALM * self._longest
