"""Recorded rows, counted as a monitor would have: tiles of the time before there was one.

Contract: a file gives the same tiles whoever counts it, and its SHA-256 is its name, so that it is added once; which
of its rows, and by which column of times, is said beside it, so that other ones are not taken for those. Rows are
those of `drift report`: what is missing there is missing here. A row counts as a call.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from governance import tables
from governance.errors import DataError
from governance.monitor import live, tile
from governance.monitor.kinds import number_written
from governance.monitor.profile import Profile
from governance.monitor.rows import Values
from governance.tables import Table
from kernels import drift

_LARGEST = 2.0**40
"""Unix seconds; beyond lies a time in milliseconds."""


class Counted(NamedTuple):
    """What a file has."""

    digest: str
    """SHA-256 of the file, in hex."""
    taken: str
    """Which rows are before `Span.until`, and by which column: equal where they are the same, 16 hex digits."""
    rows: int
    """That are counted."""
    left_out: int
    """That lie outside of the time asked for."""
    newest: int
    """Unix seconds of the newest one that is counted; 0: none is."""
    tiles: dict[tuple[int, int], bytes]
    """By level and start."""


class Span(NamedTuple):
    """The rows that count, and how fine."""

    since: int
    """Unix seconds; rows before are left out."""
    until: int
    """Rows at or after it are left out."""
    ages: Sequence[tuple[int, int]]
    """Up to what age, in seconds before `now`, a tile is of which level; the last one goes for all that is older."""
    now: int


def count(profile: Profile, path: Path, time: str, span: Span) -> Counted:
    """The tiles of a file.

    Args:
        profile: what is counted; the file has all of its columns.
        path: CSV, JSONL or Parquet.
        time: the column of times: ISO 8601 (without an offset: UTC), or Unix seconds.
        span: the rows that count.

    Raises:
        DataError: the file cannot be read, lacks a column, or a row has no time.
    """
    table = tables.read(path)
    for name in (time, *(column.name for column in profile.columns)):
        if name not in table.columns:
            raise DataError(f"{path}: there is no column '{name}'; compare the header with the profile")
    times = _times(table, time)
    levels = np.full(table.rows, span.ages[-1][1])
    for age, level in reversed(span.ages):
        levels[span.now - times <= age] = level
    kept = (times >= span.since) & (times < span.until)
    starts = times // levels * levels
    columns = [Values(column, table.columns[column.name]) for column in profile.columns]
    tiles = {}
    for level, start in sorted(set(zip(levels[kept].tolist(), starts[kept].tolist(), strict=True))):
        tiles[level, start] = _tile(profile, columns, np.flatnonzero(kept & (levels == level) & (starts == start)))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    rows = int(kept.sum())
    # Not those that are too old: which they are changes from day to day.
    taken = hashlib.sha256(time.encode() + b"\0" + np.packbits(times < span.until).tobytes()).hexdigest()[:16]
    return Counted(digest, taken, rows, table.rows - rows, int(times[kept].max(initial=0)), tiles)


def _times(table: Table, name: str) -> npt.NDArray[np.int64]:
    """Whole Unix seconds."""
    column = table.columns[name]
    found = np.zeros(table.rows, dtype=np.int64)
    for at, value in enumerate(column.values):
        seconds = _seconds(value, written=column.written)
        if seconds is None:
            raise DataError(
                f"{table.path}:{table.lines[at]}: '{name}' is no time: write ISO 8601, as 2026-11-30T12:00:00Z, or "
                "Unix seconds"
            )
        found[at] = seconds
    return found


def _seconds(value: Any, *, written: bool) -> int | None:
    if isinstance(value, dt.datetime):
        return int((value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)).timestamp())
    number = number_written(value) if written else value
    if isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) < inf:
        return int(number) if 0 <= number < _LARGEST else None
    try:
        return _seconds(dt.datetime.fromisoformat(value.strip()), written=False) if isinstance(value, str) else None
    except ValueError:
        return None


def _tile(profile: Profile, columns: Sequence[Values], rows: npt.NDArray[np.int64]) -> bytes:
    counted = live.counted(profile)
    block = bytearray(drift.nbytes(counted))
    shard = drift.Shard(block, counted, {column.name: (at,) for at, column in enumerate(columns)})
    shard.count([column.tensor(rows) for column in columns])
    words = drift.merge(counted, [bytes(block)])
    words[drift.CALLS] = words[drift.ROWS]
    return tile.Format(counted).encode(words)
