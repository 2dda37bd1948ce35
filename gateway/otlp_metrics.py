"""This worker's metrics to an OTLP endpoint, besides the Prometheus page.

Contract: a daemon thread reads the worker's own slot every `interval` and sends all of it, cumulative since
the slot began to count; a worker that takes a slot over goes on under the same `service.instance.id`. An
endpoint that is away costs a counter and at most a line a minute. Names are the page's with `tidegate.` and
without the suffixes that OTLP says otherwise: `tidegate_requests_total` is `tidegate.requests`,
`tidegate_overhead_seconds` is `tidegate.overhead` with unit `s`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gateway import settings, telemetry
from gateway.metrics import HistogramValue, Reader, Registry
from gateway.otlp import endpoint_of, quiet_sdk, resource_of
from gateway.telemetry import Metric as Declared

_log = logging.getLogger("tidegate.otlp")

_UNITS: Final = {"_seconds": "s", "_bytes": "By"}
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


def metrics_data(reader: Reader, resource: Resource, now_ns: int) -> MetricsData:
    """What the reader sees, as OTLP's data model; metrics that nobody counted are left out."""
    started = reader.created_ns()
    scope = InstrumentationScope(telemetry.SCOPE, str(resource.attributes["service.version"]))
    merged = reader.collect()
    metrics = [
        _metric(declared, merged[declared.name], started, now_ns)
        for declared in telemetry.METRICS
        if merged[declared.name]
    ]
    scoped = ScopeMetrics(scope, metrics, telemetry.SCHEMA_URL)
    return MetricsData([ResourceMetrics(resource, [scoped], resource.schema_url)])


def _metric(
    declared: Declared, series: Mapping[tuple[str, ...], float | HistogramValue], started: int, now: int
) -> Metric:
    name = declared.name.removeprefix("tidegate_").removesuffix("_total")
    unit = ""
    for suffix, known in _UNITS.items():
        if name.endswith(suffix):
            name, unit = name.removesuffix(suffix), known
    numbers: list[NumberDataPoint] = []
    histograms: list[HistogramDataPoint] = []
    for values, value in series.items():
        attributes = dict(zip(declared.labels, values, strict=True))
        if isinstance(value, HistogramValue):
            histograms.append(_histogram(declared, attributes, value, started, now))
        elif declared.kind != "info" or value:
            numbers.append(NumberDataPoint(attributes, started, now, value))
    data: Sum | Gauge | Histogram
    if declared.kind == "histogram":
        data = Histogram(histograms, _CUMULATIVE)
    elif declared.kind == "counter":
        data = Sum(numbers, _CUMULATIVE, is_monotonic=True)
    else:
        data = Gauge(numbers)
    return Metric("tidegate." + name, declared.help, unit, data)


def _histogram(
    declared: Declared, attributes: dict[str, str], value: HistogramValue, started: int, now: int
) -> HistogramDataPoint:
    exemplars = [
        Exemplar({}, e.value, int(e.time * 1e9), span_id=int(e.span_id, 16), trace_id=int(e.trace_id, 16))
        for e in value.exemplars
        if e is not None
    ]
    counts = [int(count) for count in value.counts]
    # The extremes are not kept: None leaves them out of the message, whatever the SDK's annotation says.
    return HistogramDataPoint(
        attributes,
        started,
        now,
        sum(counts),
        value.sum,
        counts,
        declared.bounds,
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
        exemplars=exemplars,
    )


class OtlpMetrics:
    """Sends this worker's metrics every `interval` seconds, and once more at the end."""

    def __init__(
        self,
        exporter: MetricExporter,
        reader: Reader,
        resource: Resource,
        registry: Registry,
        interval: float,
    ) -> None:
        self._exporter = exporter
        self._reader = reader
        self._resource = resource
        self._failures = registry.counter(telemetry.EXPORT_FAILURES).labels("metrics")
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)
        self._thread.start()

    def shutdown(self, timeout: float = 3.0) -> None:
        """Sends once more, for `timeout` seconds at most. Blocks: call it from a thread."""
        self._stop.set()
        self._thread.join(timeout)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.send()
        self.send()

    def send(self) -> None:
        """Sends now. Never raises."""
        try:
            result = self._exporter.export(metrics_data(self._reader, self._resource, time.time_ns()))
        except Exception as error:  # noqa: BLE001 - whatever an exporter raises, the next interval tries again
            _log.warning("OTLP export of metrics failed: %s", type(error).__name__)
            result = MetricExportResult.FAILURE
        if result is not MetricExportResult.SUCCESS:
            self._failures.inc()


def metrics_push(
    section: settings.Telemetry,
    registry: Registry,
    *,
    version: str,
    environ: Mapping[str, str] = os.environ,
) -> OtlpMetrics | None:
    """The pusher that the settings ask for; None: `telemetry.metrics.endpoint` is absent."""
    if section.metrics.endpoint is None:
        return None
    place = endpoint_of("metrics", section.metrics.endpoint, section.metrics.protocol, environ)
    assert place is not None
    quiet_sdk()
    endpoint, protocol = place
    exporter: MetricExporter
    # Imported where they are wanted, as in `gateway.otlp`.
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter as GrpcExporter,
        )

        exporter = GrpcExporter(endpoint=endpoint)
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter as HttpExporter,
        )

        exporter = HttpExporter(endpoint=endpoint)
    reader = Reader(registry.path.parent, slot=registry.slot)
    resource = resource_of(section.service_name, version, registry, environ)
    return OtlpMetrics(exporter, reader, resource, registry, section.metrics.interval)
