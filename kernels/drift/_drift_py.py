"""The specification of the drift shard, in Python: what `_drift_c` does, word for word and exception for exception.

Numbers are compared in float64 with edges that are rounded as the tensor's own datatype is, so that a value which is
an edge stays one. The bin of v is the number of edges below it: `np.searchsorted(edges, v, side="left")`; infinities
are in the outer bins, NaN is missing. With k = round half to even of (v - centre) * scale, in float64:

    CLIPPED         how many had |k| > 2^31 - 1, infinities among them; those are in no sum
    SUM             sum of k, two's complement
    SQUARES_LOW     sum of k * k, its lower 64 bits
    SQUARES_HIGH    and its upper ones
    HIGHEST         of all finite v: the largest key(v) + 1; 0: none
    LOWEST          of all finite v: the largest 2^64 - key(v); 0: none

where key orders float64 as unsigned numbers: the bits, all inverted where the sign is set, else the sign inverted.
BYTES are categories, or times of which only the presence is counted; blank ones and `nan` in any case are missing, and
so are BYTES in a column of numbers and numbers in one of times.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import isfinite, isnan
from typing import TYPE_CHECKING, Protocol

from kernels.drift._plan import (
    BINS,
    CALLS,
    CLIPPED,
    DATATYPES,
    EXACT,
    HIGHEST,
    LOWEST,
    ROUNDING,
    ROWS,
    SQUARES_HIGH,
    SQUARES_LOW,
    SUM,
    UNSEEN,
    VERSION,
    Column,
    Names,
    Numbers,
    Times,
    edge_table,
    name_table,
    number_table,
    places,
    truth_cells,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_LARGEST = 2.0**31 - 1
_WORD = 2**64 - 1
_FORMATS = dict(zip(DATATYPES, "?BHIQbhiqefdH", strict=False))
_TRIES = 200
_PAUSE_S = 50e-6


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


def snapshot(buffer: ReadableBuffer) -> bytes:
    """A copy of a shard's block that is not amid a call, while another process may be counting there.

    A writer that died amid one leaves the block so; after some 10 ms it is taken as it is.
    """
    view = memoryview(buffer).cast("B")
    for _ in range(_TRIES):
        (before,) = struct.unpack_from("=Q", view)
        found = bytes(view)
        (after,) = struct.unpack_from("=Q", view)
        if before == after and not before & 1:
            break
        time.sleep(_PAUSE_S)
    return found


class Shard:
    """Counts the values of columns in a block that the caller owns. One writer, in one thread at a time.

    Args:
        buffer: writable, 8-byte-aligned, of `nbytes(columns)` bytes; zeros, or what an earlier shard left there.
        columns: what is counted.
        tensors: the columns that a tensor of a name carries, one value each a row. The empty name is a tensor of
            another name that is alone in its call.
        outputs: likewise, of the tensors of an answer; the empty name stands for nothing.

    Raises:
        ValueError: a size does not fit, or a column or tensor is not as said.
    """

    __slots__ = ("_buffer", "_columns", "_names", "_outputs", "_places", "_tensors")

    def __init__(
        self,
        buffer: WriteableBuffer,
        columns: Sequence[Column],
        tensors: Mapping[str, Sequence[int]],
        outputs: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        view = memoryview(buffer)
        if view.readonly:
            raise BufferError("Object is not writable.")
        if not view.c_contiguous:
            raise BufferError("memoryview: underlying buffer is not C-contiguous")
        self._columns = tuple(columns)
        *self._places, words = places(self._columns)
        if view.nbytes != words * 8:
            raise ValueError("the buffer is of other columns")
        self._buffer = view.cast("B").cast("Q")
        self._tensors = {name: tuple(at) for name, at in tensors.items()}
        self._outputs = {name: tuple(at) for name, at in (outputs or {}).items()}
        for at in (*self._tensors.values(), *self._outputs.values()):
            if not at or not all(0 <= one < len(self._columns) for one in at):
                raise ValueError("a tensor has no columns, or some that are not there")
        self._names = [name_table(column) if isinstance(column, Names) else {} for column in self._columns]
        self._buffer[VERSION] += self._buffer[VERSION] & 1  # who wrote here before died amid a call

    def count(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor] = ()) -> int:
        """Count one call and what it was answered.

        Tensors that are in no column are passed over; columns of tensors that are not there get nothing, so that a
        reader sees as missing what they lack of the rows. So it is with an output whose data is not here, or that has
        not one value a row: a model may answer many with one.

        Returns:
            Its rows; -1: it is counted as unseen, because the data of a tensor is not here, or its elements are no
            whole number of rows, or tensors have different numbers of them.
        """
        found: list[tuple[Tensor, tuple[int, ...], int]] = []
        rows = -1
        for tensor in inputs:
            columns = self._tensors.get(tensor.name) if tensor.name else None
            if columns is None and len(inputs) == 1:
                columns = self._tensors.get("")
            if columns is None:
                continue
            elements = _elements(tensor)
            n = _rows(tensor.shape, elements, len(columns))
            if n < 0 or (found and n != rows):
                self._add(UNSEEN)
                return -1
            rows = n
            found.append((tensor, columns, elements))
        if not found:
            rows = _first(inputs)
        found += self._answered(outputs, rows)
        self._buffer[VERSION] |= 1
        self._add(ROWS, rows)
        self._add(CALLS)
        for tensor, columns, elements in found:
            if tensor.datatype == "BYTES":
                self._texts(tensor, columns)
            else:
                self._numbers(tensor, columns, elements)
        self._add(VERSION)
        return rows

    def _answered(self, outputs: Sequence[Tensor], rows: int) -> list[tuple[Tensor, tuple[int, ...], int]]:
        """The outputs that have a value a row."""
        found = []
        for tensor in outputs:
            columns = self._outputs.get(tensor.name)
            if columns is not None:
                elements = _elements(tensor)
                if _rows(tensor.shape, elements, len(columns)) == rows:
                    found.append((tensor, columns, elements))
        return found

    def _add(self, word: int, count: int = 1) -> None:
        self._buffer[word] = (self._buffer[word] + count) & _WORD

    def _texts(self, tensor: Tensor, columns: tuple[int, ...]) -> None:
        for at, text in enumerate(_split(tensor.data)):
            index = columns[at % len(columns)]
            column = self._columns[index]
            self._add(self._places[index] + self._cell(column, self._names[index], text))

    @staticmethod
    def _cell(column: Column, named: dict[bytes, int], text: bytes) -> int:
        """Where an element of BYTES is counted; the cell behind the last one is that of missing values."""
        if isinstance(column, Numbers):
            return column.cells
        if isinstance(column, Names) and text in named:
            return named[text]
        try:
            plain = text.decode().strip()
        except UnicodeDecodeError:
            plain = "?"
        if plain.lower() in ("", "nan"):
            return column.cells
        if isinstance(column, Times):
            return 0
        if column.fold and plain.lower() in ("true", "false"):
            return truth_cells(column)[plain.lower() == "true"]
        return column.cells - 1

    def _numbers(self, tensor: Tensor, columns: tuple[int, ...], elements: int) -> None:
        datatype = tensor.datatype
        rounding = ROUNDING.get(datatype, EXACT)
        values = struct.unpack(f"={elements}{_FORMATS[datatype]}", _bytes(tensor.data))
        for at, value in enumerate(values):
            index = columns[at % len(columns)]
            column, place = self._columns[index], self._places[index]
            number = _brain(value) if datatype == "BF16" else float(value)
            if isnan(number) or isinstance(column, Times):
                self._add(place + column.cells)
            elif isinstance(column, Names):
                if datatype == "BOOL":
                    self._add(place + truth_cells(column)[value])
                    continue
                ordered, cells = number_table(column, rounding)
                where = bisect_left(ordered, number)
                known = where < len(ordered) and ordered[where] == number
                self._add(place + (cells[where] if known else column.cells - 1))
            else:
                self._add(place + sum(edge < number for edge in edge_table(column, rounding)))
                self._moments(place + BINS + 1, column, number)

    def _moments(self, at: int, column: Numbers, value: float) -> None:
        scaled = (value - column.centre) * column.scale
        k = round(scaled) if abs(scaled) <= _LARGEST + 0.5 else None
        if k is None or abs(k) > _LARGEST:
            self._add(at + CLIPPED)
        else:
            self._add(at + SUM, k)
            squares = self._buffer[at + SQUARES_LOW] + (self._buffer[at + SQUARES_HIGH] << 64) + k * k
            self._buffer[at + SQUARES_LOW] = squares & _WORD
            self._buffer[at + SQUARES_HIGH] = squares >> 64 & _WORD
        if isfinite(value):
            key = _key(value)
            self._buffer[at + HIGHEST] = max(self._buffer[at + HIGHEST], key + 1)
            self._buffer[at + LOWEST] = max(self._buffer[at + LOWEST], 2**64 - key)


def _bytes(data: ReadableBuffer | None) -> memoryview:
    view = memoryview(b"" if data is None else data)
    return view.cast("B") if view.nbytes else memoryview(b"")  # zeros in a shape cannot be cast


def _split(data: ReadableBuffer | None) -> list[bytes]:
    """The elements of BYTES; ValueError when one is cut off."""
    view, found, at = _bytes(data), [], 0
    while at < len(view):
        end = at + 4 + int.from_bytes(view[at : at + 4], "little")
        if at + 4 > len(view) or end > len(view):
            raise ValueError
        found.append(bytes(view[at + 4 : end]))
        at = end
    return found


def _elements(tensor: Tensor) -> int:
    """How many there are; -1: that cannot be said."""
    if tensor.data is None or tensor.datatype not in DATATYPES:
        return -1
    if tensor.datatype == "BYTES":
        try:
            return len(_split(tensor.data))
        except ValueError:
            return -1
    elements, rest = divmod(_bytes(tensor.data).nbytes, struct.calcsize("=" + _FORMATS[tensor.datatype]))
    return -1 if rest else elements


def _rows(shape: Sequence[int], elements: int, width: int) -> int:
    """Rows of `width` values, one for each of the first dimension; a lone dimension of `width` is one row. -1: none."""
    first = shape[0] if shape else 1
    if 0 <= first <= elements and elements == first * width:
        return first
    return 1 if len(shape) == 1 and elements == width else -1


def _first(inputs: Sequence[Tensor]) -> int:
    """The rows of a call of which no column is known: its first tensor's."""
    if not inputs or not inputs[0].shape:
        return 1
    shape = inputs[0].shape
    return max(0, shape[0]) if all(shape) else 0


def _brain(bits: int) -> float:
    return float(struct.unpack("=f", struct.pack("=I", bits << 16))[0])


def _key(value: float) -> int:
    (bits,) = struct.unpack("=Q", struct.pack("=d", value + 0.0))  # -0.0 is 0.0
    return int(bits ^ (_WORD if bits >> 63 else 1 << 63))
