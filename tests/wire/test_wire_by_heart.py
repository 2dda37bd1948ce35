"""Heads that are known by heart against the codec that they were learned from."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, TidegateError
from gateway.wire import _by_heart_c, _by_heart_py, http_answer, http_request
from gateway.wire import by_heart as chosen
from gateway.wire.grpc import NO_EXTENSIONS
from gateway.wire.types import MAX_TENSORS, InferCall
from gateway.wire.validate import ModelSignature, TensorSignature

both = pytest.mark.parametrize("by_heart", [_by_heart_py, _by_heart_c], ids=["python", "c"])

NAMES = st.sampled_from(["INPUT0", "INPUT1", "é", 'a"b'])
COUNTS = st.integers(0, 3)


@st.composite
def requests(draw) -> tuple[bytes, int | None]:
    """A body and its header length: tensors in binary, JSON or both, with all that may stand beside them."""
    inputs, tail = [], b""
    for name in draw(st.lists(NAMES, min_size=0, max_size=3)):
        count = draw(COUNTS)
        item: dict = {"name": name, "datatype": draw(st.sampled_from(["FP32", "INT32", "BYTES"])), "shape": [count]}
        if draw(st.integers(0, 4)):
            data = b"\1\0\0\0x" * count if item["datatype"] == "BYTES" else struct.pack(f"<{count}i", *range(count))
            item["parameters"] = {"binary_data_size": len(data) + draw(st.sampled_from([0] * 9 + [1]))}
            if draw(st.booleans()):
                item["parameters"]["own"] = 1
            tail += data
        else:
            item["data"] = [1] * count
        inputs.append(item)
    document: dict = {"inputs": inputs}
    if draw(st.booleans()):
        document["parameters"] = draw(
            st.sampled_from([{}, {"binary_data_output": True}, {"sequence_id": 3}, {"timeout": 5}, {"triton_x": 1}])
        )
    if draw(st.booleans()):
        document["outputs"] = [{"name": "OUTPUT0", "parameters": {"binary_data": draw(st.booleans())}}]
    if draw(st.booleans()):
        document["id"] = draw(st.sampled_from(["", "a", "ü"]))
    head = json.dumps(document).encode()
    return head + tail, len(head) if draw(st.integers(0, 9)) else None


def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except TidegateError as error:
        return type(error), error.message


def plain(call: InferCall):
    """All that a call is, its tensors as bytes."""
    if isinstance(call, tuple):
        return call
    inputs = [(t.name, t.datatype, t.shape, t.parameters, bytes(t.data or b""), t.json, t.shm) for t in call.inputs]
    return call.model, call.version, call.id, call.parameters, inputs, call.outputs, call.binary_data_output, call.raw


@both
@given(requests())
def test_a_request_is_read_as_by_the_codec(by_heart, request_):
    body, length = request_
    expected = outcome(http_request.decode_request, body, length, "m", "2", MAX_TENSORS)
    for _ in range(3):  # at first, and then by heart
        call = outcome(by_heart.decode_request, body, length, "m", "2", MAX_TENSORS)
        assert plain(call) == plain(expected)
        if isinstance(call, tuple):
            continue
        for timeout in (0, 7):
            options = {"want_binary": True, "binary_input": True, "timeout": timeout}
            wanted = outcome(http_request.encode_request, expected, **options)
            got = outcome(by_heart.encode_request, call, **options)
            if not isinstance(wanted[0], type):
                # By heart the tail is there even where it is empty; what goes out is the same.
                assert b"".join(got[1]) == b"".join(wanted[1])
                assert got[0] == wanted[0]


@both
def test_other_bytes_behind_a_known_head_are_other_tensors(by_heart):
    head = b'{"inputs":[{"name":"a","datatype":"INT32","shape":[1],"parameters":{"binary_data_size":4}}]}'
    calls = [by_heart.decode_request(head + bytes([n, 0, 0, 0]), len(head), "m", "", MAX_TENSORS) for n in range(3)]
    assert [bytes(call.inputs[0].data) for call in calls] == [bytes([n, 0, 0, 0]) for n in range(3)]
    assert calls[1].known is calls[2].known
    with pytest.raises(BadRequest):
        by_heart.decode_request(head + b"\0\0\0\0\0", len(head), "m", "", MAX_TENSORS)
    with pytest.raises(BadRequest):
        by_heart.decode_request(head + b"\0\0\0", len(head), "m", "", MAX_TENSORS)


@both
def test_a_sequence_id_that_was_changed_is_sent(by_heart):
    head = b'{"inputs":[{"name":"a","datatype":"INT32","shape":[1],"parameters":{"binary_data_size":4}}],"parameters":{"sequence_id":1}}'
    for sequence in (5, 6):
        call = by_heart.decode_request(head + b"\0\0\0\0", len(head), "m", "", MAX_TENSORS)
        call.parameters = {**call.parameters, "sequence_id": sequence}
        _, parts = by_heart.encode_request(call, want_binary=True, binary_input=True, timeout=0)
        assert json.loads(bytes(parts[0]))["parameters"]["sequence_id"] == sequence


@both
def test_strings_are_judged_each_time(by_heart):
    signature = ModelSignature("m", {"a": TensorSignature("a", "BYTES", (-1,))}, {}, frozenset({"a"}))
    head = b'{"inputs":[{"name":"a","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}}]}'
    for _ in range(2):  # learned at the second sight
        call = by_heart.decode_request(head + b"\1\0\0\0x", len(head), "m", "", MAX_TENSORS)
    assert call.known is not None
    call.known.found_to_fit(signature)
    assert not call.known.fits(signature)


@st.composite
def answers(draw) -> tuple[bytes, int]:
    outputs, tail = [], b""
    for number in range(draw(st.integers(0, 3))):
        count = draw(COUNTS)
        data = struct.pack(f"<{count}f", *range(count))
        item: dict = {"name": f"OUTPUT{number}", "datatype": "FP32", "shape": [count]}
        if draw(st.integers(0, 4)):
            item["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            item["data"] = [0.5] * count
        outputs.append(item)
    document = {"model_name": "upstream", "model_version": draw(st.sampled_from(["1", "2"])), "outputs": outputs}
    if draw(st.booleans()):
        document["id"] = "x"
    head = json.dumps(document).encode()
    return head + tail, len(head)


@both
@given(
    answers(), st.booleans(), st.lists(st.tuples(st.sampled_from(["OUTPUT0", "OUTPUT1"]), st.booleans()), max_size=2)
)
def test_an_answer_is_written_as_by_the_codec(by_heart, answer, binary, asked):
    body, length = answer
    document: dict = {
        "inputs": [{"name": "a", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}}],
        "parameters": {"binary_data_output": binary},
        "outputs": [{"name": name, "parameters": {"binary_data": flag}} for name, flag in asked],
    }
    head = json.dumps(document).encode()
    for model in ("m", "m", "other", "m"):
        call = by_heart.decode_request(head + b"\0\0\0\0", len(head), model, "", MAX_TENSORS)
        expected = http_answer.decode_response(body, length)
        got = by_heart.decode_response(body, length)
        assert [(t.name, t.shape, bytes(t.data or b""), t.json) for t in got.outputs] == [
            (t.name, t.shape, bytes(t.data or b""), t.json) for t in expected.outputs
        ]
        got.model_name = expected.model_name = model
        size, kind, parts = http_answer.encode_response(expected, call)
        found = by_heart.written(got, call)
        if found is None:
            again = http_answer.encode_response(got, call)
            assert (again[0], again[1], b"".join(again[2])) == (size, kind, b"".join(parts))
            continue
        lines, written = found
        whole = written + bytes(got.tail)
        assert whole == b"".join(parts)
        assert lines == (
            b"content-type: %b\r\ninference-header-content-length: %d\r\ncontent-length: %d\r\n"
            % (kind.encode(), size, len(whole))
        )


def test_the_twin_in_c_is_taken():
    assert chosen.decode_request is (_by_heart_py if NO_EXTENSIONS else _by_heart_c).decode_request


@both
def test_large_tensors_are_not_copied(by_heart):
    item = {"name": "a", "datatype": "UINT8", "shape": [100_000], "parameters": {"binary_data_size": 100_000}}
    head = json.dumps({"inputs": [item]}).encode()
    body = memoryview(head + bytes(100_000))
    for _ in range(3):
        call = by_heart.decode_request(body, len(head), "m", "", MAX_TENSORS)
        assert call.inputs[0].data.obj is body.obj
    assert call.known is not None
    assert call.tail.obj is body.obj


@both
def test_a_length_beyond_the_body_is_the_codecs_to_judge(by_heart):
    told = {"name": "O", "datatype": "INT8", "shape": [0], "parameters": {"binary_data_size": 0}}
    body = json.dumps({"model_name": "m", "outputs": [told]}).encode()
    for _ in range(3):
        assert by_heart.decode_response(body, len(body)).outputs[0].name == "O"
    for length in (len(body) + 1, len(body) - 1):
        with pytest.raises(TidegateError):
            by_heart.decode_response(body, length)


@both
def test_several_tensors_get_their_own_bytes(by_heart):
    items = [
        {"name": name, "datatype": "INT8", "shape": [size], "parameters": {"binary_data_size": size}}
        for name, size in (("a", 2), ("b", 0), ("c", 3))
    ]
    asked, told = json.dumps({"inputs": items}).encode(), json.dumps({"model_name": "m", "outputs": items}).encode()
    for _ in range(3):
        call = by_heart.decode_request(asked + b"xxyyy", len(asked), "m", "", MAX_TENSORS)
        answer = by_heart.decode_response(told + b"xxyyy", len(told))
        for tensors in (call.inputs, answer.outputs):
            assert [bytes(each.data) for each in tensors] == [b"xx", b"", b"yyy"]
    assert bytes(call.tail) == bytes(answer.tail) == b"xxyyy"
