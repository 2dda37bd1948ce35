"""When a series of window aggregates changed: CUSUM, Page-Hinkley and ADWIN, as functions of the whole series.

Contract: pure; a position is that of the value at which the change was found, from 0. After a change each begins anew.
They are for aggregates, one value a window, in one place: none of their states merges across workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from math import erf, inf, log, sqrt

import numpy as np

_NODES = 96
"""Of the quadrature: 12 digits of the run lengths that are published."""


def cusum(values: Iterable[float], *, k: float = 0.5, h: float) -> list[int]:
    """Two-sided CUSUM of standardised values (Page 1954): S+ = max(0, S+ + z - k), S- likewise of -z, until S > h.

    Args:
        values: of mean 0 and variance 1 while nothing changes.
        k: half the shift, in standard deviations, that is to be found soonest.
        h: see `cusum_threshold`.
    """
    found, up, down = [], 0.0, 0.0
    for at, z in enumerate(values):
        up, down = max(0.0, up + z - k), max(0.0, down - z - k)
        if max(up, down) > h:
            found.append(at)
            up = down = 0.0
    return found


def cusum_run_length(h: float, k: float = 0.5, shift: float = 0.0) -> float:
    """Windows that a one-sided CUSUM of N(shift, 1) takes to pass h, from 0, on average.

    L(s) = 1 + L(0) F(k - s) + integral_0^h L(x) f(x + k - s) dx (Page 1954), by Gauss-Legendre quadrature (Nyström).
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    x, w = (nodes + 1) * h / 2, weights * h / 2
    points = np.concatenate(([0.0], x))
    kernel = np.empty((_NODES + 1, _NODES + 1))
    kernel[:, 0] = [0.5 * (1 + erf((k - s - shift) / sqrt(2))) for s in points]
    kernel[:, 1:] = w * np.exp(-((x + k - points[:, None] - shift) ** 2) / 2) / sqrt(2 * np.pi)
    return float(np.linalg.solve(np.eye(_NODES + 1) - kernel, np.ones(_NODES + 1))[0])


@cache
def cusum_threshold(windows: float, k: float = 0.5) -> float:
    """The h at which a two-sided CUSUM is wrong once in so many windows on average.

    1/L = 1/L+ + 1/L- (Kemp 1961), so that each side has twice the run length.
    """
    low, high = 0.0, 64.0
    while high - low > 1e-9:
        h = (low + high) / 2
        low, high = (h, high) if cusum_run_length(h, k) < 2 * windows else (low, h)
    return high


def page_hinkley(
    values: Iterable[float], *, delta: float = 0.005, threshold: float = 50.0, alpha: float = 0.9999, least: int = 30
) -> list[int]:
    """Page-Hinkley both ways: m = alpha m + (x - mean - delta), until m is more than `threshold` above its minimum.

    Args:
        values: in whatever unit delta and threshold are.
        delta: what a value may lie off the mean.
        threshold: how much all of them may.
        alpha: forgetting.
        least: values before the first change.
    """
    found: list[int] = []
    n, mean, up, down, lowest, highest = 0, 0.0, 0.0, 0.0, inf, -inf
    for at, x in enumerate(values):
        n += 1
        mean += (x - mean) / n
        up, down = alpha * up + x - mean - delta, alpha * down + x - mean + delta
        lowest, highest = min(lowest, up), max(highest, down)
        if n >= least and max(up - lowest, highest - down) > threshold:
            found.append(at)
            n, mean, up, down, lowest, highest = 0, 0.0, 0.0, 0.0, inf, -inf
    return found


def adwin(
    values: Sequence[float], *, delta: float = 0.002, clock: int = 32, buckets: int = 5, least: int = 5, grace: int = 10
) -> list[int]:
    """ADWIN2 (Bifet and Gavaldà 2007): the window shrinks while two parts of it have means too far apart.

    Parts n0 and n1 differ when |mean0 - mean1| > sqrt(2 v d / m) + 2/3 d / m, with v the window's variance,
    d = ln(2 ln(W) / delta) and 1/m = 1/(n0 - least + 1) + 1/(n1 - least + 1). Every cut between two buckets is tried;
    river 0.26 passes over one in each row.

    Args:
        values: any.
        delta: confidence.
        clock: values between two looks.
        buckets: of a size, before the two oldest become one of twice the size.
        least: values of a part.
        grace: values of the window before the first look.
    """
    window = _Window(buckets)
    found = []
    for at, value in enumerate(values):
        window.add(value)
        if (at + 1) % clock == 0 and window.width > grace and _shrunk(window, delta, least):
            found.append(at)
    return found


class _Window:
    """An exponential histogram: rows of buckets, each of its size twice that of the row before; newest first."""

    def __init__(self, buckets: int) -> None:
        self.most = buckets
        self.rows: list[list[tuple[int, float, float]]] = [[]]  # (values, sum, squares about their mean), newest first
        self.width, self.total, self.squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        if self.width:
            self.squares += (value - self.total / self.width) ** 2 * self.width / (self.width + 1)
        self.width += 1
        self.total += value
        self.rows[0].insert(0, (1, value, 0.0))
        at = 0
        while len(row := self.rows[at]) > self.most:
            (n1, sum1, squares1), (n0, sum0, squares0) = row[-2:]
            del row[-2:]
            between = (sum0 / n0 - sum1 / n1) ** 2 * n0 * n1 / (n0 + n1)
            at += 1
            if at == len(self.rows):
                self.rows.append([])
            self.rows[at].insert(0, (n0 + n1, sum0 + sum1, squares0 + squares1 + between))

    def drop(self) -> None:
        """Without its oldest bucket."""
        n, total, squares = self.rows[-1].pop()
        while len(self.rows) > 1 and not self.rows[-1]:
            self.rows.pop()
        self.width -= n
        self.total -= total
        apart = total / n - self.total / self.width
        self.squares = max(0.0, self.squares - squares - n * self.width / (n + self.width) * apart * apart)


def _shrunk(window: _Window, delta: float, least: int) -> bool:
    shrunk = False
    while _differs(window, delta, least):
        window.drop()
        shrunk = True
    return shrunk


def _differs(window: _Window, delta: float, least: int) -> bool:
    n0, sum0 = 0, 0.0
    d = log(2 * log(window.width) / delta) if window.width > 1 else inf
    variance = window.squares / window.width
    for row in reversed(window.rows):
        for n, total, _ in reversed(row):
            n0, sum0 = n0 + n, sum0 + total
            n1, sum1 = window.width - n0, window.total - sum0
            if n1 < least:
                return False
            if n0 >= least:
                m = 1 / (n0 - least + 1) + 1 / (n1 - least + 1)
                if abs(sum0 / n0 - sum1 / n1) > sqrt(2 * m * variance * d) + 2 / 3 * d * m:
                    return True
    return False
