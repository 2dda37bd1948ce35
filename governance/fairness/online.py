"""Counts of a running route as a fairness report: the form of the offline one, with what is not known left open.

Contract: a gateway knows decisions and not what was right, so that of the metrics only `selection_rate` has a value;
the others are `insufficient` with denominator 0, and true and false positives are null. Rows whose group is not known
are `unknown`, with how many of them were selected, and `bounds` says what that leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import msgspec

from governance.fairness.bounds import gap_bounds, rate_bounds
from governance.fairness.rates import FOUR_FIFTHS, METRICS, Rate, gap, katz, rate, ratio

_NONE = Rate(None, None, None, 0, "insufficient")


class OnlineReport(msgspec.Struct, frozen=True):
    """What was decided on whom."""

    groups: list[dict[str, Any]]
    """As offline, with `selected`; `tp`, `fp`, `fn` and `tn` are null."""
    differences: dict[str, float | None]
    ratios: dict[str, float | None]
    four_fifths: dict[str, Any] | None
    unknown: dict[str, int]
    """`n` rows of an unknown group, of which `selected`."""
    excluded: list[dict[str, Any]]
    bounds: dict[str, Any]
    """`groups`: each group's selection rate, and `demographic_parity`: the largest gap, whoever the unknown are."""


def online(
    attributes: Sequence[tuple[str, Sequence[str]]],
    counts: Sequence[tuple[int, int]],
    *,
    uncounted: int = 0,
    min_group: int = 30,
    min_denominator: int = 10,
) -> OnlineReport:
    """A report of counts.

    Args:
        attributes: each attribute and its values; their combinations, the last attribute fastest, are the groups.
        counts: rows and selected ones of each group, and last of the unknown.
        uncounted: calls that were served and are in no row.
        min_group: rows of a group below which it has no rate.
        min_denominator: likewise, of the rate's own denominator, which is the same here.
    """
    names = [name for name, _ in attributes]
    groups = [dict(zip(names, values, strict=True)) for values in product(*(values for _, values in attributes))]
    *known, (unknown, unknown_selected) = counts
    rates: list[dict[str, Rate]] = []
    for n, selected in known:
        enough = n >= min_group and n >= min_denominator
        mine = rate(selected, n) if enough else Rate(None, None, None, n, "insufficient")
        rates.append({name: mine if name == "selection_rate" else _NONE for name in METRICS})
    found = [
        {
            "group": group,
            "n": n,
            "selected": selected,
            "tp": None,
            "fp": None,
            "fn": None,
            "tn": None,
            "metrics": metrics,
        }
        for group, (n, selected), metrics in zip(groups, known, rates, strict=True)
    ]
    open_ = [rate_bounds(n, selected, unknown, unknown_selected) for n, selected in known]
    excluded = [{"reason": "no decision could be read from the answer", "calls": uncounted}] if uncounted else []
    return OnlineReport(
        groups=found,
        differences={
            "demographic_parity": gap(rates, "selection_rate"),
            "equal_opportunity": None,
            "equalized_odds": None,
            "predictive_parity": None,
        },
        ratios={"demographic_parity": ratio(rates, "selection_rate")},
        four_fifths=_four_fifths(found),
        unknown={"n": unknown, "selected": unknown_selected},
        excluded=excluded,
        bounds={
            "groups": [
                {"group": group, "low": one.low, "high": one.high} for group, one in zip(groups, open_, strict=True)
            ],
            "demographic_parity": gap_bounds(open_),
        },
    )


def _four_fifths(groups: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    rated = [one for one in groups if one["metrics"]["selection_rate"].value is not None]
    if len(rated) < 2:
        return None
    lowest, highest = (pick(rated, key=lambda one: one["metrics"]["selection_rate"].value) for pick in (min, max))
    low, high = (one["metrics"]["selection_rate"].value for one in (lowest, highest))
    if not high:
        return None
    interval = katz(lowest["selected"], lowest["n"], highest["selected"], highest["n"])
    sides = [{name: one[name] for name in ("group", "selected", "n")} for one in (lowest, highest)]
    return {
        "ratio": low / high,
        "low": interval[0],
        "high": interval[1],
        "below": low / high < FOUR_FIFTHS,
        "lowest": sides[0],
        "highest": sides[1],
    }
