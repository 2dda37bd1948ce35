"""Whose group a row is of, and what was decided on it: from a call and its answer, by what the settings declare.

Contract: compiled once a snapshot. Groups are numbered by the places of their values, the last attribute fastest; an
attribute that is told later (`joined`) counts as place 0 until it is. A value that is not declared, or that cannot be
read, is an unknown group, never an error: the answer has been given. A decision that cannot be read gives None, and the
call is counted as uncounted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.errors import TidegateError
from gateway.settings import Decision, Fairness, FairnessAttribute
from gateway.wire.tensors import NUMPY, data_of, element_count
from gateway.wire.types import InferAnswer, InferCall, InputTensor, OutputTensor, Param

UNKNOWN = -1
Headers: TypeAlias = Mapping[str, str]
Codes: TypeAlias = int | Sequence[int]
"""The place of a value among those declared: one for all rows, or one a row; `UNKNOWN`."""
_Reader: TypeAlias = Callable[[InferCall, Headers], Codes]


def groups_of(fairness: Fairness) -> int:
    """How many groups there are, with that of the unknown, which is the last."""
    return len(list(product(*(one.values for one in fairness.attributes)))) + 1


def joined_groups(fairness: Fairness) -> Callable[[Mapping[str, str]], int | None] | None:
    """From what is told later to what it adds to a group's number; None in its place: a value that is not declared.

    None: nothing is told later.
    """
    told = {one.name: ({value: at for at, value in enumerate(one.values)}, step) for one, step in _steps(fairness)}
    told = {one.name: told[one.name] for one in fairness.attributes if one.joined}
    if not told:
        return None

    def read(values: Mapping[str, str]) -> int | None:
        more = 0
        for name, (places, step) in told.items():
            place = places.get(values.get(name, ""))
            if place is None:
                return None
            more += place * step
        return more

    return read


def _steps(fairness: Fairness) -> list[tuple[FairnessAttribute, int]]:
    """The attributes, and how far apart two values of each are in the groups' numbers."""
    found: list[tuple[FairnessAttribute, int]] = []
    step = 1
    for one in reversed(fairness.attributes):
        found.append((one, step))
        step *= len(one.values)
    return found[::-1]


class Reader:
    """Reads rows of one route."""

    def __init__(self, fairness: Fairness) -> None:
        self._attributes = [(_reader(one), step) for one, step in _steps(fairness) if not one.joined]
        self._by_row = any(one.column is not None for one in fairness.attributes)
        self._unknown = groups_of(fairness) - 1
        self._decided = decision_reader(fairness.decision)

    def rows(self, call: InferCall, headers: Headers, answer: InferAnswer) -> list[tuple[int, int, int]] | None:
        """Group, rows and selected ones, for each group that is in the call; None: no decision could be read."""
        decisions = self._decided(answer)
        if decisions is None:
            return None
        count = len(decisions)
        if not self._by_row:
            group = 0
            for read, step in self._attributes:
                code = read(call, headers)
                assert isinstance(code, int)
                if code == UNKNOWN:
                    group = self._unknown
                    break
                group += code * step
            return [(group, count, sum(decisions))]
        codes = [(read(call, headers), step) for read, step in self._attributes]
        found: dict[int, list[int]] = {}
        for row, selected in enumerate(decisions):
            one = found.setdefault(self._group(codes, row, count), [0, 0])
            one[0] += 1
            one[1] += bool(selected)
        return [(group, rows, selected) for group, (rows, selected) in found.items()]

    def _group(self, codes: Sequence[tuple[Codes, int]], row: int, rows: int) -> int:
        group = 0
        for code, step in codes:
            # A column of another length than the decisions says nothing of any row.
            mine = code if isinstance(code, int) else code[row] if len(code) == rows else UNKNOWN
            if mine == UNKNOWN:
                return self._unknown
            group += mine * step
        return group


def _reader(attribute: FairnessAttribute) -> _Reader:
    codes = {value: at for at, value in enumerate(attribute.values)}
    if attribute.parameter is not None:
        name = attribute.parameter
        return lambda call, _headers: codes.get(text_of(call.parameters.get(name)), UNKNOWN)
    if attribute.header is not None:
        header = attribute.header.lower()
        return lambda _call, headers: codes.get(headers.get(header, ""), UNKNOWN)
    column = attribute.column or ""
    return lambda call, _headers: _column(call.inputs, column, codes)


def text_of(value: Param | None) -> str:
    """A parameter as text: a string, a decimal integer, `true` or `false`; anything else is nobody's value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else ""


def _column(inputs: Sequence[InputTensor], name: str, codes: Mapping[str, int]) -> Codes:
    tensor = next((one for one in inputs if one.name == name), None)
    if tensor is None or tensor.shm is not None:
        return UNKNOWN
    try:
        texts = _texts(tensor)
    except (TidegateError, ValueError, UnicodeDecodeError):
        return UNKNOWN
    return [codes.get(text, UNKNOWN) for text in texts]


def _texts(tensor: InputTensor | OutputTensor) -> list[str]:
    """Elements as text; ValueError: they have none, as floats do not."""
    data = data_of(tensor)
    if tensor.datatype == "BYTES":
        return [element.decode() for element in _elements(data)]
    if tensor.datatype == "BOOL":
        return ["true" if value else "false" for value in bytes(data)]
    if not tensor.datatype.startswith(("INT", "UINT")):
        raise ValueError("not a text")
    return [str(value) for value in np.frombuffer(data, NUMPY[tensor.datatype]).tolist()]


def _elements(data: bytes | memoryview) -> list[bytes]:
    """The elements of raw BYTES. Raises ValueError: one is cut off."""
    raw, at, found = bytes(data), 0, []
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            raise ValueError("an element is cut off")
        found.append(raw[at + 4 : end])
        at = end
    return found


def decision_reader(decision: Decision) -> Callable[[InferAnswer], Sequence[bool] | None]:
    """From an answer to what was decided on each row; None where it cannot be read."""
    name, index = decision.output, decision.index
    judge = _judge(decision)

    def read(answer: InferAnswer) -> Sequence[bool] | None:
        for tensor in answer.outputs:
            if tensor.name == name:
                break
        else:
            return None
        if tensor.shm is not None or not tensor.shape:
            return None
        rows, count = tensor.shape[0], element_count(tensor.shape)
        width = count // rows if rows > 0 else 1
        if rows < 0 or (width != 1 if index is None else index >= width):
            return None
        try:
            decided = judge(tensor)
        except (TidegateError, ValueError):
            return None
        if len(decided) != count:
            return None
        return decided if width == 1 else decided[index::width]

    return read


def _judge(decision: Decision) -> Callable[[OutputTensor], Sequence[bool]]:
    if decision.at_least is not None:
        least = decision.at_least
        return lambda tensor: _each(tensor, least.__le__, lambda found: found >= least)
    wanted = set(decision.positive)
    numbers = {number for number in map(_number, decision.positive) if number is not None}

    def positive(tensor: OutputTensor) -> Sequence[bool]:
        if tensor.datatype in ("BYTES", "BOOL"):
            return [text in wanted for text in _texts(tensor)]
        return _each(tensor, numbers.__contains__, lambda found: np.isin(found, list(numbers)))

    return positive


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_FEW = 64
"""Elements up to which the calls of numpy cost more than they save."""
_CODES = {
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}


def _each(
    tensor: OutputTensor,
    one: Callable[[float], bool],
    many: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
) -> Sequence[bool]:
    """What is said of each element as a number; ValueError: they are none. NaN is at least nothing, and no value."""
    data = data_of(tensor)
    code = _CODES.get(tensor.datatype)
    count = element_count(tensor.shape)
    if code is not None and count <= _FEW:
        try:
            return [one(float(value)) for value in struct.unpack(f"<{count}{code}", data)]
        except struct.error as error:
            raise ValueError("size does not fit the shape") from error
    if tensor.datatype == "BF16":  # the upper half of a float32
        found = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif tensor.datatype in NUMPY:
        found = np.frombuffer(data, NUMPY[tensor.datatype])
    else:
        raise ValueError("not numbers")
    said: list[bool] = many(found.astype(np.float64)).tolist()
    return said
