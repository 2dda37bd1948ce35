"""The specification of feature programs, in Python: what `_features_c` does, bit for bit and refusal for refusal.

One row after the other: its inputs are loaded in order, then the instructions run in order. The first thing that is
refused ends it. All arithmetic is float64, in the order in which scikit-learn's `transform` does it, and is rounded to
a tensor's datatype once, at the end; integer tensors take whole numbers only.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kernels.features._judge import BINARY, judge
from kernels.features._ngrams_py import bucket_of, counted
from kernels.features._numbers_py import binary, box_cox, function, murmur3, quantile, yeo_johnson
from kernels.features._program import (
    COLUMN_DATATYPES,
    DATATYPES,
    FUNCTIONS,
    OF_TEXT,
    PERIODS,
    REFUSE_INFINITE,
    REFUSE_MISSING,
    REFUSE_NOT_POSITIVE,
    Input,
    Instruction,
    Refused,
    Tensor,
)
from kernels.features._splines_py import spline
from kernels.features._times import phase, seconds_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NAN = math.nan
_FORMATS = dict(zip(COLUMN_DATATYPES, ["d", "f", "q", "i", "h", "b", "Q", "I", "H", "B", "?", "", "e"], strict=True))
_OUT = dict(zip(DATATYPES, "fdiq", strict=True))


def _row_values(row: Any, inputs: Sequence[Input], positions: Sequence[int] | None) -> list[Any]:
    if positions is not None:
        return [None if place < 0 else row[place] for place in positions]
    return [row.get(one.name) for one in inputs]


class Program:
    """See `_program.py`."""

    def __init__(
        self, inputs: Sequence[Input], tensors: Sequence[Tensor], code: Sequence[Instruction], numbers: int, texts: int
    ) -> None:
        """Takes what refers to nothing that is not there.

        Args:
            inputs: the columns.
            tensors: what they become.
            code: how.
            numbers: how many number registers there are.
            texts: how many text registers.

        Raises:
            ValueError: an operation that there is none of, a register, input or tensor out of range, a register that
                is read before it is written.
        """
        self.inputs, self.tensors = tuple(inputs), tuple(tensors)
        self._code = tuple(code)
        self._numbers, self._texts = numbers, texts
        judge(self.inputs, self.tensors, self._code, numbers, texts)

    def rows(
        self, rows: Sequence[Any], positions: Sequence[int] | None = None, *, empty_is_missing: bool = True
    ) -> list[bytes]:
        """The tensors' bytes, from rows of Python values.

        Args:
            rows: mappings from a column's name to its value, or, with `positions`, lists. None and a name that is not
                there are missing.
            positions: for each input where its value is in a row; -1: nowhere.
            empty_is_missing: whether an empty text is.

        Raises:
            Refused: a row cannot be taken.
        """
        written = [[0.0] * (tensor.width * len(rows)) for tensor in self.tensors]
        names = {one.name for one in self.inputs}
        for at, row in enumerate(rows):
            if positions is None and not isinstance(row, dict):
                raise TypeError("a row is a dict")
            numbers: list[float] = [NAN] * self._numbers
            texts: list[bytes | None] = [None] * self._texts
            values = _row_values(row, self.inputs, positions)
            for one, value in zip(self.inputs, values, strict=True):
                try:
                    if one.kind == "string":
                        texts[one.register] = _text(value, empty_is_missing)
                    else:
                        numbers[one.register] = _number(value, one.kind, empty_is_missing)
                except _WrongValue as wrong:
                    raise Refused(at, one.name, wrong.args[0]) from None
            if positions is None:
                for name in row:
                    if name not in names:
                        raise Refused(at, str(name), "column")
            self._run(at, numbers, texts, written)
        return self._packed(written)

    def columns(self, count: int, columns: Sequence[tuple[str, ReadableBuffer] | None]) -> list[bytes]:
        """The tensors' bytes, from whole columns.

        Args:
            count: of rows.
            columns: datatype and raw little-endian bytes for each input; None: all of it is missing. An empty text is.

        Raises:
            Refused: a row cannot be taken.
            ValueError: a datatype that the input does not take, or another number of values.
        """
        read = [_column(one, column, count) for one, column in zip(self.inputs, columns, strict=True)]
        positions = range(len(read))
        return self.rows(list(zip(*read, strict=True)) if read else [()] * count, positions)

    def _packed(self, written: list[list[float]]) -> list[bytes]:
        found = []
        for tensor, values in zip(self.tensors, written, strict=True):
            if tensor.datatype == "FP32":
                values = [_float32(value) for value in values]  # noqa: PLW2901
            elif tensor.datatype != "FP64":
                values = [int(value) for value in values]  # noqa: PLW2901
            found.append(struct.pack(f"<{len(values)}{_OUT[tensor.datatype]}", *values))
        return found

    def _run(self, at: int, numbers: list[float], texts: list[bytes | None], written: list[list[float]]) -> None:
        for one in self._code:
            refused = self._step(one, at, numbers, texts, written)
            if refused:
                raise Refused(at, self.inputs[one.column].name, refused)

    def _step(
        self, one: Instruction, at: int, numbers: list[float], texts: list[bytes | None], written: list[list[float]]
    ) -> str | None:
        op = one.op
        if op in ("store", "scatter", "ngrams"):
            return self._to_tensor(one, at, numbers, texts, written)
        if op in ("text_fill", "text_fill_value"):
            text = texts[one.a]
            hit = text is None if op == "text_fill" else text == one.texts[1].encode()
            texts[one.dst] = one.texts[0].encode() if hit else text
            return None
        if op == "check":
            return _checked(numbers[one.a], one.integers[0])
        if op == "check_range":
            low, high = one.numbers
            return "outside" if numbers[one.a] < low or numbers[one.a] > high else None
        if op == "text_check":
            return "missing" if texts[one.a] is None else None
        found = _text_op(one, texts) if op in OF_TEXT else _number_op(one, numbers)
        if isinstance(found, str):
            return found
        numbers[one.dst] = found
        return None

    def _to_tensor(
        self, one: Instruction, at: int, numbers: list[float], texts: list[bytes | None], written: list[list[float]]
    ) -> str | None:
        into, first = one.integers[0], at * self.tensors[one.integers[0]].width
        found: dict[int, float] | None
        if one.op == "store":
            found = {one.integers[1]: numbers[one.a]}
        elif one.op == "scatter":
            targets, value = one.integers[1:], 1.0 if one.b < 0 else numbers[one.b]
            found = {targets[int(numbers[one.a])]: value} if 0 <= numbers[one.a] < len(targets) else {}
        else:
            text = texts[one.a]
            found = {} if text is None else counted(text, one.integers[1:7], {word.encode() for word in one.texts})
            if found is None:
                return "text"
            found = {one.integers[7 + bucket]: value for bucket, value in found.items()}
        for column, value in found.items():
            if column >= 0 and (refused := _put(written[into], first + column, value, self.tensors[into])):
                return refused
        return None


class _WrongValue(Exception):
    """A value that an input does not take; the argument is the reason."""


def _text(value: Any, empty_is_missing: bool, reason: str = "text") -> bytes | None:
    """A text as a register holds it; it may be UTF-8 already."""
    if isinstance(value, str):
        try:
            value = value.encode()
        except UnicodeEncodeError:  # a lone surrogate
            raise _WrongValue(reason) from None
    if value is None or (value == b"" and empty_is_missing):
        return None
    if not isinstance(value, bytes):
        raise _WrongValue(reason)
    return value


def _number(value: Any, kind: str, empty_is_missing: bool) -> float:
    """A number as a register holds it."""
    if kind == "timestamp":
        text = _text(value, empty_is_missing, "time")
        found = NAN if text is None else seconds_of(text.decode("ascii", "replace"))
        if found is None:
            raise _WrongValue("time")
        return found
    if value is None:
        return NAN
    if isinstance(value, bool) != (kind == "boolean") or not isinstance(value, (int, float)):
        raise _WrongValue(kind)
    try:
        return float(value)
    except OverflowError:
        raise _WrongValue("number") from None


def _column(one: Input, column: tuple[str, ReadableBuffer] | None, count: int) -> list[Any]:
    """A column's values; numbers of booleans as booleans."""
    if column is None:
        return [None] * count
    datatype, raw = column
    data = bytes(raw)
    wanted = {"boolean": "BOOL", "string": "BYTES", "timestamp": "BYTES"}.get(one.kind)
    if datatype not in _FORMATS or (datatype != wanted if wanted else datatype in ("BOOL", "BYTES")):
        raise ValueError(f"'{one.name}' does not take {datatype}")
    if datatype != "BYTES":
        if len(data) != count * struct.calcsize("<" + _FORMATS[datatype]):
            raise ValueError(f"'{one.name}' has another number of values")
        return list(struct.unpack(f"<{count}{_FORMATS[datatype]}", data))
    found: list[Any] = []
    at = 0
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "little") if at + 4 <= len(data) else len(data)
        if at + 4 + size > len(data):
            raise ValueError(f"'{one.name}' has another number of values")
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(data):
        raise ValueError(f"'{one.name}' has another number of values")
    return found


def _put(values: list[float], at: int, value: float, tensor: Tensor) -> str | None:
    if tensor.datatype in ("INT32", "INT64"):
        limit = 2.0 ** (31 if tensor.datatype == "INT32" else 63)
        if not (-limit <= value < limit and value == math.floor(value)):
            return "range"
    values[at] = value
    return None


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _checked(value: float, bits: int) -> str | None:
    if bits & REFUSE_INFINITE and math.isinf(value):
        return "infinite"
    if bits & REFUSE_MISSING and math.isnan(value):
        return "missing"
    if bits & REFUSE_NOT_POSITIVE and value <= 0:
        return "not_positive"
    return None


def _text_op(one: Instruction, texts: list[bytes | None]) -> float | str:
    text = texts[one.a]
    if one.op == "text_is_missing":
        return float(text is None)
    if one.op == "text_length":
        return NAN if text is None else float(sum(byte & 0xC0 != 0x80 for byte in text))
    if one.op == "text_equals":
        return float(text == one.texts[0].encode())
    if one.op == "lookup_text":
        if text is None:
            return "missing" if one.integers[0] else one.numbers[-2]
        listed = [each.encode() for each in one.texts]
        if text in listed:
            return one.numbers[listed.index(text)]
        return "unknown" if one.integers[1] else one.numbers[-1]
    if text is None:
        return -1.0 if one.op == "bucket_of_text" else 1.0
    hashed = murmur3(text)
    if one.op == "sign_of_text":
        return 1.0 if hashed >= 0 else -1.0
    return float(bucket_of(hashed, one.integers[0]))


def _number_op(one: Instruction, numbers: list[float]) -> float | str:  # noqa: C901, PLR0912
    op, k = one.op, one.numbers
    if op == "constant":
        return k[0]
    a = numbers[one.a]
    if op in BINARY:
        return binary(op, a, numbers[one.b])
    match op:
        case "fill":
            return k[0] if math.isnan(a) else a
        case "fill_value":
            return k[0] if a == k[1] else a
        case "is_missing":
            return float(math.isnan(a))
        case "equals":
            return float(a == k[0])
        case "subtract_divide":
            return binary("divide", a - k[0], k[1])
        case "multiply_add":
            return a * k[0] + k[1]
        case "clip":
            if a < k[0]:
                return k[0]
            return k[1] if a > k[1] else a  # noqa: FURB136 - NaN stays
        case "function":
            return function(FUNCTIONS[one.integers[0]], a)
        case "bucket":
            return NAN if math.isnan(a) else float(bisect_right(k, a))
        case "yeo_johnson":
            return yeo_johnson(a, k[0])
        case "box_cox":
            return box_cox(a, k[0])
        case "quantile":
            return quantile(a, k, one.integers[0], normal=one.integers[1] == 1)
        case "lookup_number":
            return _lookup(one, a)
        case "add_scaled":
            return numbers[one.b] + a * k[0]
        case "replace_below":
            return k[1] if a < k[0] else a
        case "spline":
            return spline(a, k, one.integers)
    return phase(a, PERIODS[one.integers[0]])


def _lookup(one: Instruction, a: float) -> float | str:
    count, k = one.integers[2], one.numbers
    if math.isnan(a):
        return "missing" if one.integers[0] else k[-2]
    place = bisect_right(k, a, 0, count) - 1
    if place >= 0 and k[place] == a:
        return k[count + place]
    return "unknown" if one.integers[1] else k[-1]
