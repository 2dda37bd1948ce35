"""Tables of correlated columns, and the rows of their profile as cells: what alarms are simulated with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from governance.monitor import profile
from governance.monitor.calibration import calibrate, cells_of
from governance.monitor.scores import Window, layout
from governance.tables import Column, Table


def columns_of(seed: int, rows: int, shift: float = 0.0) -> dict[str, list]:
    """Ten columns that move together: normal, skewed, whole numbers, categories, truths; 3 % missing in numbers."""
    rng = np.random.default_rng(seed)
    x = 0.6 * rng.normal(size=(rows, 1)) + 0.8 * rng.normal(size=(rows, 8))
    x[:, 0] += shift
    flag = x[:, 3] > 0
    x[:, 1] = np.exp(x[:, 1])
    x[:, 2] = np.round(x[:, 2])
    x[rng.random(x.shape) < 0.03] = np.nan
    job = rng.choice(list("abcdef"), rows, p=[0.5, 0.3, 0.1, 0.05, 0.04, 0.01])
    numbers = {f"x{at}": x[:, at].tolist() for at in range(8)}
    return numbers | {"job": job.tolist(), "flag": flag.tolist()}


def table_of(path: Path, columns: dict[str, list]) -> Table:
    """As if it had been read."""
    path.write_text("made here")
    rows = len(next(iter(columns.values())))
    return Table(path, rows, {name: Column(values, written=False) for name, values in columns.items()}, [])


class Reference:
    """A profile with thresholds, and windows drawn from rows."""

    def __init__(self, path: Path, rows: int = 10_000, **options) -> None:
        self.table = table_of(path, columns_of(5, rows))
        self.profile = profile.build(self.table)
        self.layout = layout(self.profile)
        self.rows = self.rows_of(self.table)
        self.thresholds = calibrate(self.layout, list(self.cells), **options)

    def rows_of(self, table: Table) -> np.ndarray:
        """The place of every value in a row of counts; the last one is of missing values."""
        profiled = [self.profile.columns[at] for at in self.layout.at]
        self.cells = [cells_of(table.columns[column.name], column) for column in profiled]
        width = len(self.layout.weights)
        return np.stack(
            [np.where(c >= 0, c + start, width) for c, start in zip(self.cells, self.layout.starts, strict=True)], 1
        )

    def windows(self, rng, rows: np.ndarray, streams: int, size: int) -> Window:
        """One window of `size` drawn rows for each stream."""
        drawn = rows[rng.integers(len(rows), size=(streams, size))].reshape(streams, -1)
        width = len(self.layout.weights) + 1
        where = (drawn + np.arange(streams)[:, None] * width).ravel()
        cells = np.bincount(where, minlength=streams * width).reshape(streams, width)[:, :-1]
        return Window(cells.astype(np.float64), np.full(streams, float(size)))
