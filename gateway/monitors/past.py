"""What a monitor had counted until now: from this machine's journal (`tiles`) to the store, and back for windows.

Contract: the journal is the queue. The store says how far this gateway's counts have come, in the transaction that
writes them, and what comes next is the difference of two records: a kill at any step, and a store that is away, lose
nothing and double nothing. Names and times:

    replica   who counts: the host's name and a random part, made with the monitor's folder
    held      times of records that the store has, or may have by now: they stay in the journal

What a monitor counted between two records is a tile of the minute in which the first of them was written.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway import logs
from gateway.monitors import tiles
from gateway.monitors.left import Left, describe, described
from governance.errors import StoreError
from governance.monitor import tile
from governance.store import tiles as stored
from governance.store.plain import Plain
from kernels import drift

_log = logs.get("monitors")

MOST_RECORDS = 60
"""That go to the store at once: after a day's outage it has all of them within the hour, and no burst of work."""
_MINUTE_NS = stored.MINUTE * 10**9

Words = npt.NDArray[np.uint64]


class Window(NamedTuple):
    """What all gateways have counted in it."""

    block: Words
    since: int
    """Unix nanoseconds."""


class Past:
    """Of one monitor.

    Args:
        folder: the monitor's.
        route: its route.
        key: what its counts belong to.
        columns: what is counted.
    """

    def __init__(self, folder: Path, route: str, key: str, columns: Sequence[drift.Column]) -> None:
        self._journal = folder / "tiles"
        self._held = folder / "held"
        self._series = stored.Series(route, key)
        self._format = tile.Format(columns)
        self._zero = drift.merge(columns, ())
        self._replica = _named(folder / "replica")
        describe(folder, route, key, columns)
        self._began = 0
        # A worker that ends may still have a thread that is at it.
        self._keeping, self._feeding = threading.Lock(), threading.Lock()
        self._fields = {"route": route}

    def keep(self, now_ns: int, began_ns: int, block: Words) -> None:
        """Write a record of what all workers have counted. One process at a time. Raises OSError."""
        with self._keeping:
            self._began = began_ns
            tiles.keep(self._journal, now_ns, block.tobytes(), _times(self._held))

    def feed(self, plain: Plain) -> bool:
        """Write tiles of what the store has not, behind `keep`; whether it has all now. Raises StoreError, OSError."""
        with self._feeding:
            through = stored.append(plain, self._series, self._replica, self._fresh)
            _write(self._held, str(through))
            return all(record.at <= through for record in tiles.records(self._journal))

    def _fresh(self, through: int) -> tuple[list[stored.Tile], int]:
        """Tiles of what was counted after a record, and the record that they reach; see `stored.append`."""
        own, later = self._after(through)
        before, at = (own, through) if through else (self._zero, self._began)
        if before is None:
            if not later:
                return [], through
            # Somebody took the file away, or the store is of an earlier day: what lies between is not known.
            _log.warning("counts before a lost record are in no tile", extra={"fields": self._fields})
            at, before = later.pop(0)
        found = []
        for now_at, now in later:
            counted = self._format.difference(now, before)
            if counted is None:
                _log.warning("a worker's counts were taken away", extra={"fields": self._fields})
            elif counted[drift.CALLS] or counted[drift.UNSEEN]:
                start = (at or now_at) // _MINUTE_NS * stored.MINUTE
                found.append(stored.Tile(start, self._format.encode(counted)))
            before, at = now, now_at
        reached = at if through or later else 0
        _write(self._held, f"{through} {reached}")
        return found, reached

    def _after(self, at: int) -> tuple[Words | None, list[tuple[int, Words]]]:
        own, later = tiles.after(self._journal, at, MOST_RECORDS)
        return self._words(own), [(when, words) for when, block in later if (words := self._words(block)) is not None]

    def _words(self, block: bytes | None) -> Words | None:
        """None: there is none, or it is of another version."""
        if block is None or len(block) != self._zero.nbytes:
            return None
        return np.frombuffer(block, np.uint64)

    def window(self, plain: Plain, since_ns: int, merged: Callable[[], tuple[int, Words]]) -> Window:
        """What all gateways have counted since a time. Raises StoreError, OSError.

        Args:
            plain: the database.
            since_ns: Unix nanoseconds.
            merged: when this machine began to count, and what it has by now.
        """
        found = stored.read(plain, self._series, self._replica, since_ns // 10**9)
        began, now = merged()  # behind the look at the store, so that it is never less than what is there
        before, at = (self._after(found.through)[0], found.through) if found.through else (self._zero, began)
        later = tiles.block_at(self._journal, since_ns)
        if later is not None and later[0] > at and (words := self._words(later[1])) is not None:
            at, before = later[0], words  # the store is behind, by more than the window
        parts = []
        try:
            if found.tiles:
                parts.append(self._format.decode(tile.merge(found.tiles)))
        except ValueError as error:
            raise StoreError(f"store: monitor_tile holds {error} (route {self._series.route!r})") from None
        if before is not None and (rest := self._format.difference(now, before)) is not None:
            parts.append(rest)
        total = drift.merge(self._format.columns, [part.tobytes() for part in parts])
        oldest = at if found.earliest is None else found.earliest * 10**9
        first = since_ns if found.first is None else found.first * 10**9
        # The difference to nothing: the extremes of a part are not known.
        block = drift.since(self._format.columns, total, self._zero)
        return Window(block, oldest if oldest >= since_ns else min(since_ns, first, at))


class History:
    """The store, for all monitors of one machine.

    Args:
        url: `store.url`.
        state_dir: the gateway's.
    """

    def __init__(self, url: str | None, state_dir: Path) -> None:
        self.plain = Plain(url or "", state_dir)
        self.left = Left(state_dir)
        """What monitors that are gone have left for it."""
        self._ready = False
        self._trouble = ""

    def feed(self, pasts: Sequence[Past], now_ns: int | None = None) -> None:
        """Write what is new and merge what is old. Blocks, for seconds when the store is away; never raises."""
        try:
            gone = self._gone()
            pasts = [*pasts, *gone]
            if pasts and not self._ready:
                self.plain.ready()
                self._ready = True
            failed: StoreError | OSError | None = None
            for past in pasts:  # a journal, or a row, that cannot be read holds up no other monitor
                try:
                    if past.feed(self.plain) and past in gone:
                        self.left.done(gone[past])
                except (StoreError, OSError) as error:
                    failed = error
                    self.plain.ready()  # raises when it is the store that is away: then no other one gets there either
            if failed is not None:
                raise failed
            if pasts:
                stored.fold(self.plain, (time.time_ns() if now_ns is None else now_ns) // 10**9)
        except (StoreError, OSError) as error:
            self._ready = False
            said = str(error)
            if said != self._trouble:
                _log.warning("monitors: not in the store, this machine keeps what it counts: %s", said)
            self._trouble = said
            return
        if self._trouble:
            _log.info("monitors: the store has what was kept, or gets it by and by")
        self._trouble = ""

    def _gone(self) -> dict[Past, Path]:
        """Of monitors that are gone, with their folders."""
        found = {}
        for folder in self.left.folders():
            said = described(folder)
            try:
                if said is None:
                    raise ValueError
                found[Past(folder, *said)] = folder
            except (OSError, ValueError):  # of another version: nobody can say what it counted
                self.left.done(folder)
        return found


def _named(path: Path) -> str:
    """The name in a file, made when there is none. Of several workers that make one, one does. Raises OSError."""
    if not path.exists():
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        _write(aside, f"{socket.gethostname()}-{secrets.token_hex(8)}")
        with suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    return path.read_text(encoding="utf-8")


def _times(path: Path) -> frozenset[int]:
    try:
        return frozenset(map(int, path.read_text(encoding="utf-8").split()))
    except (FileNotFoundError, ValueError):
        return frozenset()


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
