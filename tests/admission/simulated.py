"""A model server and its clients in simulated time, around a real `Gate`."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

from admission.published import Unlimited

from gateway.admission.brownout import LOOK_S
from gateway.admission.concurrency import Gate
from gateway.admission.peers import Peers
from gateway.admission.priority import Waiter, priority_of
from gateway.settings import AdaptiveConcurrency
from kernels.counters import Atomics


class Simulation:
    """`instances` serve in the order of arrival; `service(rng, taken)` is the seconds of one execution.

    With `batch` an instance takes up to so many waiting requests at once.
    """

    def __init__(
        self,
        service: Callable[[random.Random, int], float],
        instances: int,
        *,
        config: AdaptiveConcurrency | None = None,
        batch: int = 1,
        gates: int = 1,
        seed: int = 1,
        other: Callable[[], Unlimited] | None = None,
    ) -> None:
        """`other` makes what takes the place of each gate (`published`)."""
        self.now = 0.0
        self.rng = random.Random(seed)
        self.service = service
        self.idle = instances
        self.batch = batch
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._backlog: deque[Callable[[], None]] = deque()
        self.shed: list[tuple[float, int, str]] = []
        self.answers: list[tuple[float, float, int]] = []
        """(when, seconds, priority) of each."""
        self.served = [0] * gates
        """Answers of each gate."""
        self._words = Atomics(bytearray(16 * gates))
        self.gates: list[Gate] | list[Unlimited] = (
            [other() for _ in range(gates)]
            if other
            else [
                Gate(
                    config or AdaptiveConcurrency(),
                    0.0,
                    self.call_later,
                    lambda priority, reason: self.shed.append((self.now, priority, reason)),
                    lambda: self.now,
                    Peers(self._words, 0, gates, own, gates),
                )
                for own in range(gates)
            ]
        )
        self._look()

    def call_later(self, seconds: float, what: Callable[[], None]):
        event = (self.now + seconds, next(self._serial), what)
        heapq.heappush(self._events, event)
        return event

    def _look(self) -> None:
        """As `Brownout` does."""
        for gate in self.gates:
            if isinstance(gate, Gate):
                gate.limiter.look(self.now, waiting=gate.saturated)
        self.call_later(LOOK_S, self._look)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until

    def request(
        self, done: Callable[[bool], None] = lambda _: None, *, tenant: int = 10, triton: int = 0, left: float = 60.0
    ) -> None:
        """One request through one of the gates; `done(answered)`."""
        chosen = self.rng.randrange(len(self.gates))
        gate = self.gates[chosen]
        came = self.now
        priority = priority_of(tenant, triton)

        def go(place: int, _: str) -> None:
            if not place:
                done(False)
                return
            began = self.now

            def over() -> None:
                self.answers.append((self.now, self.now - came, priority))
                self.served[chosen] += 1
                gate.leave(place, began, self.now, True)
                done(True)

            self._backlog.append(over)
            self._serve()

        place = gate.try_enter(came)
        if place:
            go(place, "")
        else:
            gate.queue(Waiter(priority, came, came + left, 100, go), came)

    def _serve(self) -> None:
        while self.idle > 0 and self._backlog:
            taken = [self._backlog.popleft() for _ in range(min(self.batch, len(self._backlog)))]
            self.idle -= 1
            self.call_later(self.service(self.rng, len(taken)), lambda taken=taken: self._served(taken))

    def _served(self, taken: list[Callable[[], None]]) -> None:
        self.idle += 1
        for over in taken:
            over()
        self._serve()

    def open_loop(self, rate: float, until: float, **request) -> None:
        """Poisson arrivals."""

        def arrive() -> None:
            self.request(**request)
            if self.now < until:
                self.call_later(self.rng.expovariate(rate), arrive)

        self.call_later(0.0, arrive)

    def closed_loop(self, clients: int, until: float, pause: float = 0.001) -> None:
        """Each client asks again when it has its answer, refused or not."""

        def again(_: bool = True) -> None:
            if self.now < until:
                self.call_later(pause, lambda: self.request(again))

        for _ in range(clients):
            again()

    def latencies(self, after: float = 0.0, priority: int | None = None) -> list[float]:
        found = (s for when, s, p in self.answers if when >= after and priority in (None, p))
        return sorted(found)


def quantile(values: list[float], q: float) -> float:
    return values[min(len(values) - 1, int(q * len(values)))]
