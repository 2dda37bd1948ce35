"""`/gateway/v1/upstreams`: the model servers, as this worker sees them."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Controller, Request, get
from litestar.params import FromPath

from gateway.admission.concurrency import Gates
from gateway.control.access import authorised
from gateway.control.replica_statistics import ReplicaStatistics, statistics_of
from gateway.errors import NotFound


class ReplicaState(msgspec.Struct):
    """One server behind the name."""

    name: str
    """`UPSTREAM[NUMBER]`, as in logs and metrics."""
    http: str
    grpc: str | None
    state: str
    """`down`, `checking`, `warming`, `ready`, `ejected` or `draining`."""
    in_flight: int
    """Calls of this worker under way there."""
    models: list[str]
    """Models that are known to be ready there, `NAME/VERSION`."""
    circuits: dict[str, str]
    """Circuit breakers of this worker that are not closed, by model: `open` or `half_open`."""
    unrestored: dict[str, str]
    """What was asked of it and it refused when it came back, and why; see `docs/fanout.md`."""


class ConcurrencyState(msgspec.Struct):
    """The adaptive limit of one model, in this worker."""

    model: str
    limit: int | None
    """None: load has not asked for one."""
    in_flight: int
    queued: int
    """Requests that wait for a place."""
    unloaded_ms: float
    """What the model takes when nothing else is in flight; 0: not known yet."""


class UpstreamState(msgspec.Struct):
    """One model server, or several replicas of it."""

    name: str
    ready: bool
    server: str
    """What it says it is; empty until it has answered once."""
    version: str
    binary: bool | None
    """Whether tensors travel to it in OIP's binary extension; None until it has answered once."""
    replicas: list[ReplicaState]
    concurrency: list[ConcurrencyState]
    """Of the models that this worker was asked for."""


class UpstreamController(Controller):
    """Model servers. Needs `read` on `server`."""

    path = "/gateway/v1/upstreams"
    tags = ("upstreams",)

    @get("/")
    async def states(self, request: Request[Any, Any, Any]) -> list[UpstreamState]:
        """Readiness and kind of each."""
        snapshot = authorised(request, "server", "read")
        gates: Gates = request.app.state.application.pipeline.gates
        return [
            UpstreamState(
                name=name,
                ready=upstream.ready(),
                server="" if upstream.capabilities is None else upstream.capabilities.name,
                version="" if upstream.capabilities is None else upstream.capabilities.version,
                binary=None if upstream.capabilities is None else upstream.capabilities.binary,
                replicas=[
                    ReplicaState(
                        name=replica.label,
                        http=replica.address,
                        grpc=replica.grpc_address,
                        state=replica.state,
                        in_flight=replica.in_flight,
                        circuits=replica.traffic.circuits(),
                        unrestored=request.app.state.application.desired.unrestored(replica),
                        models=["/".join(filter(None, each)) for each in replica.models],
                    )
                    for replica in upstream.replicas
                ],
                concurrency=[
                    ConcurrencyState(
                        model=model,
                        limit=gate.limiter.limit if gate.limiter.limiting else None,
                        in_flight=gate.limiter.in_flight,
                        queued=gate.room.waiting,
                        unloaded_ms=round(gate.limiter.unloaded * 1000, 3),
                    )
                    for (of, model), gate in gates.items()
                    if of == name
                ],
            )
            for name, upstream in snapshot.upstreams.items()
        ]

    @get("/{upstream:str}/statistics")
    async def statistics(self, request: Request[Any, Any, Any], upstream: FromPath[str]) -> list[ReplicaStatistics]:
        """What each of its replicas has served, by its own statistics, and how this worker finds it."""
        snapshot = authorised(request, "server", "read")
        known = snapshot.upstreams.get(upstream)
        if known is None:
            raise NotFound(f"there is no upstream '{upstream}'")
        return await statistics_of(known)
