"""Two tables compared column by column, and by all columns together: `tidegate drift report`.

The reference decides kinds and cells. A statistic that cannot be computed is None, never 0: too few values are
"insufficient", not "no drift".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from governance.errors import DataError
from governance.monitor import distances, multivariate, significance
from governance.monitor.cells import (
    OTHER,
    UNSEEN,
    Counts,
    categories_of,
    count_bins,
    count_categories,
    edges_of,
)
from governance.monitor.kinds import Kind, Values, kind_of, values_of
from governance.monitor.multivariate import Together
from governance.tables import Column, Table

STATISTICS = ("psi", "js", "hellinger", "kl", "ks", "wasserstein", "chi2", "cvm")
TESTED = ("ks", "chi2", "cvm")


class ColumnReport(msgspec.Struct, frozen=True):
    """One column on both sides."""

    name: str
    kind: Literal["numeric", "categorical", "timestamp"]
    status: Literal["ok", "insufficient", "absent", "unsupported"]
    n_reference: int
    n_current: int
    missing_reference: int
    missing_current: int
    bins: dict[str, Any] | None
    """`edges` or `categories`, and the counts of `reference` and `current`."""
    statistics: dict[str, float | None]
    p_values: dict[str, float | None]


class Report(msgspec.Struct, frozen=True):
    """Two tables."""

    rows: dict[str, int]
    columns: list[ColumnReport]
    together: list[Together]
    """Statistics of all columns that both tables have, but times."""


def compare(
    reference: Table,
    current: Table,
    *,
    bins: int = 10,
    min_rows: int = 30,
    categorical: Collection[str] = (),
    without: Collection[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Compares every column that either table has, in the reference's order.

    Args:
        reference: decides what a column is and where its cells lie.
        current: what is compared with it.
        bins: of a numeric column, at least 2.
        min_rows: values below which a side says nothing, at least 2.
        categorical: columns of numbers that are names.
        without: columns that are left out, such as identifiers.
        progress: is told each column's name.

    Raises:
        DataError: the tables have no column in common, a name in `categorical` is none of the reference's, or one in
            `without` is in neither.
    """
    for name in without:
        if name not in reference.columns and name not in current.columns:
            raise DataError(f"{reference.path}: there is no column '{name}' to leave out")
    reference, current = (_without(table, without) for table in (reference, current))
    if not reference.columns.keys() & current.columns.keys():
        raise DataError(f"{current.path}: no column in common with {reference.path}; compare the headers")
    for name in categorical:
        if name not in reference.columns:
            raise DataError(f"{reference.path}: there is no column '{name}' to take as categorical")
    columns = []
    kinds: dict[str, Kind] = {}
    for name in [*reference.columns, *(name for name in current.columns if name not in reference.columns)]:
        progress(name)
        decides = reference.columns.get(name) or current.columns[name]
        kinds[name] = kind_of(decides, categorical=name in categorical)
        columns.append(_column(name, kinds[name], (reference, current), bins, min_rows))
    progress("all columns together")
    together = multivariate.compare(reference, current, kinds, min_rows=min_rows)
    return Report({"reference": reference.rows, "current": current.rows}, columns, together)


def _without(table: Table, names: Collection[str]) -> Table:
    kept = {name: column for name, column in table.columns.items() if name not in names}
    return msgspec.structs.replace(table, columns=kept)


def _column(name: str, kind: Kind, tables: tuple[Table, Table], bins: int, min_rows: int) -> ColumnReport:
    reference, current = tables
    a, b = (
        values_of(table.columns.get(name, Column([None] * table.rows, written=False)), kind)
        for table in (reference, current)
    )
    status: Literal["ok", "insufficient", "absent", "unsupported"] = "ok"
    if name not in reference.columns or name not in current.columns:
        status = "absent"
    elif kind == "timestamp":
        status = "unsupported"
    elif min(a.n, b.n) < min_rows:
        status = "insufficient"
    described: dict[str, Any] | None = None
    statistics: Mapping[str, float | None] = {}
    p_values: Mapping[str, float | None] = {}
    if status in ("ok", "insufficient"):
        described, reference_counts, current_counts = _cells(a, b, bins)
        if status == "ok":
            statistics, p_values = _statistics(a, b, reference_counts, current_counts)
    return ColumnReport(
        name,
        "categorical" if kind == "boolean" else kind,
        status,
        a.n,
        b.n,
        a.missing,
        b.missing,
        described,
        {name: statistics.get(name) for name in STATISTICS},
        {name: p_values.get(name) for name in TESTED},
    )


def _cells(a: Values, b: Values, bins: int) -> tuple[dict[str, Any], Counts, Counts]:
    """The cells as the report shows them, and the counts that are compared."""
    if a.numbers is not None and b.numbers is not None:
        edges = edges_of(a.numbers, bins)
        counts = [count_bins(side.numbers, edges) for side in (a, b) if side.numbers is not None]
        shown: dict[str, Any] = {"edges": edges.tolist()}
    else:
        categories, more = categories_of(a.labels)
        known = set(a.labels)
        sides = [count_categories(side.labels, categories, known) for side in (a, b)]
        shown = {
            "categories": [*categories, OTHER, UNSEEN],
            "reference": [*sides[0][0].tolist(), *sides[0][1:]],
            "current": [*sides[1][0].tolist(), *sides[1][1:]],
        }
        # OTHER is a cell only where the reference has one.
        counts = [np.array([*named, *([other] if more else []), unseen]) for named, other, unseen in sides]
        return shown, counts[0], counts[1]
    shown |= {"reference": counts[0].tolist(), "current": counts[1].tolist()}
    return shown, counts[0], counts[1]


def _statistics(
    a: Values, b: Values, reference: Counts, current: Counts
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    found = distances.of_cells(reference, current)
    p_values: dict[str, float | None] = {}
    if a.numbers is not None and b.numbers is not None:
        found["ks"], p_values["ks"] = significance.ks(a.numbers, b.numbers)
        found["cvm"], p_values["cvm"] = significance.cvm(a.numbers, b.numbers)
        found["wasserstein"] = significance.wasserstein(a.numbers, b.numbers)
    else:
        found["chi2"], p_values["chi2"] = significance.chi2(reference, current)
    return found, p_values
