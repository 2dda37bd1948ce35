"""The `routes` section: variants, match rules, shadows."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.settings.forms import Budget, Duration, FilePath, Section


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


class Features(Section, frozen=True):
    """Raw columns in place of the model's tensors. `features: plan.yaml` is the section with its plan alone."""

    __short__ = "plan"
    plan: FilePath
    """What the columns are and how they become tensors (see features.md)."""
    accept: Annotated[tuple[Literal["columns", "rows", "tensors"], ...], msgspec.Meta(min_length=1)] = (
        "columns",
        "rows",
    )
    """Forms that are taken: `columns`, a tensor `[n, 1]` for each; `rows`, rows of JSON over HTTP; `tensors`,
    the model's own as ever."""


class Alarms(Section, frozen=True):
    """When drift of a route is worth somebody's time. Needs a profile made with `profile build --alarms`."""

    budget: Budget
    """False alarms that are put up with, over all columns together, while nothing changes."""
    every: Duration = 3600.0
    """How long a window is; it goes on until 100 rows are in it."""
    effect: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    """The least shift worth an alarm, in standard deviations (of shapes and missing values: Cohen's w and h)."""
    clear: Annotated[int, msgspec.Meta(ge=1)] = 3
    """Windows in a row without evidence, after which an alarm ends."""
    cooldown: Annotated[int, msgspec.Meta(ge=0)] = 6
    """Windows after that in which none begins."""


class Constraint(Section, frozen=True):
    """What a column has to be."""

    min: float | None = None
    """The least number."""
    max: float | None = None
    """The greatest."""
    values: tuple[str | float | bool, ...] | None = None
    """All that it may be: texts, numbers, `true`, `false`."""
    missing: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """The greatest share of rows that may lack it; with 0 no row may."""
    unique: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """The least share of its values that differ, counted by a sketch that is about 2.3 % off. Never refuses."""


class Quality(Section, frozen=True):
    """What the columns of a route's profile have to be: held against every value, counted by column and constraint."""

    on_violation: Literal["count", "refuse"] = "count"
    """`refuse`: a call with an input that breaks a constraint is answered 400, with column, row and constraint."""
    schema: bool = False
    """Every input column is in each call, with values of its kind: no text among numbers."""
    columns: dict[str, Constraint] = msgspec.field(default_factory=dict)
    """By the column's name in the profile."""


class Monitor(Section, frozen=True):
    """What callers send, held against what the model was made with."""

    profile: FilePath
    """The reference, as `tidegate profile build` writes it. Every served row counts; another profile begins anew."""
    outputs: tuple[str, ...] = ()
    """Output tensors that are columns of the profile too (predictions); all other columns are inputs."""
    alarms: Alarms | None = None
    """Alarms of drift: in the page, metrics, log and audit log. Absent: none."""
    quality: Quality | None = None
    """Constraints on columns. Absent: none."""


class FairnessAttribute(Section, frozen=True):
    """Something people are told apart by, and where it is said: one of `parameter`, `header`, `column`, `joined`."""

    name: str
    """Its name in reports."""
    values: tuple[str, ...]
    """The values that make groups; any other, and none, is an unknown group."""
    parameter: str | None = None
    """A request parameter: a string, an integer or a boolean."""
    header: str | None = None
    """A header (gRPC: metadata)."""
    column: str | None = None
    """An input tensor of BYTES, integers or booleans, one element a row."""
    joined: bool = False
    """It is told later, by request id, within `join.minutes`: `POST /gateway/v1/fairness/NAME/attributes`, `tidegate
    fairness join`. Until then the rows are of an unknown group."""


class Decision(Section, frozen=True):
    """What an answer decides on each row: selected or not, by one of `positive`, `at_least`."""

    output: str
    """The output tensor, one element a row; with more, `index` says which."""
    index: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Which element of a row."""
    positive: tuple[str, ...] = ()
    """Values that mean selected, as text; numbers by their value."""
    at_least: float | None = None
    """A score from which on it is selected."""


class FairnessAlert(Section, frozen=True):
    """When one group is surely selected less often than another. At most one false alert a month."""

    below: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    """The ratio of two groups' selection rates that is too low; 0.8 is four fifths, a rule to look closer by."""
    minutes: Annotated[int, msgspec.Meta(ge=1, le=1439)] = 1439
    """The window: the last so many minutes, up to a day."""
    min_group: Annotated[int, msgspec.Meta(ge=1)] = 100
    """Rows of the window that a group needs to take part."""


class FairnessJoin(Section, frozen=True):
    """How long, and how many decisions wait for attributes that are told later."""

    minutes: Annotated[int, msgspec.Meta(ge=1, le=1440)] = 1440
    """Of decisions so old it may be told; up to a day, as long as their minutes are kept."""
    capacity: Annotated[int, msgspec.Meta(ge=1024, le=4_194_304)] = 131_072
    """So many of the latest wait, for each worker; 56 bytes each, in a file. Another number begins anew."""


class Fairness(Section, frozen=True):
    """Decisions counted by group of people, while the route serves. Counts are kept, never who somebody is."""

    attributes: tuple[FairnessAttribute, ...]
    """Their combinations are the groups, at most 256."""
    decision: Decision
    """What an answer decides."""
    min_group: Annotated[int, msgspec.Meta(ge=1)] = 30
    """Rows that a group needs to have a rate."""
    join: FairnessJoin | None = None
    """Of attributes with `joined: true`; absent: `{}`."""
    alert: FairnessAlert | None = None
    """Absent: no alert."""


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
    features: Features | None = None
    """A feature plan: clients send raw columns. Absent: the model's own tensors."""
    idempotent: bool = True
    """Unary calls outside of sequences may be sent again (retries, hedges, fallback); `false`: each is sent once."""
    monitor: Monitor | None = None
    """Drift of the inputs: `GET /gateway/v1/monitors/NAME` and metrics."""
    fairness: Fairness | None = None
    """Selection rates of groups: `GET /gateway/v1/fairness/NAME`, which needs `export` on `route:NAME`."""
