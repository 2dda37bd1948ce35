"""The file that holds every tenant's limits for all workers of a machine: `RUN_DIR/limits`.

    header  words: magic, slots, rows in use
    rows    one a tenant: SHA-256 of its name (4 words), the rate limit's theoretical arrival time, bytes of
            the day, then requests in flight, one word a worker

Contract: rows are only added, under a file lock, and are there for as long as the file; a process knows its
tenants' rows after the first look. What the words mean is in `kernels.counters.Atomics`. The last row is
shared by all tenants that come when the table is full: limits then bind them together rather than not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernels.counters import Atomics

FILE = "limits"
ROWS = 4096
"""Tenants with limits that a machine tells apart; 4096 rows are 1 MiB with 26 workers."""

_MAGIC = int.from_bytes(b"TGLIMIT1", "little")
_HEADER = 8
_W_SLOTS, _W_USED = 1, 2
_DIGEST = 4
TAT = 4
DAY = 5
IN_FLIGHT = 6


class LimitTableError(OSError):
    """The file cannot be made, or it is another run's."""


class LimitTable:
    """The rows, from one worker's point of view."""

    def __init__(self, path: Path, slots: int) -> None:
        self.slots = slots
        self._row_words = IN_FLIGHT + slots
        size = 8 * (_HEADER + (ROWS + 1) * self._row_words)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                with self._locked():
                    self.words = Atomics(self._mapped(path, size))
            except BaseException:
                os.close(self._descriptor)
                raise
        except LimitTableError:
            raise
        except OSError as error:
            raise LimitTableError(f"{path}: cannot make the limits file: {error.strerror}") from error
        self._rows: dict[bytes, int] = {}

    def _mapped(self, path: Path, size: int) -> mmap.mmap:
        """The file's words, made when it is new and checked when it is not."""
        if os.fstat(self._descriptor).st_size == 0:
            # Room for all of it now: a full disk later would end the process (SIGBUS).
            os.posix_fallocate(self._descriptor, 0, size)
            os.pwrite(self._descriptor, struct.pack("=QQ", _MAGIC, self.slots), 0)
        head = os.pread(self._descriptor, 24, 0)
        if head[:16] != struct.pack("=QQ", _MAGIC, self.slots) or os.fstat(self._descriptor).st_size != size:
            raise LimitTableError(f"{path}: made for other workers or another version; remove it")
        if struct.unpack_from("=Q", head, 16)[0] > ROWS:
            raise LimitTableError(f"{path}: damaged; remove it")
        return mmap.mmap(self._descriptor, size)

    def row(self, tenant: str) -> int:
        """The first word of the tenant's row, which is made when it has none yet."""
        digest = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).digest()
        found = self._rows.get(digest)
        if found is None:
            with self._locked():
                self._learn()
                found = self._rows.get(digest)
                if found is None:
                    found = self._add(digest)
        return found

    def clear(self, slot: int) -> None:
        """Sets a dead worker's requests in flight to none."""
        for i in range(self.words.load(_W_USED)):
            self.words.store(self._first(i) + IN_FLIGHT + slot, 0)
        self.words.store(self._first(ROWS) + IN_FLIGHT + slot, 0)

    def close(self) -> None:
        """Gives the descriptor back; the words stay for as long as anyone holds them."""
        os.close(self._descriptor)

    def _first(self, row: int) -> int:
        return _HEADER + row * self._row_words

    def _learn(self) -> None:
        for i in range(len(self._rows), self.words.load(_W_USED)):
            words = (self.words.load(self._first(i) + j) for j in range(_DIGEST))
            self._rows[struct.pack("=4Q", *words)] = self._first(i)

    def _add(self, digest: bytes) -> int:
        used = self.words.load(_W_USED)
        if used == ROWS:
            return self._first(ROWS)
        for j, word in enumerate(struct.unpack("=4Q", digest)):
            self.words.store(self._first(used) + j, word)
        # Last: a process that dies before leaves a row that the next one writes over.
        self.words.store(_W_USED, used + 1)
        self._rows[digest] = self._first(used)
        return self._first(used)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def forget(path: Path, slot: int) -> None:
    """Sets a dead worker's requests in flight to none. No file: nothing to forget."""
    try:
        with path.open("rb") as file:
            magic, slots = struct.unpack("=QQ", file.read(16))
    except (FileNotFoundError, struct.error):
        return
    if magic == _MAGIC and slot < slots:
        try:
            table = LimitTable(path, slots)
        except LimitTableError:  # cut short: the next worker says so
            return
        table.clear(slot)
        table.close()
