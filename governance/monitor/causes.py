"""Why an alarm began: which columns, most evident first, and where in them. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from governance.monitor import evidence
from governance.monitor.alarms import Truths
from governance.monitor.cells import OTHER, UNSEEN
from governance.monitor.evidence import Evidence
from governance.monitor.profile import Numbers, Profile
from governance.monitor.scores import NAMES, Floats, Layout, Window

MOST_COLUMNS, MOST_BINS = 20, 3


class Bin(msgspec.Struct, frozen=True):
    """A cell of a column."""

    cell: str
    """`(LOW, HIGH]` of numbers, or the category's name."""
    reference: float
    """Its share of the column's values, in the reference."""
    current: float
    """In the window that the alarm began with."""


class Cause(msgspec.Struct, frozen=True):
    """A column that stands out."""

    column: str
    what: Literal["location", "shape", "missing"]
    """The score that speaks most: the values moved, are spread otherwise, or more of them are missing."""
    effect: float
    """How far off it is, in standard deviations or what is like them."""
    evidence: float
    """Natural logarithm of its e-value."""
    bins: list[Bin]
    """Those that differ most, by their part of chi-square."""


def causes(of: Layout, profile: Profile, found: Evidence, now: Window, logs: Floats, named: Truths) -> list[Cause]:
    """Of one stream: what is named, by evidence and then by effect."""
    effects, speaks = evidence.effect(found), evidence.strongest(found)
    ranked = sorted(np.flatnonzero(named).tolist(), key=lambda at: (-logs[at], -effects[at]))
    ends = [*of.starts[1:].tolist(), len(of.weights)]
    return [
        Cause(
            column=of.names[at],
            what=NAMES[speaks[at]],  # type: ignore[arg-type]  # one of the three
            effect=round(float(effects[at]), 4),
            evidence=round(float(logs[at]), 3),
            bins=_bins(profile, of.at[at], now.cells[of.starts[at] : ends[at]]),
        )
        for at in ranked[:MOST_COLUMNS]
    ]


def _bins(profile: Profile, at: int, current: Floats) -> list[Bin]:
    column = profile.columns[at]
    if isinstance(column, Numbers):
        edges = ["-inf", *(f"{edge:g}" for edge in column.edges), "inf"]
        names = [f"({low}, {high}]" for low, high in zip(edges, edges[1:], strict=False)]
        reference = np.array(column.counts, dtype=np.float64)
    else:
        names = [*column.categories, OTHER, UNSEEN]  # type: ignore[union-attr]  # a layout has no times
        reference = np.array([*column.counts, column.other, 0], dtype=np.float64)  # type: ignore[union-attr]
    p = (reference + 0.5) / (reference + 0.5).sum()
    n = max(current.sum(), 1.0)
    parts = (current - n * p) ** 2 / (n * p)
    return [
        Bin(names[cell], round(float(reference[cell] / reference.sum()), 4), round(float(current[cell] / n), 4))
        for cell in np.argsort(-parts, kind="stable")[:MOST_BINS].tolist()
    ]
