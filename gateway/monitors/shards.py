"""Where one worker counts for one monitor: `STATE_DIR/monitors/ROUTE-PROFILE/shard-N`.

Contract: one writer a file, which holds its lock (flock(2)) for as long as it is mapped; a worker takes the first file
that nobody holds and goes on counting where its writer left off, so that neither a killed worker nor a restart loses
anything, and there are never more files than there were workers at once. Anyone may read. A file has its full size on
disk from the start, because a full disk would end a process that writes into a hole (SIGBUS). Numbers are in the
machine's own byte order: the files never leave it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from kernels import drift

_MAGIC = b"TGDRIFT1"
_HEADER = 64
"""Magic, the first 8 bytes of the profile's hash, and the Unix time in nanoseconds at which it began to count; then
the block, on a cache line."""
_HEAD = struct.Struct("=8s8sQ")


def _mark(profile: str) -> bytes:
    return bytes.fromhex(profile[:16])


def open_shard(folder: Path, profile: str, columns: Sequence[drift.Column]) -> memoryview:
    """The block of a file that is this process's own for as long as the view lives. Raises OSError.

    Args:
        folder: of the monitor; made when missing.
        profile: hash of the profile, in hex.
        columns: what is counted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = _HEADER + drift.nbytes(columns)
    for number in count():
        path = folder / f"shard-{number}"
        descriptor = _locked(path)
        if descriptor is None:
            continue
        try:
            if not _continues(descriptor, profile, size):
                # Another version's, or one that was never finished; no reader has taken it for anything.
                os.ftruncate(descriptor, 0)
                os.posix_fallocate(descriptor, 0, size)
                os.pwrite(descriptor, _HEAD.pack(_MAGIC, _mark(profile), time.time_ns()), 0)
            # The mapping holds a duplicate of the descriptor, and with it the lock.
            return memoryview(mmap.mmap(descriptor, size))[_HEADER:]
        finally:
            os.close(descriptor)
    raise AssertionError


def _locked(path: Path) -> int | None:
    """The file, locked; None: another process has it, or it was removed meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _continues(descriptor: int, profile: str, size: int) -> bool:
    if os.fstat(descriptor).st_size != size:
        return False
    magic, mark, _ = _HEAD.unpack(os.pread(descriptor, _HEAD.size, 0))
    return (magic, mark) == (_MAGIC, _mark(profile))


def read_shards(folder: Path, profile: str, columns: Sequence[drift.Column]) -> Iterator[tuple[int, bytes]]:
    """When each file began to count (Unix nanoseconds), and its block. Files that are not whole yet are passed over."""
    size = _HEADER + drift.nbytes(columns)
    for path in sorted(folder.glob("shard-*")):
        try:
            with path.open("rb") as file:
                if not _continues(file.fileno(), profile, size):
                    continue
                view = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        except (OSError, ValueError):
            continue  # gone since the listing, or cut short
        _, _, began = _HEAD.unpack(view[: _HEAD.size])
        yield began, drift.snapshot(view[_HEADER:])
