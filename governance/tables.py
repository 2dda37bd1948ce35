"""A file's columns as they stand in it: CSV, JSONL or Parquet, told apart by the name's end.

Contract: nothing is interpreted here but the file's own form. Missing keys are None. Everything that is wrong is a
`DataError` with file, line and remedy.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from governance.documents.nodes import decode
from governance.errors import DataError

_LARGEST_FIELD = 2**31 - 1  # the csv module's own limit of 128 KiB is for programs that fear their input


class Column(msgspec.Struct, frozen=True):
    """One column of a table."""

    values: list[Any]
    """A value a row; None: the row has none."""
    written: bool
    """Whether numbers are written as text (CSV)."""
    declared: str | None = None
    """The kind that the file itself declares (Parquet): `numeric`, `boolean`, `timestamp`, `text`."""


class Table(msgspec.Struct, frozen=True):
    """The columns of a file, in its order."""

    path: Path
    rows: int
    columns: Mapping[str, Column]
    lines: Sequence[int]
    """Where each row ends in the file (Parquet: its number, from 1)."""


def read(path: Path) -> Table:
    """The table in a file.

    Raises:
        DataError: the file cannot be read, or its form is broken.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: not a table that is known here; name it *{', *'.join(_READERS)}")
    try:
        return reader(path)
    except OSError as error:
        # What reads Parquet may say it in several lines.
        raise DataError(f"{path}: {error.strerror or ' '.join(str(error).split())}") from None


def _csv(path: Path) -> Table:
    csv.field_size_limit(_LARGEST_FIELD)
    # Spreadsheets write a byte-order mark; it is no part of the first name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            names = next(lines, [])
            if not names:
                raise DataError(f"{path}:1: no header; the first line names the columns")
            doubled = next((name for at, name in enumerate(names) if name in names[:at]), None)
            if doubled is not None:
                raise DataError(f"{path}:1: two columns are named '{doubled}'; rename one")
            columns: list[list[Any]] = [[] for _ in names]
            ends: list[int] = []
            for cells in lines:
                if not cells:
                    continue  # an empty line is no row
                if len(cells) != len(names):
                    raise DataError(
                        f"{path}:{lines.line_num}: {len(cells)} fields, the header has {len(names)}; "
                        "quote fields that hold commas"
                    )
                ends.append(lines.line_num)
                for column, cell in zip(columns, cells, strict=True):
                    column.append(cell)
        except csv.Error as error:
            raise DataError(f"{path}:{lines.line_num}: {error}") from None
        except UnicodeDecodeError:
            raise DataError(_not_utf8(path)) from None
    found = {name: Column(values, written=True) for name, values in zip(names, columns, strict=True)}
    return Table(path, len(ends), found, ends)


def _not_utf8(path: Path) -> str:
    """Where a file that is not UTF-8 first shows it: the reader takes many lines at once and knows the byte alone."""
    _, findings = decode(path.read_bytes(), str(path))
    found = findings[0]
    return f"{found.file}:{found.line}:{found.column}: {found.message}"


def _jsonl(path: Path) -> Table:
    columns: dict[str, list[Any]] = {}
    ends: list[int] = []
    for number, record in _records(path):
        for name, value in record.items():
            if isinstance(value, (list, dict)):
                raise DataError(
                    f"{path}:{number}: '{name}' holds a nested value; only numbers, text, true and false compare"
                )
            column = columns.get(name)
            if column is None:
                column = columns[sys.intern(name)] = []
            column.extend([None] * (len(ends) - len(column)))
            column.append(value)
        ends.append(number)
    for column in columns.values():
        column.extend([None] * (len(ends) - len(column)))
    found = {name: Column(values, written=False) for name, values in columns.items()}
    return Table(path, len(ends), found, ends)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                yield number, decoder.decode(line.removeprefix(b"\xef\xbb\xbf"))
            except UnicodeDecodeError:
                raise DataError(_not_utf8(path)) from None
            except msgspec.MsgspecError as error:
                raise DataError(f"{path}:{number}: not a JSON object ({error}); write one a line") from None


def _parquet(path: Path) -> Table:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra: CSV and JSONL do without it
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow; install tidegate[monitor]") from None
    try:
        table = parquet.read_table(path)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file ({' '.join(str(error).split())})") from None
    columns = {}
    for field, chunks in zip(table.schema, table.columns, strict=True):
        if field.name in columns:
            raise DataError(f"{path}: two columns are named '{field.name}'; rename one")
        if pa.types.is_dictionary(field.type):
            chunks = chunks.cast(field.type.value_type)  # noqa: PLW2901
        columns[field.name] = Column(
            chunks.to_pylist(), written=False, declared=_declared(path, pa, chunks.type, field.name)
        )
    return Table(path, table.num_rows, columns, range(1, table.num_rows + 1))


def _declared(path: Path, pa: Any, kind: Any, name: str) -> str:
    types = pa.types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "numeric"
    if types.is_boolean(kind):
        return "boolean"
    if types.is_temporal(kind):
        return "timestamp"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        return "text"
    raise DataError(f"{path}: '{name}' is of type {kind}; only numbers, text, booleans and times compare")


_READERS = {".csv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet, ".pq": _parquet}
