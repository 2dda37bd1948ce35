"""Ended traces to an OTLP endpoint, over HTTP or gRPC, by the OpenTelemetry SDK.

Contract: never slows or ends anything. Spans wait in the SDK's bounded queue and leave on its thread in
batches; what does not fit or does not arrive is dropped and counted, and the log has at most one line a
minute about it. MUST be made in the worker's own process: threads and channels do not survive a fork.

The settings win over `OTEL_*` variables, which the SDK's exporters read themselves. Spans are made as
`ReadableSpan`, which is all that exporters read: their ids were drawn long before.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway import settings, telemetry
from gateway.metrics import Registry
from gateway.tracing import SampledTrace, SpanNote

_log = logging.getLogger("tidegate.otlp")

QUEUE: Final = 2048
"""Spans that wait for export; the SDK's own default."""
BATCH: Final = 128
"""Spans an export: encoding 512, the SDK's default, holds the interpreter for 15 ms."""
DELAY_MS: Final = 1000
"""Longest wait of a span in a queue that does not fill up."""
_PROTOCOLS: Final = ("http/protobuf", "grpc")
SHUTDOWN_S: Final = 3.0
"""How long the end of a worker may wait for an endpoint."""


def endpoint_of(
    signal: str, endpoint: str | None, protocol: str, environ: Mapping[str, str]
) -> tuple[str | None, str] | None:
    """Where a signal (`traces`, `metrics`) goes: (endpoint or None for the SDK's own choice, protocol).

    None: nowhere. An endpoint of the settings is a base address; `/v1/SIGNAL` is added for HTTP.
    """
    if endpoint is not None:
        if "://" not in endpoint:
            endpoint = "http://" + endpoint
        suffix = f"/v1/{signal}"
        if protocol == "http/protobuf" and not endpoint.endswith(suffix):
            endpoint = endpoint.rstrip("/") + suffix
        return endpoint, protocol
    upper = signal.upper()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if environ.get(f"OTEL_{upper}_EXPORTER", "").strip().lower() == "none":
        return None
    if environ.get(f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        chosen = environ.get(f"OTEL_EXPORTER_OTLP_{upper}_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        if chosen and chosen not in _PROTOCOLS:
            _log.warning("OTLP protocol %r of the environment is not known; %s is used", chosen, protocol)
            chosen = None
        return None, chosen or protocol
    return None


def resource_of(
    service_name: str, version: str, registry: Registry, environ: Mapping[str, str] = os.environ
) -> Resource:
    """Who speaks: one service instance a worker's slot, so that several workers' figures are told apart.

    A worker that takes a slot over is the same instance, as it continues the slot's counters.
    """
    named = environ.get("OTEL_SERVICE_NAME")
    host = socket.gethostname()
    instance = uuid.uuid5(uuid.NAMESPACE_OID, f"{host} {registry.created_ns()} {registry.slot}")
    return Resource.create(
        {
            "service.name": named if named and service_name == settings.Telemetry().service_name else service_name,
            "service.version": version,
            "service.instance.id": str(instance),
            "host.name": host,
            "process.pid": os.getpid(),
            telemetry.WORKER: registry.slot,
        },
        telemetry.SCHEMA_URL,
    )


class OtlpSpans:
    """A `tracing.SpanSink` that exports."""

    def __init__(self, exporter: SpanExporter, resource: Resource, registry: Registry) -> None:
        dropped = registry.counter(telemetry.SPANS_DROPPED)
        self._queue_full = dropped.labels("queue_full")
        self._resource = resource
        self._scope = InstrumentationScope(telemetry.SCOPE, str(resource.attributes["service.version"]))
        self._exporter = _CountingExporter(exporter, registry)
        self._capacity = _number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE)
        self._handed = 0
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=self._capacity,
            schedule_delay_millis=_number("OTEL_BSP_SCHEDULE_DELAY", DELAY_MS),
            max_export_batch_size=min(self._capacity, _number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH)),
        )

    def emit(self, trace: SampledTrace) -> None:
        """Queues the trace's spans, or counts them as dropped."""
        count = 1 + len(trace.steps)
        # Here and not in the processor's queue, which drops the oldest spans, so that half a trace leaves,
        # and logs each.
        if self._handed - self._exporter.taken + count > self._capacity:
            self._queue_full.inc(count)
            return
        self._handed += count
        for span in self._spans(trace):
            self._processor.on_end(span)

    def flush(self) -> None:
        """Exports what waits. Blocks for as long as that takes; for tests and the end."""
        self._processor.force_flush()

    def shutdown(self, timeout: float = SHUTDOWN_S) -> None:
        """Exports what waits, for `timeout` seconds at most. Blocks: call it from a thread."""
        # The processor's own shutdown waits up to 30 s for an endpoint that is away.
        thread = threading.Thread(target=self._processor.shutdown, name="otlp-shutdown", daemon=True)
        thread.start()
        thread.join(timeout)
        if thread.is_alive():
            self._exporter.shutdown()
            thread.join(1.0)

    def _spans(self, trace: SampledTrace) -> list[ReadableSpan]:
        state = TraceState.from_header([trace.state]) if trace.state else None
        flags = TraceFlags(trace.flags)
        root = SpanContext(trace.trace_id, trace.root.span_id, is_remote=False, trace_flags=flags, trace_state=state)
        caller = trace.caller
        parent = (
            None
            if caller is None
            else SpanContext(caller.trace_id, caller.span_id, is_remote=True, trace_flags=flags, trace_state=state)
        )
        spans = [
            self._span(
                note,
                SpanContext(trace.trace_id, note.span_id, is_remote=False, trace_flags=flags, trace_state=state),
                root,
                SpanKind.CLIENT if note.name == telemetry.SPAN_FORWARD else SpanKind.INTERNAL,
            )
            for note in trace.steps
        ]
        spans.append(self._span(trace.root, root, parent, SpanKind.SERVER))
        return spans

    def _span(self, note: SpanNote, context: SpanContext, parent: SpanContext | None, kind: SpanKind) -> ReadableSpan:
        return ReadableSpan(
            note.name,
            context,
            parent,
            self._resource,
            note.attributes or {},
            kind=kind,
            status=_UNSET if note.error is None else Status(StatusCode.ERROR, note.error),
            start_time=note.start,
            end_time=note.end,
            instrumentation_scope=self._scope,
        )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if text:
        _log.warning("%s is no positive integer; %d is used", variable, default)
    return default


_UNSET: Final = Status(StatusCode.UNSET)


class _CountingExporter(SpanExporter):
    """Counts what the real exporter takes and loses."""

    def __init__(self, exporter: SpanExporter, registry: Registry) -> None:
        self._exporter = exporter
        self._closed = False
        self.taken = 0
        """Spans taken out of the queue."""
        self._exported = registry.counter(telemetry.SPANS_EXPORTED).labels()
        self._lost = registry.counter(telemetry.SPANS_DROPPED).labels("export")
        self._failures = registry.counter(telemetry.EXPORT_FAILURES).labels("traces")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        try:
            result = SpanExportResult.FAILURE if self._closed else self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever an exporter raises, tracing must go on
            # The class alone: the text of a transport's error may hold the address with its credentials.
            _log.warning("OTLP export of traces failed: %s", type(error).__name__)
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._exported.inc(len(spans))
        else:
            self._lost.inc(len(spans))
            self._failures.inc()
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def span_sink(
    section: settings.Telemetry,
    registry: Registry,
    *,
    version: str,
    environ: Mapping[str, str] = os.environ,
) -> OtlpSpans | None:
    """The sink that the settings and the environment ask for; None: traces go nowhere."""
    place = endpoint_of("traces", section.traces.endpoint, section.traces.protocol, environ)
    if place is None:
        return None
    quiet_sdk()
    endpoint, protocol = place
    exporter: SpanExporter
    # Imported where they are wanted: each brings 10 MiB and more that a worker without OTLP need not hold.
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter as GrpcExporter,
        )

        exporter = GrpcExporter(endpoint=endpoint)
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter as HttpExporter,
        )

        exporter = HttpExporter(endpoint=endpoint)
    return OtlpSpans(exporter, resource_of(section.service_name, version, registry, environ), registry)


_USERINFO: Final = re.compile(r"[^\s/]+@")


class _OnceAMinute(logging.Handler):
    """Passes on at most one of the SDK's lines a minute; an endpoint that is away gives one a batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0
        self._hidden = 0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now < self._next:
            self._hidden += 1
            return
        self._next = now + 60.0
        hidden, self._hidden = self._hidden, 0
        more = f" ({hidden} more such lines in the last minutes)" if hidden else ""
        # An endpoint may be written with its credentials (`USER:PASSWORD@HOST`).
        _log.warning("OTLP: %s%s", _USERINFO.sub("", record.getMessage()), more)


def quiet_sdk() -> None:
    """Routes the SDK's own log lines, traceback-free, through the gateway's log at one line a minute."""
    sdk = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _OnceAMinute) for handler in sdk.handlers):
        sdk.addHandler(_OnceAMinute())
        sdk.propagate = False
