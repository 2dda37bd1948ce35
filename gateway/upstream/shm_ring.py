"""Memory that this worker and model servers on this machine see: one file in /dev/shm, leased piece by piece.

Contract: a lease is a memoryview, and lasts as long as it or any view of it: whoever reads or sends it need not give
it back, and what a model server may still write into MUST be held until that is over. When nothing is left, or the
system has too little shared memory, there is none to be had (None) and the caller copies. All pages are allocated
before they are leased, so that a full /dev/shm ends no process (SIGBUS). Calls come from one thread; leases may end
in any.

The worker holds a lock on its file (flock) for as long as it lives. A file that is not locked is left from a worker
that was killed: the next one that starts removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import weakref
from bisect import bisect, insort
from collections import deque
from pathlib import Path
from typing import Final

import numpy as np

from gateway.wire.types import OWN_REGIONS

PREFIX: Final = OWN_REGIONS
PLACE: Final = Path("/dev/shm")  # noqa: S108 - shm_open's place (shm_overview(7)), not a temporary folder
_PAGE: Final = mmap.PAGESIZE
_STEP: Final = 1024 * 1024
"""Bytes by which the allocated part grows."""
_KEPT_FREE: Final = 2
"""One part in two of /dev/shm is left to others: Triton's Python backends live there too, and fail without."""


class Ring:
    """The shared memory of one worker.

    Args:
        size: most bytes of it.
        place: the folder; another one in tests.

    Raises:
        OSError: there is no shared memory here.
    """

    def __init__(self, size: int, place: Path = PLACE) -> None:
        sweep(place)
        self.size = -(-size // _PAGE) * _PAGE
        """Most bytes; as long is the file, though not all of it is allocated."""
        self.name, self._file = _made(place, self.size)
        """Of the file, and the key by which `shm_open` finds it."""
        self._path = place / self.name
        self._map = mmap.mmap(self._file, self.size)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._base: int = self._bytes.__array_interface__["data"][0]
        self.allocated = 0
        """Bytes from the start that have pages."""
        self._free: list[tuple[int, int]] = []  # (offset, bytes) in order; neighbours are always one
        self._leases: dict[int, tuple[weakref.ref[np.ndarray], int]] = {}  # by offset, with their bytes
        self._ended: deque[int] = deque()  # offsets; filled by whatever thread drops the last view
        self._closed = False

    @property
    def leased(self) -> int:
        """Bytes that somebody holds."""
        self._collect()
        return sum(size for _, size in self._leases.values())

    def lease(self, size: int) -> memoryview | None:
        """`size` bytes (more than 0) that begin at a page; None: there is no room."""
        self._collect()
        wanted = -(-size // _PAGE) * _PAGE
        for index, (offset, free) in enumerate(self._free):
            if free >= wanted:
                if free == wanted:
                    del self._free[index]
                else:
                    self._free[index] = (offset + wanted, free - wanted)
                return self._leased(offset, wanted, size)
        return self.lease(size) if self._grow(wanted) else None

    def offset_of(self, data: bytes | memoryview) -> int | None:
        """Where in the file `data` begins; None: it is not a view of a lease."""
        if type(data) is bytes or not len(data):
            return None
        offset: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0] - self._base
        return offset if 0 <= offset < self.size else None

    def trim(self) -> None:
        """Give the pages at the end that nobody leases back to the system."""
        self._collect()
        if self._closed or not self._free or sum(self._free[-1]) != self.allocated:
            return
        offset, size = self._free[-1]
        with contextlib.suppress(OSError):  # a folder of a file system that cannot: they stay
            self._map.madvise(mmap.MADV_REMOVE, offset, size)  # a hole: whoever has mapped it sees zeros
            self._free.pop()
            self.allocated = offset

    def close(self) -> None:
        """Remove the file. Views that are left stay readable."""
        if not self._closed:
            self._closed = True
            self._free.clear()
            self._path.unlink(missing_ok=True)
            os.close(self._file)

    def _leased(self, offset: int, held: int, size: int) -> memoryview:
        piece = self._bytes[offset : offset + size]
        # A memoryview keeps the array that it was made of, and so does each view of it: its end is the lease's.
        self._leases[offset] = (weakref.ref(piece, lambda _: self._ended.append(offset)), held)
        return piece.data

    def _collect(self) -> None:
        while self._ended:
            offset = self._ended.popleft()
            _, size = self._leases.pop(offset)
            self._put_back(offset, size)

    def _put_back(self, offset: int, size: int) -> None:
        if self._closed:
            return
        at = bisect(self._free, (offset, 0))
        if at < len(self._free) and self._free[at][0] == offset + size:
            size += self._free.pop(at)[1]
        if at and sum(self._free[at - 1]) == offset:
            offset, before = self._free.pop(at - 1)
            size += before
        insort(self._free, (offset, size))

    def _grow(self, wanted: int) -> bool:
        """Allocate further pages, so that `wanted` bytes are free in one piece."""
        last = self._free[-1] if self._free else (0, 0)
        if sum(last) == self.allocated:
            wanted -= last[1]
        step = min(-(-wanted // _STEP) * _STEP, self.size - self.allocated)
        if self._closed or step < wanted:
            return False
        system = os.fstatvfs(self._file)
        if (system.f_bavail * system.f_frsize - step) * _KEPT_FREE < system.f_blocks * system.f_frsize:
            return False
        try:
            os.posix_fallocate(self._file, self.allocated, step)
        except OSError:
            return False
        offset, self.allocated = self.allocated, self.allocated + step
        self._put_back(offset, step)
        return True


def _made(place: Path, size: int) -> tuple[str, int]:
    """A new file, locked: its name and descriptor."""
    while True:
        name = PREFIX + secrets.token_hex(12)
        file = os.open(place / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, size)
            if os.fstat(file).st_nlink:  # else a sweep came between opening and locking
                return name, file
        except BlockingIOError:
            pass  # a sweep looks at it just now
        except BaseException:
            (place / name).unlink(missing_ok=True)
            os.close(file)
            raise
        os.close(file)


def sweep(place: Path = PLACE) -> None:
    """Remove what workers that were killed have left."""
    for path in place.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)
