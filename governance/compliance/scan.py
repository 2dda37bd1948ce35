"""One pass over a log: what each query finds, in bounded memory however long the log is.

Contract: every entry of the log is looked at once, in order. What is kept of a query is counts, at most `MOST_CELLS`
combinations, and the indices of the records that are cited: of more than it may cite, those with the smallest leaf
hashes. Nobody can choose those by hand, and whoever has the whole log can find them again. Nothing is verified here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from governance.audit.show import entries
from governance.compliance.pack import Check, Pack, Query, Select
from governance.compliance.times import Period, is_record_time
from kernels import merkle

MOST_CELLS = 1000
"""Combinations of a query that are counted apart; records of further ones are counted together."""
_LONGEST = 200
"""Characters of a value that stay in a combination: names in requests are anybody's."""
_MOST_LACKING = 5
"""Records cited for lacking a field that they should have."""
_MOST_KEYS = 8192
"""Combinations of what queries select by that are remembered."""
_BATCH = 4096

Progress: TypeAlias = Callable[[int, int], None]
Cell: TypeAlias = tuple[str | None, ...]


class Row(Protocol):
    """A record with the fields that somebody asks for."""

    kind: str | None
    outcome: str | None
    action: str | None
    status: str | None
    time: str | None
    id: str | None
    policy: str | None


_ALWAYS = ("kind", "outcome", "action", "status", "time", "id", "policy")


class Smallest:
    """The indices of the entries with the smallest leaf hashes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[int, int]] = []

    def add(self, index: int, leaf: bytes) -> None:
        """One more entry."""
        item = (-int.from_bytes(leaf, "big"), -index)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, item)
        elif self._most and item > self._heap[0]:
            heapq.heapreplace(self._heap, item)

    @property
    def indices(self) -> list[int]:
        """In the log's order."""
        return sorted(-index for _, index in self._heap)


class Lacking(msgspec.Struct):
    """Records that lack what a check says they have."""

    records: int = 0
    fields: dict[str, int] = {}
    """How many lack which."""
    indices: list[int] = []
    """The first of them."""


class Found:
    """What one query found."""

    def __init__(self, query: Query, filled: Sequence[tuple[str, ...]] = ()) -> None:
        self.query = query
        self.records = 0
        self.cells: dict[Cell, int] = {}
        self.other = 0
        """Records of combinations beyond `MOST_CELLS`."""
        self.cited = Smallest(query.cite)
        self.lacking = {fields: Lacking() for fields in filled}
        self._filled = [(fields, _getter(fields), self.lacking[fields]) for fields in filled]
        self._by = _getter(query.by) if query.by else None

    def see(self, index: int, row: Row, leaf: bytes) -> None:
        """One record that the query selects."""
        self.records += 1
        if self._by is not None:
            cell = self._by(row)
            if cell in self.cells:
                self.cells[cell] += 1
            else:
                self._new(cell)
        self.cited.add(index, leaf)
        for fields, values, lacking in self._filled:
            found = values(row)
            if None in found:
                lacking.records += 1
                for name, value in zip(fields, found, strict=True):
                    if value is None:
                        lacking.fields[name] = lacking.fields.get(name, 0) + 1
                if len(lacking.indices) < _MOST_LACKING:
                    lacking.indices.append(index)

    def _new(self, cell: Cell) -> None:
        cell = tuple(value if value is None else value[:_LONGEST] for value in cell)
        if cell in self.cells or len(self.cells) < MOST_CELLS:
            self.cells[cell] = self.cells.get(cell, 0) + 1
        else:
            self.other += 1


class InForce(msgspec.Struct):
    """A policy that decided in the period."""

    records: int
    first: str
    last: str


class Scan:
    """What a log holds of a period."""

    def __init__(self, found: dict[str, Found]) -> None:
        self.found = found
        self.records = 0
        """In the period."""
        self.outside = 0
        self.unreadable = 0
        """Entries that are no record."""
        self.untimed = 0
        """Records whose time has not the form that records have."""
        self.first: str | None = None
        """Time of the earliest record of the whole log."""
        self.last: str | None = None
        self.policies: dict[str, InForce] = {}
        """By hash; at most `MOST_CELLS`."""

    def time(self, time: str) -> None:
        """One more record of the log."""
        if self.first is None or time < self.first:
            self.first = time
        if self.last is None or time > self.last:
            self.last = time

    def force(self, policy: str, time: str) -> None:
        """One more record that a policy decided."""
        one = self.policies.get(policy)
        if one is not None:
            one.records += 1
            one.first, one.last = min(one.first, time), max(one.last, time)
        elif len(self.policies) < MOST_CELLS:
            self.policies[policy[:_LONGEST]] = InForce(1, time, time)


def _getter(fields: Sequence[str]) -> Callable[[Any], Cell]:
    get = attrgetter(*fields)
    if len(fields) == 1:
        return lambda row: (_text(get(row)),)
    return lambda row: tuple(map(_text, get(row)))


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def rows(
    folder: Path, size: int, fields: Sequence[str], progress: Progress = lambda _done, _size: None
) -> Iterator[tuple[int, bytes, Row | None]]:
    """Every entry `(index, raw, record)`; None where it is no record. Raises AuditInputError."""
    names = dict.fromkeys((*_ALWAYS, *fields))
    kinds = [(name, str | None if name in _ALWAYS else Any, None) for name in names]
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(msgspec.defstruct("Row", kinds, gc=False)).decode
    for index, entry in entries(folder, size=size):
        try:
            row = decode(entry)
        except (msgspec.DecodeError, UnicodeDecodeError):
            row = None
        yield index, entry, row
        if index % _BATCH == _BATCH - 1:
            progress(index + 1, size)


def scan(folder: Path, size: int, period: Period, pack: Pack, progress: Progress = lambda _done, _size: None) -> Scan:
    """What the queries of a pack find in a period.

    Args:
        folder: the log.
        size: of the log, as its checkpoint says.
        period: which records, by their time.
        pack: whose queries and checks.
        progress: told `(entries done, entries in all)` now and then.

    Raises:
        AuditInputError: something cannot be read.
    """
    checks = [check for duty in pack.duties for check in duty.checks]
    result = Scan({name: Found(query, filled_of(checks, name)) for name, query in pack.queries.items()})
    selects = [(one, one.query.select) for one in result.found.values()]
    present = tuple(dict.fromkeys(name for _, select in selects for name in (*select.has, *select.lacks)))
    wanted = {name for one in result.found.values() for name in (*one.query.by, *(f for g in one.lacking for f in g))}
    mask = attrgetter(*present, "kind") if present else None  # two or more names give a tuple
    known: dict[tuple[Any, ...], list[Found]] = {}
    begin, end = period.texts
    for index, entry, row in rows(folder, size, (*present, *sorted(wanted)), progress):
        if row is None:
            result.unreadable += 1
            continue
        time = row.time
        if time is None or not is_record_time(time):
            result.untimed += 1
            continue
        result.time(time)
        if not begin <= time < end:
            result.outside += 1
            continue
        result.records += 1
        if row.policy is not None:
            result.force(row.policy, time)
        there = () if mask is None else tuple([value is not None for value in mask(row)])
        key = (row.kind, row.outcome, row.action, row.status, there)
        found = known.get(key)
        if found is None:
            if len(known) >= _MOST_KEYS:
                known.clear()
            has = {name for name, is_there in zip(present, there, strict=False) if is_there}
            found = known[key] = [one for one, select in selects if selected(select, row, has)]
        if found:
            leaf = merkle.leaf_hash(entry)
            for one in found:
                one.see(index, row, leaf)
    return result


def filled_of(checks: Sequence[Check], query: str) -> list[tuple[str, ...]]:
    """What records of a query must have, one tuple a check."""
    return list(dict.fromkeys(one.fields for one in checks if one.kind == "filled" and one.query == query))


def selected(select: Select, row: Row, there: set[str]) -> bool:
    """Whether a record is one of a query's; `there`: which fields that queries ask for are not null."""
    return (
        (not select.kind or row.kind in select.kind)
        and (not select.outcome or row.outcome in select.outcome)
        and (not select.action or row.action in select.action)
        and (not select.status or row.status in select.status)
        and there.issuperset(select.has)
        and there.isdisjoint(select.lacks)
    )
