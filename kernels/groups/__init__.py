"""Decisions counted by group of people, variant and minute, in memory that one process writes and others read.

The only place that chooses between the C twin and its specification in Python (`_groups_py`, which has the layout).
`TIDEGATE_NO_EXTENSIONS=1` takes the specification.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernels.groups._groups_py import HEAD, MINUTES, cells

if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from kernels.groups._groups_py import Shard
else:
    from kernels.groups._groups_c import Shard

__all__ = ["MINUTES", "Counts", "Shard", "nbytes", "read"]

Counts = NDArray[np.int64]
"""Shape `[variants, groups, 2]`: rows, and how many of them were selected."""


def nbytes(variants: int, groups: int) -> int:
    """Bytes of a block."""
    return 8 * cells(variants, groups)


def read(
    blocks: Iterable[Any], variants: int, groups: int, first: int | None = None, last: int | None = None
) -> tuple[Counts, int, int]:
    """The sum of several blocks: counts, calls counted, and calls that could not be.

    Args:
        blocks: copies, or live ones: then what is counted meanwhile may be in it or not.
        variants: as they were made with.
        groups: likewise.
        first: the first minute that is wanted; None: everything since the blocks began. Calls are always since then.
        last: the last one.
    """
    total = np.zeros((variants, groups, 2), np.int64)
    calls = [0, 0]
    width = 2 * variants * groups
    for block in blocks:
        found = np.frombuffer(bytes(block), np.uint64, cells(variants, groups)).astype(np.int64)
        calls = [calls[0] + int(found[0]), calls[1] + int(found[1])]
        if first is None or last is None:
            mine = found[HEAD : HEAD + width]
        else:
            slots = found[HEAD + width :].reshape(MINUTES, 1 + width)
            mine = slots[(slots[:, 0] >= first) & (slots[:, 0] <= last), 1:].sum(axis=0)
        pairs = mine.reshape(variants, groups, 2)
        total[..., 0] += pairs[..., 1]
        total[..., 1] += np.minimum(pairs[..., 0], pairs[..., 1])
    return total, calls[0], calls[1]
