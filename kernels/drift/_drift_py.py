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

A value of a column with a rule (`_rules`) is held against it in the same pass:

    MISSING   it is missing, as above; of another kind too unless the rule is `typed`
    SCHEMA    it is of another kind, and the rule is `typed`
    RANGE     a number below `low` or above `high`, each rounded as the tensor's datatype is
    AMONG     it is in no cell of `among` but UNSEEN, where the column's own rules say which cell a value is in
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, isnan
from typing import TYPE_CHECKING

from kernels.drift._plan import (
    BINS,
    CALLS,
    CLIPPED,
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
    places,
    rounded,
    truth_cells,
)
from kernels.drift._rules import (
    AMONG,
    BROKEN,
    MISSING,
    RANGE,
    REFUSED,
    SCHEMA,
    UNREAD,
    VALUES,
    Rule,
    fnv,
    mixed,
    registers_at,
    rule_places,
    sketched,
)
from kernels.drift._values_py import (
    FORMATS,
    Tensor,
    bits_of,
    blank,
    brain,
    cell_of,
    elements_of,
    first_rows,
    key_of,
    numbered,
    raw,
    rows_of,
    split,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_LARGEST = 2.0**31 - 1
_WORD = 2**64 - 1
_TRIES = 200
_PAUSE_S = 50e-6
_UNJUDGED = -1
"""In place of a column and of a rule."""

_Held = tuple[int, int | None, int]
"""A column, the rule that its value breaks, and the value's hash where it is one."""


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
        rules: what columns have to be, by their numbers.
        broken: as `buffer`, of `rule_nbytes(rules)` bytes: what breaks them. Needed with rules.

    Raises:
        ValueError: a size does not fit, or a column, tensor or rule is not as said.
    """

    __slots__ = ("_broken", "_buffer", "_columns", "_names", "_outputs", "_places", "_rules", "_sketches", "_tensors")

    def __init__(
        self,
        buffer: WriteableBuffer,
        columns: Sequence[Column],
        tensors: Mapping[str, Sequence[int]],
        outputs: Mapping[str, Sequence[int]] | None = None,
        rules: Mapping[int, Rule] | None = None,
        broken: WriteableBuffer | None = None,
    ) -> None:
        self._columns = tuple(columns)
        *self._places, words = places(self._columns)
        self._buffer = _writable(buffer, words, "the buffer is of other columns")
        self._tensors = {name: tuple(at) for name, at in tensors.items()}
        self._outputs = {name: tuple(at) for name, at in (outputs or {}).items()}
        for at in (*self._tensors.values(), *self._outputs.values()):
            if not at or not all(0 <= one < len(self._columns) for one in at):
                raise ValueError("a tensor has no columns, or some that are not there")
        self._names = [name_table(column) if isinstance(column, Names) else {} for column in self._columns]
        self._rule(rules or {}, broken)
        self._buffer[VERSION] += self._buffer[VERSION] & 1  # who wrote here before died amid a call

    def _rule(self, rules: Mapping[int, Rule], broken: WriteableBuffer | None) -> None:
        if not all(0 <= index < len(self._columns) for index in rules):
            raise ValueError("a rule is of no column")
        found, words = rule_places(rules)
        self._rules = {index: (rules[index], place) for index, place in found.items()}
        if not rules:
            return
        if broken is None:
            raise ValueError("rules need a buffer")
        self._broken = _writable(broken, words, "the buffer is of other rules")
        self._sketches = self._broken.cast("B")
        self._broken[VERSION] += self._broken[VERSION] & 1

    def count(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor] = ()) -> int:
        """Count one call and what it was answered.

        Tensors that are in no column are passed over; columns of tensors that are not there get nothing, so that a
        reader sees as missing what they lack of the rows. So it is with an output whose data is not here, or that has
        not one value a row: a model may answer many with one.

        Returns:
            Its rows; -1: it is counted as unseen, because the data of a tensor is not here, or its elements are no
            whole number of rows, or tensors have different numbers of them.
        """
        found, rows, unseen = self._asked(inputs)
        if unseen >= 0:
            self._add(UNSEEN)
            return -1
        found += self._answered(outputs, rows)
        if self._rules:
            self._hold(found, rows)
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

    def judge(self, inputs: Sequence[Tensor]) -> tuple[int, int, int] | None:
        """Hold a call that is not yet served against the rules, and count it as refused where it breaks one.

        Columns that are not there come first, then values in the order of tensors, rows and columns.

        Returns:
            Column, row (from 0) and rule of the first value that breaks one; None: there is none. -1, the position of
            a tensor and -1: its data is not here, or of no whole number of rows, or of others than those before.
        """
        if not self._rules:
            return None
        found, rows, unseen = self._asked(inputs)
        if unseen >= 0:
            self._refuse(UNREAD)
            return _UNJUDGED, unseen, _UNJUDGED
        for index in self._absent(found) if rows else ():
            rule, place = self._rules[index]
            if rule.typed or rule.required:
                wrong = SCHEMA if rule.typed else MISSING
                self._refuse(place + REFUSED + wrong)
                return index, 0, wrong
        for tensor, columns, elements in found:
            for at, (index, verdict, _) in enumerate(self._verdicts(tensor, columns, elements)):
                if verdict is None or index not in self._rules:
                    continue
                rule, place = self._rules[index]
                if verdict != MISSING or rule.required:
                    self._refuse(place + REFUSED + verdict)
                    return index, at // len(columns), verdict
        return None

    def _asked(self, inputs: Sequence[Tensor]) -> tuple[list[tuple[Tensor, tuple[int, ...], int]], int, int]:
        """Tensors with their columns and elements; the rows; the position of one that cannot be counted, or -1."""
        found: list[tuple[Tensor, tuple[int, ...], int]] = []
        rows = -1
        for position, tensor in enumerate(inputs):
            columns = self._tensors.get(tensor.name) if tensor.name else None
            if columns is None and len(inputs) == 1:
                columns = self._tensors.get("")
            if columns is None:
                continue
            elements = elements_of(tensor)
            n = rows_of(tensor.shape, elements, len(columns))
            if n < 0 or (found and n != rows):
                return [], -1, position
            rows = n
            found.append((tensor, columns, elements))
        return found, rows if found else first_rows(inputs), -1

    def _absent(self, found: Sequence[tuple[Tensor, tuple[int, ...], int]]) -> list[int]:
        """Columns of inputs that have a rule and are in no tensor."""
        there = {index for _, columns, _ in found for index in columns}
        known = {index for columns in self._tensors.values() for index in columns}
        return [index for index in sorted(self._rules) if index in known - there]

    def _refuse(self, word: int) -> None:
        self._broken[VERSION] |= 1
        self._broken[word] = (self._broken[word] + 1) & _WORD
        self._broken[VERSION] = (self._broken[VERSION] + 1) & _WORD

    def _hold(self, found: Sequence[tuple[Tensor, tuple[int, ...], int]], rows: int) -> None:
        """Count what breaks a rule, and sketch values."""
        words = self._broken
        words[VERSION] |= 1
        words[ROWS] = (words[ROWS] + rows) & _WORD
        for index in self._absent(found):
            rule, place = self._rules[index]
            if rule.typed:
                words[place + BROKEN + SCHEMA] = (words[place + BROKEN + SCHEMA] + rows) & _WORD
        for tensor, columns, elements in found:
            for index, verdict, hashed in self._verdicts(tensor, columns, elements):
                if index not in self._rules:
                    continue
                rule, place = self._rules[index]
                if verdict not in (MISSING, SCHEMA):
                    words[place + VALUES] = (words[place + VALUES] + 1) & _WORD
                    if rule.distinct:
                        register, least = sketched(hashed)
                        at = registers_at(place) + register
                        self._sketches[at] = max(self._sketches[at], least)
                if verdict not in (None, MISSING):
                    words[place + BROKEN + verdict] = (words[place + BROKEN + verdict] + 1) & _WORD
        words[VERSION] = (words[VERSION] + 1) & _WORD

    def _verdicts(self, tensor: Tensor, columns: tuple[int, ...], elements: int) -> Iterator[_Held]:
        """Each element's."""
        if tensor.datatype == "BYTES":
            for at, text in enumerate(split(tensor.data)):
                index = columns[at % len(columns)]
                yield index, self._text_breaks(index, text), mixed(fnv(text))
            return
        rounding = ROUNDING.get(tensor.datatype, EXACT)
        values = struct.unpack(f"={elements}{FORMATS[tensor.datatype]}", raw(tensor.data))
        for at, value in enumerate(values):
            index = columns[at % len(columns)]
            number = brain(value) if tensor.datatype == "BF16" else float(value)
            truth = bool(value) if tensor.datatype == "BOOL" else None
            yield index, self._number_breaks(index, number, truth, rounding), mixed(bits_of(number))

    def _text_breaks(self, index: int, text: bytes) -> int | None:
        if index not in self._rules:
            return None
        rule, column = self._rules[index][0], self._columns[index]
        cell = cell_of(column, self._names[index], text)
        if cell == column.cells:
            foreign = isinstance(column, Numbers) and not blank(text)
            return SCHEMA if foreign and rule.typed else MISSING
        if rule.among is None or isinstance(column, Times):
            return None
        return AMONG if cell_of(rule.among, name_table(rule.among), text) == rule.among.cells - 1 else None

    def _number_breaks(self, index: int, number: float, truth: bool | None, rounding: int) -> int | None:
        if index not in self._rules:
            return None
        rule, column = self._rules[index][0], self._columns[index]
        if isnan(number):
            return MISSING
        if isinstance(column, Times):
            return SCHEMA if rule.typed else MISSING
        if isinstance(column, Numbers) and not (rounded(rule.low, rounding) <= number <= rounded(rule.high, rounding)):
            return RANGE
        if rule.among is None:
            return None
        if isinstance(column, Names) and truth is not None:
            cell = truth_cells(rule.among)[truth]
        else:
            cell = numbered(rule.among, number, rounding)
        return AMONG if cell == rule.among.cells - 1 else None

    def _answered(self, outputs: Sequence[Tensor], rows: int) -> list[tuple[Tensor, tuple[int, ...], int]]:
        """The outputs that have a value a row."""
        found = []
        for tensor in outputs:
            columns = self._outputs.get(tensor.name)
            if columns is not None:
                elements = elements_of(tensor)
                if rows_of(tensor.shape, elements, len(columns)) == rows:
                    found.append((tensor, columns, elements))
        return found

    def _add(self, word: int, count: int = 1) -> None:
        self._buffer[word] = (self._buffer[word] + count) & _WORD

    def _texts(self, tensor: Tensor, columns: tuple[int, ...]) -> None:
        for at, text in enumerate(split(tensor.data)):
            index = columns[at % len(columns)]
            column = self._columns[index]
            self._add(self._places[index] + cell_of(column, self._names[index], text))

    def _numbers(self, tensor: Tensor, columns: tuple[int, ...], elements: int) -> None:
        datatype = tensor.datatype
        rounding = ROUNDING.get(datatype, EXACT)
        values = struct.unpack(f"={elements}{FORMATS[datatype]}", raw(tensor.data))
        for at, value in enumerate(values):
            index = columns[at % len(columns)]
            column, place = self._columns[index], self._places[index]
            number = brain(value) if datatype == "BF16" else float(value)
            if isnan(number) or isinstance(column, Times):
                self._add(place + column.cells)
            elif isinstance(column, Names):
                if datatype == "BOOL":
                    self._add(place + truth_cells(column)[value])
                    continue
                self._add(place + numbered(column, number, rounding))
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
            key = key_of(value)
            self._buffer[at + HIGHEST] = max(self._buffer[at + HIGHEST], key + 1)
            self._buffer[at + LOWEST] = max(self._buffer[at + LOWEST], 2**64 - key)


def _writable(buffer: WriteableBuffer, words: int, wrong: str) -> memoryview:
    """A block of so many words."""
    view = memoryview(buffer)
    if view.readonly:
        raise BufferError("Object is not writable.")
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    if view.nbytes != words * 8:
        raise ValueError(wrong)
    return view.cast("B").cast("Q")
