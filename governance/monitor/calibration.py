"""How much evidence an alarm needs: what windows of the reference's own rows have, by simulation.

Contract: rows are drawn whole, so that columns which move together do so here. Whatever the budget, window and traffic
turn out to be, one simulation serves: it gives thresholds for windows of several sizes and for one false alarm in 10
to 100,000 of them. The same rows and seed give the same thresholds.

A window of n rows is the sum of `_PARTS` blocks, drawn from a pool of `_POOL` that together hold every row equally
often (a balanced bootstrap, Davison, Hinkley and Schechtman 1986): the pool's mean is the reference's, and a million
windows cost a million sums and not a billion draws. What the reference itself is off, being a sample, is not in this:
effects of that size are no alarm at all (`scores.Layout.noise`). To draw a population for each stream (a double
bootstrap) was tried and makes thresholds that no real shift reaches, since an unlucky population alarms at any.

Each stream runs `alarms.turn` at a threshold of its own; how the rate of alarms falls with the threshold is a Poisson
regression over all of them, logarithm by a parabola, and a straight line beyond what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import msgspec
import numpy as np

from governance.errors import DataError
from governance.monitor import alarms
from governance.monitor.alarms import Rule
from governance.monitor.kinds import Kind, is_missing, label, numbers_of
from governance.monitor.profile import ColumnProfile, Names, Numbers, Profile, sealed
from governance.monitor.scores import LEAST, Floats, Ints, Layout, Window, layout
from governance.monitor.thresholds import Thresholds
from governance.tables import Column, Table

SIZES = (100, 300, 1000)
"""Rows of the windows that are simulated; larger ones are as the largest, whose scores are normal enough."""
LOOKS = tuple(round(10 ** (power / 4)) for power in range(4, 21))
"""Windows per false alarm, 10 to 100,000."""
STREAMS, WINDOWS = 800, 1500
"""What is simulated for each size: 1.2 million windows."""
_POOL, _PARTS = 4096, 5
_LOW, _HIGH = 1.0, 8.0
"""Thresholds of streams: one false alarm in some twenty windows, and in some thirty thousand."""
_RULE = Rule(effect=0.0, clear=3, cooldown=0)
"""As settings have it by default, but for the effect, which can only take alarms away."""
_ENOUGH, _SEEN = 400, 100
"""Alarms without which there is no regression; and above the threshold from which on it is a straight line."""
_GRID = np.linspace(0.5, 40.0, 791)


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
    bare = msgspec.structs.replace(of, noise=np.zeros_like(of.noise))
    found = []
    for rows in sizes:
        progress(f"windows of {rows} rows")
        pool = _pool(of, cells, rows, rng)
        # In windows that are large beside the reference, chance is hardly ever as large as the reference's own: then
        # by significance alone, which is the stricter. Where nothing varies at all, by theory: 1 in exp(h) at most.
        tried = (_thresholds(*_simulated(each, pool, rows, (windows, streams), rng), windows) for each in (of, bare))
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
    """Counts of blocks of rows / _PARTS rows: (blocks, cells)."""
    block, n = rows // _PARTS, len(cells[0])
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


def _simulated(
    of: Layout, pool: Floats, rows: int, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """The threshold of each stream, and how many alarms began there."""
    windows, streams = shape
    thresholds = np.linspace(_LOW, _HIGH, streams)
    standing = alarms.quiet(len(of.names), streams)
    began = np.zeros(streams)
    n = np.full(streams, float(rows // _PARTS * _PARTS))
    for _ in range(windows):
        first, *others = rng.integers(len(pool), size=(_PARTS, streams))
        cells = pool[first]
        for part in others:
            cells += pool[part]
        turned = alarms.turn(of, standing, Window(cells, n), thresholds, _RULE)
        standing = turned.standing
        began += turned.began
    return thresholds, began


def _thresholds(at: Floats, began: Floats, windows: int) -> list[float] | None:
    """The threshold for each of `LOOKS`; None: too few alarms began to tell."""
    if began.sum() < _ENOUGH:
        return None
    order = np.argsort(-at)
    top = float(at[order][np.searchsorted(np.cumsum(began[order]), _SEEN)])
    a, b, c = _poisson(at, began, windows)
    seen = np.minimum(_GRID, top)
    rate = a + b * seen + c * seen**2 + (b + 2 * c * top) * (_GRID - seen)
    return [round(float(h), 4) for h in np.interp(np.log(LOOKS), np.maximum.accumulate(-rate), _GRID)]


def _poisson(at: Floats, began: Floats, windows: int) -> Floats:
    """The parabola of the logarithm of the rate a window: maximum likelihood, by reweighted least squares."""
    terms = np.stack((np.ones_like(at), at, at**2), axis=1)
    found = np.array([log(began.mean() / windows) + at.mean(), -1.0, 0.0])
    for _ in range(50):
        mean = windows * np.exp(np.clip(terms @ found, -40.0, 5.0))
        step = np.linalg.solve(terms.T @ (terms * mean[:, None]), terms.T @ (began - mean))
        found = found + step
        if np.abs(step).max() < 1e-9:
            break
    return found
