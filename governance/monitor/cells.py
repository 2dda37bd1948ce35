"""The cells that values are counted in: fixed by the reference, never by what is compared with it.

Edges that move with the data (as where both sides are binned together) hide drift; so they are fitted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

CATEGORIES = 100
"""The most frequent ones that have a cell of their own."""
OTHER, UNSEEN = "OTHER", "UNSEEN"

Counts = npt.NDArray[np.int64]


def edges_of(values: npt.NDArray[np.floating], bins: int) -> npt.NDArray[np.float64]:
    """Inner edges of `bins` bins that hold equal shares of the finite values.

    The i-th is the order statistic x_(ceil(i n / B)), i = 1..B-1, without interpolation: an edge is a value that
    occurs. Equal ones count once, so that there may be fewer bins.
    """
    finite = np.sort(values[np.isfinite(values)])
    n = len(finite)
    if not n:
        return np.empty(0)
    ranks = [-(-i * n // bins) for i in range(1, bins)]
    return np.unique(finite[np.array(ranks, dtype=np.int64) - 1].astype(np.float64))


def count_bins(values: npt.NDArray[np.floating], edges: npt.NDArray[np.float64]) -> Counts:
    """How many lie in each of the len(edges) + 1 bins; a value's bin is the number of edges strictly below it."""
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1).astype(np.int64)


def categories_of(labels: Iterable[str]) -> tuple[list[str], bool]:
    """The categories that have a cell, most frequent first, ties in code point order; whether there are more."""
    ranked = sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0]))
    return [name for name, _ in ranked[:CATEGORIES]], len(ranked) > CATEGORIES


def count_categories(
    labels: Iterable[str], categories: Sequence[str], reference: frozenset[str] | set[str]
) -> tuple[Counts, int, int]:
    """How many are each of the categories, how many others the reference has too, and how many it never saw."""
    found = Counter(labels)
    named = np.array([found[name] for name in categories], dtype=np.int64)
    known = set(categories)
    other = sum(count for name, count in found.items() if name not in known and name in reference)
    return named, other, sum(found.values()) - int(named.sum()) - other
