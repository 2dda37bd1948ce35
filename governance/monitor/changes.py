"""When the columns of a table changed: `tidegate drift changes`. Windows of rows in their order, against a reference.

Contract: a window's scores are those of alarms (`scores`); each score of each column is a series, and three tests say
independently when it changed (`sequential`). That the reference is a sample is in every window alike: CUSUM allows for
it (`allowance`), Page-Hinkley and ADWIN compare windows with one another. None corrects for the number of columns: this
is for looking back, and `calibration` for being woken.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from governance.errors import DataError
from governance.monitor import sequential
from governance.monitor.allowance import allowance
from governance.monitor.calibration import cells_of
from governance.monitor.profile import ColumnProfile, Profile
from governance.monitor.scores import LEAST, MISSING, NAMES, Floats, Layout, Window, layout, scores
from governance.tables import Table

FALSE = 10_000.0
"""Windows for one false change of CUSUM and Page-Hinkley, in each series."""
SHIFT = 0.5
"""Page-Hinkley's delta and CUSUM's least k, in standard errors of a window."""


class Change(msgspec.Struct, frozen=True):
    """A series changed."""

    column: str
    what: Literal["location", "shape", "missing"]
    found: dict[str, list[int]]
    """By `cusum`, `page_hinkley` and `adwin`: the last row of each window in which it was found, from 1."""
    first: int
    """The earliest of these."""
    effect: float
    """Of the windows from the first of these on: see `scores`."""


class Changes(msgspec.Struct, frozen=True):
    """A table's."""

    rows: int
    """Of a window."""
    windows: int
    changes: list[Change]
    """The earliest first."""


def find(profile: Profile, current: Table, *, rows: int = 1000) -> Changes:
    """What changed when.

    Args:
        profile: the reference.
        current: rows in the order in which they came; columns that it lacks are left out.
        rows: of a window, at least 30; the last one is left out when it is shorter.

    Raises:
        DataError: there is nothing to compare, or the table is shorter than two windows.
    """
    known = [column for column in profile.columns if column.name in current.columns]
    of = layout(msgspec.structs.replace(profile, columns=known))
    windows = current.rows // rows
    if of is None:
        raise DataError(
            f"{current.path}: no column in common with {LEAST} values in the reference; compare the headers"
        )
    if windows < 2:
        raise DataError(f"{current.path}: {current.rows} rows are not two windows of {rows}; say fewer with --rows")
    said = scores(of, _windows(of, known, current, rows, windows))
    found = []
    for at, name in enumerate(of.names):
        for score, what in enumerate(NAMES):
            sample = profile.head.rows if score == MISSING else known[of.at[at]].n
            k = allowance(FALSE, SHIFT, rows / sample, score, float(of.freedom[at]))
            change = _change(name, what, (said.z[:, at, score], said.effect[:, at, score]), rows, k)
            if change is not None:
                found.append(change)
    return Changes(rows, windows, sorted(found, key=lambda change: change.first))


def _windows(of: Layout, columns: list[ColumnProfile], table: Table, rows: int, windows: int) -> Window:
    width = len(of.weights)
    counts = np.zeros(windows * width)
    where = np.repeat(np.arange(windows) * width, rows)
    for start, at in zip(of.starts, of.at, strict=True):
        cell = cells_of(table.columns[columns[at].name], columns[at])[: windows * rows]
        there = cell >= 0
        counts += np.bincount((where + start + cell)[there], minlength=len(counts))
    return Window(counts.reshape(windows, width), np.full(windows, float(rows)))


def _change(name: str, what: str, series: tuple[Floats, Floats], rows: int, k: float) -> Change | None:
    """What three tests say of a series of scores and their effects."""
    z, effect = series
    values = z.tolist()
    h = sequential.cusum_threshold(FALSE, SHIFT)
    found = {
        "cusum": sequential.cusum(values, k=k, h=h),
        "page_hinkley": sequential.page_hinkley(values, delta=SHIFT, threshold=h, alpha=1.0, least=2),
        "adwin": sequential.adwin(values, clock=1),
    }
    first = min((at for each in found.values() for at in each), default=None)
    if first is None:
        return None
    return Change(
        name,
        what,  # type: ignore[arg-type]  # one of the three
        {test: [(at + 1) * rows for at in each] for test, each in found.items()},
        (first + 1) * rows,
        round(float(effect[first:].mean()), 4),
    )
