"""Cells in shared memory: metrics, limits and pins that several processes keep together.

The only place that chooses between the C twin and its specification in Python. `TIDEGATE_NO_EXTENSIONS=1`
takes the specification: same values, but its read-modify-write is not atomic, so that only ONE process may
write the atomic cells then (`SHARED` is False and the supervisor MUST NOT start several workers).

Everything here works on a writable, contiguous, 8-byte-aligned buffer that the caller hands in (usually an
`mmap`) and keeps it exported until the object goes. A cell is 8 bytes; indices count cells.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

NO_EXTENSIONS = bool(os.environ.get("TIDEGATE_NO_EXTENSIONS"))

if TYPE_CHECKING or NO_EXTENSIONS:
    from kernels.counters._counters_py import SHARED, Atomics, Counter, Gauge, Histogram, Pins, Tally
else:
    from kernels.counters._counters_c import SHARED, Atomics, Counter, Gauge, Histogram, Pins, Tally

__all__ = ["NO_EXTENSIONS", "SHARED", "Atomics", "Counter", "Gauge", "Histogram", "Pins", "Tally"]
