"""The beginning of a log that is no longer there: what states it, and where a reader begins.

Contract: a log loses whole bundles from its beginning and nothing else; its tiles stay, so that every proof and every
checkpoint holds as before. Before the first bundle goes, a record stands in the log itself (`kind: erasure`, `action:
prune`, `phase: start`) that says how far, under which policy, and of which classes. So a missing bundle is either
stated in the tree that was signed, or it is a fault.

`pruned` beside the checkpoint only says where that record is, for those who do not read the whole log. Nobody trusts
it: what it points at has to say the same.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from governance.audit.tiles import WIDTH
from governance.audit.treefiles import TreeFiles

FILE = "pruned"
ACTION = "prune"
_BEGINS = b'{"action":"prune",'
"""Of every such record: fields are in the order of RFC 8785."""


class Part(msgspec.Struct, frozen=True, rename={"name": "class"}):
    """The pruned records of one class."""

    name: str
    days: int
    """For how long the policy keeps them."""
    duty: str
    """Which law's floor it was held to."""
    entries: int
    latest: str
    """Time of the latest of them."""

    def joined(self, other: Part) -> Part:
        """Both together."""
        return Part(self.name, self.days, self.duty, self.entries + other.entries, max(self.latest, other.latest))


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What a pruning states, in `details`."""

    policy: str
    before: int
    """The first entry that stays."""
    begin: int
    """The first that goes with this one; those before had gone."""
    classes: list[Part]


class _Entry(msgspec.Struct):
    kind: Literal["erasure"]
    outcome: Literal["served"]
    phase: Literal["start"]
    time: str
    details: Details


class Pruned(msgspec.Struct, frozen=True):
    """That the entries below `before` are gone, as the log states it."""

    before: int
    policy: str
    time: str
    index: int
    """Of the record that states it."""
    classes: tuple[Part, ...] = ()

    def __str__(self) -> str:
        """In words."""
        return (
            f"entries 0 to {self.before - 1} were pruned under the retention policy {self.policy!r}, "
            f"as entry {self.index} states"
        )

    @property
    def too_early(self) -> list[str]:
        """What was pruned sooner than the statement itself allows, in words."""
        return [
            f"class {part.name!r} is kept for {part.days} days, and its latest record was of {part.latest}"
            for part in self.classes
            if not _aged(part.latest, self.time, part.days)
        ]


def _aged(begin: str, end: str, days: int) -> bool:
    try:
        first, last = (datetime.fromisoformat(text[:19]) for text in (begin, end))
    except ValueError:
        return False
    return last - first >= timedelta(days=days)


_decode = msgspec.json.Decoder(_Entry).decode


def statement(entry: bytes, index: int) -> Pruned | None:
    """What an entry states to be pruned; None: it is no such record."""
    if not entry.startswith(_BEGINS):
        return None
    try:
        found = _decode(entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    details = found.details
    # A record cannot be of the prefix that it states to be gone, and a bundle goes whole.
    if not 0 < details.before <= index or details.before % WIDTH:
        return None
    return Pruned(details.before, details.policy, found.time, index, tuple(details.classes))


class Hint(msgspec.Struct, frozen=True):
    """What the file `pruned` holds, as JSON."""

    before: int
    record: int


def read_pruned(folder: Path, size: int) -> Pruned | None:
    """What the log states to be gone; None: nothing, or what the file says is not what the log states.

    Not verified: that is `verify`, which finds the statement by itself.
    """
    try:
        hint = msgspec.json.decode((folder / FILE).read_bytes(), type=Hint)
        if not 0 <= hint.record < size:
            return None
        found = statement(TreeFiles(folder, size).entry(hint.record), hint.record)
    except (OSError, ValueError, msgspec.DecodeError):
        return None
    return found if found is not None and found.before == hint.before else None
