"""Columns of a table as tensors, so that what was recorded is counted by what counts requests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from governance.monitor.kinds import is_missing, is_time, label, numbers_of
from governance.monitor.profile import ColumnProfile, Names, Numbers
from governance.tables import Column


class RowTensor(NamedTuple):
    """As `kernels.drift.Tensor`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


class Values:
    """A column of a table as rows of a tensor.

    Args:
        column: what it is.
        found: its values; those that cannot be read as that are missing.
    """

    def __init__(self, column: ColumnProfile, found: Column) -> None:
        self.name = column.name
        self._numbers: npt.NDArray[np.float64] | None = None
        self._texts: list[bytes] = []
        if isinstance(column, Numbers):
            self._numbers = numbers_of(found)
            return
        for value in found.values:
            if is_missing(value) or not (isinstance(column, Names) or is_time(value)):
                text = ""
            else:
                truth = isinstance(column, Names) and column.truth
                text = label(value, "boolean" if truth else "categorical")
            self._texts.append(text.encode())

    def tensor(self, rows: npt.NDArray[np.int64]) -> RowTensor:
        """Of some rows."""
        if self._numbers is not None:
            return RowTensor(self.name, "FP64", (len(rows),), self._numbers[rows].tobytes())
        texts = [self._texts[at] for at in rows.tolist()]
        return RowTensor(
            self.name, "BYTES", (len(rows),), b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        )
