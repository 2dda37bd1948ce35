"""The gate before each model: the adaptive limit, and the waiting room in front of it.

Contract: all methods belong to the event loop's thread. `try_enter` is all that a request pays while there is
room; only one that finds none waits, in `wait`, as a future and without a task. Whoever got a place MUST give
it back by `leave`, once. One `Gates` serves a worker through all reloads.

Both decisions are elsewhere and do no I/O: `adaptive` (how many), `priority` (who).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Protocol

from gateway.admission.adaptive import STANDING, Limiter
from gateway.admission.limit_table import IN_FLIGHT, LimitTable
from gateway.admission.peers import Peers, nobody
from gateway.admission.priority import Waiter, WaitingRoom, class_of
from gateway.errors import Overloaded
from gateway.settings import AdaptiveConcurrency, Upstream

BUSY = "the model server is busy"
PATIENCE = 0.5
"""How long one may wait for a place in overload, in multiples of the unloaded latency: with the latency that
`tolerance` allows at the model server (2.0), what is served takes 2.5 times the unloaded latency."""
SLOW = 10
"""A model's queue may be so many unloaded latencies long, where that is longer than `queue`: half a second is no
overload for a model that takes a second."""
RATES = "rates"
LONGEST_RETRY = 30
"""Seconds of `Retry-After`, at most."""

_now = time.perf_counter


class Meters(Protocol):
    """Where a gate counts."""

    def shed(self, upstream: str, model: str, tenant_class: int, reason: str) -> None:
        """One was turned away: `queue` (waited too long), `full` (no room to wait) or `deadline`."""

    def state(self, upstream: str, model: str, gate: Gate) -> None:
        """A look at the gate, about once a second."""


class Timer(Protocol):
    """What `asyncio.AbstractEventLoop.call_later` returns."""

    def cancel(self) -> None:
        """It does not fire."""


class Gate:
    """The gate of one model on one upstream, in one worker.

    Args:
        config: `upstreams.NAME.concurrency`.
        now: seconds, of the clock that all other times are of.
        call_later: calls after so many seconds.
        shed: is told (priority, reason) of each that is turned away.
        clock: where `now` comes from.
        peers: see `Limiter`.
    """

    def __init__(
        self,
        config: AdaptiveConcurrency,
        now: float,
        call_later: Callable[[float, Callable[[], None]], Timer],
        shed: Callable[[int, str], None],
        clock: Callable[[], float] = _now,
        peers: Peers | None = None,
    ) -> None:
        self.config = config
        self.limiter = Limiter(config, now, peers)
        self.room = WaitingRoom(config.queue)
        self._call_later = call_later
        self._shed = shed
        self._clock = clock
        self._timer: Timer | None = None
        self._served = 0
        self._turned_away = 0
        self.shed_until = 0.0
        """Until then the last refusal is recent."""

    def reload(self, config: AdaptiveConcurrency) -> None:
        """Takes new settings."""
        self.config = config
        self.limiter.reload(config)
        self.room.reload(config.queue)

    def try_enter(self, now: float) -> int:
        """A place, if there is one and nobody waits for it; else 0."""
        if self.room.waiting:
            return 0
        return self.limiter.enter(now)

    def queue(self, waiter: Waiter, now: float) -> None:
        """Wait; `waiter.tell` gets a place (not 0), or 0 and why there is none. Perhaps at once."""
        for one in self.room.add(waiter, now):
            self._turn_away(one, "full", now)
        if self._timer is None and self.room.waiting:
            self._timer = self._call_later(self.room.pause(now, self.patience), self._look)

    def leave(self, place: int, began: float, now: float, answered: bool) -> None:
        """Give a place back; see `Limiter.leave`."""
        self.limiter.leave(place, began, now, answered)
        if self.room.waiting:
            self._admit(now)

    @property
    def patience(self) -> float:
        """Seconds that one may wait in overload."""
        return max(STANDING, PATIENCE * self.limiter.unloaded)

    @property
    def saturated(self) -> bool:
        """Whether somebody waits for a place."""
        return self.room.waiting > 0

    def retry_after(self) -> float:
        """Seconds after which trying again makes sense: the longer, the more were turned away for each served."""
        return float(min(max(1, ceil(self._turned_away / max(1, self._served))), LONGEST_RETRY))

    def _admit(self, now: float) -> None:
        limiter, room = self.limiter, self.room
        if limiter.probing:
            limiter.look(now, waiting=room.waiting > 0)
        while limiter.in_flight < limiter.limit:
            waiter = room.next(now)
            if waiter is None:
                break
            self._served += 1
            waiter.tell(limiter.enter(now), "")

    def _look(self) -> None:
        now = self._clock()
        self._timer = None
        for one in self.room.late(now):
            self._turn_away(one, "deadline", now)
        limiter = self.limiter
        inside, held = limiter.in_flight, limiter.probing or limiter.in_flight > limiter.limit
        for one in self.room.expire(now, self.patience, SLOW * limiter.unloaded, inside, held=held):
            self._turn_away(one, "queue", now)
        if self._served + self._turned_away > 1000:  # recent ones count
            self._served //= 2
            self._turned_away //= 2
        self._admit(now)
        if self.room.waiting and self._timer is None:
            self._timer = self._call_later(self.room.pause(now, self.patience), self._look)

    def _turn_away(self, one: Waiter, reason: str, now: float) -> None:
        self._turned_away += 1
        self.shed_until = now + 1.0
        self._shed(one.priority, reason)
        one.tell(0, reason)

    async def wait(self, priority: int, time_left: float, nbytes: int, now: float) -> int:
        """A place, when it is this one's turn.

        Args:
            priority: see `priority.priority_of`.
            time_left: seconds in which the answer has to be there.
            nbytes: of the request's body, which is kept meanwhile.
            now: seconds.

        Raises:
            Overloaded: turned away.
        """
        # The place, or why there is none: a future that held an error would be held by its traceback, with the body.
        future: asyncio.Future[int | str] = asyncio.get_running_loop().create_future()

        def tell(place: int, reason: str) -> None:
            if future.done():  # cancelled in the same turn of the loop: the place goes on
                if place:
                    self.leave(place, now, self._clock(), False)
            else:
                future.set_result(place or ("not in time" if reason == "deadline" else reason))

        # What cannot be answered in time is refused while it is still cheap.
        waiter = Waiter(priority, now, now + time_left - self.limiter.unloaded, nbytes, tell)
        self.queue(waiter, now)
        try:
            told = await future
        except asyncio.CancelledError:
            if not future.done() or future.cancelled():
                self.room.remove(waiter)
            elif isinstance(place := future.result(), int):
                self.leave(place, now, self._clock(), False)
            raise
        if isinstance(told, str):
            raise Overloaded(BUSY, retry_after=self.retry_after(), detail=told)
        return told


class SharedRates:
    """What the workers of a machine tell each other about every model, in `RUN_DIR/rates`."""

    def __init__(self, run_dir: Path, slot: int, slots: int) -> None:
        """`slot`: this worker's, of `slots`. Raises LimitTableError."""
        self._table = LimitTable(run_dir / RATES, slots)
        self._slot = slot
        self._table.clear(slot)

    def of(self, upstream: str, model: str) -> Peers:
        """For the `Limiter` of a model."""
        load, found = (self._table.row(f"{upstream}\0{model}{what}") + IN_FLIGHT for what in ("", "\0unloaded"))
        if load == found:  # the table is full: from here on each worker judges by itself
            return nobody()
        return Peers(self._table.words, load, found, self._slot, self._table.slots)

    def close(self) -> None:
        """This worker serves nobody any more."""
        self._table.clear(self._slot)
        self._table.close()


class Gates:
    """The gates of one worker, by upstream and model."""

    def __init__(self, upstreams: Mapping[str, Upstream], meters: Meters, rates: SharedRates) -> None:
        self._meters = meters
        self._rates = rates
        self._configs = {name: upstream.concurrency for name, upstream in upstreams.items()}
        self._gates: dict[tuple[str, str], Gate] = {}

    def of(self, upstream: str, model: str) -> Gate | None:
        """The gate of a model; None: `concurrency.enabled` is false."""
        gate = self._gates.get((upstream, model))
        return gate if gate is not None else self._make(upstream, model)

    def room(self, upstream: str, model: str) -> bool:
        """Whether nobody waits for a place at a model."""
        gate = self._gates.get((upstream, model))
        return gate is None or not gate.saturated

    def items(self) -> list[tuple[tuple[str, str], Gate]]:
        """All there are."""
        return list(self._gates.items())

    def reload(self, upstreams: Mapping[str, Upstream]) -> None:
        """Takes new settings. Who has a place or waits for one keeps it."""
        self._configs = {name: upstream.concurrency for name, upstream in upstreams.items()}
        for key, gate in self.items():
            config = self._configs.get(key[0])
            if config is None or not config.enabled:
                del self._gates[key]
            elif config != gate.config:
                gate.reload(config)

    def _make(self, upstream: str, model: str) -> Gate | None:
        config = self._configs.get(upstream)
        if config is None or not config.enabled:
            return None
        shed = self._meters.shed
        gate = Gate(
            config,
            _now(),
            asyncio.get_running_loop().call_later,
            lambda priority, reason: shed(upstream, model, class_of(priority), reason),
            peers=self._rates.of(upstream, model),
        )
        self._gates[upstream, model] = gate
        return gate
