"""Comparing two answers: the same verdict as numpy.isclose, and never an exception."""

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gateway.routing.compare import _BLOCK, TOP_K, compare
from gateway.wire.tensors import SIZES
from gateway.wire.types import InferAnswer, OutputTensor, SharedMemory

RTOL, ATOL = 1e-5, 1e-8
DTYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
INTEGERS = {f"{u}INT{bits}": f"<{u.lower() or 'i'}{bits // 8}" for u in ("U", "") for bits in (8, 16, 32, 64)}


def answer(*outputs):
    return InferAnswer(model_name="m", outputs=list(outputs))


def tensor(array, datatype, name="y", shape=None):
    return OutputTensor(name, datatype, list(array.shape) if shape is None else shape, data=array.tobytes())


def strings(*texts, name="y", shape=None):
    data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return OutputTensor(name, "BYTES", [len(texts)] if shape is None else shape, data=data)


def one(a, s, rtol=RTOL, atol=ATOL, classes=()):
    (found,) = compare(answer(a), answer(s), rtol, atol, classes)
    return found


def bf16(values):
    """Truncated to the upper half of float32."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype("<u2")


@st.composite
def float_pairs(draw):
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(npst.array_shapes(max_dims=3, max_side=6))
    values = npst.arrays(DTYPES[datatype], shape)  # infinities, NaN, subnormals and both zeros included
    a, s = draw(values), draw(values)
    return datatype, a, np.where(draw(npst.arrays(np.bool_, shape)), a, s).astype(DTYPES[datatype])


tolerances = st.sampled_from([0.0, 1e-8, 1e-5, 1e-3, 0.5])


@given(float_pairs(), tolerances, tolerances)
@settings(max_examples=300)
def test_floats_differ_exactly_when_numpy_says_so(pair, rtol, atol):
    datatype, a, s = pair
    with np.errstate(all="ignore"):
        wide_a, wide_s = a.astype(float), s.astype(float)
        beyond = ~np.isclose(wide_s, wide_a, rtol=rtol, atol=atol, equal_nan=True)
        distance = np.abs(wide_s - wide_a)
        finite = beyond & np.isfinite(distance)
        relative = (distance / np.abs(wide_a))[finite & (wide_a != 0)]
    found = one(tensor(a, datatype), tensor(s, datatype), rtol, atol)
    assert found.differing == np.count_nonzero(beyond)
    assert found.differs == beyond.any()
    assert found.kind == ("values" if beyond.any() else "none")
    assert found.elements == a.size
    assert found.max_abs == distance[finite].max(initial=0.0)
    assert found.max_rel == relative.max(initial=0.0)


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=8),
    st.lists(st.floats(width=32), min_size=1, max_size=8),
)
def test_bf16_is_compared_by_its_value(ours, theirs):
    n = min(len(ours), len(theirs))
    a, s = bf16(ours[:n]), bf16(theirs[:n])
    wide = [(x.astype(np.uint32) << 16).view(np.float32).astype(float) for x in (a, s)]
    with np.errstate(all="ignore"):
        expected = np.count_nonzero(~np.isclose(wide[1], wide[0], rtol=RTOL, atol=ATOL, equal_nan=True))
    assert one(tensor(a, "BF16"), tensor(s, "BF16")).differing == expected


@given(st.data(), st.sampled_from(sorted(INTEGERS)))
def test_integers_are_exact_to_the_ends_of_their_range(data, datatype):
    values = npst.arrays(INTEGERS[datatype], 5)
    a, s = data.draw(values), data.draw(values)
    found = one(tensor(a, datatype), tensor(s, datatype), rtol=1.0, atol=1.0)
    distances = [abs(int(y) - int(x)) for x, y in zip(a, s, strict=True)]
    assert found.differing == sum(d != 0 for d in distances)
    assert found.max_abs == float(max(distances))


def test_bool_is_true_for_any_byte_that_is_not_0():
    a, s = np.array([0, 1, 2, 1], np.uint8), np.array([0, 7, 1, 0], np.uint8)
    found = one(tensor(a, "BOOL"), tensor(s, "BOOL"))
    assert (found.differing, found.max_abs) == (1, 1.0)


def test_texts_are_compared_one_by_one():
    assert not one(strings(b"a", b"", b"\xff"), strings(b"a", b"", b"\xff")).differs
    found = one(strings(b"a", b"bc", b"d"), strings(b"a", b"b", b"cd"))
    assert (found.kind, found.differing, found.elements) == ("values", 2, 3)


def test_equal_outputs_are_reported_too():
    a = np.arange(6, dtype=np.float32)
    found = one(tensor(a, "FP32"), tensor(a, "FP32"))
    assert (found.kind, found.differs, found.elements, found.rows, found.agree_top1) == (
        "none",
        False,
        6,
        1,
        1,
    )


def test_the_tolerance_is_relative_to_the_answer():
    a, s = np.array([100.0]), np.array([101.0])
    assert not one(tensor(a, "FP64"), tensor(s, "FP64"), rtol=0.01, atol=0).differs
    assert one(tensor(a, "FP64"), tensor(s, "FP64"), rtol=0.0099, atol=0).differs
    assert not one(tensor(a, "FP64"), tensor(s, "FP64"), rtol=0, atol=1).differs


def test_shape_datatype_missing_and_extra_outputs():
    a = np.zeros((2, 3), np.float32)
    assert one(tensor(a, "FP32"), tensor(a.T, "FP32")).kind == "shape"
    assert one(tensor(a, "FP32"), tensor(a.astype("<f8"), "FP64")).kind == "datatype"
    kinds = {
        found.output: found.kind
        for found in compare(
            answer(tensor(a, "FP32", "both"), tensor(a, "FP32", "ours")),
            answer(tensor(a, "FP32", "theirs"), tensor(a, "FP32", "both")),
            RTOL,
            ATOL,
        )
    }
    assert kinds == {"both": "none", "ours": "missing", "theirs": "extra"}


def test_json_answers_are_read():
    a = OutputTensor("y", "FP32", [3], json=msgspec.Raw(b"[1.0, 2, 3e0]"))
    assert not one(a, tensor(np.array([1, 2, 3], np.float32), "FP32")).differs
    assert one(a, tensor(np.array([1, 2, 4], np.float32), "FP32")).differing == 1


def test_what_lies_in_the_clients_memory_cannot_be_compared():
    shm = OutputTensor("y", "FP32", [1], shm=SharedMemory("r", 4))
    found = one(shm, tensor(np.zeros(1, np.float32), "FP32"))
    assert (found.kind, found.differs) == ("shared_memory", False)


def test_a_large_output_is_compared_in_blocks():
    a = np.ones(2 * _BLOCK + 5, np.float32)
    s = a.copy()
    s[[0, _BLOCK - 1, _BLOCK, -1]] = [2, 3, 4, 6]
    found = one(tensor(a, "FP32"), tensor(s, "FP32"))
    assert (found.differing, found.max_abs, found.elements) == (4, 5.0, a.size)


# --- classes -----------------------------------------------------------------------------------------------


def test_float_outputs_are_scores_of_classes():
    a = np.array([[0.1, 0.9], [0.8, 0.2], [0.6, 0.4]], np.float32)
    s = np.array([[0.2, 0.8], [0.3, 0.7], [0.6, 0.4]], np.float32)
    found = one(tensor(a, "FP32"), tensor(s, "FP32"))
    assert (found.rows, found.agree_top1) == (3, 2)


@given(npst.arrays("<f4", (4, 9), unique=True, elements=st.floats(-9, 9, width=32)), st.permutations(range(9)))
def test_topk_agreement_is_the_share_of_best_classes_that_both_have(a, order):
    s = a[:, order]
    found = one(tensor(a, "FP32"), tensor(s, "FP32"))
    best = [{int(i) for i in np.argsort(row)[-TOP_K:]} for row in a]
    theirs = [{int(i) for i in np.argsort(row)[-TOP_K:]} for row in s]
    assert found.agree_topk == pytest.approx(sum(len(x & y) / TOP_K for x, y in zip(best, theirs, strict=True)))
    assert found.agree_top1 == sum(x.argmax() == y.argmax() for x, y in zip(a, s, strict=True))


def test_bf16_and_fp16_scores_have_classes_too():
    values = np.array([[-1.0, -2.0], [3.0, 2.0]], np.float32)
    assert one(tensor(bf16(values), "BF16"), tensor(bf16(-values), "BF16")).agree_top1 == 0
    half = values.astype("<f2")
    assert one(tensor(half, "FP16"), tensor(half, "FP16")).agree_top1 == 2


def test_a_last_dimension_of_1_and_integers_have_no_classes():
    assert one(tensor(np.zeros((3, 1), "<f4"), "FP32"), tensor(np.zeros((3, 1), "<f4"), "FP32")).rows == 0
    assert one(tensor(np.zeros((3, 4), "<i4"), "INT32"), tensor(np.zeros((3, 4), "<i4"), "INT32")).rows == 0


def test_classification_strings_agree_by_label_and_value():
    a = strings(b"0.9:3:three", b"0.05:8:eight", b"0.7:1:one", b"0.2:7:se:ven", shape=[2, 2])
    s = strings(b"0.9000001:3:three", b"0.05:9:nine", b"0.7:7:se:ven", b"0.2:1:one", shape=[2, 2])
    found = one(a, s, rtol=1e-3, classes=("y",))
    assert (found.rows, found.agree_top1, found.agree_topk) == (2, 1, 1.5)
    assert (found.differing, found.elements, found.kind) == (3, 4, "values")
    same = one(a, a, classes=("y",))
    assert (same.differing, same.agree_top1, same.agree_topk) == (0, 2, 2.0)
    value = one(strings(b"0.5:0"), strings(b"0.75:0"), classes=("y",))
    assert (value.differing, value.max_abs, value.max_rel, value.agree_top1) == (1, 0.25, 0.5, 1)


@pytest.mark.parametrize("text", [b"", b"plain", b"1.0", b"x:1", b"1.0:", b"1.0:label", b"1.0:\xff"])
def test_strings_that_are_no_classification_cannot_be_read(text):
    assert one(strings(text), strings(b"1.0:0"), classes=("y",)).kind == "unreadable"


# --- odd data ----------------------------------------------------------------------------------------------


@st.composite
def odd_tensors(draw):
    datatype = draw(st.sampled_from([*SIZES, "STRING", ""]))
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 4, -1, 2**31, 2**62]), max_size=3))
    data = draw(st.binary(max_size=32))
    kind = draw(st.sampled_from(["data", "json", "none", "shm"]))
    tensor = OutputTensor("y", datatype, shape)
    if kind == "data":
        tensor.data = draw(st.sampled_from([data, memoryview(data)]))
    elif kind == "json":
        text = draw(st.sampled_from([b"[1]", b"[]", b"[[1],[2,3]]", b'["a"]', b"[1e999]", b"{}", b"[", b"null", data]))
        tensor.json = msgspec.Raw(text)
    elif kind == "shm":
        tensor.shm = SharedMemory("r", 4)
    return tensor


@given(odd_tensors(), odd_tensors(), st.booleans(), st.booleans())
@settings(max_examples=500)
def test_nothing_raises_on_odd_data(a, s, alike, classified):
    if alike:
        s.datatype, s.shape = a.datatype, a.shape
    found = one(a, s, classes=("y",) if classified else ())
    assert found.output == "y"
    assert found.elements >= 0


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x05\0\0\0abc", b"\0\0\0\0\0", b"\xff\xff\xff\xff"])
def test_cut_off_strings_cannot_be_read(data):
    broken = OutputTensor("y", "BYTES", [1], data=data)
    assert one(broken, strings(b"a")).kind == "unreadable"
