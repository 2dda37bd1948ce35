"""The metrics page: Prometheus text format 0.0.4 and OpenMetrics 1.0, chosen by `Accept`.

https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/. Exemplars are in OpenMetrics alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf, isinf, isnan
from pathlib import Path

from gateway import telemetry
from gateway.metrics.connections import connections
from gateway.metrics.process import ProcessStat
from gateway.metrics.reader import Exemplar, HistogramValue, Reader, Series
from gateway.telemetry import Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Page:
    """`GET /metrics` over all workers of a directory. Reads files (milliseconds): not for an event loop."""

    def __init__(self, directory: Path) -> None:
        self.reader = Reader(directory)
        """What the page is made from; the control pages read it too."""
        self.doors: dict[str, str] = {}
        """Addresses whose connections the page counts, by door."""

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body for an `Accept` header."""
        openmetrics = wants_openmetrics(accept)
        merged = self.reader.collect()
        families = [(metric, merged[metric.name]) for metric in telemetry.METRICS]
        families += _process_families(self.reader.processes())
        held = connections(self.doors)
        families.append((telemetry.CONNECTIONS, {(door,): float(count) for door, count in held.items()}))
        lines = [line for metric, series in families for line in _family(metric, series, openmetrics)]
        if openmetrics:
            lines.append("# EOF")
        lines.append("")
        return OPENMETRICS if openmetrics else TEXT, "\n".join(lines).encode()


def wants_openmetrics(accept: str) -> bool:
    """Whether the client would rather have OpenMetrics 1.0 than the text format."""
    best = {"openmetrics": 0.0, "text": 0.0}
    for part in accept.split(","):
        media, *parameters = (field.strip() for field in part.lower().split(";"))
        fields = dict(field.partition("=")[::2] for field in parameters)
        try:
            quality = float(fields.get("q", "1"))
        except ValueError:
            continue
        if media == "application/openmetrics-text" and fields.get("version", "1.0.0") == "1.0.0":
            best["openmetrics"] = max(best["openmetrics"], quality)
        elif media in {"text/plain", "text/*", "*/*"}:
            best["text"] = max(best["text"], quality)
    return best["openmetrics"] > 0 and best["openmetrics"] >= best["text"]


def _process_families(processes: Mapping[str, ProcessStat]) -> list[tuple[Metric, Series]]:
    def by_worker(field: str) -> Series:
        return {(slot,): float(getattr(stat, field)) for slot, stat in processes.items()}

    return [
        (telemetry.WORKERS, {(): float(len(processes))}),
        (telemetry.WORKER_CPU, by_worker("cpu_seconds")),
        (telemetry.WORKER_MEMORY, by_worker("resident_bytes")),
        (telemetry.WORKER_FDS, by_worker("open_fds")),
        (telemetry.WORKER_START, by_worker("started")),
    ]


def _family(metric: Metric, series: Series, openmetrics: bool) -> Iterator[str]:
    kind = metric.kind if metric.kind in {"counter", "histogram", "info"} else "gauge"
    name = metric.name
    if openmetrics:
        # There a counter's family has no `_total` and an info's no `_info`; their samples do.
        name = name.removesuffix("_total" if kind == "counter" else "_info" if kind == "info" else "")
    elif kind == "info":
        kind = "gauge"
    text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {name} {text.replace(chr(34), chr(92) + chr(34)) if openmetrics else text}"
    yield f"# TYPE {name} {kind}"
    for values, value in sorted(series.items()):
        labels = [f'{label}="{_escape(text)}"' for label, text in zip(metric.labels, values, strict=True)]
        if isinstance(value, HistogramValue):
            yield from _histogram(metric, labels, value, openmetrics)
        elif metric.kind != "info" or value:
            yield f"{metric.name}{_braces(labels)} {_number(value)}"


def _histogram(metric: Metric, labels: list[str], value: HistogramValue, openmetrics: bool) -> Iterator[str]:
    count = 0.0
    for bound, more, exemplar in zip((*metric.bounds, inf), value.counts, value.exemplars, strict=True):
        count += more
        bucket = _braces([*labels, f'le="{_number(bound)}"'])
        line = f"{metric.name}_bucket{bucket} {_number(count)}"
        yield line + (_exemplar(exemplar) if openmetrics and exemplar is not None else "")
    if openmetrics and metric.bounds[0] < 0:
        return  # a sum that can fall is no counter: OpenMetrics has neither _sum nor _count then
    # From the same counts as the buckets, so that +Inf and _count agree in every page.
    yield f"{metric.name}_count{_braces(labels)} {_number(count)}"
    yield f"{metric.name}_sum{_braces(labels)} {_number(value.sum)}"


def _exemplar(exemplar: Exemplar) -> str:
    labels = f'{{trace_id="{exemplar.trace_id}",span_id="{exemplar.span_id}"}}'
    return f" # {labels} {_number(exemplar.value)} {exemplar.time:.3f}"


def _braces(labels: Iterable[str]) -> str:
    inside = ",".join(labels)
    return f"{{{inside}}}" if inside else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if isnan(value) else repr(value)
