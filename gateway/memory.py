"""What the C library keeps of the memory that large bodies leave behind.

glibc maps a large block anew for each use and returns it afterwards, so that every page of every large body is faulted
in and zeroed: a third of what a JSON request of 3 MB costs (15.6 ms of CPU instead of 10.3).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

KEPT: Final = 32 * 1024 * 1024
"""Bytes. Blocks up to here come from the heap, and so much free memory at its end is kept; glibc takes no larger value
for blocks. A worker that has seen large bodies may so stay larger than before by this much."""

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_OPERATORS: Final = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Environment in which whoever runs the gateway has chosen already."""


def keep_freed_memory() -> bool:
    """For this process from now on; False where the C library has no such thing, or somebody else has chosen."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _OPERATORS):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT)) and bool(mallopt(_M_MMAP_THRESHOLD, KEPT))
