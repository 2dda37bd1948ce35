"""Write-ahead segments: batches of entries in a file of one writer, and how they are read back.

Contract: a segment is a run of frames. A frame is a header (big-endian: magic, body length, CRC-32 of the rest of
the header's facts and the body, the offset up to which the file was known to be on the disk when the frame was
written, and the moment, in nanoseconds since 1970) and a body, which is an entry bundle. A sealed segment ends with a
frame of its own. Whoever writes a segment holds its lock (flock(2)) from before it has its name until its process
ends, and never appends to a segment that another process began. So a segment whose lock is free is final.

A frame that is not whole is torn when nothing says that it was on the disk, and damage when a later frame says
so: the first was never acknowledged and is dropped, the second stops the log.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import time
import zlib
from pathlib import Path

import msgspec

from governance.audit.files import ASIDE, sync_folder, write_all
from governance.errors import AuditBroken

SUFFIX = ".wal"
_HEADER = struct.Struct(">4sIIQQ")
_FACTS = struct.Struct(">4sIQQ")
_BATCH, _SEAL = b"TGw1", b"TGwE"
_MOST_BODY = 64 << 20
LATER_NS = 10_000_000_000
"""A batch further ahead than this is of a clock that was set back since, and waits for nothing."""


class Frame(msgspec.Struct):
    """One frame that is whole."""

    magic: bytes
    body: bytes
    durable: int
    stamp: int
    end: int
    """Offset behind it."""


def _frame(magic: bytes, body: bytes, durable: int, stamp: int) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(_FACTS.pack(magic, len(body), durable, stamp)))
    return _HEADER.pack(magic, len(body), crc, durable, stamp) + body


class Segment:
    """One segment being written. Not for several threads at once."""

    def __init__(self, folder: Path, descriptor: int, path: Path) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self.path = path
        self.size = 0
        """Bytes of whole frames."""
        self._durable = 0
        self._stamp = 0

    @classmethod
    def create(cls, folder: Path, after: str = "") -> Segment:
        """A new segment, whose name sorts behind `after`. Raises OSError."""
        # Names are never used twice: what was consumed is remembered by name.
        stamp = max(time.time_ns(), int(after[:16], 16) + 1 if after else 0)
        path = folder / f"{stamp:016x}-{secrets.token_hex(4)}{SUFFIX}"
        aside = path.with_name(path.name + ASIDE)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            aside.rename(path)
            sync_folder(folder)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(folder, descriptor, path)

    def append(self, body: bytes) -> None:
        """Write one batch; it is not durable yet. On OSError nothing of it is left, or the segment is closed."""
        frame = _frame(_BATCH, body, self._durable, self._now())
        try:
            write_all(self._descriptor, frame)
        except OSError:
            try:
                os.ftruncate(self._descriptor, self.size)
                os.lseek(self._descriptor, self.size, os.SEEK_SET)
            except OSError:
                self.abandon()
            raise
        self.size += len(frame)

    def _now(self) -> int:
        # A clock that was set back does not turn this writer's own order round.
        self._stamp = max(self._stamp + 1, time.time_ns())
        return self._stamp

    @property
    def closed(self) -> bool:
        """Whether it takes no more."""
        return self._descriptor < 0

    def sync(self) -> None:
        """Return when every batch is on the disk.

        Raises:
            OSError: it is not known what is. A second fsync(2) would say that all is well, so that the segment is
                closed; what was written can still be read until the power fails.
        """
        try:
            os.fdatasync(self._descriptor)
        except OSError:
            self.abandon()
            raise
        self._durable = self.size

    def probe(self, nbytes: int) -> None:
        """Ask whether the disk has room again, by taking it and giving it back. Raises OSError."""
        try:
            os.posix_fallocate(self._descriptor, self.size, nbytes)
        finally:
            os.ftruncate(self._descriptor, self.size)
        self.sync()

    def seal(self) -> None:
        """End the segment in good order. Raises OSError."""
        try:
            write_all(self._descriptor, _frame(_SEAL, b"", self.size, self._now()))
            os.fdatasync(self._descriptor)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of it as it is; the sequencer takes it as final."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Read(msgspec.Struct):
    """What was read of a segment."""

    batches: list[tuple[int, bytes]]
    """`(stamp, body)`, in the writer's order."""
    end: int
    """Offset behind the last whole frame that was read."""
    rest: int
    """Bytes behind it that are no whole frame; 0 as well when the budget ended the reading."""
    more: bool
    """The budget ended the reading."""
    later: bool = False
    """`until` did."""


def is_final(path: Path) -> bool:
    """Whether nobody writes the segment any more. Ask before reading. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def read_segment(path: Path, begin: int, budget: int, until: int | None = None) -> Read:
    """The batches of a segment from an offset on, until about `budget` bytes were read.

    Args:
        path: the segment.
        begin: where a frame begins.
        budget: bytes.
        until: a moment, in nanoseconds since 1970; batches of the `LATER_NS` after it are left. None: none is.

    Raises:
        OSError: it cannot be read.
        AuditBroken: what had been on the disk is damaged.
    """
    with path.open("rb") as stream:
        stream.seek(begin)
        data = stream.read(budget)
        # The last frame may begin within the budget and end behind it.
        data += stream.read(_HEADER.size + _MOST_BODY) if len(data) == budget else b""
    batches: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data) and at < budget:
        frame = _parse(data, at)
        if frame is None:
            _judge_rest(path, data, at, begin)
            return Read(batches, begin + at, len(data) - at, more=False)
        if until is not None and until < frame.stamp < until + LATER_NS:
            return Read(batches, begin + at, 0, more=False, later=True)
        at = frame.end
        if frame.magic == _BATCH:
            batches.append((frame.stamp, frame.body))
    return Read(batches, begin + at, 0, more=at < len(data))


def _parse(data: bytes, at: int) -> Frame | None:
    """The whole frame at an offset, if there is one."""
    begin = at + _HEADER.size
    if begin > len(data):
        return None
    magic, length, crc, durable, stamp = _HEADER.unpack_from(data, at)
    end = begin + length
    if magic not in {_BATCH, _SEAL} or length > _MOST_BODY or end > len(data):
        return None
    body = data[begin:end]
    if zlib.crc32(body, zlib.crc32(_FACTS.pack(magic, length, durable, stamp))) != crc:
        return None
    return Frame(magic, body, durable, stamp, end)


def _judge_rest(path: Path, data: bytes, bad: int, begin: int) -> None:
    """Raise AuditBroken when a frame behind a bad one says that the bad one had been on the disk."""
    for magic in (_BATCH, _SEAL):
        at = data.find(magic, bad + 1)
        while at >= 0:
            found = _parse(data, at)
            if found is not None and found.durable > begin + bad:
                raise AuditBroken(
                    f"{path}: damaged at byte {begin + bad}, before records that were written later: restore the file, "
                    "or let `tidegate audit fsck` say what is lost"
                )
            at = data.find(magic, at + 1)


def salvage(data: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """A segment without its damaged stretches, and those stretches as `(offset, bytes)`.

    What stands before the first of them stays where it is, so that offsets that were consumed stay good.
    """
    kept, holes = [], []
    at = 0
    while at < len(data):
        found = _parse(data, at)
        if found is not None:
            kept.append(data[at : found.end])
            at = found.end
            continue
        after = min(_next_frame(data, at + 1, magic) for magic in (_BATCH, _SEAL))
        holes.append((at, after - at))
        at = after
    return b"".join(kept), holes


def _next_frame(data: bytes, begin: int, magic: bytes) -> int:
    """Where the next whole frame of that kind is; the end, when there is none."""
    at = data.find(magic, begin)
    while at >= 0 and _parse(data, at) is None:
        at = data.find(magic, at + 1)
    return len(data) if at < 0 else at
