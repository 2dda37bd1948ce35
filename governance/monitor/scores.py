"""What a window of counts says about each column: three scores, near N(0, 1) while it is like the reference.

Contract: pure functions of counts; arrays have any leading axes (streams of a simulation, or none), so that what is
simulated is what decides in a gateway. The scores of a column, in order: `LOCATION`, which way numbers moved, by the
normal scores of their bins (van der Waerden: no value, however large, weighs more than its rank); `SHAPE`, Pearson's
chi-square over cells as a normal deviate (Wilson and Hilferty 1931); `MISSING`, more missing values than there were, by
arcsines. Beside each score stands its effect, on the scale of Cohen (1988), where a shift of d standard deviations is
about d: the difference of means, the square of w, and h.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import asin, sqrt
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from governance.monitor.profile import Names, Numbers, Profile

LOCATION, SHAPE, MISSING = range(3)
NAMES = ("location", "shape", "missing")
LEAST = 30
"""Values, below which a window says nothing of a column's location and shape."""
RARE = 0.02
"""Cells of a smaller share of the reference are one cell: of 100 rows, two are expected there."""
RARELY = 0.005
"""A share of missing values that is taken for none: one of 200. Fewer than that are no change."""
_RARELY = 2 * asin(sqrt(RARELY))

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Layout(msgspec.Struct, frozen=True):
    """The columns of a profile that are compared, and what is expected of their cells."""

    names: tuple[str, ...]
    at: tuple[int, ...]
    """Of each, which column of the profile it is."""
    starts: Ints
    """Of each column's cells, in a row of counts."""
    weights: Floats
    """A cell's normal score: of mean 0 and variance 1 under the reference; 0 in columns of categories."""
    order: Ints
    """The cells so that those which are one stand together."""
    pooled: Ints
    """Where those begin, in that order."""
    shares: Floats
    """Of the reference, in each of these."""
    shape_starts: Ints
    """Of each column, where those begin."""
    freedom: Floats
    """Of each column: these, less one."""
    noise: Floats
    """The effect in each column that the reference's own chance may be the reason of: it is a sample as well."""
    missing: Floats
    """2 asin sqrt of each column's share of missing values."""


class Window(NamedTuple):
    """Counts of windows: the first axes are the same in both."""

    cells: Floats
    """Of all columns of a layout, one behind the other: (..., cells)."""
    rows: Floats
    """(...)"""


class Scores(NamedTuple):
    """Both (..., columns, 3); 0 where a window says nothing."""

    z: Floats
    effect: Floats


def layout(profile: Profile) -> Layout | None:
    """What of a profile is compared: columns with at least `LEAST` values; None: there are none."""
    chosen = [
        (at, column)
        for at, column in enumerate(profile.columns)
        if isinstance(column, (Numbers, Names)) and column.n >= LEAST
    ]
    if not chosen:
        return None
    starts, weights = [0], []
    order: list[int] = []
    pooled: list[int] = []
    shares: list[float] = []
    shape_starts: list[int] = []
    for _, column in chosen:
        cells = _cells(column)
        p = (cells + 0.5) / (cells + 0.5).sum()
        weights.append(_normal_scores(p) if isinstance(column, Numbers) else np.zeros(len(p)))
        shape_starts.append(len(shares))
        for group in _pooled(p):
            pooled.append(len(order))
            order += [starts[-1] + cell for cell in group]
            shares.append(p[group].sum())
        starts.append(starts[-1] + len(cells))
    sizes = np.diff([*shape_starts, len(shares)])
    columns = [column for _, column in chosen]
    absent = np.array([max(RARELY, column.missing / profile.head.rows) for column in columns])
    return Layout(
        names=tuple(column.name for column in columns),
        at=tuple(at for at, _ in chosen),
        starts=np.array(starts[:-1]),
        weights=np.concatenate(weights),
        order=np.array(order),
        pooled=np.array(pooled),
        shares=np.array(shares),
        shape_starts=np.array(shape_starts),
        freedom=sizes - 1.0,
        noise=np.sqrt(_tail(np.maximum(sizes - 1.0, 1.0)) / [column.n for column in columns]),
        missing=2 * np.arcsin(np.sqrt(absent)),
    )


def _tail(df: Floats) -> Floats:
    """Chi-square that chance passes once in 30,000 columns (Wilson and Hilferty, four standard deviations)."""
    return np.asarray(df * (1 - 2 / (9 * df) + 4 * np.sqrt(2 / (9 * df))) ** 3)


def _cells(column: Numbers | Names) -> Floats:
    if isinstance(column, Numbers):
        return np.array(column.counts, dtype=np.float64)
    return np.array([*column.counts, column.other, 0], dtype=np.float64)


def _normal_scores(p: Floats) -> Floats:
    normal = NormalDist()
    scores = np.array([normal.inv_cdf(float(middle)) for middle in np.cumsum(p) - p / 2])
    scores -= (p * scores).sum()
    spread = float(np.sqrt((p * scores * scores).sum()))
    return scores / spread if spread else scores


def _pooled(p: Floats) -> list[list[int]]:
    """Cells of a share of at least `RARE` each, and the rest as one, with the smallest of those if it is too rare."""
    whole = [[int(at)] for at in np.flatnonzero(p >= RARE)]
    rest = np.flatnonzero(p < RARE).tolist()
    if not rest:
        return whole
    if whole and p[rest].sum() < RARE:
        whole.sort(key=lambda group: -p[group[0]])
        rest += whole.pop()
    return [*whole, rest]


def window(found: Layout, columns: Sequence[Ints], rows: int) -> Window:
    """One window: the cells of every column of the profile, as a shard or a table counts them, and its rows."""
    cells = [columns[at] for at in found.at]
    sizes = np.diff([*found.starts, len(found.weights)])
    return Window(
        np.concatenate([each[:size] for each, size in zip(cells, sizes, strict=True)]).astype(np.float64),
        np.float64(rows),  # type: ignore[arg-type]  # an array of no axes
    )


def scores(of: Layout, now: Window) -> Scores:
    """The scores and effects of windows."""
    cells, rows = now.cells, np.maximum(np.asarray(now.rows), 1.0)[..., None]
    n = np.add.reduceat(cells, of.starts, axis=-1)
    some = np.maximum(n, 1.0)
    enough = n >= LEAST
    location = np.where(enough, np.add.reduceat(cells * of.weights, of.starts, axis=-1) / some, 0.0)
    sizes = np.diff(np.append(of.shape_starts, len(of.shares)))
    expected = np.repeat(some, sizes, axis=-1) * of.shares
    found = np.add.reduceat(cells[..., of.order], of.pooled, axis=-1)
    chi2 = np.add.reduceat((found - expected) ** 2 / expected, of.shape_starts, axis=-1)
    compared = enough & (of.freedom > 0)
    df = np.maximum(of.freedom, 1.0)
    deviate = (np.cbrt(chi2 / df) - (1 - 2 / (9 * df))) / np.sqrt(2 / (9 * df))
    absent = 2 * np.arcsin(np.sqrt(np.clip(1 - n / rows, 0.0, 1.0))) - of.missing
    absent = np.where(of.missing > _RARELY, absent, np.maximum(absent, 0.0))
    z = np.stack(
        (
            location * np.sqrt(some),
            np.where(compared, deviate, 0.0),
            absent * np.sqrt(rows),
        ),
        axis=-1,
    )
    effect = np.stack((location, np.where(compared, (chi2 - of.freedom) / some, 0.0), absent), axis=-1)
    return Scores(z, effect)
