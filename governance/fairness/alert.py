"""Whether one group is surely selected less often than another: what a running gateway may raise an alert on.

Contract: pure. A pair of groups is below when the whole interval of its ratio of selection rates is below the bound, by
Katz's interval (`rates.katz`) at a level that makes up for every look and every pair: by the union bound, whatever the
looks have to do with one another, there is at most one false alert in so many looks where no true ratio is below.
Groups with too few rows take no part; with fewer than two groups there is no verdict, and no verdict never ends an
alert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from statistics import NormalDist
from typing import Literal, TypeAlias

import msgspec

from governance.fairness.rates import katz

Status: TypeAlias = Literal["below", "open", "above", "insufficient"]


class Side(msgspec.Struct, frozen=True):
    """One group of a pair."""

    group: Mapping[str, str]
    n: int
    selected: int


class Verdict(msgspec.Struct, frozen=True):
    """What the counts say."""

    status: Status
    """`below`: surely; `above`: the smallest ratio is at the bound or above; `open`: it is below, which may be chance;
    `insufficient`: fewer than two groups have rows enough, or nobody was selected."""
    ratio: float | None = None
    """Of the pair that is surely below, else the smallest."""
    low: float | None = None
    high: float | None = None
    """Its interval, at the alert's own level."""
    lowest: Side | None = None
    highest: Side | None = None


def judge(sides: Sequence[Side], bound: float, min_group: int, looks: int) -> Verdict:
    """Judges the counts of one look.

    Args:
        sides: the groups.
        bound: for the ratio of two selection rates.
        min_group: rows that a group needs.
        looks: in how many of them one false alert is taken.
    """
    enough = [one for one in sides if one.n >= max(min_group, 1)]
    pairs = [(one, other) for one, other in permutations(enough, 2) if other.selected]
    if not pairs:
        return Verdict("insufficient")
    z = NormalDist().inv_cdf(1 - 1 / (looks * len(enough) * (len(enough) - 1)))
    smallest = min(pairs, key=_ratio)
    surest, most = smallest, _interval(smallest, z)
    for pair in pairs:
        if _ratio(pair) < bound:
            interval = _interval(pair, z)
            if interval[1] < most[1]:
                surest, most = pair, interval
    if most[1] < bound:
        return Verdict("below", _ratio(surest), *most, *surest)
    status: Status = "above" if _ratio(smallest) >= bound else "open"
    return Verdict(status, _ratio(smallest), *_interval(smallest, z), *smallest)


def _ratio(pair: tuple[Side, Side]) -> float:
    one, other = pair
    return (one.selected / one.n) / (other.selected / other.n)


def _interval(pair: tuple[Side, Side], z: float) -> tuple[float, float]:
    one, other = pair
    return katz(one.selected, one.n, other.selected, other.n, z)
