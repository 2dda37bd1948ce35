"""What a model's inputs and outputs look like, counted for every request: fixed bins, missing values, moments.

The only place that chooses between the C twin and its specification in Python; `TIDEGATE_NO_EXTENSIONS=1` takes
the specification. All state is whole numbers, so that shards of several workers, added cell by cell (the two
extremes: the larger), are bit for bit the shard of one worker that had seen all of it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from kernels.drift._drift_py import (
        BINS,
        CLIPPED,
        COUNTS,
        DATATYPES,
        HIGHEST,
        LOWEST,
        MISSING,
        MOMENTS,
        NAN,
        SQUARES_HIGH,
        SQUARES_LOW,
        SUM,
        Shard,
        nbytes,
    )
else:
    from kernels.drift._drift_c import (
        BINS,
        CLIPPED,
        COUNTS,
        DATATYPES,
        HIGHEST,
        LOWEST,
        MISSING,
        MOMENTS,
        NAN,
        SQUARES_HIGH,
        SQUARES_LOW,
        SUM,
        Shard,
        nbytes,
    )

__all__ = [
    "BINS",
    "CLIPPED",
    "COUNTS",
    "DATATYPES",
    "HIGHEST",
    "LOWEST",
    "MISSING",
    "MOMENTS",
    "NAN",
    "SQUARES_HIGH",
    "SQUARES_LOW",
    "SUM",
    "Shard",
    "nbytes",
]
