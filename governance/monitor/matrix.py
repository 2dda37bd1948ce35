"""Two tables as matrices of numbers, for statistics of all columns together.

Contract: the columns are those that both tables have, of numbers and of categories; times are left out. What is not
finite counts as missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from governance.monitor.kinds import Kind, is_missing, label, numbers_of
from governance.monitor.scores import Floats
from governance.tables import Column, Table

NAMED = 10
"""The most frequent categories of a column that have a feature of their own."""


class Pair(msgspec.Struct, frozen=True):
    """A column on both sides: numbers, NaN where there is none, or names, None where there is none."""

    numbers: tuple[Floats, Floats] | None
    names: tuple[list[str | None], list[str | None]] | None


def pairs(reference: Table, current: Table, kinds: Mapping[str, Kind]) -> list[Pair]:
    """The columns of both, in the reference's order; `kinds` as `kinds.kind_of` says."""
    found = []
    for name, kind in kinds.items():
        sides = [table.columns.get(name) for table in (reference, current)]
        if sides[0] is None or sides[1] is None or kind == "timestamp":
            continue
        a, b = sides[0], sides[1]
        if kind == "numeric":
            found.append(Pair((_finite(a), _finite(b)), None))
        else:
            found.append(Pair(None, (_names(a, kind), _names(b, kind))))
    return found


def _finite(column: Column) -> Floats:
    numbers = numbers_of(column)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _names(column: Column, kind: Kind) -> list[str | None]:
    return [None if is_missing(value) else label(value, kind) for value in column.values]


def encoded(columns: Sequence[Pair]) -> tuple[Floats, Floats]:
    """A column each, standardised by the reference: numbers, and of names how frequent each is in the reference.

    Missing numbers are the reference's mean, missing names its most frequent one; names it does not have are of
    frequency 0. This is what nannyml 0.13 does before it looks for components.
    """
    sides: list[tuple[Floats, Floats]] = []
    for column in columns:
        if column.numbers is not None:
            a, b = column.numbers
            there = a[~np.isnan(a)]
            middle = there.mean() if len(there) else 0.0
            a, b = (np.where(np.isnan(side), middle, side) for side in (a, b))
        else:
            assert column.names is not None
            a, b = _frequencies(*column.names)
        spread = a.std()
        if not spread > 0 or not np.isfinite(spread):
            spread = 1.0
        sides.append(((a - a.mean()) / spread, (b - a.mean()) / spread))
    return np.stack([a for a, _ in sides], axis=1), np.stack([b for _, b in sides], axis=1)


def _frequencies(a: list[str | None], b: list[str | None]) -> tuple[Floats, Floats]:
    counts = Counter(name for name in a if name is not None)
    usual = min(counts, key=lambda name: (-counts[name], name), default=None)
    counts[usual or ""] += sum(name is None for name in a)
    total = max(1, len(a))
    found = [np.array([counts[usual if name is None else name] / total for name in side]) for side in (a, b)]  # type: ignore[index]  # there is a usual one, or no name at all
    return found[0], found[1]


def features(columns: Sequence[Pair], rows: tuple[Sequence[int], Sequence[int]]) -> Floats:
    """Some rows of the reference, then some of what is now, of (rows, features): blind to which side a row is from.

    Numbers are normal scores of their ranks among all of them (van der Waerden), so that no outlier weighs more than
    its rank; names are one feature for each of the `NAMED` most frequent and one for the rest. A feature more says
    where values are missing. Features that never vary are left out; the rest have mean 0 and variance 1.
    """
    found: list[Floats] = []
    for column in columns:
        if column.numbers is not None:
            values = np.concatenate([side[list(at)] for side, at in zip(column.numbers, rows, strict=True)])
            absent = np.isnan(values)
            found.append(_normal(values, absent))
        else:
            assert column.names is not None
            names = [side[at] for side, chosen in zip(column.names, rows, strict=True) for at in chosen]
            absent = np.array([name is None for name in names])
            counts = Counter(name for name in names if name is not None)
            ranked = sorted(counts, key=lambda name: (-counts[name], name))
            place = {name: min(at, NAMED) for at, name in enumerate(ranked)}
            at = np.array([-1 if name is None else place[name] for name in names])
            found += [(at == cell).astype(np.float64) for cell in range(min(len(ranked), NAMED + 1))]
        found.append(absent.astype(np.float64))
    return standardised(np.stack(found, axis=1))


def standardised(matrix: Floats) -> Floats:
    """Columns that vary, of mean 0 and variance 1."""
    centred = matrix - matrix.mean(axis=0)
    spread = centred.std(axis=0)
    kept = spread > 1e-9
    return np.asarray(centred[:, kept] / spread[kept])


def _normal(values: Floats, absent: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Floats:
    """Normal scores of mid-ranks; 0 where there is no value."""
    found = np.zeros(len(values))
    there = values[~absent]
    if len(there):
        ordered = np.sort(there)
        middle = (np.searchsorted(ordered, there, "left") + np.searchsorted(ordered, there, "right")) / 2
        found[~absent] = normal_quantile(middle / len(there))
    return found


def normal_quantile(p: Floats) -> Floats:
    """Of N(0, 1), to 4.5e-4 (Abramowitz and Stegun, 26.2.23): scores for ranks need no more."""
    tail = np.clip(np.minimum(p, 1 - p), 1e-300, 0.5)
    t = np.sqrt(-2 * np.log(tail))
    z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    return np.asarray(np.where(p < 0.5, -z, z))
