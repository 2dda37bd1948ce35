"""A table of decisions with labels: metrics of every group, gaps between them, and who is in none of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from governance.fairness.rates import FOUR_FIFTHS, METRICS, Confusion, Rate, gap, katz, larger, ratio
from governance.fairness.reading import Group, combinations, groups, truths
from governance.tables import Table


class GroupReport(msgspec.Struct, frozen=True):
    """One combination of attributes; nobody may have it."""

    group: dict[str, str]
    n: int
    tp: int
    fp: int
    fn: int
    tn: int
    metrics: dict[str, Rate]


class FairnessReport(msgspec.Struct, frozen=True):
    """All of them."""

    groups: list[GroupReport]
    differences: dict[str, float | None]
    ratios: dict[str, float | None]
    four_fifths: dict[str, Any] | None
    """The lowest selection rate by the highest, with counts and interval; a flag to look, never a verdict."""
    unknown: dict[str, int]
    """Rows with a label and a prediction whose attributes are not all there."""
    excluded: list[dict[str, Any]]
    """Rows in no count, by reason."""


def report(
    table: Table,
    *,
    label: str,
    prediction: str,
    by: Sequence[str],
    positive: str | None = None,
    min_group: int = 30,
    min_denominator: int = 10,
) -> FairnessReport:
    """Judges nothing: counts, rates with intervals, and gaps.

    Args:
        table: a decision a row.
        label: the column of what was right.
        prediction: the column of what was decided.
        by: the columns of the attributes; their combinations are the groups.
        positive: see `reading.truths`.
        min_group: rows of a group below which none of its metrics is given.
        min_denominator: rows in a metric's own denominator below which it is not given.

    Raises:
        DataError: a column is missing, or a value is neither yes nor no.
    """
    labels, predictions = truths(table, label, positive), truths(table, prediction, positive)
    counts: dict[Group, Confusion] = {group: Confusion() for group in combinations(table, by)}
    unknown, left_out = 0, Counter[str]()
    for truth, decision, group in zip(labels, predictions, groups(table, by), strict=True):
        if truth is None or decision is None:
            absent = [name for name, value in (("label", truth), ("prediction", decision)) if value is None]
            left_out[f"no {' and no '.join(absent)}"] += 1
        elif group is None:
            unknown += 1
        else:
            counts[group].add(truth, decision)
    found = [
        GroupReport(
            dict(zip(by, group, strict=True)),
            one.n,
            one.tp,
            one.fp,
            one.fn,
            one.tn,
            one.metrics(min_group, min_denominator),
        )
        for group, one in counts.items()
    ]
    metrics = [one.metrics for one in found]
    gaps = {metric: gap(metrics, metric) for metric in METRICS}
    return FairnessReport(
        found,
        {
            "demographic_parity": gaps["selection_rate"],
            "equal_opportunity": gaps["tpr"],
            "equalized_odds": larger(gaps["tpr"], gaps["fpr"]),
            "predictive_parity": gaps["ppv"],
        },
        {"demographic_parity": ratio(metrics, "selection_rate")},
        _four_fifths(found),
        {"n": unknown},
        [{"reason": reason, "n": n} for reason, n in sorted(left_out.items())],
    )


def _four_fifths(found: Sequence[GroupReport]) -> dict[str, Any] | None:
    rated = [(value, one) for one in found if (value := one.metrics["selection_rate"].value) is not None]
    if len(rated) < 2:
        return None
    (low, lowest), (high, highest) = (pick(rated, key=lambda item: item[0]) for pick in (min, max))
    if not high:
        return None
    sides = [(one.tp + one.fp, one.n) for one in (lowest, highest)]
    interval = katz(*sides[0], *sides[1])
    return {
        "ratio": low / high,
        "low": interval[0],
        "high": interval[1],
        "below": low / high < FOUR_FIFTHS,
        "lowest": {"group": lowest.group, "selected": sides[0][0], "n": sides[0][1]},
        "highest": {"group": highest.group, "selected": sides[1][0], "n": sides[1][1]},
    }
