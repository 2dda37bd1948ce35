"""Tiles of monitors in the database: written once, merged with age, read by windows.

Contract: a gateway writes a tile together with how far it has come, in one transaction, so that what is written again
after a crash is not counted twice. Tiles of a minute are each gateway's own; `fold` merges what is old enough over
gateways, then into 5 minutes, hours and days (`LADDER`), and forgets days after `KEEP_S`. It moves counts in one
transaction, and one gateway does it at a time; what is written late, after the store was away, is added to what has
been merged already. Whoever reads sees each count once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

from governance.errors import StoreError
from governance.monitor import tile
from governance.store.plain import Execute, Plain

MINUTE, HOUR, DAY = 60, 3600, 86400
LEVELS = (MINUTE, 5 * MINUTE, HOUR, DAY)
KEEP_S = 2 * 365 * DAY
"""How long days are kept; so is how far a gateway has come that no longer writes."""
_ADVISORY = 0x7469_6C65
"""`tile`: PostgreSQL's advisory lock of who merges."""
_AT_ONCE = 1000
"""Most tiles that are merged in one transaction."""
AGES = ((2 * HOUR, MINUTE), (2 * DAY, 5 * MINUTE), (35 * DAY, HOUR), (KEEP_S, DAY))
"""The same by age: up to how old a count is in tiles of which level."""
_NOBODY = "*"
"""No gateway's name: a host has none with it."""
# Locks the row as well, or makes it.
_LOCKED = (
    "INSERT INTO monitor_replica (route, key, replica, through) VALUES (?, ?, ?, 0) "
    "ON CONFLICT (route, key, replica) DO UPDATE SET through = monitor_replica.through RETURNING through"
)
_OWN = "SELECT through FROM monitor_replica WHERE route = ? AND key = ? AND replica = ?"
_NAMED = "SELECT replica FROM monitor_replica WHERE route = ? AND key = ? AND (replica = ? OR replica LIKE ?)"
_REACHED = "UPDATE monitor_replica SET through = ? WHERE route = ? AND key = ? AND replica = ?"
_LATER = (
    "SELECT start, tile FROM monitor_tile WHERE route = ? AND key = ? AND (level = 60 AND start > ? "
    "OR level = 300 AND start > ? OR level = 3600 AND start > ? OR level = 86400 AND start > ?)"
)
_OLD = "SELECT route, key, start, replica, tile FROM monitor_tile WHERE level = ? AND start < ? AND replica <> ? "
_FIRST = "ORDER BY route, key, start LIMIT ? FOR UPDATE"
_GONE = "DELETE FROM monitor_tile WHERE route = ? AND key = ? AND level = ? AND start = ? AND replica = ?"
_THERE = (
    "SELECT tile FROM monitor_tile WHERE route = ? AND key = ? AND level = ? AND start = ? AND replica = ? FOR UPDATE"
)


class Step(NamedTuple):
    """Tiles of one level become tiles of another, of all gateways, once they have an age."""

    level: int
    to: int
    after: int
    """Seconds."""


LADDER = (
    Step(MINUTE, MINUTE, 10 * MINUTE),
    Step(MINUTE, 5 * MINUTE, 2 * HOUR),
    Step(5 * MINUTE, HOUR, 2 * DAY),
    Step(HOUR, DAY, 35 * DAY),
)


class Series(NamedTuple):
    """What tiles are of."""

    route: str
    key: str
    """Of the profile and the outputs that are watched."""


class Tile(NamedTuple):
    """One of a minute."""

    start: int
    """Unix time in seconds, a multiple of `MINUTE`."""
    tile: bytes


class Found(NamedTuple):
    """What a window has."""

    tiles: list[bytes]
    first: int | None
    """Unix seconds at which the oldest of them begins."""
    earliest: int | None
    """And the oldest of the series."""
    through: int
    """Unix nanoseconds up to which this gateway's counts are in tiles; 0: none is."""


def append(plain: Plain, series: Series, replica: str, fresh: Callable[[int], tuple[Sequence[Tile], int]]) -> int:
    """Write what a gateway has counted since it last did.

    Args:
        plain: the database.
        series: what is counted.
        replica: who counted.
        fresh: the tiles of what was counted since a time, in Unix nanoseconds (0: all), and the time that they reach.

    Returns:
        How far it has come now.

    Raises:
        StoreError: nothing was written.
        Exception: whatever `fresh` raises.
    """
    own = (*series, replica)
    with plain.transaction(write=True) as execute:
        ((before,),) = execute(_LOCKED, own)
        tiles, through = fresh(int(before))
        for each in tiles:
            _add(execute, series, MINUTE, each.start, replica, [each.tile])
        execute(_REACHED, (through, *own))
    return through


def add(
    plain: Plain, series: Series, name: str, taken: str, tiles: Mapping[tuple[int, int], bytes], newest: int
) -> Literal["added", "there", "others"]:
    """Add tiles of any level that were counted elsewhere, once.

    Args:
        plain: the database.
        series: what was counted.
        name: of what they were counted in; it is forgotten with them.
        taken: which part of it they are.
        tiles: by level and start.
        newest: Unix seconds of the newest count, above 0.

    Returns:
        Whether they were added, are there already, or others of that name are: nothing is added then, since what both
        have would count twice.

    Raises:
        StoreError: nothing was added.
    """
    own = (*series, f"{name}.{taken}")
    with plain.transaction(write=True) as execute:
        if plain.shared:
            execute("SELECT pg_advisory_xact_lock(?)", (_ADVISORY,))
        there = {row[0] for row in execute(_NAMED, (*series, name, f"{name}.%"))}
        if there:
            # An earlier version wrote the name alone, and which part that was is not known.
            return "there" if there & {name, own[-1]} else "others"
        execute(_LOCKED, own)
        for (level, start), each in tiles.items():
            _add(execute, series, level, start, "", [each])
        execute(_REACHED, (newest * 10**9, *own))
    return "added"


def read(plain: Plain, series: Series, replica: str, since: int) -> Found:
    """All tiles that end after a time, of all gateways. Raises StoreError.

    Args:
        plain: the database.
        series: what was counted.
        replica: who asks.
        since: Unix seconds.
    """
    with plain.transaction(write=False) as execute:
        rows = execute(_LATER, (*series, *(since - level for level in LEVELS)))
        ((earliest,),) = execute("SELECT MIN(start) FROM monitor_tile WHERE route = ? AND key = ?", series)
        through = execute(_OWN, (*series, replica))
    return Found(
        [bytes(row[1]) for row in rows],
        min((int(row[0]) for row in rows), default=None),
        earliest,
        int(through[0][0]) if through else 0,
    )


def fold(plain: Plain, now: int) -> int:
    """Merge what is old enough, and forget what is too old. Raises StoreError.

    Args:
        plain: the database.
        now: Unix seconds.

    Returns:
        How many tiles were merged; 0 as well where another gateway is at it.
    """
    done = 0
    while True:
        with plain.transaction(write=True) as execute:
            if not _mine(plain, execute):
                return done
            merged = [_folded(execute, step, now) for step in LADDER]
            execute("DELETE FROM monitor_tile WHERE level = ? AND start < ?", (DAY, now - KEEP_S))
            # Its tiles are gone as well, so that nothing doubles where such a gateway comes back.
            execute("DELETE FROM monitor_replica WHERE through < ?", ((now - KEEP_S) * 10**9,))
        done += sum(merged)
        if max(merged) < _AT_ONCE:
            return done


def _folded(execute: Execute, step: Step, now: int) -> int:
    # Where gateways are merged at one level, what is merged already has no name, and stays.
    skipped = "" if step.level == step.to else _NOBODY
    before = (now - step.after) // step.to * step.to
    rows = execute(_OLD + _FIRST, (step.level, before, skipped, _AT_ONCE))
    # Rows before sums: with gateways merged at one level, their sum may be one of the rows to come.
    for route, key, start, replica, _ in rows:
        execute(_GONE, (route, key, step.level, start, replica))
    for (route, key, start), group in groupby(rows, lambda row: (row[0], row[1], row[2] // step.to * step.to)):
        _add(execute, Series(route, key), step.to, start, "", [bytes(row[4]) for row in group])
    return len(rows)


def _mine(plain: Plain, execute: Execute) -> bool:
    """Whether this transaction is the one that may write merged tiles."""
    if not plain.shared:
        return True
    return bool(execute("SELECT pg_try_advisory_xact_lock(?)", (_ADVISORY,))[0][0])


def _add(execute: Execute, series: Series, level: int, start: int, replica: str, tiles: Sequence[bytes]) -> None:
    """Add to a tile, or make it. Raises StoreError."""
    place: tuple[Any, ...] = (*series, level, start, replica)
    there = execute(_THERE, place)
    try:
        merged = tile.merge([*(bytes(row[0]) for row in there), *tiles])
    except ValueError as error:
        where = f"route {series.route!r}, level {level}, start {start}"
        raise StoreError(f"store: monitor_tile holds {error} ({where}): delete that row") from None
    execute(
        "INSERT INTO monitor_tile (route, key, level, start, replica, tile) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (route, key, level, start, replica) DO UPDATE SET tile = excluded.tile",
        (*place, merged),
    )
