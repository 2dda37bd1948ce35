"""What a column is, decided by the reference alone, and the values of either side as that.

Missing is None, NaN, an empty field, `nan` in any case, and what cannot be read as the reference's kind: text in a
column of numbers is as good as nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import inf, isnan
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from governance.tables import Column

Kind = Literal["numeric", "boolean", "timestamp", "categorical"]

_NUMBER = re.compile(r"\s*[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity)\s*", re.IGNORECASE)
_TRUTHS = frozenset({"true", "false"})
_TIMES = (datetime, date, time, timedelta)
_EXACT = 2.0**53


class Values(msgspec.Struct, frozen=True):
    """The values of a column that are not missing."""

    numbers: npt.NDArray[np.float64] | None
    """Of a numeric column."""
    labels: list[str]
    """Of a categorical one."""
    n: int
    missing: int


def is_missing(value: Any) -> bool:
    """Whether there is no value."""
    if value is None:
        return True
    if isinstance(value, str):
        plain = value.strip()
        return not plain or plain.lower() == "nan"
    return isinstance(value, (float, Decimal)) and isnan(value)


def kind_of(column: Column, *, categorical: bool = False) -> Kind:
    """What a column of the reference is.

    Text is never a number but in CSV, where everything is text. `categorical`: numbers are names.
    """
    there = [value for value in column.values if not is_missing(value)]
    numeric = column.declared == "numeric" if not there and column.declared else _all(there, _is_number(column))
    if numeric:
        return "categorical" if categorical else "numeric"
    if column.declared == "boolean" or (there and _all(there, _is_truth)):
        return "boolean"
    if column.declared == "timestamp" or (there and _all(there, is_time)):
        return "timestamp"
    return "categorical"


def values_of(column: Column, kind: Kind) -> Values:
    """The values as that; what cannot be read so is missing."""
    rows = len(column.values)
    if kind == "numeric":
        numbers = numbers_of(column)
        numbers = numbers[~np.isnan(numbers)]
        return Values(numbers, [], len(numbers), rows - len(numbers))
    there = (value for value in column.values if not is_missing(value))
    if kind == "timestamp":
        n = sum(map(is_time, there))
        return Values(None, [], n, rows - n)
    labels = [label(value, kind) for value in there]
    return Values(None, labels, len(labels), rows - len(labels))


def numbers_of(column: Column) -> npt.NDArray[np.float64]:
    """A number a row; NaN where there is none."""
    read = number_written if column.written else _number
    return np.array([read(value) for value in column.values], dtype=np.float64)


def label(value: Any, kind: Kind = "categorical") -> str:
    """The name of a category: whole numbers are the same written 1 and 1.0, truth values in any case."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    text = str(value)
    return lower if kind == "boolean" and (lower := text.strip().lower()) in _TRUTHS else text


def _all(values: list[Any], test: Callable[[Any], bool]) -> bool:
    return all(map(test, values))


def _is_number(column: Column) -> Callable[[Any], bool]:
    if column.written:
        return lambda value: _NUMBER.fullmatch(value) is not None
    return lambda value: isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _TRUTHS)


def is_time(value: Any) -> bool:
    """Whether it is a time, or a text that is one in ISO 8601."""
    if isinstance(value, _TIMES):
        return True
    if not isinstance(value, str):
        return False
    try:
        datetime.fromisoformat(value.strip())
    except ValueError:
        return False
    return True


def number_written(value: Any) -> float:
    """The number that a text is; NaN: it is none."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else np.nan


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return np.nan
    try:
        return float(value)
    except OverflowError:  # a whole number beyond float64
        return inf if value > 0 else -inf
