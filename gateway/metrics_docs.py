"""`docs/metrics.md`, made from the declarations in `gateway/telemetry.py`.

Contract: `render` is a pure function of the declarations, so a test can compare the page with it. To renew
the page:

    python -m gateway.metrics_docs > docs/metrics.md
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator

from gateway import telemetry
from gateway.telemetry import Metric
from gateway.upstream.events import EVENTS

_INTRO = """\
# Metrics and traces

This page is made from the declarations in `gateway/telemetry.py` (`python -m gateway.metrics_docs`).

`GET /metrics` shows all workers of a machine as one, as Prometheus text or, when `Accept` asks for it, as
OpenMetrics 1.0 with exemplars: the latest sampled trace of each latency bucket. A worker that is replaced
continues its predecessor's counters. Values of `route`, `variant` and `tenant` are those of the settings, or
`other`; each metric has a bounded number of label sets, and what comes after is counted under `other`.

With `telemetry.metrics.endpoint` each worker also sends its own metrics by OTLP, as one service instance.
There `tidegate_requests_total` is `tidegate.requests`, `tidegate_overhead_seconds` is `tidegate.overhead` with
unit `s`, and so on; labels are attributes of the same name; sums are cumulative.

Kinds: a `max` or `min` is a gauge that merges by the largest or smallest value of the workers that live, an
`info` is always 1 and says its facts in labels.
"""

_SPANS = """\
## Spans

One server span a request, named as the semantic conventions have it (`POST /v2/models/{model}/infer`,
`inference.GRPCInferenceService/ModelInfer`), with children for the steps below. `traceparent` is sent
upstream for sampled requests alone and names `forward`, so that Triton's own spans hang below it.

A caller's sampled flag is followed; of the requests without a trace context the share
`telemetry.traces.sample_ratio` is sampled. Spans that the OTLP endpoint does not take are dropped and counted;
they never hold up a request. The environment variables of the OpenTelemetry exporters work
(`OTEL_EXPORTER_OTLP_*`, `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`,
`OTEL_BSP_SCHEDULE_DELAY`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SDK_DISABLED`,
`OTEL_TRACES_EXPORTER=none`); what the settings say wins.
"""


def render() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRO
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for metric in (*telemetry.METRICS, *telemetry.PROCESS_METRICS):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"
    yield ""
    yield "Buckets, upper bounds in seconds:"
    yield ""
    for metric in telemetry.METRICS:
        if metric.kind == "histogram":
            yield f"- `{metric.name}`: {_bounds(metric)}"
    yield ""
    yield f"Events of `{telemetry.UPSTREAM_EVENTS.name}`:"
    yield ""
    yield "| event | meaning |"
    yield "|---|---|"
    for name, meaning in EVENTS.items():
        yield f"| `{name}` | {meaning} |"
    yield ""
    yield _SPANS
    names = dict(_constants())
    yield "| span | meaning |"
    yield "|---|---|"
    for name, (value, meaning) in names.items():
        if name.startswith("SPAN_"):
            yield f"| `{value}` | {meaning} |"
    yield ""
    yield "| attribute | meaning |"
    yield "|---|---|"
    for name, (value, meaning) in names.items():
        if not name.startswith("SPAN_") and "." in value and "/" not in value:
            yield f"| `{value}` | {meaning} |"


def _bounds(metric: Metric) -> str:
    return ", ".join(f"{bound:g}" for bound in metric.bounds)


def _constants() -> Iterator[tuple[str, tuple[str, str]]]:
    """Each text constant of the declarations, with the docstring under it on one line."""
    body = ast.parse(inspect.getsource(telemetry)).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name = statement.targets[0].id
        value = getattr(telemetry, name)
        if not isinstance(value, str):
            continue
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = " ".join(str(following.value.value).split())
        yield name, (value, text)


if __name__ == "__main__":
    sys.stdout.write(render())
