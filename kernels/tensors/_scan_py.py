"""The JSON document in plain Python: the specification that `_scan_c` is compared with.

Contract: the same values, the same exceptions and the same messages as the C++ twin. Clear before fast.
"""

from __future__ import annotations

import re
from typing import Final

from kernels.tensors import _faults
from kernels.tensors._faults import MAX_DEPTH, fault
from kernels.tensors._tokens_py import read_string, scalar_end, skip

_NO_COMMA = (_faults.NO_COMMA_ARRAY, _faults.NO_COMMA_OBJECT)
_STRUCTURE = re.compile(rb"""[]["{}]""")
_TENSOR_DEPTH: Final = 3
"""Containers around tensor data: the root, its array of tensors, the tensor."""


def _name(text: bytes, position: int, names: set[bytes]) -> tuple[bytes, int]:
    """The name of an object's member, and where its value starts."""
    if text[position : position + 1] != b'"':
        raise fault(_faults.NO_NAME, position)
    key, after = read_string(text, position)
    if key in names:
        raise fault(_faults.DUPLICATE, position)
    names.add(key)
    after = skip(text, after)
    if text[after : after + 1] != b":":
        raise fault(_faults.NO_COLON, after)
    return key, skip(text, after + 1)


def _array_end(text: bytes, position: int, depth: int) -> int | None:
    """Where the array at `position` ends by its brackets alone.

    None when it holds a string or an object, nests deeper than `depth` arrays, or does not end.
    """
    opened = 0
    for match in _STRUCTURE.finditer(text, position):
        if match.group() == b"[":
            opened += 1
            if opened > depth:
                return None
        elif match.group() != b"]":
            return None
        else:
            opened -= 1
            if not opened:
                return match.end()
    return None


def scan_json(  # noqa: C901, PLR0912, PLR0915 # one pass without recursion, as the C++ twin
    buf: bytes | memoryview, max_depth: int, tensors: bytes = b"", *, skim: bool = False
) -> list[tuple[int, int]]:
    """Check a whole JSON text and find the tensor data in it.

    Raises ValueError for what is no JSON, for a name given twice in one object, for strings that are no
    UTF-8 or hold half a surrogate pair, and for more than `max_depth` containers within each other. `NaN`,
    `Infinity` and `Inf` count as numbers.

    Returns (start, end) of each `data` member of the objects in the root's array member `tensors`, in
    order: the values that a caller will want to cut out and read on their own. Nesting inside those is
    counted from their own start, and may reach `max_depth` - 1.

    With `skim` tensor data that is an array without strings and objects is passed over: its brackets are counted and
    nothing else is judged. The caller MUST have it read by `parse_array` or `scan_json` before it trusts it.
    """
    if not 1 <= max_depth <= MAX_DEPTH:
        raise ValueError(f"max_depth must be within 1 and {MAX_DEPTH}")
    text = bytes(buf)
    spans: list[tuple[int, int]] = []
    stack: list[set[bytes] | None] = []  # the names seen in each open object; None for an array
    in_tensors = False  # the root's member `tensors` is open
    data_from = -1  # where the tensor data that is open started
    key = b""
    position = skip(text, 0)
    if position == len(text):
        raise fault(_faults.EMPTY, position)
    while True:
        # A value starts here.
        start = position
        mark = text[position : position + 1]
        is_data = len(stack) == _TENSOR_DEPTH and in_tensors and stack[-1] is not None and key == b"data"
        passed = _array_end(text, start, max_depth - 1) if skim and is_data and mark == b"[" else None
        complete = passed is not None or mark not in {b"{", b"["}
        if complete:
            position = passed if passed is not None else scalar_end(text, position)
            if is_data:
                spans.append((start, position))
        else:
            if is_data:
                data_from = start
            if len(stack) >= (max_depth if data_from < 0 else max_depth + _TENSOR_DEPTH - 1):
                raise fault(f"Nested deeper than {max_depth}.", position)
            if len(stack) == 1 and stack[0] is not None and tensors and key == tensors and mark == b"[":
                in_tensors = True
            names: set[bytes] | None = set() if mark == b"{" else None
            stack.append(names)
            position = skip(text, position + 1)
            if text[position : position + 1] != (b"]" if names is None else b"}"):
                if names is not None:
                    key, position = _name(text, position, names)
                continue
        # What follows a value: containers that end, then a comma and the next member.
        while stack:
            position = skip(text, position)
            mark = text[position : position + 1]
            is_object = stack[-1] is not None
            if mark == b"," and complete:
                break
            if mark != (b"}" if is_object else b"]"):
                raise fault(_NO_COMMA[is_object], position)
            position += 1
            stack.pop()
            complete = True
            if data_from >= 0 and len(stack) == _TENSOR_DEPTH:
                spans.append((data_from, position))
                data_from = -1
            in_tensors = in_tensors and len(stack) > 1
        else:
            position = skip(text, position)
            if position != len(text):
                raise fault(_faults.AFTER_ROOT, position)
            return spans
        position = skip(text, position + 1)
        names = stack[-1]
        if names is not None:
            key, position = _name(text, position, names)
