"""The tables of New York City's Local Law 144 (6 RCNY section 5-301): sex, race, and both together.

Selecting: how many of each category were selected. Scoring: how many scored strictly above the median of all who were
scored, whoever they are. The impact ratio is a category's rate by the highest rate. These are figures for an
independent auditor, who signs; the gateway only counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

from governance.fairness.reading import Group, combinations, groups, scores, truths
from governance.tables import Table


def tables(
    table: Table,
    kind: Literal["selection", "scoring"],
    column: str,
    by: tuple[str, str],
    *,
    positive: str | None = None,
    exclude_below: float = 0.0,
) -> dict[str, Any]:
    """The three tables.

    Args:
        table: a person a row.
        kind: which of the two rules.
        column: of the selection or of the score.
        by: the columns of sex and of race.
        positive: see `reading.truths`.
        exclude_below: share of a table's rows below which a category's ratio is not given.

    Raises:
        DataError: a column is missing, or a value is not as it has to be.
    """
    middle: float | None = None
    selected: list[bool | None]
    if kind == "scoring":
        found = scores(table, column)
        there = [score for score in found if score is not None]
        middle = limit = median(there) if there else None
        selected = [None if score is None or limit is None else score > limit for score in found]
    else:
        selected = truths(table, column, positive)
    shown = [_table(table, selected, names, exclude_below) for names in ([by[0]], [by[1]], list(by))]
    result: dict[str, Any] = {"ll144": {"kind": kind, "median": middle, "tables": shown}}
    if left_out := selected.count(None):
        result["excluded"] = [{"reason": f"no {column}", "n": left_out}]
    return result


def _table(table: Table, selected: Sequence[bool | None], by: list[str], exclude_below: float) -> dict[str, Any]:
    counts: dict[Group, list[int]] = {group: [0, 0] for group in combinations(table, by)}
    unknown = 0
    for group, chosen in zip(groups(table, by), selected, strict=True):
        if chosen is None:
            continue
        if group is None:
            unknown += 1
        else:
            counts[group][0] += 1
            counts[group][1] += chosen
    total = sum(n for n, _ in counts.values())
    out = {group for group, (n, _) in counts.items() if n < exclude_below * total}
    highest = max((taken / n for group, (n, taken) in counts.items() if n and group not in out), default=0.0)
    rows = []
    for group, (n, taken) in counts.items():
        rate = taken / n if n else None
        known = rate is not None and highest > 0 and group not in out
        rows.append(
            {
                "group": dict(zip(by, group, strict=True)),
                "n": n,
                "selected": taken,
                "rate": rate,
                "impact_ratio": rate / highest if known and rate is not None else None,
                "excluded": group in out,
            }
        )
    return {"by": by, "unknown": unknown, "rows": rows}
