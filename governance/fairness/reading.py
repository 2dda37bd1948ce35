"""What a table of decisions says in each row: a group's name, yes or no, a score.

Group values are the file's text and never numbers: `01` is not `1`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from governance.errors import DataError
from governance.monitor.kinds import is_missing, label
from governance.tables import Column, Table

Group = tuple[str, ...]


def column_of(table: Table, name: str) -> Column:
    """Raises DataError: there is none of that name."""
    found = table.columns.get(name)
    if found is None:
        raise DataError(f"{table.path}: there is no column '{name}'; it has {', '.join(table.columns)}")
    return found


def truths(table: Table, name: str, positive: str | None) -> list[bool | None]:
    """Yes, no or missing in each row.

    Args:
        table: where.
        name: the column.
        positive: what means yes, as text or as a number; None: 1 does, and all else but 0 is an error.

    Raises:
        DataError: no such column; a value that is neither 0 nor 1.
    """
    read = _as_bit if positive is None else _equal_to(positive)
    return _read(table, name, read, "is neither 0 nor 1; say what is positive with --positive")


def scores(table: Table, name: str) -> list[float | None]:
    """The number in each row, or missing. Raises DataError: no such column; a value that is none."""
    return _read(table, name, float, "is no number")


def groups(table: Table, names: Sequence[str]) -> list[Group | None]:
    """The combination of attributes in each row; None: one of them is missing."""
    columns = [column_of(table, name).values for name in names]
    return [None if any(map(is_missing, cells)) else tuple(map(label, cells)) for cells in zip(*columns, strict=True)]


def combinations(table: Table, names: Sequence[str]) -> list[Group]:
    """Every combination of the values that each attribute has anywhere, in code point order."""
    values = [
        sorted({label(value) for value in column_of(table, name).values if not is_missing(value)}) for name in names
    ]
    return list(product(*values))


def _read(table: Table, name: str, read: Callable[[Any], Any], wrong: str) -> list[Any]:
    found: list[Any] = []
    for line, value in zip(table.lines, column_of(table, name).values, strict=True):
        if is_missing(value):
            found.append(None)
            continue
        try:
            found.append(read(value))
        except (TypeError, ValueError):
            raise DataError(f"{table.path}:{line}: {name} {value!r} {wrong}") from None
    return found


def _as_bit(value: Any) -> bool:
    number = float(value)
    if number not in (0.0, 1.0):
        raise ValueError
    return number == 1.0


def _equal_to(positive: str) -> Callable[[Any], bool]:
    number = _number(positive)

    def read(value: Any) -> bool:
        return label(value).strip() == positive.strip() or (number is not None and _number(value) == number)

    return read


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
