"""Values of tensors, one by one, for the specification of the drift shard."""

from __future__ import annotations

import struct
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from kernels.drift._plan import DATATYPES, Column, Names, Numbers, Times, number_table, truth_cells

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FORMATS = dict(zip(DATATYPES, "?BHIQbhiqefdH", strict=False))
"""Of `struct`, by datatype."""
_WORD = 2**64 - 1


class Tensor(Protocol):
    """What is counted; `gateway.wire.types.InputTensor` and `OutputTensor` are such."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def datatype(self) -> str:
        """One of the protocol's."""

    @property
    def shape(self) -> Sequence[int]:
        """Rows first."""

    @property
    def data(self) -> ReadableBuffer | None:
        """Raw bytes, row-major, in the machine's byte order; BYTES as their length and content; None: not here."""


def cell_of(column: Column, named: Mapping[bytes, int], text: bytes) -> int:
    """Where an element of BYTES is counted; the cell behind the last one is that of missing values."""
    if isinstance(column, Numbers):
        return column.cells
    if isinstance(column, Names) and text in named:
        return named[text]
    bare = plain(text).lower()
    if bare in ("", "nan"):
        return column.cells
    if isinstance(column, Times):
        return 0
    if column.fold and bare in ("true", "false"):
        return truth_cells(column)[bare == "true"]
    return column.cells - 1


def plain(text: bytes) -> str:
    """Without blanks around it; what is no UTF-8 is a value all the same."""
    try:
        return text.decode().strip()
    except UnicodeDecodeError:
        return "?"


def blank(text: bytes) -> bool:
    return plain(text).lower() in ("", "nan")


def numbered(column: Names, number: float, rounding: int) -> int:
    """The cell of a number in a column of categories."""
    ordered, cells = number_table(column, rounding)
    where = bisect_left(ordered, number)
    return cells[where] if where < len(ordered) and ordered[where] == number else column.cells - 1


def raw(data: ReadableBuffer | None) -> memoryview:
    view = memoryview(b"" if data is None else data)
    return view.cast("B") if view.nbytes else memoryview(b"")  # zeros in a shape cannot be cast


def split(data: ReadableBuffer | None) -> list[bytes]:
    """The elements of BYTES; ValueError when one is cut off."""
    view, found, at = raw(data), [], 0
    while at < len(view):
        end = at + 4 + int.from_bytes(view[at : at + 4], "little")
        if at + 4 > len(view) or end > len(view):
            raise ValueError
        found.append(bytes(view[at + 4 : end]))
        at = end
    return found


def elements_of(tensor: Tensor) -> int:
    """How many there are; -1: that cannot be said."""
    if tensor.data is None or tensor.datatype not in DATATYPES:
        return -1
    if tensor.datatype == "BYTES":
        try:
            return len(split(tensor.data))
        except ValueError:
            return -1
    elements, rest = divmod(raw(tensor.data).nbytes, struct.calcsize("=" + FORMATS[tensor.datatype]))
    return -1 if rest else elements


def rows_of(shape: Sequence[int], elements: int, width: int) -> int:
    """Rows of `width` values, one for each of the first dimension; a lone dimension of `width` is one row. -1: none."""
    first = shape[0] if shape else 1
    if 0 <= first <= elements and elements == first * width:
        return first
    return 1 if len(shape) == 1 and elements == width else -1


def first_rows(inputs: Sequence[Tensor]) -> int:
    """The rows of a call of which no column is known: its first tensor's."""
    if not inputs or not inputs[0].shape:
        return 1
    shape = inputs[0].shape
    return max(0, shape[0]) if all(shape) else 0


def brain(bits: int) -> float:
    return float(struct.unpack("=f", struct.pack("=I", bits << 16))[0])


def bits_of(value: float) -> int:
    """Of float64; -0.0 is 0.0."""
    return int.from_bytes(struct.pack("=d", value + 0.0), sys.byteorder)


def key_of(value: float) -> int:
    bits = bits_of(value)
    return bits ^ (_WORD if bits >> 63 else 1 << 63)
