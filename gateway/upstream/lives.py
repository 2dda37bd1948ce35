"""Which life of a replica a sequence belongs to, agreed on by the workers of a machine.

Contract: a model server keeps sequences in memory, so when it dies their state is gone, though the same
address answers again. Its life is a 32-bit number that changes whenever a worker sees it fall. A worker that
sees the same fall later changes nothing: it compares the time of the change with when it last saw the server
well itself. `SharedLives` is one file that the workers map; words are written whole, and only by whoever sees
a fall, under a file lock.
"""

from __future__ import annotations

import fcntl
import mmap
import time
from pathlib import Path
from typing import Protocol

from gateway.routing.sequences import hash64

MOST_LIVES = 1024
"""Replicas that are remembered, over all upstreams and all addresses that a DNS name ever had."""

_KEY, _SINCE, _WORDS = 0, 1, 2
_MS = 20
"""2^20 ns are a millisecond or so: 32 bits of it turn over in 52 days, longer than any sequence."""


class Lives(Protocol):
    """The current life of each replica, by a 64-bit key that is not 0."""

    def current(self, key: int) -> int:
        """Its number, 1 to 2^32 - 1."""

    def fell(self, key: int, seen_well: int) -> None:
        """This worker saw it fall; `seen_well`: Unix ns at which it last saw it well before."""


def _number(since: int) -> int:
    return (since >> _MS) & 0xFFFFFFFF or 1


class MemoryLives:
    """Lives of one process."""

    def __init__(self) -> None:
        self._since: dict[int, int] = {}

    def current(self, key: int) -> int:
        """Its number."""
        return _number(self._since.setdefault(key, time.time_ns()))

    def fell(self, key: int, seen_well: int) -> None:
        """A new life, unless one began since this worker saw it well."""
        since = self._since.get(key, 0)
        if since <= seen_well:
            self._since[key] = max(time.time_ns(), since + (1 << _MS))


class SharedLives:
    """Lives of all workers of a machine, in one file that each maps; the first that opens it makes it.

    Args:
        path: in the run directory that the workers share.
    """

    def __init__(self, path: Path) -> None:
        size = MOST_LIVES * _WORDS * 8
        with path.open("a+b") as file:
            # Written, not only extended: a full disk must fail here, not end a worker later (SIGBUS).
            missing = size - file.seek(0, 2)
            if missing > 0:
                file.write(bytes(missing))
                file.flush()
            self._map = mmap.mmap(file.fileno(), size)
        self._path = path
        self._words = memoryview(self._map).cast("Q")
        self._places: dict[int, int] = {}

    def current(self, key: int) -> int:
        """Its number; one that is not known yet begins to live now."""
        at = self._places.get(key)
        if at is None or self._words[at + _KEY] != key:
            at = self._enter(key)
        return _number(self._words[at + _SINCE])

    def fell(self, key: int, seen_well: int) -> None:
        """A new life, unless one began since this worker saw it well."""
        at = self._enter(key)
        with self._path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            since = self._words[at + _SINCE]
            if since <= seen_well:
                self._words[at + _SINCE] = max(time.time_ns(), since + (1 << _MS))

    def _enter(self, key: int) -> int:
        """The place of a key, which is given one when it has none.

        When all are taken, the replica that has lived for longest loses its own: its sequences are then taken
        for lost, which is an error too many and never another's state.
        """
        words = self._words
        with self._path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            free = oldest = -1
            for at in range(0, MOST_LIVES * _WORDS, _WORDS):
                held = words[at + _KEY]
                if held == key:
                    self._places[key] = at
                    return at
                if not held:
                    free = at
                    break
                if oldest < 0 or words[at + _SINCE] < words[oldest + _SINCE]:
                    oldest = at
            at = free if free >= 0 else oldest
            words[at + _SINCE] = time.time_ns()
            words[at + _KEY] = key
        self._places[key] = at
        return at


def life_key(upstream: str, address: str) -> int:
    """The key of a replica."""
    return hash64("replica", upstream, address)
