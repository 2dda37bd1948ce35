"""Where one worker counts: `FOLDER/NAME-N`, a block of memory that is a file.

Contract: one writer a file, which holds its lock (flock(2)) for as long as it is mapped. A worker takes the first file
that nobody holds and goes on counting where its writer left off: neither a killed worker nor a restart loses anything,
and there are never more files than there were workers at once. A file has its full size on disk from the start, since
a full disk would end a process that writes into a hole (SIGBUS). Folders and files are their owner's alone. Numbers
are in the machine's own byte order: the files never leave it.
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

_HEAD = struct.Struct("=8s8sQ")
"""The layout's magic, the mark, and when it began to count (Unix nanoseconds)."""
_BEFORE = 64
"""Bytes before the block: it begins on a cache line."""


class Shards:
    """The files of one kind in one folder.

    Args:
        folder: made when there is something to write.
        magic: 8 bytes that name the layout of a block.
        mark: what the counts belong to, a hash in hexadecimal; its first 8 bytes are in each file.
        nbytes: of a block.
        name: before the number.
    """

    __slots__ = ("_folder", "_magic", "_mark", "_name", "_size")

    def __init__(self, folder: Path, magic: bytes, mark: str, nbytes: int, name: str = "shard") -> None:
        self._folder = folder
        self._magic = magic
        self._mark = bytes.fromhex(mark[:16])
        self._size = _BEFORE + nbytes
        self._name = name

    def open(self) -> memoryview:
        """The block of a file that is this process's own for as long as the view lives. Raises OSError."""
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for number in count():
            descriptor = os.open(self._folder / f"{self._name}-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if not take(descriptor):
                    continue
                if not self._continues(descriptor):
                    # Another version's, or one that was never finished; no reader has taken it for anything.
                    os.ftruncate(descriptor, 0)
                    os.posix_fallocate(descriptor, 0, self._size)
                    os.pwrite(descriptor, _HEAD.pack(self._magic, self._mark, time.time_ns()), 0)
                # The mapping holds a duplicate of the descriptor, and with it the lock.
                return memoryview(mmap.mmap(descriptor, self._size))[_BEFORE:]
            finally:
                os.close(descriptor)
        raise AssertionError

    def read(self) -> Iterator[tuple[int, memoryview]]:
        """When each file began to count, and its block as it is now. Files that are not whole are passed over."""
        yield from self._mapped(os.O_RDONLY, mmap.PROT_READ)

    def shared(self) -> Iterator[memoryview]:
        """The blocks of all files, writable: for what their writers leave to whoever holds a lock of its own."""
        for _, view in self._mapped(os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE):
            yield view

    def _mapped(self, flags: int, protection: int) -> Iterator[tuple[int, memoryview]]:
        for path in sorted(self._folder.glob(f"{self._name}-*")):
            try:
                descriptor = os.open(path, flags | os.O_CLOEXEC)
            except OSError:
                continue  # gone since the listing
            try:
                if not self._continues(descriptor):
                    continue
                view = memoryview(mmap.mmap(descriptor, self._size, prot=protection))
            finally:
                os.close(descriptor)
            yield _HEAD.unpack(view[: _HEAD.size])[2], view[_BEFORE:]

    def _continues(self, descriptor: int) -> bool:
        if os.fstat(descriptor).st_size != self._size:
            return False
        magic, mark, _ = _HEAD.unpack(os.pread(descriptor, _HEAD.size, 0))
        return (magic, mark) == (self._magic, self._mark)


def take(descriptor: int) -> bool:
    """Take the lock of a file for as long as it is open, or mapped; False: another process has it. Raises OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
