"""Attributes that are told later, by request id: rows move from the unknown to their group.

Contract: at most once for each decision, over all workers and whoever tells: under the lock `join` of the route's
folder, a decision is marked before its rows are counted, so that a crash between leaves them unknown and counts nobody
twice. What is moved is counted at the minute of its decision, in files of its own (`joined-N`); nothing of a person is
kept.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.fairness import pending
from gateway.shards import Shards
from kernels import groups

_MAGIC_PENDING, _MAGIC_JOINED = b"TGPEND01", b"TGJOIN01"


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one request."""

    id: str
    """Its `x-request-id`."""
    values: dict[str, str]
    """By attribute; all of those that the route declares as `joined`. They are of every row of the request."""


class Joined(msgspec.Struct):
    """What became of ids that were told of."""

    joined: int = 0
    """Their rows are in their groups now."""
    again: int = 0
    """They had been told of before, which stands."""
    late: int = 0
    """Their decisions are more than a day old."""
    unmatched: int = 0
    """No decision is kept of them: there was none, its group is known or unknown for another reason, or later ones have
    taken its place."""
    undeclared: int = 0
    """A value is missing, or is none of those that the settings declare."""


class Joining:
    """Of one route, in one worker.

    Args:
        folder: of the route's counts.
        declared: hash of what is declared, hexadecimal.
        variants: how many.
        number_of_groups: with the unknown.
    """

    __slots__ = ("_folder", "_groups", "_joined", "_pending", "_ring", "_shard", "_variants")

    def __init__(self, folder: Path, declared: str, variants: int, number_of_groups: int) -> None:
        self._folder = folder
        self._variants, self._groups = variants, number_of_groups
        size = groups.nbytes(variants, number_of_groups)
        self._pending = Shards(folder, _MAGIC_PENDING, declared, pending.nbytes(pending.SLOTS), "pending")
        self._joined = Shards(folder, _MAGIC_JOINED, declared, size, "joined")
        self._ring = pending.Ring(self._pending.open())
        self._shard = groups.Shard(self._joined.open(), variants, number_of_groups)

    def wait(self, request_id: str, decided: pending.Decided) -> None:
        """Keep a decision until its people are told of. On the event loop's thread alone."""
        self._ring.add(request_id, decided)

    def join(self, told: Sequence[Told], more: Callable[[Mapping[str, str]], int | None], minute: int) -> Joined:
        """Move rows to their groups. Blocks: not for an event loop. Raises OSError.

        Args:
            told: whom.
            more: what values add to a group's number; None: one is not declared.
            minute: that runs.
        """
        result = Joined()
        wanted: dict[bytes, int] = {}
        for one in told:
            group = more(one.values)
            key = pending.digest(one.id)
            if group is None:
                result.undeclared += 1
            elif key in wanted:
                result.again += 1
            else:
                wanted[key] = group
        with self._locked():
            found: dict[bytes, list[pending.Found]] = {}
            for decision in pending.find(self._pending.shared(), tuple(wanted)):
                found.setdefault(decision.key, []).append(decision)
            for key, group in wanted.items():
                self._tell(found.get(key, []), group, minute, result)
        return result

    def _tell(self, found: Sequence[pending.Found], group: int, minute: int, result: Joined) -> None:
        """Of one id, under the lock."""
        if not found:
            result.unmatched += 1
            return
        waiting = [one for one in found if not one.told]
        if not waiting:
            result.again += 1
            return
        # An older minute's slot is of another day already.
        young = [one for one in waiting if minute - groups.MINUTES < one.decided.minute <= minute]
        if not young:
            result.late += 1
            return
        for one in young:
            one.tell()
            decided = one.decided
            self._shard.add(decided.minute, decided.variant, decided.group + group, decided.rows, decided.selected)
        result.joined += 1

    def moved(self, first: int | None, last: int) -> groups.Counts:
        """What has been moved, over all workers; shape as of `groups.read`."""
        blocks = [block for _, block in self._joined.read()]
        return groups.read(blocks, self._variants, self._groups, first, last)[0]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "join", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
