"""One model on one replica, as its calls find it: circuit, latency, calls in flight.

Contract: made by the first call of a model on a replica, and kept as long as the replica. Names of models come from
routes and from model servers that know them, never from whatever a client may write.
"""

from __future__ import annotations

from gateway import settings
from gateway.upstream.breaker import Breaker
from gateway.upstream.hedge import LatencyQuantile, Quickness

QUICK_BELOW = 0.05
"""Seconds. A model whose median is below it is called over HTTP: what a client that leaves could save of its work
is less than what gRPC would cost all the others."""


class Served:
    """One model on one replica."""

    __slots__ = ("breaker", "in_flight", "latency", "quickness")

    def __init__(self, config: settings.Upstream) -> None:
        self.breaker = Breaker(config.breaker.failures, config.breaker.open, config.breaker.probes)
        self.latency = None if config.hedge is None else LatencyQuantile(config.hedge.quantile)
        # With `unary: grpc` nothing is quick enough for HTTP.
        self.quickness = Quickness(0.0 if config.unary == "grpc" else QUICK_BELOW)
        self.in_flight = 0
