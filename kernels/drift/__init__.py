"""What a model's inputs and outputs look like, counted for every request: bins, categories, missing values, moments.

The only place that chooses between the C twin and its specification in Python; `TIDEGATE_NO_EXTENSIONS=1` takes
the specification. All state is whole numbers, so that shards of several workers, added word by word (`merge`), are bit
for bit the shard of one worker that had seen all of it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kernels.drift._drift_py import Tensor
from kernels.drift._plan import (
    BINS,
    CALLS,
    CLIPPED,
    HIGHEST,
    LOWEST,
    ROWS,
    SQUARES_HIGH,
    SQUARES_LOW,
    SUM,
    UNSEEN,
    Column,
    Names,
    Numbers,
    Times,
    merge,
    nbytes,
    places,
    since,
    tensors_of,
)

if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from kernels.drift._drift_py import Shard, snapshot
else:
    from kernels.drift._drift_c import Shard, snapshot

__all__ = [
    "BINS",
    "CALLS",
    "CLIPPED",
    "HIGHEST",
    "LOWEST",
    "ROWS",
    "SQUARES_HIGH",
    "SQUARES_LOW",
    "SUM",
    "UNSEEN",
    "Column",
    "Names",
    "Numbers",
    "Shard",
    "Tensor",
    "Times",
    "merge",
    "nbytes",
    "places",
    "since",
    "snapshot",
    "tensors_of",
]
