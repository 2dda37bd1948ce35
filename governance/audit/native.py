"""The writer of one process whose disk thread never asks for the interpreter; the specification is `wal.Journal`.

Contract: as `Journal`'s, but that `put` is the event loop's alone, in a strict log of whichever loop it waits on. An
entry is copied into the writer's memory and costs the loop nothing more; one thread in C writes and syncs. The thread
here sleeps until an entry is yet to be made (a large body, a subject that has to be looked up) or the disk refuses or
takes again. What comes behind an entry that is yet to be made waits for it, so that the log has their order. Who
waits for a strict log is told on the loop itself, by an eventfd(2) that it watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from governance.audit import wal
from governance.audit._writer_c import Writer
from governance.audit.wal import Unwritten
from governance.errors import AuditError, AuditUnavailable

_log = logging.getLogger("tidegate.audit")
T = TypeVar("T", bound=Unwritten | bytes)


class NativeJournal(Generic[T]):
    """One writer. `encode` is called on its thread, `done` for what is no bytes, there or on the loop that put it."""

    def __init__(
        self,
        folder: Path,
        encode: Callable[[Sequence[T]], list[bytes]],
        done: Callable[[Sequence[T], AuditError | None], None],
        *,
        strict: bool,
    ) -> None:
        self._encode = encode
        self._done = done
        self._strict = strict
        self._most_queued = wal.MOST_QUEUED
        self._writer = Writer(
            os.fsencode(folder),
            strict=strict,
            linger_s=wal.LINGER_S,
            retry_s=wal.RETRY_S,
            most_queued=wal.MOST_QUEUED,
            segment_bytes=wal.SEGMENT_BYTES,
        )
        self._unmade: deque[T] = deque()
        self._entered = self._passed = 0
        """What went through `_unmade`: counted by who puts, and by the thread once the writer has it."""
        self._loops: set[asyncio.AbstractEventLoop] = set()
        self._closing = threading.Event()
        self._looking = threading.Lock()
        self._trouble = ""
        self._unsealed = self._given_up = 0
        self.failing = ""
        """Why nothing can be written, empty while it can."""
        self._thread = threading.Thread(target=self._run, name="audit-journal", daemon=True)

    @property
    def written(self) -> int:
        """Items that are on the disk."""
        return self._writer.written

    @property
    def lost(self) -> int:
        """Items that were given up: whose waiters were told, of which no entry can be made, or left over at the end."""
        return self._writer.lost + self._given_up

    def start(self) -> None:
        """Open the first segment, then take items. Raises OSError."""
        self._writer.start()
        self._thread.start()

    def put(self, item: T) -> None:
        """Queue one item.

        Raises:
            AuditUnavailable: too many wait for the disk, or it is closed.
        """
        if self._strict:
            self._watch(asyncio.get_running_loop())
        entry = item if isinstance(item, bytes) else item.entry
        behind = self._entered - self._passed
        if not behind and entry is not None:
            if self._writer.put(entry, item if self._strict else None):
                return
        elif behind + self._writer.queued < self._most_queued and not self._closing.is_set():
            self._entered += 1
            self._unmade.append(item)
            self._writer.wake()
            return
        raise AuditUnavailable(self.failing or "the audit log's queue is full")

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop not in self._loops:
            loop.add_reader(self._writer.done_fd, self._ended)
            self._loops.add(loop)

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        # The descriptor goes with the writer, which this call holds: not before every loop has let go of it.
        loop.remove_reader(self._writer.done_fd)

    def close(self, timeout: float = 30.0) -> None:
        """Write what is queued, seal the segment, end the threads. What cannot be written is `lost`."""
        self._closing.set()
        self._writer.wake()
        self._thread.join(timeout)
        self._writer.close(timeout)
        self._ended()
        if self.lost:
            _log.error("%d records of the audit log could not be written", self.lost)
        while self._loops:
            loop = self._loops.pop()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._unwatch, loop)

    def _ended(self) -> None:
        """Tell whoever waits for groups that have ended."""
        ended = self._writer.ended()
        self._look()  # first: who is refused finds that nothing is admitted
        for items, errno in ended:
            self._done(items, AuditUnavailable(os.strerror(errno)) if errno else None)

    def _look(self) -> None:
        """Say what has changed."""
        with self._looking:  # else an older look may come last
            errno, was = self._writer.failing, self.failing
            self.failing = self._trouble or (os.strerror(errno) if errno else "")
            if self.failing and self.failing != was:
                _log.error("the audit log cannot be written: %s", self.failing)
            elif was and not self.failing:
                _log.warning("the audit log can be written again")
            if self._unsealed != self._writer.unsealed:
                self._unsealed = self._writer.unsealed
                _log.warning("a write-ahead file is not sealed: %s", os.strerror(self._unsealed))

    def _run(self) -> None:
        news = select.poll()
        news.register(self._writer.news_fd, select.POLLIN)
        while not self._closing.is_set():
            # While no entry can be made nobody may put anything, so that it has to be tried without.
            if news.poll(wal.RETRY_S * 1000 if self._trouble else None):
                os.read(self._writer.news_fd, 8)
            else:
                self._trouble = ""
            self._look()
            self._make()
        self._make()

    def _make(self) -> None:
        """Have the entries made that are not, and hand them on with what came behind them."""
        group: list[T] = []
        while group or self._unmade:
            if not group:
                group = [self._unmade.popleft() for _ in range(min(len(self._unmade), wal.MOST_BATCH))]
            last = self._closing.is_set()
            error = self._hand_on(group)
            self._trouble = "" if error is None else str(error)
            self._look()
            if error is not None:
                if not (self._strict or last):
                    self._closing.wait(wal.RETRY_S)
                    continue
                self._given_up += len(group)
                self._done(group, error)
            self._passed += len(group)
            group = []

    def _hand_on(self, group: Sequence[T]) -> AuditError | None:
        try:
            good, entries, bad = wal.encode_each(self._encode, group)
        except AuditError as error:
            return error
        except OSError as error:
            return AuditUnavailable(error.strerror or str(error))
        if bad:
            self._given_up += len(bad)
            self._done(bad, AuditUnavailable(wal.UNMADE))
        for item, entry in zip(good, entries, strict=True):
            # There is room: `put` counted those that are yet to come.
            self._writer.put(entry, item if self._strict else None)
        return None
