"""Attributes that are told later, by request id: rows move from the unknown to their group.

Contract: at most once for each decision, over all workers and whoever tells: under the lock `join` of the route's
folder, a decision is marked before its rows are counted, so that a crash between leaves them unknown and counts nobody
twice. What is moved is counted at the minute of its decision, in files of its own (`joined-N`); nothing of a person is
kept.
"""

from __future__ import annotations

import copy
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
    """Their decisions are older than `join.minutes`."""
    unmatched: int = 0
    """No decision is kept of them: there was none, its group is known or unknown for another reason, or later ones have
    taken its place."""
    undeclared: int = 0
    """A value is missing, or is none of those that the settings declare."""


def _name(capacity: int) -> str:
    return f"pending-{capacity}"


class Joining:
    """Of one route, in one worker.

    Args:
        folder: of the route's counts.
        declared: hash of what is declared, hexadecimal.
        variants: how many.
        number_of_groups: with the unknown.
        capacity: how many decisions wait, of this worker.
    """

    __slots__ = ("_capacity", "_declared", "_folder", "_groups", "_joined", "_pending", "_ring", "_shard", "_variants")

    def __init__(self, folder: Path, declared: str, variants: int, number_of_groups: int, capacity: int) -> None:
        self._folder = folder
        self._declared = declared
        self._variants, self._groups = variants, number_of_groups
        size = groups.nbytes(variants, number_of_groups)
        self._wait_in(capacity)
        self._joined = Shards(folder, _MAGIC_JOINED, declared, size, "joined")
        self._shard = groups.Shard(self._joined.open(), variants, number_of_groups)

    def _wait_in(self, capacity: int) -> None:
        # The capacity is in the name: a file that others may have mapped is never made another size.
        size, name = pending.nbytes(capacity), _name(capacity)
        self._capacity = capacity
        self._pending = Shards(self._folder, _MAGIC_PENDING, self._declared, size, name)
        self._ring = pending.Ring(self._pending.open())

    def resized(self, capacity: int) -> Joining:
        """The same with another number of decisions that wait, from none on. Raises OSError."""
        if capacity == self._capacity:
            return self
        found = copy.copy(self)
        found._wait_in(capacity)  # noqa: SLF001 - of its own kind
        return found

    def tidy(self) -> None:
        """It is in force: let go of what waits in files of other sizes."""
        for path in self._folder.glob("pending-*"):
            if not path.name.startswith(f"{_name(self._capacity)}-"):
                path.unlink(missing_ok=True)

    def wait(self, request_id: str, decided: pending.Decided) -> None:
        """Keep a decision until its people are told of. On the event loop's thread alone."""
        self._ring.add(request_id, decided)

    def join(
        self, told: Sequence[Told], more: Callable[[Mapping[str, str]], int | None], minute: int, minutes: int
    ) -> Joined:
        """Move rows to their groups. Blocks: not for an event loop. Raises OSError.

        Args:
            told: whom.
            more: what values add to a group's number; None: one is not declared.
            minute: that runs.
            minutes: decisions of the last so many may be told of, with the one that runs; at most `groups.MINUTES`.
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
                self._tell(found.get(key, []), group, range(minute - minutes + 1, minute + 1), result)
        return result

    def _tell(self, found: Sequence[pending.Found], group: int, window: range, result: Joined) -> None:
        """Of one id, under the lock."""
        if not found:
            result.unmatched += 1
            return
        waiting = [one for one in found if not one.told]
        if not waiting:
            result.again += 1
            return
        # Of a minute that is a day old the slot is another's already.
        young = [one for one in waiting if one.decided.minute in window]
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
