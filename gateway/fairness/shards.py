"""Where one worker counts for one route: `STATE_DIR/fairness/ROUTE-DECLARED/shard-N`.

Contract: one writer a file, which holds its lock (flock(2)) for as long as it is mapped. A worker takes the first file
that nobody holds and goes on counting where its writer left off: neither a killed worker nor a restart loses anything,
and there are never more files than there were workers at once. A file has its full size on disk from the start, since
a full disk would end a process that writes into a hole (SIGBUS). Folders and files are their owner's alone: counts of
groups of people are nobody else's.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from kernels import groups

_MAGIC = b"TGGROUP1"
_HEAD = struct.Struct("=8s8sQ")
"""Magic, the first 8 bytes of the hash of what is declared, and when it began to count (Unix nanoseconds)."""
_BEFORE = 64
"""Bytes before the block: it begins on a cache line."""


def open_shard(folder: Path, declared: str, variants: int, number_of_groups: int) -> memoryview:
    """The block of a file that is this process's own for as long as the view lives. Raises OSError.

    Args:
        folder: of the route; made when missing.
        declared: hash of what is declared, hexadecimal.
        variants: how many.
        number_of_groups: with the unknown.
    """
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    size = _BEFORE + groups.nbytes(variants, number_of_groups)
    for number in count():
        path = folder / f"shard-{number}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if not _continues(descriptor, declared, size):
                # Another version's, or one that was never finished; no reader has taken it for anything.
                os.ftruncate(descriptor, 0)
                os.posix_fallocate(descriptor, 0, size)
                os.pwrite(descriptor, _HEAD.pack(_MAGIC, _mark(declared), time.time_ns()), 0)
            # The mapping holds a duplicate of the descriptor, and with it the lock.
            return memoryview(mmap.mmap(descriptor, size))[_BEFORE:]
        finally:
            os.close(descriptor)
    raise AssertionError


def _mark(declared: str) -> bytes:
    return bytes.fromhex(declared[:16])


def _continues(descriptor: int, declared: str, size: int) -> bool:
    if os.fstat(descriptor).st_size != size:
        return False
    magic, mark, _ = _HEAD.unpack(os.pread(descriptor, _HEAD.size, 0))
    return (magic, mark) == (_MAGIC, _mark(declared))


def read_shards(folder: Path, declared: str, variants: int, number_of_groups: int) -> Iterator[tuple[int, bytes]]:
    """When each file began to count (Unix nanoseconds), and its block. Files that are not whole are passed over."""
    size = _BEFORE + groups.nbytes(variants, number_of_groups)
    for path in sorted(folder.glob("shard-*")):
        try:
            content = path.read_bytes()
        except OSError:
            continue  # gone since the listing
        if len(content) != size:
            continue
        magic, mark, began = _HEAD.unpack(content[: _HEAD.size])
        if (magic, mark) == (_MAGIC, _mark(declared)):
            yield began, content[_BEFORE:]
