"""What each risk class asks of a version before it may serve: who approves, for how long, and which gates hold.

Contract: YAML, read strictly: unknown keys and impossible values are errors with file and line. The class of a version
is the `risk.rating` of its model card.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from governance.documents.convert import Place, convert, dotted
from governance.documents.nodes import compose, decode
from governance.errors import RegistryInputError
from governance.types import Finding

_DAY_S = 86_400
Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the file."""


class Approval(_Part, frozen=True):
    """So many people of a role, each of whom counts once."""

    role: Annotated[str, msgspec.Meta(pattern="^role:\\S+$")]
    """As the policy writes it, held in tenant `*`."""
    count: Annotated[int, msgspec.Meta(ge=1, le=20)] = 1


class MetricGate(_Part, frozen=True):
    """A metric of the evidence `evaluation`, else of the card."""

    type: str
    slice: str = ""
    dataset: str = ""
    min: float | None = None
    max: float | None = None


class FairnessGate(_Part, frozen=True):
    """A number of the evidence `fairness`, a report of `tidegate fairness report --format json`.

    It may also be that of a route, as `GET /gateway/v1/fairness/ROUTE` answers it: then each of its variants and
    shadows that are this very version has to hold.
    """

    measure: Literal["difference", "ratio"]
    metric: Literal["demographic_parity", "equal_opportunity", "equalized_odds", "predictive_parity"]
    min: float | None = None
    max: float | None = None


class ScanGate(_Part, frozen=True):
    """The evidence `scan`, a SARIF 2.1.0 file of a security scanner."""

    fails_on: Literal["error", "warning", "note"] = "warning"
    """The least severe level that is too much."""


class ShadowGate(_Part, frozen=True):
    """The evidence `shadow`, as `GET /gateway/v1/routes/ROUTE` answers it."""

    min_compared: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Answers that were compared, of each output."""
    max_differing: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Largest share of them in which one output differed."""


class LineageGate(_Part, frozen=True):
    """The evidence `lineage`, as `tidegate registry import mlflow` makes it: each data set has a digest."""

    min_datasets: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many there have to be."""
    unchanged: bool = False
    """The evidence `data`, a file of DVC as it lies there now, has to say the same digests."""


class RiskClass(_Part, frozen=True):
    """What one class asks for."""

    approvals: tuple[Approval, ...]
    """An empty list asks nobody."""
    valid_days: Days | None = None
    """How long the approval holds; absent: without end."""
    review_days: Days | None = None
    """After how long it is to be looked at again; `registry list` says so, and nothing else happens."""
    card: Literal["complete", "any"] = "complete"
    metrics: tuple[MetricGate, ...] = ()
    fairness: tuple[FairnessGate, ...] = ()
    scan: ScanGate | None = None
    shadow: ShadowGate | None = None
    lineage: LineageGate | None = None

    @property
    def valid_s(self) -> int | None:
        """In seconds."""
        return None if self.valid_days is None else self.valid_days * _DAY_S

    @property
    def review_s(self) -> int | None:
        """In seconds."""
        return None if self.review_days is None else self.review_days * _DAY_S


class Requirements(_Part, frozen=True):
    """The whole file."""

    schema_version: Literal["tidegate.requirements/1"]
    classes: Annotated[dict[str, RiskClass], msgspec.Meta(min_length=1)]
    """By `risk.rating`: `serious`, `high`, `medium`, `low`."""


class Read(msgspec.Struct, frozen=True):
    """A file of requirements, and the digest of its bytes."""

    requirements: Requirements
    digest: str


_RATINGS = ("serious", "high", "medium", "low")


def parse(data: bytes, file: str) -> tuple[Requirements | None, list[Finding]]:
    """The requirements, or what is wrong with them."""
    text, findings = decode(data, file)
    if text is None:
        return None, findings
    document, findings = compose(text, file, None)
    if document is None or findings:
        return None, findings
    found, places, findings = convert(document, Requirements, file, Path(file).parent)
    if found is None:
        return None, findings

    for place, message in _contradictions(found):
        line, column = places.of_key(place)
        findings.append(Finding(file, line, column, "error", "wrong-value", message))
    return (None, findings) if findings else (found, [])


def _contradictions(found: Requirements) -> Iterator[tuple[Place, str]]:
    """What no version could ever meet, or nobody can have meant, with its place."""
    for name, one in found.classes.items():
        here: Place = ("classes", name)
        if name not in _RATINGS:
            yield here, f"`{name}` is no rating of model cards: {', '.join(_RATINGS)}"
        roles = [approval.role for approval in one.approvals]
        for at, role in enumerate(roles):
            if role in roles[:at]:
                yield (*here, "approvals", at), f"`{role}` is listed twice: add up its `count`"
        for at, metric in enumerate(one.metrics):
            yield from _bounds((*here, "metrics", at), metric)
        for at, gate in enumerate(one.fairness):
            yield from _bounds((*here, "fairness", at), gate)
            if gate.measure == "ratio" and gate.metric != "demographic_parity":
                message = "reports have a ratio of `demographic_parity` alone: use `difference`"
                yield (*here, "fairness", at), message


def _bounds(place: Place, gate: MetricGate | FairnessGate) -> Iterator[tuple[Place, str]]:
    if gate.min is None and gate.max is None:
        yield place, f"`{dotted(place)}` bounds nothing: write `min` or `max`"
    elif gate.min is not None and gate.max is not None and gate.min > gate.max:
        yield place, f"`{dotted(place)}`: `min` is above `max`, so that nothing could hold"


def read(path: Path) -> Read:
    """The file. Raises RegistryInputError: with every finding."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RegistryInputError(f"{path}: cannot be read ({error.strerror}): check `registry.requirements`") from None
    found, findings = parse(data, str(path))
    if found is None:
        raise RegistryInputError("\n".join(map(str, findings)))
    return Read(found, hashlib.sha256(data).hexdigest())
