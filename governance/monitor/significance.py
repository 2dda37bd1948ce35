"""Two-sample tests: SciPy's, where it has them, so that a p-value is the one that a statistician would compute.

SciPy is the extra `tidegate[monitor]`; it is asked for when a test is.
"""

from __future__ import annotations

import warnings
from math import erfc, exp, fsum, isfinite, lgamma, log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from governance.errors import DataError
from governance.monitor.cells import Counts
from governance.monitor.distances import pooled

Numbers = npt.NDArray[np.float64]
Found = tuple[float | None, float | None]
"""A statistic and its p-value; None: there is none."""


def _stats() -> Any:
    try:
        from scipy import stats  # noqa: PLC0415 - an extra, and a second to import
    except ImportError:
        raise DataError("tests of significance need SciPy; install tidegate[monitor]") from None
    return stats


def _or_none(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def ks(reference: Numbers, current: Numbers) -> Found:
    """Kolmogorov-Smirnov: the largest distance of the distribution functions; exact where SciPy's "auto" is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it says when it takes the asymptotic p-value after all
        found = _stats().ks_2samp(reference, current, method="auto")
    return _or_none(found.statistic), _or_none(found.pvalue)


def cvm(reference: Numbers, current: Numbers) -> Found:
    """Cramér-von Mises (Anderson 1962); exact for 20 values a side or fewer."""
    found = _stats().cramervonmises_2samp(reference, current, method="auto")
    return _or_none(found.statistic), _or_none(found.pvalue)


def wasserstein(reference: Numbers, current: Numbers) -> float | None:
    """The area between the distribution functions, in the column's unit; None where a value is infinite."""
    if not (np.isfinite(reference).all() and np.isfinite(current).all()):
        return None
    return _or_none(_stats().wasserstein_distance(reference, current))


def chi2(reference: Counts, current: Counts) -> Found:
    """Pearson's test of contingency, without Yates' correction, over pooled cells; None for fewer than two cells."""
    a, b = pooled(reference, current)
    if len(a) < 2:
        return None, None
    table = np.array([a, b], dtype=np.float64)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return statistic, chi2_tail(statistic, len(a) - 1)


def chi2_tail(x: float, df: int) -> float:
    """P(X > x) for X chi-square with df >= 1: a finite sum, so that live monitors do without SciPy.

    Abramowitz and Stegun, 26.4.4 and 26.4.5. Terms by their logarithms, since e^(-x/2) alone may be too small.
    """
    half = x / 2
    if half <= 0:
        return 1.0
    first = 0.5 if df % 2 else 0.0
    tail = erfc(sqrt(half)) if df % 2 else 0.0
    return min(1.0, tail + fsum(exp(k * log(half) - half - lgamma(k + 1)) for k in np.arange(first, df / 2)))
