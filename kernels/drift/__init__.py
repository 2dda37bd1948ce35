"""What a model's inputs and outputs look like, counted for every request: bins, categories, missing values, moments.

The only place that chooses between the C twin and its specification in Python; `TIDEGATE_NO_EXTENSIONS=1` takes
the specification. All state is whole numbers, so that shards of several workers, added word by word (`merge`), are bit
for bit the shard of one worker that had seen all of it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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
from kernels.drift._rules import (
    AMONG,
    BROKEN,
    MISSING,
    RANGE,
    REFUSED,
    REGISTERS,
    SCHEMA,
    UNREAD,
    VALUES,
    Rule,
    merge_rules,
    registers,
    rule_nbytes,
    rule_places,
)
from kernels.drift._values_py import Tensor

if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from kernels.drift._drift_py import Shard, snapshot
else:
    from kernels.drift._drift_c import Shard, snapshot

__all__ = [
    "AMONG",
    "BINS",
    "BROKEN",
    "CALLS",
    "CLIPPED",
    "HIGHEST",
    "LOWEST",
    "MISSING",
    "RANGE",
    "REFUSED",
    "REGISTERS",
    "ROWS",
    "SCHEMA",
    "SQUARES_HIGH",
    "SQUARES_LOW",
    "SUM",
    "UNREAD",
    "UNSEEN",
    "VALUES",
    "Column",
    "Names",
    "Numbers",
    "Rule",
    "Shard",
    "Tensor",
    "Times",
    "merge",
    "merge_rules",
    "nbytes",
    "places",
    "registers",
    "rule_nbytes",
    "rule_places",
    "since",
    "snapshot",
    "tensors_of",
]
