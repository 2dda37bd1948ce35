"""One trace a request: decided before any SDK is touched, noted down cheaply, exported at the end.

Contract: `Tracing.start` decides at the door. A request that is not sampled carries a `Trace`, whose methods
do nothing; one that is carries a `SampledTrace`, which only notes names and times. `end` hands the notes to
the exporter's queue. Nothing here waits, raises or logs. The caller's sampled flag is followed; without a
caller's context a share of the trace ids is sampled. Times are `time.perf_counter_ns`, laid over the wall
clock once a trace, so that a clock that is set never bends a span.

`traceparent` goes upstream for sampled requests alone, naming the forward span as the parent: Triton records
whatever carries one, whatever its flag says. So span ids are drawn here, before there is a span.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

import msgspec

from gateway import telemetry
from gateway.errors import TidegateError
from gateway.tracecontext import SAMPLED, TraceContext, format_parent, parse

Attribute: TypeAlias = str | int | float | bool
Attributes: TypeAlias = dict[str, Attribute]
Headers: TypeAlias = tuple[tuple[str, str], ...]

MOST_STEPS: Final = 128
"""Child spans of one trace: a stream may last for days, its trace must not grow with it."""

_LOW: Final = (1 << 64) - 1
_now = time.perf_counter_ns
# Not for secrets. `random` seeds itself anew in a forked child.
_getrandbits = random.getrandbits


class SpanNote(msgspec.Struct, gc=False):
    """A span as it was noted down. Times are Unix nanoseconds once the trace has ended."""

    name: str
    span_id: int
    start: int
    end: int = 0
    attributes: Attributes | None = None
    error: str | None = None
    """Description of a failure that was not the caller's fault."""


class SpanSink(Protocol):
    """Where ended traces go."""

    def emit(self, trace: SampledTrace) -> None:
        """Take one ended trace. MUST NOT block, raise, or log a line for each trace."""


class Step:
    """One step of a request, as a context manager; this one notes nothing."""

    __slots__ = ()

    def set(self, name: str, value: Attribute) -> None:
        """Adds an attribute to the step's span."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


class Trace:
    """The trace of a request that is not sampled: silence. Its id is the caller's, else 0."""

    __slots__ = ("_carry", "trace_id")

    sampled: bool = False

    def __init__(self, trace_id: int, carry: Headers = ()) -> None:
        self.trace_id = trace_id
        self._carry = carry

    @property
    def id(self) -> str:
        """The trace id as 32 hex digits."""
        return f"{self.trace_id:032x}"

    def exemplar(self) -> tuple[int, int, int]:
        """The trace id's two halves and the server span's id, as `Histogram.exemplar` takes them."""
        return self.trace_id >> 64, self.trace_id & _LOW, 0

    def span(self, name: str) -> Step:  # noqa: ARG002 - a sampled trace uses it
        """Times a step: `with trace.span(telemetry.SPAN_POLICY) as step: ...`."""
        return _NO_STEP

    def propagation(self) -> Headers:
        """Headers for the request upstream; the next `forward` span is the parent that they name."""
        return self._carry

    def end(self, name: str, attributes: Attributes, error: TidegateError | None = None) -> None:
        """The request was answered; `name` and `attributes` are the server span's."""


class SampledTrace(Trace):
    """The trace of a request that is recorded."""

    __slots__ = (
        "_forward_id",
        "_sink",
        "_start",
        "_wall",
        "caller",
        "flags",
        "omitted",
        "root",
        "state",
        "steps",
    )

    sampled = True

    def __init__(self, trace_id: int, flags: int, caller: TraceContext | None, sink: SpanSink) -> None:
        super().__init__(trace_id)
        self._sink = sink
        self._start = _now()
        self._wall = time.time_ns() - self._start
        self._forward_id = 0
        self.caller = caller
        self.flags = flags
        self.state = "" if caller is None else caller.state
        self.root = SpanNote("", _new_id(), self._start)
        self.steps: list[SpanNote] = []
        self.omitted = 0

    def exemplar(self) -> tuple[int, int, int]:
        """As above."""
        return self.trace_id >> 64, self.trace_id & _LOW, self.root.span_id

    def span(self, name: str) -> Step:
        """Times a step; its span is a child of the server span."""
        span_id = 0
        if name == telemetry.SPAN_FORWARD:
            span_id, self._forward_id = self._forward_id, 0
        return _SampledStep(self, SpanNote(name, span_id or _new_id(), 0))

    def propagation(self) -> Headers:
        """`traceparent`, and `tracestate` when the caller sent one."""
        self._forward_id = _new_id()
        parent = ("traceparent", format_parent(self.trace_id, self._forward_id, self.flags))
        return (parent, ("tracestate", self.state)) if self.state else (parent,)

    def end(self, name: str, attributes: Attributes, error: TidegateError | None = None) -> None:
        """Hands the trace on; a second time does nothing."""
        root = self.root
        if root.end:
            return
        root.name = name
        root.attributes = attributes
        if error is not None:
            attributes[telemetry.ERROR_TYPE] = type(error).__name__
            root.error = _description(error)
        if self.omitted:
            attributes[telemetry.STEPS_OMITTED] = self.omitted
        root.end = _now()
        for note in (root, *self.steps):
            note.start += self._wall
            note.end += self._wall
        self._sink.emit(self)


class _SampledStep(Step):
    __slots__ = ("_note", "_trace")

    def __init__(self, trace: SampledTrace, note: SpanNote) -> None:
        self._trace = trace
        self._note = note

    def set(self, name: str, value: Attribute) -> None:
        if self._note.attributes is None:
            self._note.attributes = {}
        self._note.attributes[name] = value

    def __enter__(self) -> Self:
        self._note.start = _now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        note, trace = self._note, self._trace
        note.end = _now()
        if kind is not None:
            self.set(telemetry.ERROR_TYPE, kind.__name__)
            if isinstance(error, TidegateError):
                note.error = _description(error)
        # After the end (a shadow's late step) nobody would lay its times over the wall clock.
        if trace.root.end:
            return
        if len(trace.steps) < MOST_STEPS:
            trace.steps.append(note)
        else:
            trace.omitted += 1


class Tracing:
    """Decides which requests of this worker are traced.

    Args:
        sink: takes ended traces; None: nothing is recorded here, and a sampled caller's context travels
            upstream as it came, as through any proxy that takes no part in a trace.
        ratio: share of the requests without a caller's context that is sampled, 0 to 1.
    """

    def __init__(self, sink: SpanSink | None = None, ratio: float = 0.0) -> None:
        self._sink = sink
        # As the specification's TraceIdRatioBased: the lower 64 bits against a bound, so that every service
        # with the same ratio picks the same traces.
        self._own_bound = self._bound = 0 if sink is None else round(ratio * (1 << 64))

    def pause(self, paused: bool) -> None:
        """Begin no trace that the caller did not ask for, until told otherwise: in overload."""
        self._bound = 0 if paused else self._own_bound

    def start(self, headers: Mapping[str, str]) -> Trace:
        """The trace of a request that begins now; `headers` have lower-case names."""
        traceparent = headers.get("traceparent")
        caller = None if traceparent is None else parse(traceparent, headers.get("tracestate"))
        if caller is None:
            low = _getrandbits(64)
            if low >= self._bound or self._sink is None:
                return SILENT
            return SampledTrace(_getrandbits(64) << 64 | low or 1, SAMPLED, None, self._sink)
        if not caller.sampled:
            return Trace(caller.trace_id)
        if self._sink is None:
            carry = ("traceparent", format_parent(caller.trace_id, caller.span_id, caller.flags))
            return Trace(caller.trace_id, (carry, ("tracestate", caller.state)) if caller.state else (carry,))
        return SampledTrace(caller.trace_id, caller.flags, caller, self._sink)


def http_server(method: str, template: str, path: str, status: int) -> tuple[str, Attributes]:
    """Name and attributes of an HTTP server span; `template` is the page (`/v2/models/{model}/infer`)."""
    return f"{method} {template}", {
        telemetry.HTTP_METHOD: method,
        telemetry.HTTP_ROUTE: template,
        telemetry.URL_PATH: path,
        telemetry.URL_SCHEME: "http",
        telemetry.HTTP_STATUS: status,
    }


def rpc_server(method: str, code: str) -> tuple[str, Attributes]:
    """Name and attributes of a gRPC server span; `method` is `PACKAGE.SERVICE/METHOD`."""
    return method, {telemetry.RPC_SYSTEM: "grpc", telemetry.RPC_METHOD: method, telemetry.RPC_STATUS: code}


def _description(error: TidegateError) -> str | None:
    # As the HTTP conventions have it for servers: what the caller did wrong is no error of the span.
    if error.status < 500:
        return None
    return f"{error.message} ({error.detail})" if error.detail else error.message


def _new_id() -> int:
    return _getrandbits(64) or 1


_NO_STEP: Final = Step()
SILENT: Final = Trace(0)
"""Of every request without a caller's context that is not sampled: it has nothing of its own."""
