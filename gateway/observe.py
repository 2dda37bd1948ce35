"""Step 9: what every request leaves behind in counters, spans and the access log.

Contract: called once when a request starts and once when it has ended, however it ended; never raises, never
waits. Every counter lives in this worker's registry; handles are resolved once per label set.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeAlias

from gateway import logs, telemetry
from gateway.clients import client_address
from gateway.tracing import http_server, rpc_server
from kernels.counters import Tally

if TYPE_CHECKING:
    from gateway.admission.concurrency import Gate
    from gateway.errors import TidegateError
    from gateway.exchange import Exchange
    from gateway.metrics import Registry
    from gateway.routing import Assignment
    from gateway.tracing import Tracing

_access = logs.get("access")
_log = logs.get("requests")

_HTTP_ROUTES = {
    "infer": "/v2/models/{model}/infer",
    "generate": "/v2/models/{model}/generate",
    "generate_stream": "/v2/models/{model}/generate_stream",
}
_RPC_METHODS = {
    "infer": "inference.GRPCInferenceService/ModelInfer",
    "stream": "inference.GRPCInferenceService/ModelStreamInfer",
}


_MOST_TALLIES = 1024
"""Outcomes whose cells are kept together."""
_Outcome: TypeAlias = tuple[str, str, str, str, str, str]
"""Route, variant, protocol, code, tenant, upstream."""


class Observer:
    """Counts, traces and logs the requests of this worker."""

    def __init__(self, registry: Registry, tracing: Tracing, *, access_log: bool) -> None:
        self._registry = registry
        self._tracing = tracing
        self._access_log = access_log
        self._requests = registry.counter(telemetry.REQUESTS)
        self._durations = registry.histogram(telemetry.REQUEST_DURATION)
        self._upstream = registry.histogram(telemetry.UPSTREAM_DURATION)
        self._overhead = registry.histogram(telemetry.OVERHEAD)
        self._fallbacks = registry.counter(telemetry.FALLBACKS)
        self._unit_missing = registry.counter(telemetry.UNIT_MISSING)
        self._unapproved = registry.counter(telemetry.UNAPPROVED)
        in_flight = registry.gauge(telemetry.IN_FLIGHT)
        self.in_flight = {protocol: in_flight.labels(protocol) for protocol in ("http", "grpc")}
        """By protocol."""
        self._tallies: dict[_Outcome, Tally] = {}
        self._generation = registry.generation

    def started(self, x: Exchange) -> None:
        """A door has read a request."""
        self.in_flight[x.protocol].add(1)
        x.trace = self._tracing.start(x.headers)

    def finished(self, x: Exchange) -> None:
        """It was answered, refused, or nobody waits for it any more."""
        seconds = time.perf_counter() - x.started
        self.in_flight[x.protocol].add(-1)
        error = x.error
        code = code_of(x.protocol, error)
        tally = self.tally(x, code)
        tally.count(seconds, x.upstream_seconds)
        if x.trace.sampled:
            tally.duration.exemplar(seconds, *x.trace.exemplar(), time.time())
            name, attributes = _described(x, code)
            x.trace.end(name, attributes, error=error)
        if x.snapshot.monitors and error is None:
            _monitor(x)
        x.answer = None
        if self._access_log:
            _access.info("%s %s", x.operation, x.model, extra={"fields": _fields(x, code, seconds)})
        elif error is not None and error.status >= 500:
            fields = {**_fields(x, code, seconds), "detail": error.detail}
            _log.warning("%s", error.message, extra={"fields": fields})

    def says_more(self, x: Exchange) -> bool:
        """Whether a request like this one, that was served, leaves more behind than counts."""
        return self._access_log or x.trace.sampled or bool(x.snapshot.monitors)

    @property
    def generation(self) -> int:
        """Changes when what `tally` gave is out of date."""
        return self._registry.generation

    def tally(self, x: Exchange, code: str) -> Tally:
        """What a request of this outcome counts in."""
        route, variant, subject = x.route, x.variant, x.subject
        outcome = (
            "" if route is None else route.name,
            "" if variant is None else variant.name,
            x.protocol,
            code,
            "" if subject is None else subject.tenant,
            variant.upstream if variant is not None and x.upstream_seconds else "",
        )
        tally = self._tallies.get(outcome)
        if tally is None or self._generation != self._registry.generation:
            tally = self._resolve(outcome)
        return tally

    def _resolve(self, outcome: _Outcome) -> Tally:
        """What an outcome counts in; one look-up a request instead of four."""
        if self._generation != self._registry.generation or len(self._tallies) >= _MOST_TALLIES:
            self._tallies.clear()
            self._generation = self._registry.generation
        route, variant, protocol, code, tenant, upstream = outcome
        tally = self._tallies[outcome] = Tally(
            self._requests.labels(route, variant, protocol, code, tenant),
            self._durations.labels(route, variant, protocol),
            self._upstream.labels(route, variant, upstream) if upstream else None,
            self._overhead.labels(route, protocol) if upstream else None,
        )
        return tally

    def unread(self, protocol: str, error: TidegateError) -> None:
        """An inference request was refused before anybody knew what it asks for: of no route, tenant or duration."""
        self._requests.labels("", "", protocol, code_of(protocol, error), "").inc()

    def assigned(self, x: Exchange, assignment: Assignment) -> None:
        """A variant was chosen."""
        if assignment.unit_missing:
            self._unit_missing.labels(x.route_name).inc()

    def unapproved(self, x: Exchange, to: Assignment) -> None:
        """A version serves that the registry does not allow (`registry.enforce: warn`)."""
        self._unapproved.labels(x.route_name, to.variant.name).inc()

    def fell_back(self, x: Exchange, to: Assignment, error: TidegateError) -> None:
        """The chosen variant failed and another is tried."""
        self._fallbacks.labels(x.route_name, to.variant.name).inc()
        fields = {"request_id": x.request_id, "route": x.route_name, "detail": error.detail}
        _log.warning("fell back to '%s': %s", to.variant.name, error.message, extra={"fields": fields})


def _monitor(x: Exchange) -> None:
    """Count a call that was served, where its route has a monitor."""
    monitor = x.snapshot.monitors.get(x.route_name)
    if monitor is None or x.call is None:
        return
    try:
        monitor.count(x.call.inputs if x.raw is None else x.raw, () if x.answer is None else x.answer.outputs)
    except Exception:  # noqa: BLE001 - a defect there must not cost an answer
        _log.exception("not counted: a defect", extra={"fields": {"request_id": x.request_id}})


def code_of(protocol: str, error: TidegateError | None) -> str:
    """The HTTP status or the gRPC status name, as the `code` label has it."""
    if protocol == "http":
        return "200" if error is None else str(error.status)
    return "OK" if error is None else error.code


def _described(x: Exchange, code: str) -> tuple[str, dict[str, Any]]:
    """Name and attributes of the server span."""
    if x.protocol == "http":
        name, attributes = http_server(
            "POST", _HTTP_ROUTES[x.operation], f"/v2/models/{x.model}/{x.operation}", int(code)
        )
    else:
        name, attributes = rpc_server(_RPC_METHODS[x.operation], code)
    attributes[telemetry.ROUTE] = x.route_name
    attributes[telemetry.REQUEST_ID] = x.request_id
    if x.peer:
        attributes[telemetry.CLIENT_ADDRESS] = client_address(
            x.peer, x.headers, x.snapshot.settings.listen.trusted_proxies
        )
    attributes[telemetry.SNAPSHOT] = x.snapshot.hash
    attributes[telemetry.REQUEST_BYTES] = x.nbytes
    attributes[telemetry.RESPONSE_BYTES] = x.nbytes_out
    if x.subject is not None:
        attributes[telemetry.TENANT] = x.subject.tenant
        attributes[telemetry.SUBJECT] = x.subject.id
    if x.decision_line is not None:
        attributes[telemetry.POLICY_LINE] = x.decision_line
    if x.variant is not None and x.assignment is not None:
        attributes[telemetry.VARIANT] = x.variant.name
        attributes[telemetry.UPSTREAM] = x.variant.upstream
        attributes[telemetry.ROUTE_DRAWN] = x.assignment.drawn
        attributes[telemetry.TRITON_MODEL] = x.variant.model
        attributes[telemetry.TRITON_VERSION] = x.answered_by or x.assignment.version
    if x.fallbacks:
        attributes[telemetry.FELL_BACK] = ",".join(x.fallbacks)
    return name, attributes


def _fields(x: Exchange, code: str, seconds: float) -> dict[str, Any]:
    """What a log line says of a request."""
    return {
        "request_id": x.request_id,
        "trace_id": x.trace.id if x.trace.sampled else "",
        "protocol": x.protocol,
        "route": x.route_name,
        "variant": x.variant_name,
        "code": code,
        "subject": "" if x.subject is None else x.subject.id,
        "tenant": "" if x.subject is None else x.subject.tenant,
        "peer": client_address(x.peer, x.headers, x.snapshot.settings.listen.trusted_proxies),
        "duration_ms": round(seconds * 1000, 3),
        "bytes_in": x.nbytes,
        "bytes_out": x.nbytes_out,
    }


class GateMeters:
    """What the gates of models report (`admission.concurrency`)."""

    def __init__(self, registry: Registry) -> None:
        self._shed = registry.counter(telemetry.SHED)
        self._limit = registry.gauge(telemetry.CONCURRENCY_LIMIT)
        self.in_flight = registry.gauge(telemetry.CONCURRENCY_IN_FLIGHT)
        self._queued = registry.gauge(telemetry.CONCURRENCY_QUEUED)

    def shed(self, upstream: str, model: str, tenant_class: int, reason: str) -> None:
        """One request was turned away."""
        self._shed.labels(upstream, model, str(tenant_class), reason).inc()

    def state(self, upstream: str, model: str, gate: Gate) -> None:
        """What a gate looks like now."""
        self._limit.labels(upstream, model).set(gate.limiter.limit)
        self.in_flight.labels(upstream, model).set(gate.limiter.in_flight)
        self._queued.labels(upstream, model).set(gate.room.waiting)


_CIRCUIT = {"circuit_closed": 0.0, "circuit_half_open": 1.0, "circuit_open": 2.0}


class UpstreamEvents:
    """What the upstreams report: readiness as a gauge, everything else in the log or a counter."""

    def __init__(self, registry: Registry) -> None:
        self._ready = registry.gauge(telemetry.UPSTREAM_READY)
        self._replica_ready = registry.gauge(telemetry.REPLICA_READY)
        self._circuit = registry.gauge(telemetry.CIRCUIT_STATE)
        self._events = registry.counter(telemetry.UPSTREAM_EVENTS)
        self._retries = registry.counter(telemetry.RETRIES)

    def on_event(self, name: str, **labels: str) -> None:
        """See `gateway.upstream.events` for the names."""
        upstream = labels["upstream"]
        self._events.labels(upstream, name).inc()
        if name in ("resend", "retry"):
            self._retries.labels(upstream).inc()
        if name in ("replica_up", "replica_down", "replica_removed"):
            self._replica_ready.labels(upstream, labels["replica"]).set(1.0 if name == "replica_up" else 0.0)
        if name in _CIRCUIT:
            self._circuit.labels(upstream, labels["replica"], labels["model"]).set(_CIRCUIT[name])
        if name in ("up", "down"):
            self._ready.labels(upstream).set(1.0 if name == "up" else 0.0)
            report = _log.info if name == "up" else _log.warning
            report("upstream '%s' is %s", upstream, name, extra={"fields": {"upstream": upstream}})
