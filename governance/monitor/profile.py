"""What a model was made with, frozen: `tidegate profile build` writes it, monitors hold a route's traffic against it.

Contract: the file is JSON lines, first what the whole is (`Head`), then a column a line, so that an error has a line.
Its `sha256` is of the meaning, not of blanks: the canonical text of head and columns without it. The same data gives
the same hash on every machine; a profile that was edited by hand is refused, since edges and counts belong together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from math import fsum, isfinite, isnan, sqrt
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from governance.errors import DataError
from governance.monitor.cells import CATEGORIES, categories_of, count_bins, count_categories, edges_of
from governance.monitor.kinds import Values, kind_of, values_of
from governance.monitor.thresholds import Thresholds, flaw
from governance.tables import Column, Table

BINS = 10
"""Of a column of numbers; what live monitors report."""
MOST_NAMES = 100_000
"""Different names of one column. All of them are kept, to tell a rare one from one never seen; a column with more is
an identifier and no feature."""
MOST_COLUMNS = 10_000
MOST_BYTES = 256 << 20


class Numbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="numeric"):
    """A column of numbers."""

    name: str
    n: int
    """Values; `n` + `missing` are the rows."""
    missing: int
    edges: list[float]
    """Inner edges of the bins; bin i is (edges[i-1], edges[i]]."""
    counts: list[int]
    """Of each bin; infinite values are in the outer ones."""
    mean: float | None
    """Of the finite values, as the three below; null: there are none, or it is beyond the largest number."""
    std: float | None
    """Standard deviation of the population."""
    low: float | None
    high: float | None


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="categorical"):
    """A column of categories."""

    name: str
    n: int
    missing: int
    truth: bool
    """Truth values: `true` and `false` in any case."""
    categories: list[str]
    """Those with a cell of their own, most frequent first."""
    counts: list[int]
    """Of each."""
    others: list[str]
    """The rest, in code point order; they share the cell OTHER."""
    other: int
    """How often all of these occur."""


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="timestamp"):
    """A column of times, which is counted and not compared."""

    name: str
    n: int
    missing: int


ColumnProfile: TypeAlias = Numbers | Names | Times


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What stands in the first line."""

    schema: Literal["tidegate.profile/1"]
    rows: int
    columns: int
    data: str
    """SHA-256 of the file that it was made from, in hex."""
    route: str | None = None
    """The route that it was made for; absent: any."""
    alarms: Thresholds | None = None
    """How much evidence an alarm needs; absent: there can be none."""
    sha256: str = ""
    """Of this profile, in hex."""


class Profile(msgspec.Struct, frozen=True):
    """A reference profile."""

    head: Head
    columns: list[ColumnProfile]

    @property
    def hash(self) -> str:
        """SHA-256, in hex."""
        return self.head.sha256


def build(
    table: Table, *, categorical: Collection[str] = (), without: Collection[str] = (), route: str | None = None
) -> Profile:
    """The profile of a table.

    Args:
        table: what the model was made with.
        categorical: columns of numbers that are names.
        without: columns that are left out, such as the label.
        route: the route that it is for.

    Raises:
        DataError: the table has no rows or no columns, or a name is none of its columns.
    """
    for name in (*categorical, *without):
        if name not in table.columns:
            raise DataError(f"{table.path}: there is no column '{name}'; compare the header")
    if not table.rows:
        raise DataError(f"{table.path}: no rows; a profile is made from the data that the model was made with")
    columns = [
        _column(table, name, column, categorical=name in categorical)
        for name, column in table.columns.items()
        if name not in without
    ]
    if not 1 <= len(columns) <= MOST_COLUMNS:
        raise DataError(f"{table.path}: {len(columns)} columns; a profile has 1 to {MOST_COLUMNS}")
    with table.path.open("rb") as file:
        data = hashlib.file_digest(file, "sha256").hexdigest()
    head = Head("tidegate.profile/1", table.rows, len(columns), data, route)
    return sealed(head, columns)


def sealed(head: Head, columns: list[ColumnProfile]) -> Profile:
    """The profile of these, with its hash."""
    return Profile(msgspec.structs.replace(head, sha256=_digest(head, columns)), columns)


def _column(table: Table, name: str, column: Column, *, categorical: bool) -> ColumnProfile:
    kind = kind_of(column, categorical=categorical)
    values = values_of(column, kind)
    if kind == "timestamp":
        return Times(name, values.n, values.missing)
    if values.numbers is not None:
        return _numbers(name, values)
    named, more = categories_of(values.labels)
    known = set(values.labels)
    if len(known) > MOST_NAMES:
        raise DataError(
            f"{table.path}: '{name}' has {len(known)} different names, as an identifier has; leave it out with "
            f"--without {name}"
        )
    counts, other, _ = count_categories(values.labels, named, known)
    others = sorted(known - set(named)) if more else []
    return Names(name, values.n, values.missing, kind == "boolean", named, counts.tolist(), others, other)


def _numbers(name: str, values: Values) -> Numbers:
    assert values.numbers is not None
    edges = edges_of(values.numbers, BINS)
    finite = values.numbers[np.isfinite(values.numbers)].tolist()
    mean = std = None
    if finite:
        # Exact sums: the same on every machine, in whatever order it adds.
        mean = _sum(finite, len(finite))
        if mean is not None:
            squares = _sum([(value - mean) * (value - mean) for value in finite], len(finite))
            std = None if squares is None else sqrt(squares)
    return Numbers(
        name,
        values.n,
        values.missing,
        edges.tolist(),
        count_bins(values.numbers, edges).tolist(),
        mean,
        std,
        min(finite, default=None),
        max(finite, default=None),
    )


def _sum(values: list[float], divisor: int) -> float | None:
    try:
        found = fsum(values) / divisor
    except OverflowError:
        return None
    return found if isfinite(found) else None


def _digest(head: Head, columns: Sequence[ColumnProfile]) -> str:
    plain = msgspec.structs.replace(head, sha256="")
    return hashlib.sha256(b"\n".join(map(msgspec.json.encode, (plain, *columns)))).hexdigest()


def encode(profile: Profile) -> bytes:
    """The file."""
    return b"".join(msgspec.json.encode(line) + b"\n" for line in (profile.head, *profile.columns))


def load(path: Path) -> Profile:
    """The profile in a file.

    Raises:
        DataError: it cannot be read, or is no profile; with file, line and remedy.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: cannot be read ({why}): check the path and its rights") from None
    return decode(data, path)


def decode(data: bytes, path: Path) -> Profile:
    """The profile in the bytes of a file. Raises DataError as `load`."""
    if len(data) > MOST_BYTES:
        raise DataError(f"{path}: larger than {MOST_BYTES >> 20} MiB: this is no profile")
    lines = [(at, line) for at, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path}:1: empty; make a profile with `tidegate profile build DATA --output FILE`")
    head = _line(path, *lines[0], _HEAD)
    columns = [_line(path, at, line, _COLUMN) for at, line in lines[1:]]
    seen: dict[str, int] = {}
    for (at, _), column in zip(lines[1:], columns, strict=True):
        wrong = _wrong(head, column)
        if column.name in seen:
            wrong = f"the name is that of line {seen[column.name]}"
        if wrong:
            raise DataError(f"{path}:{at}: column '{column.name}': {wrong}; build the profile again")
        seen[column.name] = at
    if len(columns) != head.columns or not columns:
        raise DataError(f"{path}: {len(columns)} columns where the first line says {head.columns}; build it again")
    if head.alarms is not None and (why := flaw(head.alarms)):
        raise DataError(f"{path}:1: {why}; build the profile again")
    if _digest(head, columns) != head.sha256:
        raise DataError(f"{path}:1: its content is not what `sha256` says; build it again rather than edit it")
    return Profile(head, columns)


_HEAD: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Head)
_COLUMN: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ColumnProfile)


def _line(path: Path, at: int, line: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}:{at}: not a line of a profile ({error}); make one with `tidegate profile build`"
        ) from None


def _wrong(head: Head, column: ColumnProfile) -> str:
    """What cannot be of a column; empty: nothing."""
    if not column.name:
        return "it has no name"
    if min(column.n, column.missing) < 0 or column.n + column.missing != head.rows:
        return "values and missing ones are not the rows"
    if isinstance(column, Times):
        return ""
    if min(column.counts, default=0) < 0:
        return "a count is below 0"
    if isinstance(column, Numbers):
        return _wrong_numbers(column)
    if sum(column.counts) + column.other != column.n or len(column.counts) != len(column.categories):
        return "the counts do not add up"
    if len(column.categories) > CATEGORIES or len(column.others) > MOST_NAMES:
        return "too many categories"
    if len({*column.categories, *column.others}) != len(column.categories) + len(column.others):
        return "a category is there twice"
    return "" if bool(column.others) == bool(column.other) else "`others` and `other` contradict each other"


def _wrong_numbers(column: Numbers) -> str:
    edges = column.edges
    if len(column.counts) != len(edges) + 1 or sum(column.counts) != column.n:
        return "the counts do not add up"
    if (
        len(edges) >= BINS
        or not all(map(isfinite, edges))
        or any(a >= b for a, b in zip(edges, edges[1:], strict=False))
    ):
        return "edges do not ascend, or are too many"
    given = [value for value in (column.mean, column.std, column.low, column.high) if value is not None]
    if any(map(isnan, given)) or (column.std or 0) < 0:
        return "a moment is impossible"
    return ""
