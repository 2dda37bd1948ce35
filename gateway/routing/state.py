"""What a route's variants and shadows have done, for `GET /gateway/v1/routes/NAME`.

Contract: counted in the workers' metrics files and nowhere else, so that it merges over workers, outlives a
replaced one, and the page and `/metrics` cannot disagree. Maxima are those of the workers that live.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator, Mapping

import msgspec

from gateway import telemetry as t
from gateway.metrics import HistogramValue, Registry
from gateway.routing.compare import OutputDifference
from gateway.routing.route import CompiledRoute, TargetVariant
from gateway.telemetry import Metric

Series = Mapping[tuple[str, ...], float | HistogramValue]
Merged = Mapping[str, Series]
"""What `gateway.metrics.Reader.collect` returns."""


class ShadowMeters:
    """The counters of one shadow in this worker. MUST be used on the thread that counts."""

    def __init__(self, registry: Registry, route: str, shadow: str) -> None:
        names = (route, shadow)
        self.requests = registry.counter(t.SHADOW_REQUESTS).labels(*names)
        self.errors = registry.counter(t.SHADOW_ERRORS).labels(*names)
        self.dropped = registry.counter(t.SHADOW_DROPPED).labels(*names)
        self.uncompared = registry.counter(t.SHADOW_UNCOMPARED).labels(*names)
        self.latency = registry.histogram(t.SHADOW_LATENCY).labels(*names)
        self._registry = registry
        self._names = names

    def compared(self, differences: list[OutputDifference]) -> None:
        """Count one pair of answers."""
        counter, gauge = self._registry.counter, self._registry.gauge
        for found in differences:
            labels = (*self._names, found.output)
            if found.kind != "shared_memory":
                counter(t.SHADOW_COMPARED).labels(*labels).inc()
            if found.elements:
                counter(t.SHADOW_ELEMENTS).labels(*labels).inc(found.elements)
            if found.rows:
                counter(t.SHADOW_ROWS).labels(*labels).inc(found.rows)
                counter(t.SHADOW_AGREE_TOP1).labels(*labels).inc(found.agree_top1)
                counter(t.SHADOW_AGREE_TOPK).labels(*labels).inc(found.agree_topk)
            if found.differs:
                counter(t.SHADOW_DIFFERENCES).labels(*labels).inc()
                counter(t.SHADOW_MISMATCHES).labels(*labels, found.kind).inc()
                counter(t.SHADOW_ELEMENTS_DIFFERING).labels(*labels).inc(found.differing)
                gauge(t.SHADOW_MAX_ABS).labels(*labels).raise_to(found.max_abs)
                gauge(t.SHADOW_MAX_REL).labels(*labels).raise_to(found.max_rel)


class VariantState(msgspec.Struct, frozen=True):
    """One variant."""

    name: str
    model: str
    version: str | None
    upstream: str
    weight: float
    requests: int
    """Answers since the gateway started, refusals on the route included once a variant was chosen."""
    codes: dict[str, int]
    """The same by HTTP status or gRPC status name."""
    fallbacks: int
    """Requests that came to it because another variant had failed."""


class OutputState(msgspec.Struct, frozen=True):
    """One output of a shadow, against the answers."""

    name: str
    compared: int
    differences: int
    """Answers in which it differed."""
    kinds: dict[str, int]
    """The same by what differed."""
    elements: int
    elements_differing: int
    max_abs: float
    max_rel: float
    agreement_top1: float | None
    """Share of class rows with the same best class; null: the output has no class scores."""
    agreement_topk: float | None
    """Mean share of the best k classes that both have."""


class ShadowState(msgspec.Struct, frozen=True):
    """One shadow."""

    name: str
    model: str
    version: str | None
    upstream: str
    sample: float
    requests: int
    """Copies sent."""
    errors: int
    dropped: int
    uncompared: int
    latency_difference_seconds: float | None
    """Mean of the shadow's latency minus the answer's; null: nothing was compared."""
    outputs: list[OutputState]


class RouteState(msgspec.Struct, frozen=True):
    """One route."""

    name: str
    variants: list[VariantState]
    shadows: list[ShadowState]
    without_unit: int
    """Requests without the unit of `assign_by`: drawn at random."""


def route_state(route: CompiledRoute, merged: Merged) -> RouteState:
    """The state of a route from the merged metrics of all workers."""
    codes: dict[str, Counts[str]] = {}
    for (name, variant, _, code, _), value in merged[t.REQUESTS.name].items():
        if name == route.name:
            codes.setdefault(variant, Counts())[code] += round(_number(value))
    return RouteState(
        name=route.name,
        variants=[
            _variant(
                variant,
                codes.get(variant.name, Counts()),
                round(_number(merged[t.FALLBACKS.name].get((route.name, variant.name), 0.0))),
            )
            for variant in route.variants
        ],
        shadows=list(_shadows(route, merged)),
        without_unit=round(_number(merged[t.UNIT_MISSING.name].get((route.name,), 0.0))),
    )


def _variant(variant: TargetVariant, codes: Counts[str], fallbacks: int) -> VariantState:
    return VariantState(
        name=variant.name,
        model=variant.model,
        version=variant.version or None,
        upstream=variant.upstream,
        weight=variant.weight,
        requests=codes.total(),
        codes=dict(sorted(codes.items())),
        fallbacks=fallbacks,
    )


def _shadows(route: CompiledRoute, merged: Merged) -> Iterator[ShadowState]:
    for shadow in route.shadows:
        key = (route.name, shadow.name)

        def count(metric: Metric, key: tuple[str, str] = key) -> int:
            return round(_number(merged[metric.name].get(key, 0.0)))

        latency = merged[t.SHADOW_LATENCY.name].get(key)
        answered = sum(latency.counts) if isinstance(latency, HistogramValue) else 0.0
        names = sorted(labels[2] for labels in merged[t.SHADOW_COMPARED.name] if labels[:2] == key)
        yield ShadowState(
            name=shadow.name,
            model=shadow.model,
            version=shadow.version or None,
            upstream=shadow.upstream,
            sample=shadow.sample,
            requests=count(t.SHADOW_REQUESTS),
            errors=count(t.SHADOW_ERRORS),
            dropped=count(t.SHADOW_DROPPED),
            uncompared=count(t.SHADOW_UNCOMPARED),
            latency_difference_seconds=_number(latency) / answered if latency and answered else None,
            outputs=[_output((*key, name), merged) for name in names],
        )


def _output(labels: tuple[str, str, str], merged: Merged) -> OutputState:
    def number(metric: Metric) -> float:
        return _number(merged[metric.name].get(labels, 0.0))

    rows = number(t.SHADOW_ROWS)
    mismatches = merged[t.SHADOW_MISMATCHES.name].items()
    return OutputState(
        name=labels[2],
        compared=round(number(t.SHADOW_COMPARED)),
        differences=round(number(t.SHADOW_DIFFERENCES)),
        kinds={names[3]: round(_number(value)) for names, value in sorted(mismatches) if names[:3] == labels},
        elements=round(number(t.SHADOW_ELEMENTS)),
        elements_differing=round(number(t.SHADOW_ELEMENTS_DIFFERING)),
        max_abs=number(t.SHADOW_MAX_ABS),
        max_rel=number(t.SHADOW_MAX_REL),
        agreement_top1=number(t.SHADOW_AGREE_TOP1) / rows if rows else None,
        agreement_topk=number(t.SHADOW_AGREE_TOPK) / rows if rows else None,
    )


def _number(value: float | HistogramValue) -> float:
    return value.sum if isinstance(value, HistogramValue) else value
