"""What a shard counts, and where: shared by both twins, computed once when a shard is made.

A shard's block is 64-bit words in the machine's byte order: a header, then for each column its cells, one word for the
values that were missing, and for numbers six words of moments, padded to whole cache lines.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import inf, isfinite
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

BINS = 16
"""Most bins of a column of numbers; 15 edges are four vector compares, and reports have 10 bins."""
HEADER = 8
VERSION, ROWS, CALLS, UNSEEN = range(4)
"""Words of the header: odd while a call is being counted; rows; calls counted; calls that could not be."""
MOMENTS = 6
CLIPPED, SUM, SQUARES_LOW, SQUARES_HIGH, HIGHEST, LOWEST = range(MOMENTS)
NUMBERS, NAMES, TIMES = range(3)
"""Kinds of columns, as the twins tell them apart."""

DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16",
    "BYTES",
)  # fmt: skip
"""Those of the Open Inference Protocol."""
EXACT, SINGLE, HALF, BRAIN = range(4)
"""How what values are compared with is rounded: not at all, or as float32, float16, bfloat16 are."""
ROUNDING = {"FP16": HALF, "FP32": SINGLE, "BF16": BRAIN}

_LINE = 8  # words of a cache line
_MOST = 1 << 20


class Numbers(NamedTuple):
    """A column of numbers in bins: bin i is (edges[i-1], edges[i]], the outer ones are open."""

    edges: tuple[float, ...]
    """Ascending, finite, at most BINS - 1."""
    centre: float
    scale: float
    """Moments are of round((v - centre) * scale); a power of two keeps the product exact."""

    @property
    def cells(self) -> int:
        """Bins that a shard has for it."""
        return BINS


class Names(NamedTuple):
    """A column of categories: a cell each, then OTHER (the reference has it too), then UNSEEN."""

    names: tuple[str, ...]
    others: tuple[str, ...]
    numbers: tuple[float | None, ...]
    """Of names and others: the number that each is written as, None: it is none."""
    fold: bool
    """Truth values: `true` and `false` with blanks around them and in any case are those."""

    @property
    def cells(self) -> int:
        """Categories, OTHER and UNSEEN."""
        return len(self.names) + 2


class Times(NamedTuple):
    """A column of times, of which only the presence is counted."""

    @property
    def cells(self) -> int:
        """One."""
        return 1


Column: TypeAlias = Numbers | Names | Times


def places(columns: Sequence[Column]) -> list[int]:
    """The first word of each column, and behind them the number of words in all.

    ValueError unless there are 1 to 2^20 columns, each as its class says.
    """
    if not 1 <= len(columns) <= _MOST:
        raise ValueError("a shard has 1 to 1048576 columns")
    found, at = [], HEADER
    for column in columns:
        _judge(column)
        found.append(at)
        words = column.cells + 1 + (MOMENTS if isinstance(column, Numbers) else 0)
        at += -(-words // _LINE) * _LINE
    return [*found, at]


def nbytes(columns: Sequence[Column]) -> int:
    """Bytes of a shard's block."""
    return places(columns)[-1] * 8


def _judge(column: Column) -> None:
    if isinstance(column, Names):
        if len(column.numbers) != len(column.names) + len(column.others):
            raise ValueError("names and numbers are not as many")
    elif isinstance(column, Numbers):
        edges = column.edges
        if len(edges) >= BINS or not all(map(isfinite, edges)) or list(edges) != sorted(edges):
            raise ValueError("edges do not ascend, or are too many")
        if not (isfinite(column.centre) and isfinite(column.scale) and column.scale > 0):
            raise ValueError("a centre is not finite, or a scale not above 0")


def rounded(value: float, rounding: int) -> float:
    """A number as a tensor of that precision would hold it, to the nearest; beyond the largest it is infinite."""
    if rounding == EXACT:
        return value
    with np.errstate(over="ignore"):
        single = np.float32(value)
        if rounding == SINGLE:
            return float(single)
        if rounding == HALF:
            return float(np.float16(single))
    if not np.isfinite(single):
        return float(single)
    (bits,) = struct.unpack("=I", struct.pack("=f", single))
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(struct.unpack("=f", struct.pack("=I", bits))[0])


def edge_table(column: Column, rounding: int) -> list[float]:
    """BINS - 1 edges, padded with infinity, which nothing is above."""
    edges = column.edges if isinstance(column, Numbers) else ()
    return [rounded(edge, rounding) for edge in edges] + [inf] * (BINS - 1 - len(edges))


def number_table(column: Names, rounding: int) -> tuple[list[float], list[int]]:
    """Numbers that are names, ascending, and the cell of each; of equal ones the first name's."""
    cells: dict[float, int] = {}
    for at, number in enumerate(column.numbers):
        if number is not None:
            cells.setdefault(rounded(number, rounding), min(at, len(column.names)))
    ordered = sorted(cells)
    return ordered, [cells[number] for number in ordered]


def name_table(column: Names) -> dict[bytes, int]:
    """The cell of every name that the reference has, as UTF-8."""
    found = {name.encode(): at for at, name in enumerate(column.names)}
    return found | {name.encode(): len(column.names) for name in column.others}


def truth_cells(column: Names) -> tuple[int, int]:
    """The cells of false and true."""
    named = name_table(column)
    unseen = len(column.names) + 1
    return named.get(b"false", unseen), named.get(b"true", unseen)


def tensors_of(
    names: Sequence[str], outputs: Sequence[str] = ()
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Which columns a tensor of a name carries, for columns of these names: of inputs, and of outputs.

    A tensor NAME is the column NAME; it is the columns NAME_0, NAME_1, ... as far as they go without a gap. The empty
    name stands for a tensor alone in its call, of a name that is none of these: it is all columns in their order. The
    columns of a tensor in `outputs` are those of an answer, and no input's.
    """
    everything = _named(names)
    answered = {name: everything[name] for name in outputs if name in everything}
    taken = {at for wide in answered.values() for at in wide}
    asked = {name: wide for name, wide in everything.items() if not taken.intersection(wide)}
    rest = tuple(at for at in range(len(names)) if at not in taken)
    return (asked | {"": rest} if rest else asked), answered


def _named(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The columns of tensors by name: a column's own, or NAME of NAME_0, NAME_1, ..."""
    index = {name: at for at, name in enumerate(names)}
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        stem, _, number = name.rpartition("_")
        if number == "0" and stem:
            wide: list[int] = []
            while (at := index.get(f"{stem}_{len(wide)}")) is not None:
                wide.append(at)
            found[stem] = tuple(wide)
    return found | {name: (at,) for name, at in index.items()}


def merge(columns: Sequence[Column], blocks: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """One block that counts what several do; none is all zeros.

    ValueError: a block is of other columns.
    """
    at = places(columns)
    total = np.zeros(at[-1], dtype=np.uint64)
    first = np.array([place + BINS + 1 for place, c in zip(at, columns, strict=False) if isinstance(c, Numbers)], int)
    for block in blocks:
        more = np.frombuffer(block, dtype=np.uint64)
        if len(more) != len(total):
            raise ValueError("a block of other columns")
        before = total.copy()
        total += more
        for extreme in (first + HIGHEST, first + LOWEST):
            total[extreme] = np.maximum(before[extreme], more[extreme])
        total[first + SQUARES_HIGH] += total[first + SQUARES_LOW] < more[first + SQUARES_LOW]
    total[VERSION] = 0
    return total


def since(
    columns: Sequence[Column], now: npt.NDArray[np.uint64], before: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """What was counted from one merged block to a later one; the extremes are 0, as where none is known."""
    at = places(columns)
    first = np.array([place + BINS + 1 for place, c in zip(at, columns, strict=False) if isinstance(c, Numbers)], int)
    found = now - before
    found[first + SQUARES_HIGH] -= now[first + SQUARES_LOW] < before[first + SQUARES_LOW]
    found[first + HIGHEST] = found[first + LOWEST] = 0
    found[VERSION] = 0
    return found
