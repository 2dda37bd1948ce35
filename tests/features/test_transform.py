"""A call's columns to tensors, beside what tests/e2e/test_features.py asks over the wire: many rows, misfits, limits."""

import json

import numpy as np
import pytest

from gateway.errors import BadRequest, TooLarge
from gateway.transform import RouteFeatures
from gateway.wire import http, rows
from gateway.wire.types import InputTensor
from gateway.wire.validate import ModelSignature, TensorSignature
from governance.features.reading import parse

PLAN = b"""\
schema_version: tidegate.features/1
inputs: {n: number, s: {type: string, missing: refuse}}
steps: [{one_hot: {s: {categories: [a, b]}}}]
outputs: {x: {columns: [n, s]}, y: {datatype: INT64, columns: [s_b]}}
"""
LOADED, _ = parse(PLAN, "plan")
assert LOADED is not None
LIMIT = 1 << 26


def features(*accept):
    return RouteFeatures(LOADED, frozenset(accept or ("columns", "rows")))


def call_of(document):
    body = json.dumps(document).encode()
    call = rows.decode_request(body, "m", "", 100)
    return http.decode_request(body, None, "m", "") if call is None else call


@pytest.mark.parametrize("count", [0, 1, 4096, 4097, 10_000])
def test_many_rows_are_taken_in_parts(count):
    sent = [{"n": at / 2, "s": "ab"[at % 2]} for at in range(count)]
    split = {"columns": ["s", "n"], "data": [[row["s"], row["n"]] for row in sent]}
    for document in ({"instances": sent}, {"dataframe_split": split}):
        call = call_of(document)
        assert features().many(call) == (count * 6 >= 100_000)
        features().apply(call, LIMIT)
        x, y = call.inputs
        assert (x.name, x.datatype, x.shape) == ("x", "FP32", [count, 3])
        wanted = [[at / 2, 1 - at % 2, at % 2] for at in range(count)]
        np.testing.assert_array_equal(np.frombuffer(x.data, "<f4").reshape(-1, 3), np.array(wanted).reshape(-1, 3))
        assert (y.name, y.datatype, y.shape) == ("y", "INT64", [count, 1])
        assert call.rows is None


def test_a_row_far_down_is_named():
    sent = [{"n": 1, "s": "a"}] * 9000
    for late, words in (
        ({"n": 1, "s": "c"}, "row 9001: 's' is none"),
        ({"m": 1, "s": "a"}, "row 9001: there is no column 'm'"),
    ):
        with pytest.raises(BadRequest, match=words):
            features().apply(call_of({"instances": [*sent, late]}), LIMIT)


def test_the_limit_is_of_what_would_be_made():
    with pytest.raises(TooLarge):
        features().apply(call_of({"instances": [{"s": "a"}] * 10}), 199)
    features().apply(call_of({"instances": [{"s": "a"}] * 10}), 200)


def tensor(name, datatype, shape, data):
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}


def test_forms_that_a_route_does_not_take_are_named():
    final = tensor("x", "FP32", [1, 3], [1, 2, 3])
    with pytest.raises(BadRequest, match=r"does not take rows of JSON here; it takes a tensor for each column$"):
        features("columns").apply(call_of({"instances": []}), LIMIT)
    with pytest.raises(BadRequest, match="it takes rows of JSON or the model's tensors"):
        features("rows", "tensors").apply(call_of(tensor("s", "BYTES", [1, 1], ["a"])), LIMIT)
    call = call_of(final)
    features("rows", "tensors").apply(call, LIMIT)
    assert [one.name for one in call.inputs] == ["x"]
    assert isinstance(call.inputs[0], InputTensor)
    assert features("tensors").metadata() is None
    assert features().metadata() == [("n", "FP64", (-1, 1)), ("s", "BYTES", (-1, 1))]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": ("FP32", (-1, 3)), "y": ("INT64", (-1, 1))}, ""),
        ({"x": ("FP32", (-1, -1)), "y": ("INT64", (-1, 1))}, ""),
        ({"x": ("FP32", (-1, 4)), "y": ("INT64", (-1, 1))}, "'x' is [n, 3] in the plan and [-1, 4]"),
        ({"x": ("FP64", (-1, 3)), "y": ("INT64", (-1, 1))}, "'x' is FP32 in the plan and FP64"),
        ({"x": ("FP32", (-1, 3))}, "no input 'y'"),
        ({"x": ("FP32", (-1, 3)), "y": ("INT64", (-1, 1)), "z": ("BOOL", (-1, 1))}, "does not make 'z'"),
    ],
)
def test_a_plan_and_a_model_that_do_not_fit(inputs, words):
    signatures = {name: TensorSignature(name, datatype, shape) for name, (datatype, shape) in inputs.items()}
    found = features().misfits(ModelSignature("m", signatures, {}, frozenset(signatures)))
    assert words in found
    assert bool(words) == bool(found)
