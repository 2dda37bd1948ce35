"""What a card has to say, and which of it is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from governance.cards.card import Card

REQUIRED = (
    "model_details.name",
    "model_details.version",
    "model_details.overview",
    "model_details.owners[].name",
    "model_details.licenses[].identifier",
    "model_parameters.approach",
    "model_parameters.task",
    "model_parameters.model_architecture",
    "model_parameters.datasets[].name",
    "model_parameters.datasets[].type",
    "model_parameters.inputs[].format",
    "model_parameters.outputs[].format",
    "quantitative_analysis.performance_metrics[].type",
    "quantitative_analysis.performance_metrics[].value",
    "considerations.users[]",
    "considerations.use_cases[]",
    "considerations.limitations[]",
    "considerations.ethical_considerations[].name",
    "risk.rating",
)
"""Dotted paths; `[]` is each item of a list that must not be empty."""

_PART = re.compile(r"(\w+)(\[\])?")


def missing(card: Card, required: tuple[str, ...] = REQUIRED) -> list[str]:
    """Dotted paths of what is required and absent, blank or empty; list items as `[0]`."""
    found: dict[str, None] = {}
    for path in required:
        found.update(dict.fromkeys(_missing(card, path.split("."), "")))
    return list(found)


def _missing(value: Any, parts: list[str], place: str) -> Iterator[str]:
    match = _PART.fullmatch(parts[0])
    assert match is not None
    name, many = match.groups()
    inner = getattr(value, name)
    place = f"{place}.{name}".removeprefix(".")
    if is_blank(inner):
        yield place
    elif many:
        for at, item in enumerate(inner):
            here = f"{place}[{at}]"
            if len(parts) > 1:
                yield from _missing(item, parts[1:], here)
            elif is_blank(item):
                yield here
    elif len(parts) > 1:
        yield from _missing(inner, parts[1:], place)


def is_blank(value: Any) -> bool:
    """Whether a value says nothing."""
    return value is None or (
        isinstance(value, (str, tuple, dict)) and not (value.strip() if isinstance(value, str) else value)
    )
