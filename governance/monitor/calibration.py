"""How much evidence an alarm needs: what windows of the reference's own rows have, by simulation.

Contract: rows are drawn whole, so that columns which move together do so here. Whatever the budget, window and traffic
turn out to be, one simulation serves: it gives thresholds for windows of several sizes and for one false alarm in 10
to 100,000 of them. The same rows and seed give the same thresholds.

A window of n rows is the sum of `_PARTS` blocks, drawn from a pool of `_POOL` that together hold every row equally
often (a balanced bootstrap, Davison, Hinkley and Schechtman 1986): the pool's mean is the reference's, and a million
windows cost a million sums and not a billion draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import msgspec
import numpy as np

from governance.errors import DataError
from governance.monitor import evidence
from governance.monitor.kinds import Kind, is_missing, label, numbers_of
from governance.monitor.profile import ColumnProfile, Names, Numbers, Profile, sealed
from governance.monitor.scores import LEAST, Floats, Ints, Layout, Window, layout, scores
from governance.monitor.thresholds import Thresholds
from governance.tables import Column, Table

SIZES = (100, 300, 1000)
"""Rows of the windows that are simulated; larger ones are as the largest, whose scores are normal enough."""
LOOKS = tuple(round(10 ** (power / 4)) for power in range(4, 21))
"""Windows per false alarm, 10 to 100,000."""
STREAMS, WINDOWS = 400, 1500
"""What is simulated for each size: 600,000 windows."""
_POOL, _PARTS = 4096, 5
_GRID = np.linspace(0.5, 30.0, 119)
_MOST = 60.0
"""More evidence than any threshold."""
_CLEAR = 3
"""Windows without evidence that end an alarm, as settings have it by default."""
_POINTS = 4
"""Of the grid, that a line takes."""
_SURE = 400
"""Alarms that a rate is taken from; beyond it is extrapolated, since rates fall exponentially with the threshold."""


def calibrate(
    of: Layout,
    cells: Sequence[Ints],
    *,
    seed: int = 1,
    sizes: Sequence[int] = SIZES,
    streams: int = STREAMS,
    windows: int = WINDOWS,
    progress: Callable[[str], None] = lambda _: None,
) -> Thresholds:
    """Thresholds for a reference.

    Args:
        of: its layout.
        cells: of each column of the layout, the cell of each row of the reference; -1: missing.
        seed: of the draws.
        sizes: rows of windows.
        streams: simulated side by side.
        windows: of each stream.
        progress: is told each size.
    """
    rng = np.random.default_rng(seed)
    found = []
    for rows in sizes:
        progress(f"windows of {rows} rows")
        pool = _pool(of, cells, rows, rng)
        # In windows that are large beside the reference, chance is hardly ever as large as the reference's own: then
        # by significance alone, which is the stricter. Where nothing varies at all, by theory: 1 in exp(h) at most.
        tried = (_thresholds(_evidence(of, pool, rows, least, (windows, streams), rng)) for least in (of.noise, 0.0))
        found.append(next(filter(None, tried), [round(log(looks), 4) for looks in LOOKS]))
    return Thresholds(list(sizes), list(LOOKS), found)


def calibrated(profile: Profile, table: Table, *, progress: Callable[[str], None] = lambda _: None) -> Profile:
    """A profile with the thresholds of the table that it was made of. Raises DataError: too few values to compare."""
    found = layout(profile)
    if found is None:
        raise DataError(f"{table.path}: no column has {LEAST} values, so that no alarm could be raised on any")
    cells = [cells_of(table.columns[profile.columns[at].name], profile.columns[at]) for at in found.at]
    thresholds = calibrate(found, cells, progress=progress)
    return sealed(msgspec.structs.replace(profile.head, alarms=thresholds), profile.columns)


def cells_of(values: Column, of: ColumnProfile) -> Ints:
    """The cell of each row in the profile's column, -1: missing."""
    if isinstance(of, Numbers):
        numbers = numbers_of(values)
        return np.where(np.isnan(numbers), -1, np.searchsorted(np.array(of.edges), numbers, side="left"))
    assert isinstance(of, Names)
    named = len(of.categories)
    cell = {name: at for at, name in enumerate(of.categories)} | dict.fromkeys(of.others, named)
    kind: Kind = "boolean" if of.truth else "categorical"
    return np.array([-1 if is_missing(value) else cell.get(label(value, kind), named + 1) for value in values.values])


def _pool(of: Layout, cells: Sequence[Ints], rows: int, rng: np.random.Generator) -> Floats:
    """Counts of blocks of rows / _PARTS rows."""
    block = rows // _PARTS
    n = len(cells[0])
    whole, rest = divmod(_POOL * block, n)
    drawn = np.concatenate((np.tile(np.arange(n), whole), rng.permutation(n)[:rest]))
    rng.shuffle(drawn)
    width = len(of.weights)
    found = np.zeros(_POOL * width)
    where = np.repeat(np.arange(_POOL) * width, block)
    for start, column in zip(of.starts, cells, strict=True):
        cell = column[drawn]
        there = cell >= 0
        found += np.bincount((where + start + cell)[there], minlength=len(found))
    return found.reshape(_POOL, width)


def _evidence(
    of: Layout, pool: Floats, rows: int, least: Floats | float, shape: tuple[int, int], rng: np.random.Generator
) -> Floats:
    """What all columns together have, (windows, streams): as `alarms.turn` has it, but that nothing begins or ends."""
    windows, streams = shape
    gathered = evidence.none(len(of.names), streams)
    found = np.empty(shape)
    n = np.full(streams, float(rows // _PARTS * _PARTS))
    for at in range(windows):
        picked = rng.integers(len(pool), size=(_PARTS, streams))
        cells = pool[picked[0]]
        for part in picked[1:]:
            cells += pool[part]
        gathered = evidence.gathered(gathered, scores(of, Window(cells, n)), n, _MOST)
        found[at] = evidence.overall(evidence.by_column(gathered, least))
    return found


def _thresholds(found: Floats) -> list[float] | None:
    """By the times that evidence rises over each of the grid and falls again, as alarms do; None: too few."""
    height = _GRID[:, None]
    active = np.zeros((len(_GRID), found.shape[1]), dtype=np.bool_)
    calm = np.zeros(active.shape, dtype=np.int8)
    began, over = np.zeros(len(_GRID)), np.zeros(len(_GRID))
    for row in found:
        up = row >= height
        began += (up & ~active).sum(axis=1)
        active |= up
        calm = np.where(row < height / 2, calm + 1, 0).astype(np.int8)
        active &= calm < _CLEAR
        over += active.sum(axis=1)
        calm[calm >= _CLEAR] = 0
    sure = began >= _SURE
    if sure.sum() < _POINTS:
        return None
    grid, looks = _GRID[sure], np.log((found.size - over[sure] + began[sure]) / began[sure])
    # The line through the last decade, for what is rarer than can be counted.
    last = looks >= looks[-1] - np.log(10)
    slope, base = np.polyfit(looks[last], grid[last], 1, w=np.sqrt(began[sure][last]))
    wanted = np.log(LOOKS)
    inside = np.interp(wanted, np.maximum.accumulate(looks), grid)
    return [round(float(h), 4) for h in np.where(wanted <= looks[-1], inside, base + slope * wanted)]
