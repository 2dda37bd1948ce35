"""How a shadow's answer differs from the one that was given. Pure; numpy.

Contract: one `OutputDifference` for each output that either answer has. Nothing here raises, whatever the two
model servers sent: an output that cannot be read is a difference of kind `unreadable`.

Two numbers differ when |s - a| > atol + rtol * |a|, with s the shadow's, a the answer's, in float64. Equal
infinities do not differ and NaN equals NaN (numpy.isclose with equal_nan). Integers, BOOL and BYTES are
compared exactly. Classification strings (`value:index[:label]`) differ when index or label do, or the value
does as a number. Float outputs of a last dimension n >= 2 are also read as scores of n classes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.errors import TidegateError
from gateway.routing.classes import compare_classes
from gateway.wire.tensors import NUMPY, SIZES, data_of, element_count
from gateway.wire.types import Buffer, InferAnswer, OutputTensor

Kind: TypeAlias = Literal["none", "values", "shape", "datatype", "missing", "extra", "unreadable", "shared_memory"]
"""What differs. `missing`: the shadow lacks the output; `extra`: only the shadow has it; `shared_memory`: the
answer's bytes went into the client's memory, so that nobody can compare, which is no difference."""

TOP_K = 5
"""Top-k agreement is over the five best, as ImageNet's top-5; only where there are more classes than that."""

_BLOCK = 1 << 18
"""Elements compared at a time: 2 MiB as float64, so that a large output does not triple the memory."""

Array: TypeAlias = NDArray[Any]


class OutputDifference(msgspec.Struct, frozen=True):
    """One output of an answer and its shadow."""

    output: str
    kind: Kind
    max_abs: float = 0.0
    """Largest |s - a| beyond tolerance, over pairs of finite numbers; 0 when there is none."""
    max_rel: float = 0.0
    """Largest |s - a| / |a| beyond tolerance, over those with a != 0; 0 when there is none."""
    differing: int = 0
    """Elements that differ."""
    elements: int = 0
    """Elements of the answer."""
    rows: int = 0
    """Rows of class scores; 0 when the output has none."""
    agree_top1: int = 0
    """Rows whose best class is the same."""
    agree_topk: float = 0.0
    """Sum over the rows of the share of the best k classes that both have."""

    @property
    def differs(self) -> bool:
        """Whether this counts as a difference."""
        return self.kind not in {"none", "shared_memory"}


def compare(
    primary: InferAnswer, shadow: InferAnswer, rtol: float, atol: float, classes: Collection[str] = ()
) -> list[OutputDifference]:
    """Compare two answers output by output, in the order of the first, then what only the second has.

    Args:
        primary: the answer that was given.
        shadow: the other one.
        rtol: relative tolerance.
        atol: absolute tolerance, in the output's own unit.
        classes: names of the outputs that were asked for as classification.
    """
    others = {output.name: output for output in shadow.outputs}
    differences = []
    for output in primary.outputs:
        other = others.pop(output.name, None)
        if other is None:
            differences.append(OutputDifference(output.name, "missing"))
        else:
            differences.append(_compare(output, other, rtol, atol, classified=output.name in classes))
    differences += [OutputDifference(name, "extra") for name in others]
    return differences


def _compare(a: OutputTensor, s: OutputTensor, rtol: float, atol: float, *, classified: bool) -> OutputDifference:
    if a.shm is not None or s.shm is not None:
        return OutputDifference(a.name, "shared_memory")
    if a.datatype != s.datatype:
        return OutputDifference(a.name, "datatype")
    if a.shape != s.shape:
        return OutputDifference(a.name, "shape")
    elements = element_count(a.shape)
    if any(dim < 0 for dim in a.shape):
        return OutputDifference(a.name, "unreadable")
    try:
        ours, theirs = data_of(a), data_of(s)
        if classified:
            return _classes(a.name, a.shape, _strings(ours, elements), _strings(theirs, elements), rtol, atol)
        if SIZES.get(a.datatype, 0):
            return _numbers(a, elements, _array(a, ours, elements), _array(s, theirs, elements), rtol, atol)
        return _texts(a.name, elements, ours, theirs)
    except (TidegateError, ValueError):  # data_of's own errors; a size or a length that does not fit
        return OutputDifference(a.name, "unreadable")


def _array(tensor: OutputTensor, data: Buffer, elements: int) -> Array:
    """The flat array; BF16 and BOOL as unsigned integers. ValueError when the size does not fit."""
    dtype = np.dtype("<u2") if tensor.datatype == "BF16" else NUMPY[tensor.datatype]
    array = np.frombuffer(data, dtype=np.uint8 if dtype == np.bool_ else dtype)
    if array.size != elements:
        raise ValueError("size does not fit the shape")
    return array


def _strings(data: Buffer, elements: int) -> list[bytes]:
    """The elements of raw BYTES. ValueError when they are cut off or not as many as the shape says."""
    raw, at, strings = bytes(data), 0, []
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if at + 4 > len(raw) or end > len(raw):
            raise ValueError("an element is cut off")
        strings.append(raw[at + 4 : end])
        at = end
    if len(strings) != elements:
        raise ValueError("number of elements does not fit the shape")
    return strings


def _texts(name: str, elements: int, ours: Buffer, theirs: Buffer) -> OutputDifference:
    if bytes(ours) == bytes(theirs):
        return OutputDifference(name, "none", elements=elements)
    ours_read, theirs_read = _strings(ours, elements), _strings(theirs, elements)
    differing = sum(a != s for a, s in zip(ours_read, theirs_read, strict=True))
    return OutputDifference(name, "values" if differing else "none", differing=differing, elements=elements)


def _numbers(tensor: OutputTensor, elements: int, a: Array, s: Array, rtol: float, atol: float) -> OutputDifference:
    datatype, differing, max_abs, max_rel = tensor.datatype, 0, 0.0, 0.0
    # Equal bits are equal values, and the common case; NaN included.
    if not np.array_equal(_bits(a), _bits(s)):
        for start in range(0, elements, _BLOCK):
            block = slice(start, start + _BLOCK)
            if datatype in {"FP16", "FP32", "FP64", "BF16"}:
                found = _floats(_float64(a[block], datatype), _float64(s[block], datatype), rtol, atol)
            else:
                found = _integers(a[block], s[block], datatype)
            differing += found[0]
            max_abs, max_rel = max(max_abs, found[1]), max(max_rel, found[2])
    rows, top1, topk = _scores(tensor, a, s)
    return OutputDifference(
        tensor.name,
        "values" if differing else "none",
        max_abs=max_abs,
        max_rel=max_rel,
        differing=differing,
        elements=elements,
        rows=rows,
        agree_top1=top1,
        agree_topk=topk,
    )


def _bits(array: Array) -> Array:
    return array.view(f"u{array.dtype.itemsize}")


def _float64(array: Array, datatype: str) -> NDArray[np.float64]:
    if datatype == "BF16":  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def _floats(a: Array, s: Array, rtol: float, atol: float) -> tuple[int, float, float]:
    with np.errstate(all="ignore"):  # infinities and NaN are what models answer; they are handled below
        distance = np.abs(s - a)
        close = ((distance <= atol + rtol * np.abs(a)) & np.isfinite(a)) | (a == s) | (np.isnan(a) & np.isnan(s))
        beyond = ~close
        return int(np.count_nonzero(beyond)), *_largest(distance, a, beyond)


def _integers(a: Array, s: Array, datatype: str) -> tuple[int, float, float]:
    if datatype == "BOOL":  # any byte that is not 0 is true
        a, s = (a != 0).view(np.uint8), (s != 0).view(np.uint8)
    beyond = a != s
    # Wraps for the extremes of signed types, and is right again when read as unsigned.
    distance = _bits(np.maximum(a, s) - np.minimum(a, s)).astype(np.float64)
    with np.errstate(all="ignore"):
        return int(np.count_nonzero(beyond)), *_largest(distance, a.astype(np.float64), beyond)


def _largest(distance: Array, a: Array, beyond: Array) -> tuple[float, float]:
    """Largest absolute and relative difference of those beyond tolerance, between finite numbers."""
    kept = distance[beyond & np.isfinite(distance)]
    relative = (distance / np.abs(a))[beyond & np.isfinite(distance) & (a != 0)]
    return float(kept.max(initial=0.0)), float(relative.max(initial=0.0))


def _scores(tensor: OutputTensor, a: Array, s: Array) -> tuple[int, int, float]:
    """Rows, rows with the same best class, and the summed top-k agreement of class scores."""
    if tensor.datatype not in {"FP16", "FP32", "FP64", "BF16"} or not a.size or tensor.shape[-1:] < [2]:
        return 0, 0, 0.0
    n = tensor.shape[-1]
    if tensor.datatype == "BF16":
        a, s = _float64(a, "BF16"), _float64(s, "BF16")
    a, s = a.reshape(-1, n), s.reshape(-1, n)
    top1 = int(np.count_nonzero(a.argmax(axis=1) == s.argmax(axis=1)))
    if n <= TOP_K:
        return len(a), top1, float(len(a))
    best_a, best_s = (np.argpartition(scores, n - TOP_K, axis=1)[:, n - TOP_K :] for scores in (a, s))
    shared = np.count_nonzero(best_a[:, :, None] == best_s[:, None, :])
    return len(a), top1, shared / TOP_K


def _classes(
    name: str, shape: list[int], ours: list[bytes], theirs: list[bytes], rtol: float, atol: float
) -> OutputDifference:
    found = compare_classes(ours, theirs, shape[-1] if shape else 1)
    beyond, max_abs, max_rel = _floats(found.ours, found.theirs, rtol, atol)
    differing = found.other_classes + beyond
    return OutputDifference(
        name,
        "values" if differing else "none",
        max_abs=max_abs,
        max_rel=max_rel,
        differing=differing,
        elements=len(ours),
        rows=found.rows,
        agree_top1=found.top1,
        agree_topk=found.topk,
    )
