"""Counts of one group to its metrics, and the gaps between groups. Names and signs are Fairlearn's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log, sqrt
from typing import Literal

import msgspec

Z = 1.959963984540054
"""Of the standard normal distribution: two-sided 95 %."""
METRICS = ("selection_rate", "tpr", "fpr", "ppv", "accuracy")
FOUR_FIFTHS = 0.8
"""29 CFR 1607.4(D): a screening rule for employment, no verdict."""


class Rate(msgspec.Struct, frozen=True):
    """A share with its interval; all None where too few are behind it."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Its denominator."""
    status: Literal["ok", "insufficient"]


class Confusion(msgspec.Struct):
    """Decisions against labels: true and false positives and negatives."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @property
    def n(self) -> int:
        """All of them."""
        return self.tp + self.fp + self.fn + self.tn

    def add(self, label: bool, prediction: bool) -> None:
        """Counts one decision."""
        if prediction:
            self.tp += label
            self.fp += not label
        else:
            self.fn += label
            self.tn += not label

    def metrics(self, min_group: int, min_denominator: int) -> dict[str, Rate]:
        """Every metric; `insufficient` for a group below `min_group` or a denominator below `min_denominator`."""
        shares = {
            "selection_rate": (self.tp + self.fp, self.n),
            "tpr": (self.tp, self.tp + self.fn),
            "fpr": (self.fp, self.fp + self.tn),
            "ppv": (self.tp, self.tp + self.fp),
            "accuracy": (self.tp + self.tn, self.n),
        }
        return {
            name: rate(count, of)
            if of and self.n >= min_group and of >= min_denominator
            else Rate(None, None, None, of, "insufficient")
            for name, (count, of) in shares.items()
        }


def rate(count: int, n: int) -> Rate:
    """`count` of `n` with Wilson's interval (1927), without correction for continuity."""
    share, square = count / n, Z * Z / n
    centre = (share + square / 2) / (1 + square)
    half = Z * sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    # At 0 and n the bounds are 0 and 1 but for rounding.
    low = 0.0 if count == 0 else max(0.0, centre - half)
    high = 1.0 if count == n else min(1.0, centre + half)
    return Rate(share, low, high, n, "ok")


def gap(groups: Sequence[Mapping[str, Rate]], metric: str) -> float | None:
    """The largest value less the smallest, over the groups that are ok; None: fewer than two are."""
    values = _values(groups, metric)
    return max(values) - min(values) if len(values) > 1 else None


def ratio(groups: Sequence[Mapping[str, Rate]], metric: str) -> float | None:
    """The smallest by the largest, over the groups that are ok; None: fewer than two are, or all are 0."""
    values = _values(groups, metric)
    return min(values) / max(values) if len(values) > 1 and max(values) > 0 else None


def larger(one: float | None, other: float | None) -> float | None:
    """Of two gaps; None when either is."""
    return None if one is None or other is None else max(one, other)


def _values(groups: Sequence[Mapping[str, Rate]], metric: str) -> list[float]:
    return [value for group in groups if (value := group[metric].value) is not None]


def katz(count: int, n: int, other_count: int, other_n: int, z: float = Z) -> tuple[float, float]:
    """Interval of the ratio of two shares (Katz et al. 1978); half a count is added to both where one is 0."""
    a, b, add = count, other_count, 0.0
    if not a or not b:
        add = 0.5
    centre = log((a + add) / (n + add)) - log((b + add) / (other_n + add))
    half = z * sqrt(1 / (a + add) - 1 / (n + add) + 1 / (b + add) - 1 / (other_n + add))
    return exp(centre - half), exp(centre + half)
