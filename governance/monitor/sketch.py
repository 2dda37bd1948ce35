"""How many different values a sketch of `kernels.drift` has seen."""

from __future__ import annotations

from math import inf, log, sqrt

import numpy as np
import numpy.typing as npt

from kernels import drift

ERROR = 1.04 / sqrt(drift.REGISTERS)
"""Standard error of a number of distinct values, relative (Flajolet et al. 2007)."""
_RANKS = 53
"""Bits of a hash that a register is about; see `kernels.drift._rules`."""


def estimate(registers: npt.NDArray[np.uint8]) -> float:
    """How many different values a sketch has seen; without bias where they are few, and without tables.

    Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017, arXiv:1702.01284), algorithm 6.
    """
    counts = np.bincount(registers, minlength=_RANKS + 2).astype(float)
    m = float(len(registers))
    z = m * _tau(1 - counts[_RANKS + 1] / m)
    for k in range(_RANKS, 0, -1):
        z = 0.5 * (z + counts[k])
    z += m * _sigma(counts[0] / m)
    return float(m * m / (2 * log(2) * z))


def _sigma(x: float) -> float:
    if x == 1:
        return inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before = z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x = sqrt(x)
        before = z
        y *= 0.5
        z -= (1 - x) ** 2 * y
    return z / 3
