"""What a name stands for while a plan is compiled, and how categories are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from governance.documents.words import suggest
from governance.features.plan import Scalar

NAN = math.nan


@dataclass(frozen=True, slots=True)
class Number:
    """A number register."""

    register: int
    column: int
    """The input that it is made of: the first, when of several."""
    present: bool
    """Whether it can be missing no more."""
    kind: str = "number"
    """Or `boolean` (0, 1), or `timestamp` (seconds)."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text register."""

    register: int
    column: int
    present: bool


@dataclass(frozen=True, slots=True)
class Coded:
    """1 where a register holds a code, else 0: a column that becomes numbers only when a step asks for it."""

    code: Number
    place: int
    sign: Number | None = None
    """1 or -1 in place of the 1."""


@dataclass(frozen=True, slots=True)
class Gram:
    """What is in one bucket of hashed n-grams: a column that only tensors take, all in one pass over the text."""

    text: Text
    shape: tuple[int, ...]
    """integers[1] to [6] of the instruction `ngrams`."""
    stop_words: tuple[str, ...]
    place: int


@dataclass(frozen=True, slots=True)
class Group:
    """Several columns under one name."""

    names: tuple[str, ...]


Value: TypeAlias = Number | Text | Coded | Gram | Group


class Wrong(ValueError):
    """A step that cannot be: in words, and at which of its keys (None: the step itself)."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def kind_of(value: Value) -> str:
    """A value's type in words."""
    if isinstance(value, Number):
        return {"number": "a number", "boolean": "a boolean", "timestamp": "a time"}[value.kind]
    return {
        Text: "text",
        Coded: "a number",
        Gram: "of hashed n-grams, which go to tensors as they are",
        Group: "a group of columns",
    }[type(value)]


def keys_of(categories: Sequence[Scalar], value: Number | Text, key: str) -> list[str] | list[float]:
    """Categories in the column's own type. Raises Wrong."""
    if len({(type(one), one) for one in categories}) < len(categories):
        double = next(one for at, one in enumerate(categories) if one in categories[:at])
        raise Wrong(f"the category {written(double)} stands there twice", key)
    if isinstance(value, Text):
        texts = [one for one in categories if isinstance(one, str)]
        if len(texts) < len(categories):
            wrong = next(one for one in categories if not isinstance(one, str))
            raise Wrong(f'the column is text, so its categories are: write "{written(wrong)}" in quotes', key)
        return texts
    wanted = bool if value.kind == "boolean" else float
    numbers = [float(one) for one in categories if type(one) is wanted]
    if len(numbers) < len(categories):
        words = "true and false" if wanted is bool else "numbers, without quotes"
        raise Wrong(f"the column is {kind_of(value)}, so its categories are {words}", key)
    return numbers


def keys_of_texts(texts: Sequence[str], value: Number | Text, key: str) -> list[str] | list[float]:
    """As `keys_of`, of keys of a mapping, which are always text. Raises Wrong."""
    if isinstance(value, Text):
        return list(texts)
    found: list[Scalar] = []
    for text in texts:
        if value.kind == "boolean":
            if text not in ("true", "false"):
                raise Wrong(f'the column is a boolean, so "{text}" is no value of it: write "true" or "false"', key)
            found.append(text == "true")
            continue
        try:
            number = float(text)
        except ValueError:
            number = NAN
        if not math.isfinite(number):
            raise Wrong(f'the column is a number, and "{text}" is none', key)
        found.append(number)
    return keys_of(found, value, key)


def written(one: Scalar) -> str:
    """A category as names of columns have it."""
    if isinstance(one, bool):
        return "true" if one else "false"
    if isinstance(one, float):
        return str(int(one)) if one.is_integer() and abs(one) < 1e15 else repr(one)
    return one


def fallback(unknown: str | float, missing: str | float) -> tuple[tuple[float, float], tuple[int, int]]:
    """Numbers for missing and unknown values, and 1 where they are refused. Raises Wrong."""
    for_unknown = _one(unknown, ["refuse", "missing"], "unknown")
    for_missing = for_unknown if missing == "unknown" else _one(missing, ["refuse", "missing", "unknown"], "missing")
    return (for_missing or 0.0, for_unknown or 0.0), (int(for_missing is None), int(for_unknown is None))


def _one(value: str | float, words: list[str], key: str) -> float | None:
    """None: refused."""
    if isinstance(value, float):
        return value
    if value not in words:
        raise Wrong(f"takes a number or one of these words: {suggest(value, words, 'words')}", key)
    return None if value == "refuse" else NAN
