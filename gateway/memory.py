"""What the C library keeps of the memory that large bodies leave behind.

glibc maps a large block anew for each use and returns it afterwards, so that every page of every large body is faulted
in and zeroed: a third of what a JSON request of 3 MB costs (15.6 ms of CPU instead of 10.3). So freed memory is kept,
for a minute: left alone, what a worker holds creeps up for hours with each new moment of most bodies at once.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from typing import Final

from gateway.upstream.shm_ring import Ring

KEPT: Final = 32 * 1024 * 1024
"""Bytes. Blocks up to here come from the heap, and so much free memory at its end is kept; glibc takes no larger value
for blocks. A worker that has seen large bodies may so be larger than before by this much, until the next minute."""
EVERY_S: Final = 60.0
"""Between two times that free memory goes back to the system: its pages are faulted in anew once a minute at most."""

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


async def give_back_freed_memory(ring: Ring | None) -> None:
    """Forever: once in `EVERY_S` whatever is free, of the heap and of the ring, goes back to the system.

    The C library's part runs in a thread without the interpreter: some ms for tens of MiB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while True:
        await asyncio.sleep(EVERY_S)
        if ring is not None:
            ring.trim()
        if trim is not None:
            await asyncio.to_thread(trim, 0)
