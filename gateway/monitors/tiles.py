"""What a monitor had counted, minute by minute, for the store to get: `STATE_DIR/monitors/ROUTE-PROFILE/tiles`.

Contract: one writer, the worker that holds the meters' lock; anyone reads. A record is the merged block of all workers
at a time, so that none needs another one: older ones are thinned out by being left out. A record that is not whole
(its writer was killed) ends the file for readers, and the next writer cuts it off. Tiles of the store (`past`) are
differences of records, and so are this machine's own windows while the store is away: the longer it is, the coarser
they become, and nothing is lost.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct("=4sIQI")
"""Magic, bytes of the payload, Unix nanoseconds, CRC-32 of the payload, which is a block compressed by zlib."""
_MAGIC = b"TGT1"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

WINDOWS = {"5m": 5 * _MINUTE, "1h": _HOUR, "1d": _DAY, "7d": 7 * _DAY, "30d": 30 * _DAY}
"""Seconds of the windows that can be asked for."""
KEEP = ((2 * _HOUR, _MINUTE), (2 * _DAY, 5 * _MINUTE), (32 * _DAY, _HOUR))
"""Up to what age one record is kept of how many seconds; a window begins at most that much too early."""
MOST_BYTES = 64 << 20
"""Of one file; beyond it the oldest records go. A hundred columns of numbers take some 7 MiB."""


class Record(NamedTuple):
    """Where a block stands in the file."""

    at: int
    """Unix nanoseconds."""
    offset: int
    """Of its header."""
    size: int
    """Of its payload."""


def records(path: Path) -> list[Record]:
    """Oldest first. Raises OSError; no file has none."""
    try:
        with path.open("rb") as file:
            return list(_records(file.fileno()))
    except FileNotFoundError:
        return []


def _records(descriptor: int) -> Iterator[Record]:
    offset, end = 0, os.fstat(descriptor).st_size
    while True:
        head = os.pread(descriptor, _HEAD.size, offset)
        if len(head) < _HEAD.size:
            return
        magic, size, at, _ = _HEAD.unpack(head)
        if magic != _MAGIC or offset + _HEAD.size + size > end:
            return
        yield Record(at, offset, size)
        offset += _HEAD.size + size


def block_at(path: Path, since_ns: int) -> tuple[int, bytes] | None:
    """The latest record of that time or before, and its time; None: there is none. Raises OSError."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        for record in sorted(_records(file.fileno()), reverse=True):
            if record.at > since_ns:
                continue
            block = _block(file.fileno(), record)
            if block is not None:
                return record.at, block
    return None


def after(path: Path, at_ns: int, most: int) -> tuple[bytes | None, list[tuple[int, bytes]]]:
    """The block of the record of a time, None where there is none, and up to `most` later ones with their times.

    Raises OSError.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None, []
    own: bytes | None = None
    later: list[tuple[int, bytes]] = []
    with file:
        for record in _records(file.fileno()):
            if record.at >= at_ns and len(later) < most:
                block = _block(file.fileno(), record)
                if block is not None and record.at == at_ns:
                    own = block
                elif block is not None:
                    later.append((record.at, block))
    return own, later


def _block(descriptor: int, record: Record) -> bytes | None:
    """None: it holds something else than was written."""
    _, _, _, crc = _HEAD.unpack(os.pread(descriptor, _HEAD.size, record.offset))
    payload = os.pread(descriptor, record.size, record.offset + _HEAD.size)
    return zlib.decompress(payload) if zlib.crc32(payload) == crc else None


def keep(path: Path, now_ns: int, block: bytes, held: Collection[int] = ()) -> None:
    """Write a record, and leave out what is too old or too close, but for those of the times `held`. Raises OSError."""
    payload = zlib.compress(block, 1)
    record = _HEAD.pack(_MAGIC, len(payload), now_ns, zlib.crc32(payload)) + payload
    found = records(path)
    kept = thinned(found, now_ns, len(record), held)
    if len(kept) == len(found):
        end = found[-1].offset + _HEAD.size + found[-1].size if found else 0
        with path.open("r+b" if path.exists() else "x+b") as file:
            file.truncate(end)
            file.seek(end)
            file.write(record)
        return
    aside = path.with_suffix(".new")
    with path.open("rb") as old, aside.open("wb") as new:
        for one in kept:
            new.write(os.pread(old.fileno(), _HEAD.size + one.size, one.offset))
        new.write(record)
    aside.replace(path)


def thinned(found: list[Record], now_ns: int, more: int = 0, held: Collection[int] = ()) -> list[Record]:
    """The records that stay beside a new one of `more` bytes; of those that are too close, the oldest stays.

    Rewritten only when a tenth of them can go, so that a minute costs an append.
    """
    kept: list[Record] = []
    seen: set[tuple[int, int]] = set()
    for one in found:
        age = (now_ns - one.at) / 1e9
        step = next((step for most, step in KEEP if age <= most), None)
        place = (step or 0, int(one.at / 1e9) // (step or 1))
        if one.at in held or (step is not None and place not in seen):
            seen.add(place)
            kept.append(one)
    total = more + sum(_HEAD.size + one.size for one in kept)
    for one in [one for one in kept if one.at not in held]:
        if total > MOST_BYTES:
            total -= _HEAD.size + one.size
            kept.remove(one)
    whole = more + sum(_HEAD.size + one.size for one in found)
    return kept if whole > MOST_BYTES or len(found) - len(kept) > len(found) // 10 else found
