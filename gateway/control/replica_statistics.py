"""What each replica of an upstream has done: its own statistics beside how this worker sees it.

Contract: every replica is asked at the same time, for the statistics that Triton keeps since its process began
(`GET /v2/models/stats`), so that one that serves worse than the others stands out. One that does not answer, or
keeps none, says so in `error`, without its address. Numbers of this worker are since its start.
"""

from __future__ import annotations

import time

import msgspec

from gateway.errors import BadGateway
from gateway.upstream import fanout
from gateway.upstream.answers import error_of
from gateway.upstream.fanout import Target
from gateway.upstream.replica import Replica
from gateway.upstream.upstream import Upstream

TIMEOUT_S = 5.0
"""For a replica to answer; `fanout.DOWN_TIMEOUT` for one that is known to be down."""


class ModelStatistics(msgspec.Struct):
    """One version of a model, as the replica itself counts."""

    model: str
    version: str
    succeeded: int
    """Requests that it answered."""
    failed: int
    """Requests that it answered with an error."""
    inferences: int
    """Elements of batches, over all requests."""
    executions: int
    """Batches that ran."""
    mean_ms: float
    """Milliseconds of a request that succeeded, in the server, its queue included."""
    mean_queue_ms: float
    """Of these, in the queue."""
    last_inference_ms: int
    """Unix milliseconds of the last one; 0: none yet."""


class ReplicaStatistics(msgspec.Struct):
    """One replica."""

    name: str
    """`UPSTREAM[NUMBER]`, as in logs and metrics."""
    state: str
    """`down`, `checking`, `warming`, `ready`, `ejected` or `draining`."""
    in_flight: int
    """Calls of this worker under way there."""
    failures_in_a_row: int
    """As passive health counts, in this worker."""
    ejected_for_s: float
    """Seconds until it is tried again; 0: it is not ejected."""
    circuits: dict[str, str]
    """Circuit breakers of this worker that are not closed, by model: `open` or `half_open`."""
    models: list[ModelStatistics]
    error: str | None = None
    """Why it has told no statistics."""


class _Duration(msgspec.Struct):
    count: int = 0
    ns: int = 0

    @property
    def mean_ms(self) -> float:
        return round(self.ns / self.count / 1e6, 3) if self.count else 0.0


class _Durations(msgspec.Struct):
    success: _Duration = msgspec.field(default_factory=_Duration)
    fail: _Duration = msgspec.field(default_factory=_Duration)
    queue: _Duration = msgspec.field(default_factory=_Duration)


class _Row(msgspec.Struct):
    name: str
    version: str = ""
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: _Durations = msgspec.field(default_factory=_Durations)


class _Page(msgspec.Struct):
    model_stats: list[_Row]


_decoder = msgspec.json.Decoder(_Page)


async def statistics_of(upstream: Upstream) -> list[ReplicaStatistics]:
    """Every replica, in the order of `/gateway/v1/upstreams`. Never fails: who does not answer says so."""
    replicas = upstream.replicas
    told = await fanout.ask_each([Target(one.label, upstream, one) for one in replicas], _ask)
    now = time.monotonic()
    return [
        ReplicaStatistics(
            name=one.label,
            state=one.state,
            in_flight=one.in_flight,
            failures_in_a_row=one.outlier.consecutive,
            ejected_for_s=round(max(one.outlier.until - now, 0.0), 3) if one.outlier.out else 0.0,
            circuits=one.traffic.circuits(),
            models=told.done.get(one.label, []),
            error=told.failed[one.label].message if one.label in told.failed else None,
        )
        for one in replicas
    ]


async def _ask(_target: Target, replica: Replica) -> list[ModelStatistics]:
    timeout = fanout.read_timeout(replica, TIMEOUT_S)
    response = await replica.control("GET", "/v2/models/stats", timeout=timeout)
    if response.status != 200:
        raise error_of(response)
    try:
        rows = _decoder.decode(response.body).model_stats
    except msgspec.DecodeError as error:
        raise BadGateway("its statistics could not be understood", detail=str(error)) from None
    return [
        ModelStatistics(
            model=row.name,
            version=row.version,
            succeeded=row.inference_stats.success.count,
            failed=row.inference_stats.fail.count,
            inferences=row.inference_count,
            executions=row.execution_count,
            mean_ms=row.inference_stats.success.mean_ms,
            mean_queue_ms=row.inference_stats.queue.mean_ms,
            last_inference_ms=row.last_inference,
        )
        for row in rows
    ]
