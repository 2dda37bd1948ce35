"""Paths and contents of C2SP tlog-tiles v0.1.0. No I/O.

A tile at level L holds up to 256 hashes of perfect subtrees of 256^L leaves each; tile N those from 256*N on.
An entry bundle holds the entries below a tile of level 0, each as its length (two bytes, big-endian) and its bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence

WIDTH = 256
HASH = 32
MOST_ENTRY = 65_535
"""Bytes of an entry: what its length can say."""
_MOST_LEVEL = 63
_LENGTH = struct.Struct(">H")


def number(index: int) -> str:
    """A tile's number in its path: groups of three digits, all but the last with an `x` before it."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.append(f"x{index % 1000:03d}")
    return "/".join(reversed(groups))


def tile_path(level: int, index: int, width: int = WIDTH) -> str:
    """Path of a tile, below the log; partial when its width is less than 256."""
    return f"tile/{level}/{number(index)}" + (f".p/{width}" if width < WIDTH else "")


def bundle_path(index: int, width: int = WIDTH) -> str:
    """Path of an entry bundle, below the log."""
    return f"tile/entries/{number(index)}" + (f".p/{width}" if width < WIDTH else "")


_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


def parse_path(path: str) -> tuple[int | None, int, int]:
    """Level (None: a bundle of entries), index and width that a path names.

    Raises:
        ValueError: it is no path of a tile, or not the one that tile has.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"no path of a tile: {path[:80]!r}")
    kind, digits, part = match.groups()
    index = int(digits.replace("x", "").replace("/", ""))
    width = WIDTH if part is None else int(part)
    level = None if kind == "entries" else int(kind)
    made = bundle_path(index, width) if level is None else tile_path(level, index, width)
    if made != path or (level or 0) > _MOST_LEVEL:  # leading zeros, or a partial tile that is full
        raise ValueError(f"not how the path of a tile is written: {path[:80]!r}")
    return level, index, width


def widths(size: int, level: int) -> Iterator[tuple[int, int]]:
    """The tiles `(index, width)` of one level in a tree of that size; none is empty."""
    count = size >> (8 * level)
    for index in range(count // WIDTH):
        yield index, WIDTH
    if count % WIDTH:
        yield count // WIDTH, count % WIDTH


def levels(size: int) -> int:
    """How many levels of tiles a tree of that size has."""
    found = 0
    while size >> (8 * found):
        found += 1
    return found


def hashes_of(tile: bytes) -> list[bytes]:
    """The hashes of a tile. Raises ValueError."""
    if len(tile) % HASH:
        raise ValueError(f"{len(tile)} bytes are no whole number of hashes")
    return [tile[at : at + HASH] for at in range(0, len(tile), HASH)]


def bundle(entries: Iterable[bytes]) -> bytes:
    """Entries as a bundle. Raises ValueError when one is longer than a bundle can say."""
    parts = []
    for entry in entries:
        if len(entry) > MOST_ENTRY:
            raise ValueError(f"an entry of {len(entry)} bytes: {MOST_ENTRY} are the most")
        parts.append(_LENGTH.pack(len(entry)))
        parts.append(entry)
    return b"".join(parts)


def entries_of(data: bytes) -> Sequence[bytes]:
    """The entries of a bundle. Raises ValueError, which says how many were whole."""
    return [piece[2:] for piece in split(data)]


def split(data: bytes) -> list[bytes]:
    """The entries of a bundle, each with its length before it, so that joined they are the bundle.

    Raises:
        ValueError: it ends within an entry; says how many were whole.
    """
    found: list[bytes] = []
    at, end = 0, len(data)
    while at + 1 < end:
        # Indexing takes half of what `struct` does, and every entry passes here twice.
        behind = at + 2 + (data[at] << 8 | data[at + 1])
        found.append(data[at:behind])
        at = behind
    if at != end:
        raise ValueError(f"cut off after {len(found) - (at > end)} entries")
    return found
