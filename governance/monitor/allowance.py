"""How much drift CUSUM allows for, because the reference is itself a sample.

Contract: pure. What a reference differs by chance from where it was drawn is in every window alike, and a CUSUM adds it
up: to divide a score by its standard error over both samples does not help, since chance that all windows share does
not average out. So k, what each window may be off, is raised until a CUSUM is wrong as often as it says, on average
over the references that might have been drawn. A shift that is smaller than this cannot be told from the reference's
chance by any number of windows.
"""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np

from governance.monitor.scores import SHAPE, Floats
from governance.monitor.sequential import cusum_run_length, cusum_threshold

_NODES = np.linspace(-6.0, 6.0, 241)
"""Deviates of a reference's chance; beyond six there are two in a billion."""
_MASS = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()
_SLACKS = np.linspace(-8.0, 1.5, 96)
"""k less the shift; with more a CUSUM is wrong once in some 10^10 windows, with less at nearly every one."""
_MOST = 4096.0


@cache
def allowance(windows: float, shift: float, ratio: float, score: int, freedom: float) -> float:
    """The k of a two-sided CUSUM, with the h of `cusum_threshold`, that is wrong once in so many windows of a column.

    The mean of 1/L(k - o) + 1/L(k + o) over the offsets o of references is 1/windows, where L is the run length of a
    one-sided CUSUM (`cusum_run_length`), which depends on k less the shift alone.

    Args:
        windows: on average between two false changes, with every reference taken together.
        shift: k where there is no chance in the reference; the least.
        ratio: values of a window by values of the reference.
        score: one of `scores`.
        freedom: of the score of shape.
    """
    chance = _chance(ratio, score, freedom)
    low, high = shift, shift
    while _rate(windows, shift, high, *chance) > 1 / windows and high < _MOST:
        high = 2 * high + 1
    while high - low > 1e-6:
        k = (low + high) / 2
        low, high = (k, high) if _rate(windows, shift, k, *chance) > 1 / windows else (low, k)
    return high


def _chance(ratio: float, score: int, freedom: float) -> tuple[Floats, Floats]:
    """Mean and variance of a window's score, for each of the deviates of the reference.

    Location and missing values are differences of means, of variance 1/n + 1/m. Chi-square of a window about shares of
    a reference has noncentrality ratio * chi-square(freedom), mean f + l and variance 2 (f + 2 l): by Wilson and
    Hilferty (1931) both ways, and the delta method.
    """
    if score != SHAPE or freedom <= 0:
        return _NODES * (sqrt(ratio) if score != SHAPE else 0.0), np.ones_like(_NODES)
    spread = 2 / (9 * freedom)
    beyond = ratio * np.maximum(1 - spread + _NODES * sqrt(spread), 0.0) ** 3
    return (np.cbrt(1 + beyond) - 1) / sqrt(spread), (1 + 2 * beyond) / np.cbrt(1 + beyond) ** 4


def _rate(windows: float, shift: float, k: float, offsets: Floats, variances: Floats) -> float:
    """False changes a window. Run lengths go by exp(2 slack h / variance), so that a slack counts by the variance."""
    logs = _log_rates(windows, shift)
    found = 0.0
    for sign in (-1, 1):
        slack = k + sign * offsets
        slack = np.where(slack > 0, slack / variances, slack)
        found += float((np.exp(np.interp(slack, _SLACKS, logs)) * _MASS).sum())
    return found


@cache
def _log_rates(windows: float, shift: float) -> Floats:
    h = cusum_threshold(windows, shift)
    return np.array([-np.log(cusum_run_length(h, slack)) for slack in _SLACKS])
