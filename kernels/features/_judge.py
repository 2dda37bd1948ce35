"""Whether the parts of a program refer to what is there; for both twins, so that what they run cannot go astray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from kernels.features._program import FUNCTIONS, OF_TEXT, OPS, PERIODS, TO_TEXT, Input, Instruction, Tensor

NO_DST = frozenset({"store", "scatter", "check", "text_check", "check_range", "ngrams"})
MOST_BUCKETS = 1 << 16
MOST_GRAM = 16
BINARY = frozenset({"add", "subtract", "multiply", "divide", "power", "maximum"})
MOST_DEGREE = 8
"""Of splines."""
_LENGTHS = {
    "fill": (1, 0, 0), "fill_value": (2, 0, 0), "equals": (1, 0, 0), "check": (0, 1, 0), "subtract_divide": (2, 0, 0),
    "multiply_add": (2, 0, 0), "clip": (2, 0, 0), "function": (0, 1, 0), "yeo_johnson": (1, 0, 0),
    "box_cox": (1, 0, 0), "constant": (1, 0, 0), "phase": (0, 1, 0), "text_fill": (0, 0, 1),
    "text_fill_value": (0, 0, 2), "text_equals": (0, 0, 1), "bucket_of_text": (0, 1, 0), "store": (0, 2, 0),
    "add_scaled": (1, 0, 0), "replace_below": (2, 0, 0), "check_range": (2, 0, 0),
}  # fmt: skip
"""Numbers, integers and texts; operations of other lengths are judged one by one."""


_CHOICES = {"function": len(FUNCTIONS), "phase": len(PERIODS)}


def judge(
    inputs: Sequence[Input], tensors: Sequence[Tensor], code: Sequence[Instruction], numbers: int, texts: int
) -> None:
    """ValueError unless all that the parts of a program refer to is there, and written before it is read."""
    written: dict[bool, set[int]] = {True: set(), False: set()}
    for one in inputs:
        is_text = one.kind == "string"
        if not 0 <= one.register < (texts if is_text else numbers):
            raise ValueError("an input's register is out of range")
        written[is_text].add(one.register)
    for step in code:
        _judge(step, inputs, tensors, numbers, texts)
        from_text = step.op in OF_TEXT
        for read in (step.a, step.b) if step.op != "constant" else ():
            if read >= 0 and read not in written[from_text]:
                raise ValueError(f"{step.op}: register {read} is read before it is written")
        if step.op not in NO_DST:
            written[step.op in TO_TEXT].add(step.dst)


def _judge(one: Instruction, inputs: Sequence[Input], tensors: Sequence[Tensor], numbers: int, texts: int) -> None:  # noqa: C901, PLR0912
    """ValueError where an instruction refers to what is not there."""
    if one.op not in OPS:
        raise ValueError(f"{one.op} is no operation")
    wrong = ValueError(f"{one.op}: out of range")
    from_text = one.op in OF_TEXT
    if one.op != "constant" and not 0 <= one.a < (texts if from_text else numbers):
        raise wrong
    if one.op not in NO_DST and not 0 <= one.dst < (texts if one.op in TO_TEXT else numbers):
        raise wrong
    if (one.op in BINARY or one.op == "add_scaled") and not 0 <= one.b < numbers:
        raise wrong
    if one.op == "scatter" and not -1 <= one.b < numbers:
        raise wrong
    if not -1 <= one.column < len(inputs):
        raise wrong
    lengths = len(one.numbers), len(one.integers), len(one.texts)
    if one.op in _LENGTHS and lengths != _LENGTHS[one.op]:
        raise wrong
    if one.op in ("store", "scatter"):
        if not one.integers or not 0 <= one.integers[0] < len(tensors):
            raise wrong
        width = tensors[one.integers[0]].width
        lowest = 0 if one.op == "store" else -1
        if not all(lowest <= column < width for column in one.integers[1:]):
            raise wrong
    elif one.op in _CHOICES:
        if not 0 <= one.integers[0] < _CHOICES[one.op]:
            raise wrong
    elif one.op == "bucket_of_text":
        if one.integers[0] < 1:
            raise wrong
    elif one.op == "ngrams":
        if not _is_ngrams(one.integers, tensors) or lengths[0]:
            raise wrong
    elif one.op == "quantile":
        if lengths[1] != 2 or one.integers[0] < 1 or lengths[0] != 2 * one.integers[0]:
            raise wrong
    elif one.op == "lookup_number":
        if lengths[1] != 3 or one.integers[2] < 0 or lengths[0] != 2 * one.integers[2] + 2:
            raise wrong
    elif one.op == "spline":
        if lengths[1] != 4 or not _is_spline(one.numbers[:-4], *one.integers):
            raise wrong
    elif one.op == "lookup_text" and (lengths[1] != 2 or lengths[0] != lengths[2] + 2):
        raise wrong


def _is_spline(knots: Sequence[float], degree: int, column: int, columns: int, outside: int) -> bool:
    """Whether there are knots for the columns, each of which is at least one basis function."""
    functions = len(knots) - degree - 1
    ascending = all(before < after for before, after in pairwise(knots)) and all(map(math.isfinite, knots))
    return (
        ascending
        and 1 <= degree <= MOST_DEGREE
        and 0 <= column < columns <= functions > degree
        and outside in (0, 1, 2)
    )


def _is_ngrams(integers: Sequence[int], tensors: Sequence[Tensor]) -> bool:
    """Whether every bucket has a column of a tensor, or none."""
    if len(integers) < 7:
        return False
    tensor, buckets, analyzer, least, most, bits, norm = integers[:7]
    return (
        0 <= tensor < len(tensors)
        and 1 <= buckets <= MOST_BUCKETS
        and 1 <= least <= most <= MOST_GRAM
        and (analyzer in (0, 1, 2), 0 <= bits <= 7, norm in (0, 1, 2)) == (True, True, True)
        and len(integers) == 7 + buckets
        and all(-1 <= column < tensors[tensor].width for column in integers[7:])
    )
