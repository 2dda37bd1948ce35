"""The model card as people write it: YAML beside the model, every key optional, no other key allowed.

A card may be begun with its keys alone: what is absent, null, blank or empty is missing, and `complete` says so.
Numbers, dates and truth values where text is expected are taken as they are written.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from governance.cards.licenses import HUGGING_FACE
from governance.cards.tasks import TASKS
from governance.documents.convert import Place, Places, convert
from governance.documents.nodes import BOOL, FLOAT, INT, MAP, NULL, STR, compose, decode
from governance.documents.words import nearest, suggest
from governance.errors import CardError
from governance.types import Finding

_NUMBERS = frozenset({"value", "lower_bound", "upper_bound"})
_TEXTS = frozenset({"users", "use_cases", "limitations"})
_PARTS = frozenset(
    {"owners", "licenses", "datasets", "inputs", "outputs", "performance_metrics", "ethical_considerations"}
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_LICENSE = re.compile(r"(?!LicenseRef-)[A-Za-z0-9.-]+\+?|(DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
"""SPDX 3.0.1, annex B: `license-id`, with or without `+`, and `license-ref`."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a card."""


class Owner(_Part, frozen=True):
    """Who answers for the model."""

    name: str = ""
    contact: str = ""


class License(_Part, frozen=True):
    """An SPDX identifier, or LicenseRef-X."""

    identifier: str = ""


class Reference(_Part, frozen=True):
    """A URL."""

    reference: str = ""


class Hash(_Part, frozen=True):
    """Of the model's file."""

    alg: Literal["SHA-256"] = "SHA-256"
    content: str = ""


class ModelDetails(_Part, frozen=True):
    """What it is."""

    name: str = ""
    version: str = ""
    overview: str = ""
    owners: tuple[Owner, ...] = ()
    licenses: tuple[License, ...] = ()
    references: tuple[Reference, ...] = ()
    released: str = ""
    download_location: str = ""
    hashes: tuple[Hash, ...] = ()
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Dataset(_Part, frozen=True):
    """What it was trained or tested on."""

    name: str = ""
    type: str = ""
    """Identifier on the Hugging Face Hub, or one in its manner."""
    description: str = ""
    sensitive_data: tuple[str, ...] = ()


class Format(_Part, frozen=True):
    """An input or output."""

    name: str = ""
    format: str = ""


Approach = Literal["supervised", "unsupervised", "reinforcement-learning", "semi-supervised", "self-supervised"]


class ModelParameters(_Part, frozen=True):
    """How it was made, and what goes in and out."""

    approach: Approach | None = None
    task: str = ""
    """One of `tasks.TASKS`."""
    architecture_family: str = ""
    model_architecture: str = ""
    library_name: str = ""
    hyperparameters: dict[str, str] = {}
    datasets: tuple[Dataset, ...] = ()
    inputs: tuple[Format, ...] = ()
    outputs: tuple[Format, ...] = ()


class Interval(_Part, frozen=True):
    """Of a metric."""

    lower_bound: float | None = None
    upper_bound: float | None = None


class Metric(_Part, frozen=True):
    """How well it does."""

    type: str = ""
    value: float | None = None
    slice: str = ""
    dataset: str = ""
    """Name of one of the datasets."""
    confidence_interval: Interval | None = None


class QuantitativeAnalysis(_Part, frozen=True):
    """Measured."""

    performance_metrics: tuple[Metric, ...] = ()


class EthicalConsideration(_Part, frozen=True):
    """A risk and what is done about it."""

    name: str = ""
    mitigation_strategy: str = ""


class FairnessAssessment(_Part, frozen=True):
    """What it may do to a group."""

    group_at_risk: str = ""
    benefits: str = ""
    harms: str = ""
    mitigation_strategy: str = ""


class Considerations(_Part, frozen=True):
    """For whom, for what, and for what not."""

    users: tuple[str, ...] = ()
    use_cases: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    tradeoffs: tuple[str, ...] = ()
    ethical_considerations: tuple[EthicalConsideration, ...] = ()
    fairness_assessments: tuple[FairnessAssessment, ...] = ()


class Risk(_Part, frozen=True):
    """How much is at stake."""

    rating: Literal["serious", "high", "medium", "low"] | None = None
    explanation: str = ""


class Change(_Part, frozen=True):
    """Of the model over its life."""

    version: str = ""
    description: str = ""


class Compliance(_Part, frozen=True):
    """What Annex IV of the EU AI Act asks for beyond the rest."""

    human_oversight: str = ""
    functioning_and_control: str = ""
    metrics_appropriateness: str = ""
    risk_management: str = ""
    changes: tuple[Change, ...] = ()
    standards: tuple[str, ...] = ()
    declaration_of_conformity: str = ""
    post_market_monitoring: str = ""


class Card(_Part, frozen=True):
    """The whole."""

    schema_version: Literal["tidegate.card/1"] = "tidegate.card/1"
    model_details: ModelDetails = ModelDetails()
    model_parameters: ModelParameters = ModelParameters()
    quantitative_analysis: QuantitativeAnalysis = QuantitativeAnalysis()
    considerations: Considerations = Considerations()
    risk: Risk = Risk()
    compliance: Compliance = Compliance()


def read(path: Path) -> Card:
    """The card in a file.

    Raises:
        CardError: it cannot be read, has a key that is none, or a value that cannot be.
    """
    file = str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"cannot be read ({error.strerror or error}): check the path and its rights"
        raise CardError([Finding(file, 1, 1, "error", "unreadable", message)]) from None
    return parse(data, file, path.parent)


def parse(data: bytes, file: str, base: Path) -> Card:
    """The card in a file's bytes.

    Args:
        data: the bytes.
        file: its name in findings.
        base: the folder that its relative paths start from.

    Raises:
        CardError: it has a key that is none, or a value that cannot be.
    """
    text, findings = decode(data, file)
    if text is None:
        raise CardError(findings)
    document, findings = compose(text, file, None)
    if document is None or findings:
        raise CardError(findings)
    _plain(document.root)
    card, places, findings = convert(document, Card, file, base)
    if card is None or findings:
        raise CardError(findings)
    findings = list(_impossible(card, file, places))
    if findings:
        raise CardError(findings)
    return card


def _impossible(card: Card, file: str, places: Places) -> Iterator[Finding]:
    """Values of the right kind that nonetheless cannot be."""

    def finding(place: Place, code: str, message: str) -> Finding:
        return Finding(file, *places.of(place), "error", code, message)

    details = card.model_details
    if details.released.strip() and not _is_date(details.released):
        message = f"`model_details.released` `{details.released}` is no date: write YYYY-MM-DD"
        yield finding(("model_details", "released"), "wrong-value", message)
    for at, name in enumerate(one.identifier for one in details.licenses):
        if name.strip() and not _LICENSE.fullmatch(name):
            close = nearest(name, tuple(HUGGING_FACE))
            hint = f"did you mean `{close}`?" if close else "write one of spdx.org/licenses, or LicenseRef-X"
            message = f"`model_details.licenses[{at}].identifier` `{name}` is no SPDX identifier: {hint}"
            yield finding(("model_details", "licenses", at, "identifier"), "wrong-value", message)
    task = card.model_parameters.task.strip()
    if task and task not in TASKS:
        message = (
            f"`model_parameters.task` `{task}` is no task of the Hugging Face Hub: {suggest(task, TASKS, 'tasks')}"
        )
        yield finding(("model_parameters", "task"), "wrong-value", message)
    names = {dataset.name for dataset in card.model_parameters.datasets}
    for at, metric in enumerate(card.quantitative_analysis.performance_metrics):
        if metric.dataset and metric.dataset not in names:
            message = f"`{metric.dataset}` is none of `model_parameters.datasets`: use the name of one"
            place = ("quantitative_analysis", "performance_metrics", at, "dataset")
            yield finding(place, "unknown-dataset", message)


def _is_date(text: str) -> bool:
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    return _DATE.fullmatch(text) is not None


def _plain(node: Node, key: str = "") -> None:
    """Take out what is null, and take as text what only looks like another kind."""
    if isinstance(node, MappingNode):
        node.value = [(name, child) for name, child in node.value if not _is_null(child)]
        for name, child in node.value:
            _plain(child, "" if key == "hyperparameters" else name.value if isinstance(name, ScalarNode) else "")
    elif isinstance(node, SequenceNode):
        node.value = [item for child in node.value if (item := _item(child, key)) is not None]
        for child in node.value:
            _plain(child, key)
    elif node.tag in (INT, FLOAT, BOOL) and key not in _NUMBERS:
        node.tag = STR


def _item(node: Node, key: str) -> Node | None:
    """An item of the list `key`; null is an empty one where items are required, so that it is missed at its place."""
    if not _is_null(node):
        return node
    if key in _TEXTS:
        return ScalarNode(STR, "", node.start_mark, node.end_mark)
    return MappingNode(MAP, [], node.start_mark, node.end_mark) if key in _PARTS else None


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == NULL


def builtins(value: Any) -> Any:
    """A part of a card as it would stand in JSON, without what is missing."""
    plain = msgspec.to_builtins(value)
    return _kept(plain)


def _kept(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: kept for key, item in value.items() if (kept := _kept(item)) not in (None, "", [], {})}
    if isinstance(value, (list, tuple)):
        return [_kept(item) for item in value]
    return value.strip() if isinstance(value, str) else value
