"""A profile held against what has been served: the report of live monitors, from counts alone.

Contract: pure functions of a profile and a block of counts (`kernels.drift`). Statistics are those of `report`, of the
same cells; of the values themselves nothing is kept, so that KS is a lower bound (the distribution functions are known
at the edges alone) and Wasserstein and Cramér-von Mises are null.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from math import frexp, isfinite, sqrt
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from governance.monitor import distances, significance
from governance.monitor.cells import OTHER, UNSEEN, Counts
from governance.monitor.kinds import number_written
from governance.monitor.profile import Names, Numbers, Profile, Times
from governance.monitor.report import STATISTICS, TESTED, ColumnReport
from kernels import drift

MIN_ROWS = 30
"""Values that a side needs, as the default of `drift report`."""
_STEPS = 16
"""Moments are counted in steps of about 2^-16 standard deviations, up to 2^15 of them."""
_LARGEST_POWER = 1000

Words = npt.NDArray[np.uint64]


class Moments(msgspec.Struct, frozen=True):
    """Of a column's finite values; null: there are none, or it is not known."""

    mean: float | None
    std: float | None
    low: float | None
    high: float | None


class LiveColumn(ColumnReport, frozen=True):
    """A column's report, with what live monitors say more."""

    moments: dict[str, Moments] | None = None
    """Of numbers: `reference` and `current`. Values further than 2^15 standard deviations from the reference's mean are
    in neither mean nor standard deviation."""
    source: Literal["input", "output"] = "input"
    """Whether the column is of what was asked or of what was answered."""
    bounds: dict[str, Literal["lower"]] = msgspec.field(default_factory=dict)
    """Statistics that are bounds."""


class LiveReport(msgspec.Struct, frozen=True):
    """A profile and what was served."""

    rows: dict[str, int]
    columns: list[LiveColumn]


def counted(profile: Profile) -> tuple[drift.Column, ...]:
    """What a shard counts for a profile."""
    return tuple(map(_counted, profile.columns))


def cells_of(columns: Sequence[drift.Column], block: Words) -> list[Counts]:
    """The cells of each column of a block."""
    places = drift.places(columns)
    return [
        block[place : place + column.cells].astype(np.int64) for column, place in zip(columns, places, strict=False)
    ]


def _counted(column: Numbers | Names | Times) -> drift.Column:
    if isinstance(column, Times):
        return drift.Times()
    if isinstance(column, Numbers):
        return drift.Numbers(tuple(column.edges), column.mean or 0.0, _scale(column))
    names = (*column.categories, *column.others)
    return drift.Names(tuple(column.categories), tuple(column.others), tuple(map(_number, names)), column.truth)


def _number(name: str) -> float | None:
    """The number that a category is written as: `1`, `1.0` and `01` are what a tensor of numbers holds as 1."""
    found = number_written(name)
    return found if isfinite(found) else None


def _scale(column: Numbers) -> float:
    spread = column.std or abs(column.mean or 0.0) or 1.0
    power = _STEPS - frexp(spread)[1]
    return 2.0 ** max(-_LARGEST_POWER, min(_LARGEST_POWER, power))


def report(profile: Profile, block: Words, outputs: Collection[str] = (), *, min_rows: int = MIN_ROWS) -> LiveReport:
    """The report of a block that `counted(profile)` describes; `outputs` are the output tensors that are columns."""
    rows = int(block[drift.ROWS])
    columns = counted(profile)
    places = drift.places(columns)
    _, wide = drift.tensors_of([column.name for column in profile.columns], tuple(outputs))
    answered = {at for each in wide.values() for at in each}
    return LiveReport(
        {"reference": profile.head.rows, "current": rows},
        [
            _column(column, spec, block[place:], rows, min_rows, "output" if at in answered else "input")
            for at, (column, spec, place) in enumerate(zip(profile.columns, columns, places, strict=False))
        ],
    )


def _column(
    column: Numbers | Names | Times,
    spec: drift.Column,
    words: Words,
    rows: int,
    min_rows: int,
    source: Literal["input", "output"],
) -> LiveColumn:
    cells = words[: spec.cells].astype(np.int64)
    n, there = int(cells.sum()), int(words[spec.cells])
    status: Literal["ok", "insufficient", "absent", "unsupported"] = "ok"
    if rows and not n + there:
        status = "absent"  # no request has had it, as a column that a table has not
    elif isinstance(column, Times):
        status = "unsupported"
    elif min(column.n, n) < min_rows:
        status = "insufficient"
    bins: dict[str, Any] | None = None
    found: dict[str, float | None] = {}
    p_values: dict[str, float | None] = {}
    moments = None
    if isinstance(column, Numbers) and status != "absent":
        reference, current = np.array(column.counts, dtype=np.int64), cells[: len(column.counts)]
        bins = {"edges": column.edges, "reference": column.counts, "current": current.tolist()}
        moments = {
            "reference": Moments(column.mean, column.std, column.low, column.high),
            "current": _moments(spec, words[spec.cells + 1 :], n),
        }
        if status == "ok":
            found = {**distances.of_cells(reference, current), "ks": distances.ks_of_cells(reference, current)}
    elif isinstance(column, Names) and status != "absent":
        bins = {
            "categories": [*column.categories, OTHER, UNSEEN],
            "reference": [*column.counts, column.other, 0],
            "current": cells.tolist(),
        }
        if status == "ok":
            reference, current = _compared(column, cells)
            found = dict(distances.of_cells(reference, current))
            found["chi2"], p_values["chi2"] = significance.chi2(reference, current)
    return LiveColumn(
        column.name,
        _kind(column),
        status,
        column.n,
        n,
        column.missing,
        # What a request left out is missing; a worker that was killed amid a call may have counted some of its values.
        max(0, rows - n),
        bins,
        {name: found.get(name) for name in STATISTICS},
        {name: p_values.get(name) for name in TESTED},
        moments,
        source,
        {"ks": "lower"} if found.get("ks") is not None else {},
    )


def _kind(column: Numbers | Names | Times) -> Literal["numeric", "categorical", "timestamp"]:
    if isinstance(column, Numbers):
        return "numeric"
    return "categorical" if isinstance(column, Names) else "timestamp"


def _compared(column: Names, cells: Counts) -> tuple[Counts, Counts]:
    """OTHER is a cell only where the reference has one."""
    reference = np.array([*column.counts, column.other, 0], dtype=np.int64)
    if column.others:
        return reference, cells
    keep = np.arange(len(cells)) != len(column.categories)
    return reference[keep], cells[keep]


def _moments(spec: drift.Column, words: Words, n: int) -> Moments:
    assert isinstance(spec, drift.Numbers)
    cells = [int(word) for word in words[: drift.LOWEST + 1]]
    counted_ones = n - cells[drift.CLIPPED]
    mean = std = None
    if counted_ones > 0:
        total = cells[drift.SUM] - (1 << 64 if cells[drift.SUM] >> 63 else 0)
        squares = cells[drift.SQUARES_LOW] + (cells[drift.SQUARES_HIGH] << 64)
        mean = spec.centre + total / counted_ones / spec.scale
        # n * sum(k^2) - sum(k)^2 in whole numbers: nothing cancels.
        std = sqrt(counted_ones * squares - total * total) / counted_ones / spec.scale
    highest, lowest = cells[drift.HIGHEST], cells[drift.LOWEST]
    return Moments(
        mean,
        std,
        _value(2**64 - lowest) if lowest else None,
        _value(highest - 1) if highest else None,
    )


def _value(key: int) -> float:
    """The float64 of a key of `kernels.drift`."""
    bits = key ^ (1 << 63 if key >> 63 else 2**64 - 1)
    return float(struct.unpack("=d", struct.pack("=Q", bits))[0])
