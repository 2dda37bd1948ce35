"""A plan run over a table: rows in, tensors out.

Contract: columns are found by name, in any order; others are left alone. In CSV an empty field and `nan` in any case
are missing, everywhere null and NaN; text is a number, a truth value or a time only where the plan says so.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from governance.documents.words import suggest
from governance.errors import DataError
from governance.features.reading import Loaded
from governance.tables import Column, Table
from kernels.features import Refused

NAN_TEXT: Final = "nan"
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity)", re.IGNORECASE)
_TRUTHS: Final = {"true": True, "false": False}
_NUMPY: Final = {"FP32": np.float32, "FP64": np.float64, "INT32": np.int32, "INT64": np.int64}
_AT_ONCE = 8192
"""Rows that are taken together; more do not run faster."""


def run(loaded: Loaded, table: Table) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a table's rows, by name.

    Raises:
        DataError: the table lacks a column, or a row is refused; names file, line and column.
    """
    program = loaded.compiled.program
    missing = [one.name for one in program.inputs if one.name not in table.columns]
    if missing:
        hint = suggest(missing[0], list(table.columns), "columns")
        raise DataError(f"{table.path}: no column '{missing[0]}', which the plan takes: {hint}")
    read = [_values(table.columns[one.name], one.kind) for one in program.inputs]
    written = any(table.columns[one.name].written for one in program.inputs)
    parts: list[list[bytes]] = []
    for first in range(0, table.rows, _AT_ONCE):
        rows = list(zip(*(column[first : first + _AT_ONCE] for column in read), strict=True))
        try:
            parts.append(program.rows(rows, range(len(read)), empty_is_missing=written))
        except Refused as refused:
            line = table.lines[first + refused.row]
            raise DataError(f"{table.path}:{line}: '{refused.column}' {refused.words}") from None
    return {
        tensor.name: np.frombuffer(b"".join(part[at] for part in parts), _NUMPY[tensor.datatype]).reshape(
            table.rows, tensor.width
        )
        for at, tensor in enumerate(program.tensors)
    }


def _values(column: Column, kind: str) -> list[Any]:
    """A column's values as the program takes them; what it will refuse stays as it is."""
    read = (_FROM_TEXT if column.written else _FROM_VALUES)[kind]
    return list(map(read, column.values))


def _text(cell: str) -> str | None:
    return None if cell == "" or cell.strip().lower() == NAN_TEXT else cell


def _number(cell: str) -> float | str | None:
    plain = cell.strip()
    if _NUMBER.fullmatch(plain):
        return float(plain)
    return None if not plain or plain.lower() == NAN_TEXT else cell


def _truth(cell: str) -> bool | str | None:
    return _TRUTHS.get(cell.strip().lower(), _text(cell))


def _plain(value: Any) -> Any:
    """A value of JSON or Parquet; NaN is none."""
    if isinstance(value, Decimal):
        return float(value)
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124 - NaN


def _moment(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        text = value.isoformat()
        return text.replace("+00:00", "Z")
    return _plain(value)


_FROM_TEXT: Final[dict[str, Callable[[Any], Any]]] = {
    "number": _number, "boolean": _truth, "string": _text, "timestamp": _text,
}  # fmt: skip
_FROM_VALUES: Final[dict[str, Callable[[Any], Any]]] = {
    "number": _plain, "boolean": _plain, "string": _plain, "timestamp": _moment,
}  # fmt: skip


def save(loaded: Loaded, tensors: dict[str, npt.NDArray[Any]], path: Path) -> None:
    """Write tensors: `.npz`, an array each; `.csv`, a line a row with the columns' names above.

    Raises:
        DataError: the name ends otherwise, or the file cannot be written.
    """
    try:
        if path.suffix.lower() == ".npz":
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **tensors)
        elif path.suffix.lower() == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                _csv(loaded, tensors, csv.writer(file, lineterminator="\n"))
        else:
            raise DataError(f"{path}: rows are written as *.npz or *.csv; name it so")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def _csv(loaded: Loaded, tensors: dict[str, npt.NDArray[Any]], writer: Any) -> None:
    columns = loaded.compiled.columns
    writer.writerow([column for name in tensors for column in columns[name]])
    arrays = list(tensors.values())
    for row in range(len(arrays[0])):
        writer.writerow([str(value) for array in arrays for value in array[row]])
