"""The writer of one process: takes items from any thread, puts them on the disk in groups.

The specification of `native.py`, and what runs with `TIDEGATE_NO_EXTENSIONS=1`.

Contract: `put` is a queue's append and never waits; a thread of its own turns what is queued into entries, writes
them as one batch and syncs the file, then says `done`. While it syncs, the next group gathers: that is the group
commit. Under steady traffic an asynchronous log is at most `linger` plus one sync behind.

When the disk refuses, `failing` says why. In a strict log the group is given up, `done` has the error, and whoever
waits for it must refuse. Otherwise the group is kept and tried again, each `RETRY_S`, until the queue is full.

An item that `encode` fails on with what nobody foresaw is given up alone, in either mode: it would fail again, and the
others must not wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from governance.audit.segments import Segment
from governance.audit.tiles import bundle
from governance.errors import AuditError, AuditUnavailable

_log = logging.getLogger("tidegate.audit")
T = TypeVar("T")

LINGER_S = 0.035
"""An asynchronous log gathers for so long: with one sync it stays below the 50 ms that are promised."""
RETRY_S = 0.5
"""After a failure; the disk that was full a moment ago has to be tried, but not all the time."""
MOST_QUEUED = 65_536
"""Items that wait for the disk: at 20,000 a second some three seconds of a disk that stands still."""
MOST_BATCH = 2_048
"""Items in a group."""
SEGMENT_BYTES = 8 << 20
"""A segment that has so many is sealed, and the next one begun."""
_PROBE_BYTES = 256 << 10


class Unwritten(Protocol):
    """An item that is more than its entry: which is yet to be made, or somebody waits for it."""

    entry: bytes | None
    """None: not made yet."""


def encode_each(
    encode: Callable[[Sequence[T]], list[bytes]], items: Sequence[T]
) -> tuple[Sequence[T], list[bytes], list[T]]:
    """The items that have entries, those entries, and the items that can have none, which is logged.

    Raises:
        AuditError, OSError: as `encode`: all of them can be tried again.
    """
    with contextlib.suppress(_Defect):
        return items, _encoded(encode, items), []
    good: list[T] = []
    entries: list[bytes] = []
    bad: list[T] = []
    for item in items:
        try:
            entries += _encoded(encode, [item])
            good.append(item)
        except _Defect as error:
            _log.error("a decision is in no record: its record cannot be made", exc_info=error.__cause__)
            bad.append(item)
    return good, entries, bad


class _Defect(Exception):
    """An item, or one of several, that no entry can be made of; the cause says why."""


def _encoded(encode: Callable[[Sequence[T]], list[bytes]], items: Sequence[T]) -> list[bytes]:
    try:
        entries = encode(items)
        bundle(entries)  # too long for the log: found before anything is written
        if len(entries) != len(items):
            raise ValueError(f"{len(entries)} entries of {len(items)} items")
    except (AuditError, OSError):
        raise
    except Exception as error:
        raise _Defect from error
    return entries


UNMADE = "the decision cannot be recorded"
"""What whoever waits for such an item is told."""


class _Group(msgspec.Struct, Generic[T]):
    """Items that go to the disk together."""

    items: Sequence[T]
    entries: list[bytes] | None = None
    """What they became; kept, so that trying again writes the same."""
    written: bool = False
    """They can be read, so that writing them again would double them; whether they are on the disk is not known."""


class Journal(Generic[T]):
    """One writer. `encode` and `done` are called on its thread alone."""

    def __init__(
        self,
        folder: Path,
        encode: Callable[[Sequence[T]], list[bytes]],
        done: Callable[[Sequence[T], AuditError | None], None],
        *,
        strict: bool,
    ) -> None:
        self._folder = folder
        self._encode = encode
        self._done = done
        self._strict = strict
        self._queue: deque[T] = deque()
        self._group: _Group[T] | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._segment: Segment | None = None
        self._last = ""
        self.failing = ""
        """Why the disk refuses, empty while it does not."""
        self.written = 0
        """Items that are on the disk."""
        self.lost = 0
        """Items that were given up: whose waiters were told, of which no entry can be made, or left over at the end."""
        self._thread = threading.Thread(target=self._run, name="audit-journal", daemon=True)

    def start(self) -> None:
        """Open the first segment, then take items. Raises OSError."""
        self._open_segment()
        self._thread.start()

    def put(self, item: T) -> None:
        """Queue one item.

        Raises:
            AuditUnavailable: too many wait for the disk, or it is closed.
        """
        if len(self._queue) >= MOST_QUEUED or self._closing.is_set():
            raise AuditUnavailable(self.failing or "the audit log's queue is full")
        self._queue.append(item)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float = 30.0) -> None:
        """Write what is queued, seal the segment, end the thread. What cannot be written is `lost`."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        began = -LINGER_S
        while not self._closing.is_set():
            # While it fails nobody may put anything, so that the disk has to be tried without.
            woken = self._wake.wait(RETRY_S if self.failing else None)
            if woken and not self._strict:
                self._closing.wait(max(began + LINGER_S - time.monotonic(), 0.0))
                began = time.monotonic()
            # Cleared before the queue is looked at: what is put from here on wakes it again.
            self._wake.clear()
            self._drain()
        self._drain()
        self._end()

    def _drain(self) -> None:
        if self.failing and not self._queue and self._group is None:
            self._told(self._probe())
        left = len(self._queue)  # of an asynchronous log: what comes meanwhile gathers
        while self._group is not None or (self._queue if self._strict or self._closing.is_set() else left > 0):
            if self._group is None:
                size = min(len(self._queue), MOST_BATCH)
                left -= size
                self._group = _Group([self._queue.popleft() for _ in range(size)])
            group, last = self._group, self._closing.is_set()
            error = self._commit(group)
            self._told(error)
            if error is None or self._strict or last or group.written:
                self._group = None
                if error is None:
                    self.written += len(group.items)
                elif not group.written:
                    self.lost += len(group.items)
                self._done(group.items, error)
            else:
                self._closing.wait(RETRY_S)

    def _told(self, error: AuditError | None) -> None:
        if error is None:
            if self.failing:
                _log.warning("the audit log can be written again")
            self.failing = ""
        elif self.failing != str(error):
            _log.error("the audit log cannot be written: %s", error)
            self.failing = str(error)

    def _open_segment(self) -> Segment:
        if self._segment is None or self._segment.closed:
            self._segment = Segment.create(self._folder, self._last)
            self._last = self._segment.path.name
        return self._segment

    def _probe(self) -> AuditError | None:
        try:
            self._open_segment().probe(_PROBE_BYTES)
        except OSError as error:
            return AuditUnavailable(error.strerror or str(error))
        return None

    def _commit(self, group: _Group[T]) -> AuditError | None:
        """Put a group on the disk; the reason why not."""
        try:
            if group.entries is None:
                group.items, group.entries, bad = encode_each(self._encode, group.items)
                if bad:
                    self.lost += len(bad)
                    self._done(bad, AuditUnavailable(UNMADE))
            if not group.entries:
                return None
            segment = self._open_segment()
            segment.append(bundle(group.entries))
            group.written = True
            segment.sync()
        except AuditError as error:
            return error
        except OSError as error:
            return AuditUnavailable(error.strerror or str(error))
        if segment.size >= SEGMENT_BYTES:
            self._seal(segment)
        return None

    @staticmethod
    def _seal(segment: Segment) -> None:
        try:
            segment.seal()
        except OSError as error:
            _log.warning("a write-ahead file is not sealed: %s", error)

    def _end(self) -> None:
        if self.lost:
            _log.error("%d records of the audit log could not be written", self.lost)
        if self._segment is not None and not self._segment.closed:
            self._seal(self._segment)
