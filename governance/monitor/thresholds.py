"""How much evidence an alarm needs, as a profile keeps it: see `calibration`, which finds it."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a reference."""

    rows: list[int]
    """Of windows, ascending."""
    looks: list[int]
    """Windows per false alarm, ascending."""
    evidence: list[list[float]]
    """For each of `rows`, for each of `looks`: natural logarithms."""


def threshold(of: Thresholds, rows: Floats | float, looks: float) -> Floats:
    """For windows of so many rows, of which `looks` may have one false alarm: between those there are, by logarithm."""
    at = [float(np.interp(np.log(looks), np.log(of.looks), row)) for row in of.evidence]
    return np.asarray(np.interp(np.log(np.maximum(rows, 1.0)), np.log(of.rows), at))


def flaw(of: Thresholds) -> str:
    """Why these are none; empty: they are."""
    if not of.rows or not of.looks or len(of.evidence) != len(of.rows):
        return "`alarms` has not one line for each of its rows"
    if any(len(line) != len(of.looks) for line in of.evidence):
        return "`alarms` has not one threshold for each of its looks"
    lines: list[list[float]] = [[1, *of.rows], [1, *of.looks], *([0, *line] for line in of.evidence)]
    if any(a > b for line in lines for a, b in zip(line, line[1:], strict=False)):
        return "`alarms` does not ascend"
    return ""
