"""The models on one replica, as their calls find them: circuit, latency, calls in flight.

Contract: made by the first call of a model on a replica, and kept as long as the replica. Names of models come from
routes and from model servers that know them, never from whatever a client may write.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway import settings
from gateway.upstream.breaker import Breaker
from gateway.upstream.counts import Counted
from gateway.upstream.hedge import LatencyQuantile, Quickness

QUICK_BELOW = 0.05
"""Seconds. A model whose median is below it is called over HTTP: what a client that leaves could save of its work
is less than what gRPC would cost all the others."""


class Served(Counted):
    """One model on one replica."""

    __slots__ = ("breaker", "latency", "quickness")

    def __init__(self, config: settings.Upstream) -> None:
        self.breaker = Breaker(config.breaker.failures, config.breaker.open, config.breaker.probes)
        self.latency = None if config.hedge is None else LatencyQuantile(config.hedge.quantile)
        # With `unary: grpc` nothing is quick enough for HTTP.
        self.quickness = Quickness(0.0 if config.unary == "grpc" else QUICK_BELOW)
        self.in_flight = 0


class Traffic(dict[str, Served]):
    """All models of a replica that were called there, by their names on it."""

    def __init__(self, config: settings.Upstream, tell: Callable[[str, str], None]) -> None:
        """`tell`: (model, event) of each change of a circuit; see `EVENTS`."""
        super().__init__()
        self._config = config
        self.tell = tell

    def of(self, model: str) -> Served:
        """What calls find of a model; made by its first call."""
        served = self.get(model)
        if served is None:
            served = self[model] = Served(self._config)
        return served

    def circuits(self) -> dict[str, str]:
        """Circuit breakers that are not closed, by model: `open` or `half_open`."""
        now = time.monotonic()
        return {model: one.breaker.state(now) for model, one in self.items() if not one.breaker.closed}

    def recovered(self, now: float) -> None:
        """The replica came back: its circuits are probed at once."""
        for served in self.values():
            served.breaker.recovered(now)

    def forget(self, config: settings.Upstream) -> None:
        """Begin anew, with these settings. Calls under way tell breakers that nobody looks at any more."""
        for model, served in self.items():
            if not served.breaker.closed:
                self.tell(model, "circuit_closed")
        self.clear()
        self._config = config
