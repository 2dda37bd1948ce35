"""How long records are kept: classes, the floors below which a law lets none go, and what a log may lose by them.

Contract: a record is of every class that names its kind or its model, and is kept for the longest of them; of no such
class, for the rest's. `plan` reads and changes nothing. It ends at the first record that has to stay: a log loses
a prefix or nothing, so that one record of a long class keeps all that came after it. What is no record, or has no
time, stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from governance.audit.pruned import Part, read_pruned
from governance.audit.record import timestamp
from governance.audit.show import read_checkpoint
from governance.audit.tiles import WIDTH, bundle_path
from governance.audit.treefiles import TreeFiles
from governance.errors import AuditInputError

Duty: TypeAlias = Literal["ai-act-19", "ai-act-18", "reg-b-1002.12", "reg-b-1002.12-business", "none"]

FLOORS: Mapping[Duty, int] = {
    "ai-act-19": 184,
    "ai-act-18": 3653,
    "reg-b-1002.12": 762,
    "reg-b-1002.12-business": 366,
    "none": 1,
}
"""The least days that each may be kept, of the longest such span in the calendar. Regulation (EU) 2024/1689, articles
19(1) and 26(6): logs of high-risk systems, six months; article 18(1): documents, ten years. 12 CFR 1002.12(b):
applications, 25 months, of businesses 12. What national law or a contract asks for beyond is the operator's to add."""

REST = "rest"
"""The class of what no other takes."""
MOST_CLASSES, MOST_NAME, MOST_TEXT = 32, 64, 256
"""Classes, bytes of one's name and of the policy's: a pruning is one record, which must never have to be cut."""
_DAY_NS = 86_400 * 10**9
_MOST_PAIRS = 4096
"""Pairs of kind and model whose class is remembered."""
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{9}Z")


class Class(msgspec.Struct, frozen=True):
    """Records that are kept alike."""

    name: str
    days: int
    duty: Duty
    kinds: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    """As clients asked for them. Of a class with kinds and models a record has one of each; with neither, all are."""

    def takes(self, kind: str | None, model: str | None) -> bool:
        """Whether a record is of it."""
        return (not self.kinds or kind in self.kinds) and (not self.models or model in self.models)


class Retention(msgspec.Struct, frozen=True):
    """A stated policy."""

    policy: str
    """Its name, and where it can be read."""
    rest: Class
    """Of records that no other class takes."""
    classes: tuple[Class, ...] = ()

    def of(self, kind: str | None, model: str | None) -> Class:
        """The class by which a record is kept."""
        return max((one for one in self.classes if one.takes(kind, model)), key=lambda one: one.days, default=self.rest)


class Plan(msgspec.Struct):
    """What could go, and why no more."""

    begin: int
    """The first entry that is there."""
    before: int
    """The first that would be there afterwards; `begin`: nothing can go."""
    stated: int
    """Entries that an earlier pruning stated to be gone; beyond `begin` when it was interrupted."""
    size: int
    parts: list[Part] = []
    """The records that would go, by class."""
    why: str = ""
    """Why the entry `stays` has to stay."""
    stays: int = 0
    held: bool = False
    """It is a legal hold."""


class _Row(msgspec.Struct):
    time: str
    kind: str | None = None
    model: str | None = None
    subject: str | None = None
    object: str | None = None


_decode = msgspec.json.Decoder(_Row).decode


class _Stays(msgspec.Struct, frozen=True):
    why: str
    held: bool = False


_NO_TIME = _Stays("it is no record with a time, so that its age is not known")


class _Judge:
    """Whether a record may go."""

    def __init__(self, retention: Retention, now_ns: int, held: Mapping[str, str]) -> None:
        self._retention = retention
        self._held = held
        every = (retention.rest, *retention.classes)
        self._cutoffs = {one.name: timestamp(now_ns - one.days * _DAY_NS) for one in every}
        self._of: dict[tuple[str | None, str | None], Class] = {}

    def judge(self, entry: bytes) -> _Stays | Part:
        """Why a record has to stay; or the part that it makes up when it may go."""
        try:
            row = _decode(entry)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _NO_TIME
        for name in (row.subject, row.object):
            if name is not None and name in self._held:
                return _Stays(f"legal hold on {name}: {self._held[name]}", held=True)
        if not _TIME.fullmatch(row.time):
            return _NO_TIME
        kept = self._class(row.kind, row.model)
        if row.time >= self._cutoffs[kept.name]:
            return _Stays(f"it is of {row.time}, and class {kept.name!r} is kept for {kept.days} days ({kept.duty})")
        return Part(kept.name, kept.days, kept.duty, 1, row.time)

    def _class(self, kind: str | None, model: str | None) -> Class:
        found = self._of.get((kind, model))
        if found is None:
            if len(self._of) > _MOST_PAIRS:  # models in requests are anybody's
                self._of.clear()
            found = self._of[kind, model] = self._retention.of(kind, model)
        return found


def plan(folder: Path, retention: Retention, now_ns: int, held: Mapping[str, str]) -> Plan:
    """What a log may lose now.

    Args:
        folder: the log.
        retention: the policy.
        now_ns: nanoseconds since 1970.
        held: subjects under a legal hold, as they stand in records, and why.

    Raises:
        AuditInputError: the log cannot be read.
    """
    size = read_checkpoint(folder).size
    stated = read_pruned(folder, size)
    gone = 0 if stated is None else stated.before
    files = TreeFiles(folder, size)
    first = next((at for at in range(gone // WIDTH) if (folder / bundle_path(at)).exists()), gone // WIDTH)
    result = Plan(begin=first * WIDTH, before=first * WIDTH, stated=gone, size=size)
    judge, parts = _Judge(retention, now_ns, held), dict[str, Part]()
    for index in range(first, size // WIDTH):
        if index < gone // WIDTH and not (folder / bundle_path(index)).exists():
            continue  # the power failed while an earlier pruning went on
        try:
            entries = files.bundle(index, WIDTH)
        except (OSError, ValueError) as error:
            raise AuditInputError(f"{folder}: {error}: `tidegate audit verify` says more") from None
        new: dict[str, Part] = {}
        for at, entry in enumerate(entries, index * WIDTH):
            found = judge.judge(entry)
            if isinstance(found, _Stays):
                result.why, result.stays, result.held = found.why, at, found.held
                return _with(result, parts)
            _join(new, found)
        for part in new.values():
            _join(parts, part)
        result.before = (index + 1) * WIDTH
    result.stays, result.why = result.before, f"entries go by {WIDTH}, and those are not yet so many"
    return _with(result, parts)


def _join(parts: dict[str, Part], part: Part) -> None:
    old = parts.get(part.name)
    parts[part.name] = part if old is None else old.joined(part)


def _with(result: Plan, parts: Mapping[str, Part]) -> Plan:
    result.parts = [parts[name] for name in sorted(parts)]
    return result
