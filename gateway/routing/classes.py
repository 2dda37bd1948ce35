"""Classification strings of Triton's classification extension: `value:index[:label]`, best first.

Contract: pure. A row is the k classes of one batch entry. Labels may hold colons. ValueError for a string
that is not of that form.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray


class ClassAgreement(msgspec.Struct, frozen=True):
    """Two lists of classes, held against each other."""

    rows: int
    top1: int
    """Rows whose best class is the same."""
    topk: float
    """Sum over the rows of the share of the k classes that both have."""
    other_classes: int
    """Places at which another class stands."""
    ours: NDArray[np.float64]
    """Values at the places where the same class stands."""
    theirs: NDArray[np.float64]


def compare_classes(ours: Sequence[bytes], theirs: Sequence[bytes], k: int) -> ClassAgreement:
    """Hold two equally long lists of classification strings, k to a row, against each other."""
    first, second = [_parse(text) for text in ours], [_parse(text) for text in theirs]
    if len(first) != len(second) or k < 1 or len(first) % k:
        raise ValueError("the rows do not fit")
    same = [(a[0], s[0]) for a, s in zip(first, second, strict=True) if a[1] == s[1]]
    values = np.array(same, dtype=np.float64).reshape(-1, 2)
    top1, topk = 0, 0.0
    for start in range(0, len(first), k):
        a = [name for _, name in first[start : start + k]]
        s = [name for _, name in second[start : start + k]]
        top1 += a[0] == s[0]
        topk += len(set(a) & set(s)) / k
    return ClassAgreement(
        rows=len(first) // k,
        top1=top1,
        topk=topk,
        other_classes=len(first) - len(same),
        ours=values[:, 0],
        theirs=values[:, 1],
    )


def _parse(text: bytes) -> tuple[float, bytes]:
    """The value, and index and label as they stand."""
    value, colon, name = text.partition(b":")
    if not colon or not name.partition(b":")[0].isdigit():
        raise ValueError("no classification string")
    return float(value), name
