"""The `routes` section: variants, match rules, shadows."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.settings.forms import Duration, FilePath, Section


class Compare(Section, frozen=True):
    """When a shadow's output counts as different."""

    rtol: Annotated[float, msgspec.Meta(ge=0)] = 1e-5
    """Relative tolerance: values differ when |shadow - answer| > atol + rtol * |answer|."""
    atol: Annotated[float, msgspec.Meta(ge=0)] = 1e-8
    """Absolute tolerance, in the output's own unit."""


class Variant(Section, frozen=True):
    """One way to serve a route."""

    name: str
    """Its name in answers (`x-tidegate-variant`), metrics and records."""
    model: str
    """The model's name on the upstream."""
    version: str | None = None
    """The model's version; absent: the upstream's own choice (Triton: the latest)."""
    upstream: str | None = None
    """Which of `upstreams`; absent: the first one."""
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1
    """Its share in proportion to the other weights; 0 draws nothing."""


class Match(Section, frozen=True):
    """A rule that names the variant outright."""

    headers: dict[str, str]
    """All of these headers (gRPC: metadata) must have exactly these values; names in any case."""
    variant: str
    """The variant that serves then."""


class Shadow(Section, frozen=True):
    """A copy of the traffic that nobody waits for."""

    name: str
    """Its name in metrics."""
    model: str
    """The model's name on the upstream."""
    version: str | None = None
    """The model's version; absent: the upstream's own choice."""
    upstream: str | None = None
    """Which of `upstreams`; absent: the first one."""
    sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Share of the route's requests that are copied. A sequence is copied whole or not at all."""
    compare: Compare = Compare()
    """Tolerances of the comparison with the answer."""
    concurrency: Annotated[int, msgspec.Meta(ge=1)] = 8
    """Most copies in flight in one worker."""
    queue: Annotated[int, msgspec.Meta(ge=0)] = 64
    """Most copies waiting in one worker; beyond it a copy is dropped and counted."""
    timeout: Duration = 10.0
    """After which a copy counts as an error."""


class Monitor(Section, frozen=True):
    """What callers send, held against what the model was made with."""

    profile: FilePath
    """The reference, as `tidegate profile build` writes it. Every served row counts; another profile begins anew."""
    outputs: tuple[str, ...] = ()
    """Output tensors that are columns of the profile too (predictions); all other columns are inputs."""


class Route(Section, frozen=True):
    """A model name that clients may ask for, and what serves it."""

    variants: tuple[Variant, ...] = ()
    """Absent: one variant `default`, the model of the route's name on the first upstream."""
    assign_by: str = "request"
    """What is assigned to a variant: `request` (each alone, at random), `header:NAME`, `parameter:NAME`,
    `subject`, `tenant` or `id`; all but `request` give the same unit the same variant everywhere."""
    salt: str | None = None
    """Salt of the assignment; absent: the route's name. Another salt draws the units anew."""
    match: tuple[Match, ...] = ()
    """Rules before the split: the first that holds decides."""
    shadows: tuple[Shadow, ...] = ()
    """Models that get a copy of the requests."""
    fallback: tuple[str, ...] = ()
    """Variants tried in order when the chosen one fails for a reason that is not the client's."""
    timeout: Duration = 60.0
    """Longest time for one request; then 504 / DEADLINE_EXCEEDED. For streams: between two responses."""
    idempotent: bool = True
    """Unary calls outside of sequences may be sent again (retries, hedges, fallback); `false`: each is sent once."""
    monitor: Monitor | None = None
    """Drift of the inputs: `GET /gateway/v1/monitors/NAME` and metrics."""
