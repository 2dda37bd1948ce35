"""Whether a plan and the pipeline that it was made of agree, value by value."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from governance.errors import DataError
from governance.features.importing import Imported
from governance.features.reading import parse
from governance.features.tables import run
from governance.features.writing import text_of
from governance.tables import Table

_ROUNDING: Final = 1e-9
"""Of the largest value of a projection on the sample: a hundredth of a float32's last place there."""


class Parity(NamedTuple):
    """The largest difference, and where it is."""

    rows: int
    largest: float
    """Of |plan - scikit-learn|, both float32."""
    units: int
    """In the last place: how many float32 lie between; NaN is equal to NaN alone."""
    row: int
    """From 0."""
    column: str


def compare(imported: Imported, table: Table, comment: str) -> tuple[str, Parity]:
    """The plan's text, and how it compares on a table's rows.

    Raises:
        DataError: one of the two refuses a row.
    """
    text = text_of(imported.document(), comment)
    loaded, findings = parse(text.encode(), "plan")
    if loaded is None:
        # Names in the data can clash with names that steps make.
        raise DataError(f"the plan that this makes does not hold: {findings[0].message}")
    (ours,) = run(loaded, table).values()
    theirs = imported.expected(table)
    if ours.shape != theirs.shape:
        raise DataError(f"the plan makes {ours.shape[1]} columns, and scikit-learn {theirs.shape[1]}: please report it")
    (names,) = loaded.compiled.columns.values()
    apart = np.abs(_ordered(ours) - _ordered(theirs))
    apart[np.isnan(ours) & np.isnan(theirs)] = 0
    with np.errstate(invalid="ignore"):
        differences = np.abs(ours.astype(np.float64) - theirs)
    for columns in imported.summed():
        # Order and width of sums are the linear algebra library's own; what is left where terms cancel is rounding.
        part = differences[:, columns]
        apart[:, columns] = np.where(
            part <= _ROUNDING * np.nanmax(np.abs(theirs[:, columns]), initial=0), 0, apart[:, columns]
        )
    differences[apart == 0] = 0.0
    if not apart.size:
        return text, Parity(table.rows, 0.0, 0, 0, names[0])
    row, column = np.unravel_index(int(apart.argmax()), apart.shape)
    return text, Parity(table.rows, float(np.nanmax(differences)), int(apart.max()), int(row), names[int(column)])


def _ordered(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """float32 as whole numbers in their order, neighbours one apart; both zeros are 0."""
    bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
