"""What was counted in a while, as one compact value that a database keeps: `tidegate.tile/1`.

Contract: a tile is a block of `kernels.drift`, or the difference of two. Tiles of the same columns merge without the
profile that they were counted for, in any order, by whole numbers alone: merged, all tiles since a shard began are bit
for bit its block. A byte of version (1), then raw deflate (RFC 1951) of unsigned LEB128 numbers below 2^64:

    runs, then for each run of like columns: how many, the kind (0 numbers, 1 names, 2 times), the cells of one
    rows, calls, unseen calls
    for each column: its cells, its missing values
        and of numbers: clipped, zigzag(sum), squares mod 2^64, squares div 2^64, highest, lowest

with the words of `kernels.drift`. Highest and lowest are 0 where nothing in this while was further out than before, so
that they are known of everything merged, and of no part of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt

from kernels import drift

VERSION = 1
MOST_BYTES = 64 << 20
"""Of a tile's numbers; a profile of the most columns has fewer."""

Words = npt.NDArray[np.uint64]
Runs = tuple[tuple[int, int, int], ...]
"""How many columns, of which kind, of how many cells."""

_NUMBERS, _NAMES, _TIMES = range(3)
_HEAD = (drift.ROWS, drift.CALLS, drift.UNSEEN)
_MOMENTS = 6
_MOST_COLUMNS = 1 << 20
_LOW_HALF = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class _Places:
    """Where in a tile's words what stands, for what is not merged by adding."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        first: list[int] = []
        at = len(_HEAD)
        for many, kind, cells in runs:
            for _ in range(many):
                at += cells + 1
                if kind == _NUMBERS:
                    first.append(at)
                    at += _MOMENTS
        self.words = at
        moments = np.array(first, dtype=np.int64)
        self.sums = moments + drift.SUM
        self.lows, self.highs = moments + drift.SQUARES_LOW, moments + drift.SQUARES_HIGH
        self.extremes = np.concatenate((moments + drift.HIGHEST, moments + drift.LOWEST))
        self.head = _leb128(np.array([len(runs), *(number for run in runs for number in run)], dtype=np.uint64))


@lru_cache(maxsize=64)
def _places(runs: Runs) -> _Places:
    return _Places(runs)


class Format:
    """Tiles of some columns.

    Args:
        columns: what is counted.
    """

    def __init__(self, columns: Sequence[drift.Column]) -> None:
        self.columns = tuple(columns)
        kinds = [(_kind(column), column.cells) for column in self.columns]
        runs: Runs = tuple((len(list(group)), *like) for like, group in groupby(kinds))
        self._places = _places(runs)
        *starts, self._block = drift.places(self.columns)
        spans = [np.array(_HEAD)]
        for start, (kind, cells) in zip(starts, kinds, strict=True):
            spans.append(np.arange(start, start + cells + 1 + (_MOMENTS if kind == _NUMBERS else 0)))
        self._at = np.concatenate(spans)
        """Of a block's words, those that a tile has: all but padding and version."""

    def difference(self, now: Words, before: Words) -> Words | None:
        """What was counted from one merged block to a later one; None: this is no later one, shards were lost."""
        places = self._places
        extremes = self._at[places.extremes]
        sums = np.concatenate((places.sums, places.lows, places.highs))
        growing = np.delete(self._at, sums)
        if (now[growing] < before[growing]).any():
            return None
        found = drift.since(self.columns, now, before)
        found[extremes] = np.where(now[extremes] > before[extremes], now[extremes], 0)
        return found

    def encode(self, block: Words) -> bytes:
        """The tile of a block."""
        return _packed(self._places, block[self._at])

    def decode(self, tile: bytes) -> Words:
        """The block of a tile. ValueError: it is none, or of other columns."""
        places, words = _unpacked([tile])
        if places.runs != self._places.runs:
            raise ValueError("a tile of other columns")
        block = np.zeros(self._block, dtype=np.uint64)
        block[self._at] = words[0]
        return block


def merge(tiles: Sequence[bytes]) -> bytes:
    """One tile of several, at least one, of the same columns. ValueError: one is none, or of others."""
    if len(tiles) == 1:
        return tiles[0]
    places, words = _unpacked(tiles)
    total = words.sum(axis=0, dtype=np.uint64)
    total[places.extremes] = words[:, places.extremes].max(axis=0, initial=0)
    low = words[:, places.lows]
    halves = (low & _LOW_HALF).sum(axis=0, dtype=np.uint64), (low >> _HALF).sum(axis=0, dtype=np.uint64)
    total[places.highs] += (halves[1] + (halves[0] >> _HALF)) >> _HALF
    return _packed(places, total)


def _kind(column: drift.Column) -> int:
    if isinstance(column, drift.Numbers):
        return _NUMBERS
    return _NAMES if isinstance(column, drift.Names) else _TIMES


def _packed(places: _Places, words: Words) -> bytes:
    words = words.copy()
    signed = words[places.sums].view(np.int64)
    words[places.sums] = ((signed << 1) ^ (signed >> 63)).view(np.uint64)
    pressed = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = pressed.compress(places.head + _leb128(words)) + pressed.flush()
    return bytes([VERSION]) + body


def _unpacked(tiles: Sequence[bytes]) -> tuple[_Places, Words]:
    """What the tiles are of, and their words, a row each."""
    plain = [_inflated(tile) for tile in tiles]
    places = _places(_runs(plain[0]))
    if not all(each.startswith(places.head) for each in plain):
        raise ValueError("tiles of different columns")
    rows = [each[len(places.head) :] for each in plain]
    # Which tile a number is of must not hang on the others: each has its own count of them.
    if any(np.count_nonzero(np.frombuffer(row, np.uint8) < 128) != places.words for row in rows):
        raise ValueError("a tile that is cut short or too long")
    words = _numbers(b"".join(rows)).reshape(len(tiles), places.words)
    folded = words[:, places.sums]
    words[:, places.sums] = (folded >> np.uint64(1)) ^ (np.uint64(0) - (folded & np.uint64(1)))
    return places, words


def _inflated(tile: bytes) -> bytes:
    if tile[:1] != bytes([VERSION]):
        raise ValueError("a tile of another version")
    pressed = zlib.decompressobj(-15)
    try:
        plain = pressed.decompress(tile[1:], MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"a tile that is damaged: {error}") from None
    if not pressed.eof or pressed.unused_data or not plain or plain[-1] >= 128:
        raise ValueError("a tile that is cut short or too long")
    return plain


def _runs(plain: bytes) -> Runs:
    many, rest = int(_few(plain, 1)[0]), 0
    if many > _MOST_COLUMNS:
        raise ValueError("a tile of too many columns")
    numbers = [int(number) for number in _few(plain, 1 + 3 * many)[1:]]
    runs = tuple(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
    rest = sum(count * (cells + 1) for count, _, cells in runs)
    if not runs or any(kind > _TIMES for _, kind, _ in runs) or rest > len(plain):
        raise ValueError("a tile of columns that there are not")
    return runs


def _few(plain: bytes, count: int) -> Words:
    """The first so many numbers."""
    ends = np.flatnonzero(np.frombuffer(plain[: 10 * count], np.uint8) < 128)
    if len(ends) < count:
        raise ValueError("a tile that is cut short")
    return _numbers(plain[: int(ends[count - 1]) + 1])


def _leb128(numbers: Words) -> bytes:
    """Unsigned LEB128, seven bits a byte, lowest first."""
    sizes = np.ones(len(numbers), dtype=np.int64)
    for bits in range(7, 64, 7):
        sizes += numbers >= np.uint64(1 << bits)
    ends = np.cumsum(sizes)
    which = np.repeat(np.arange(len(numbers)), sizes)
    place = np.arange(len(which)) - (ends - sizes)[which]
    found = (numbers[which] >> (7 * place).astype(np.uint64)) & np.uint64(127)
    found |= np.where(place + 1 < sizes[which], np.uint64(128), np.uint64(0))
    return found.astype(np.uint8).tobytes()


def _numbers(data: bytes) -> Words:
    """The numbers of LEB128 whose last one is whole. ValueError: one is beyond 64 bits, or longer than it has to be."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 128)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends + 1 - starts
    last = octets[ends]
    if (sizes > 10).any() or ((sizes == 10) & (last > 1)).any() or ((sizes > 1) & (last == 0)).any():
        raise ValueError("a number of a tile that is not in its shortest form")
    place = np.arange(len(octets)) - np.repeat(starts, sizes)
    found: Words = np.add.reduceat((octets & 127).astype(np.uint64) << (7 * place).astype(np.uint64), starts)
    return found
