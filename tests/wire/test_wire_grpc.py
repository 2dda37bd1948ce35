"""wire.grpc against tables, truncations, and there and back."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from tritonclient.grpc import service_pb2
from wire_tensors import ALL_DATATYPES, answers, calls, pack, plain

from gateway.errors import BadGateway, BadRequest
from gateway.wire import grpc
from gateway.wire.tensors import materialise
from gateway.wire.types import InferAnswer, InferCall, InputTensor, OutputTensor, SharedMemory


def message(**fields) -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest(model_name="m", **fields)


def add_input(request, name="A", datatype="FP32", shape=(2,), raw: bytes | None = None, **contents):
    item = request.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    for field, values in contents.items():
        getattr(item.contents, field).extend(values)
    return item


def decode(request) -> InferCall:
    return grpc.decode_request(request.SerializeToString())


def refusal(request) -> str:
    with pytest.raises(BadRequest) as caught:
        call = decode(request)
        for tensor in call.inputs:
            materialise(tensor)
    return caught.value.message


def test_a_request_with_everything():
    request = message(model_version="2", id="x")
    for key, field, value in (
        ("sequence_id", "int64_param", -1),
        ("sequence_start", "bool_param", True),
        ("priority", "uint64_param", 2**64 - 1),
        ("timeout", "int64_param", 5),
        ("triton_enable_empty_final_response", "bool_param", True),
        ("s", "string_param", "t"),
        ("d", "double_param", 1.5),
        ("u", "uint64_param", 2**64 - 1),
        ("i", "int64_param", -3),
    ):
        setattr(request.parameters[key], field, value)
    add_input(request, raw=struct.pack("<2f", 1, 2)).parameters["k"].string_param = "v"
    shm = add_input(request, name="S")
    shm.parameters["shared_memory_region"].string_param = "r"
    shm.parameters["shared_memory_byte_size"].int64_param = 8
    add_input(request, name="B", datatype="INT8", shape=(0,), raw=b"")
    output = request.outputs.add(name="O")
    output.parameters["classification"].int64_param = 3
    call = decode(request)
    assert call == InferCall(
        model="m",
        version="2",
        id="x",
        parameters={
            "sequence_id": 2**64 - 1,
            "sequence_start": True,
            "priority": 2**64 - 1,
            "timeout": 5,
            "triton_enable_empty_final_response": True,
            "s": "t",
            "d": 1.5,
            "u": 2**64 - 1,
            "i": -3,
        },
        inputs=[
            InputTensor("A", "FP32", [2], {"k": "v"}, data=struct.pack("<2f", 1, 2)),
            InputTensor("S", "FP32", [2], shm=SharedMemory("r", 8)),
            InputTensor("B", "INT8", [0], data=b""),
        ],
        outputs=[grpc.OutputRequest("O", binary=True, classification=3)],
    )


CONTENTS = {
    "BOOL": ("bool_contents", [True, False], "<?"),
    "INT8": ("int_contents", [-128, 127], "<i1"),
    "INT16": ("int_contents", [-32768, 32767], "<i2"),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1], "<i4"),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1], "<i8"),
    "UINT8": ("uint_contents", [0, 255], "<u1"),
    "UINT16": ("uint_contents", [0, 65535], "<u2"),
    "UINT32": ("uint_contents", [0, 2**32 - 1], "<u4"),
    "UINT64": ("uint64_contents", [0, 2**64 - 1], "<u8"),
    "FP32": ("fp32_contents", [1.5, float("inf")], "<f4"),
    "FP64": ("fp64_contents", [1e300, float("-inf")], "<f8"),
}


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents_become_raw_bytes(datatype):
    field, values, form = CONTENTS[datatype]
    request = message()
    add_input(request, datatype=datatype, **{field: values})
    assert materialise(decode(request).inputs[0]) == np.array(values, form).tobytes()


def test_typed_bytes_and_empty_contents():
    request = message()
    add_input(request, datatype="BYTES", bytes_contents=[b"", b"\xff\0"])
    add_input(request, name="E", shape=(0,)).contents.SetInParent()
    add_input(request, name="H", datatype="FP16", shape=(0,)).contents.SetInParent()
    assert [materialise(t) for t in decode(request).inputs] == [pack([b"", b"\xff\0"]), b"", b""]


@pytest.mark.parametrize(
    ("datatype", "field", "values", "fault"),
    [
        ("INT8", "int_contents", [1, 128], "input 'A': element 1: 128 is out of range for INT8"),
        ("INT16", "int_contents", [-32769], "input 'A': element 0: -32769 is out of range for INT16"),
        ("UINT8", "uint_contents", [256], "input 'A': element 0: 256 is out of range for UINT8"),
        ("UINT16", "uint_contents", [65536], "input 'A': element 0: 65536 is out of range for UINT16"),
        (
            "FP32",
            "int_contents",
            [1],
            "unexpected explicit tensor data for input tensor 'A' of type 'INT32', expected datatype 'FP32'",
        ),
        (
            "FP16",
            "fp32_contents",
            [1],
            "unexpected explicit tensor data for input tensor 'A' of type 'FP32', expected datatype 'FP16'",
        ),
    ],
)
def test_typed_contents_must_fit(datatype, field, values, fault):
    request = message()
    add_input(request, datatype=datatype, **{field: values})
    assert refusal(request) == fault


def broken(change) -> service_pb2.ModelInferRequest:
    request = message()
    change(request)
    return request


def parameter(key, field, value):
    def change(request):
        setattr(request.parameters[key], field, value)

    return change


def two_fields(request):
    add_input(request, raw=b"\0" * 8)
    add_input(request, name="B", fp32_contents=[1])


def shm_with_contents(request):
    add_input(request, fp32_contents=[1]).parameters["shared_memory_region"].string_param = "r"


def size_without_region(request):
    add_input(request, raw=b"").parameters["shared_memory_byte_size"].int64_param = 1


def region_of_wrong_type(request):
    add_input(request).parameters["shared_memory_region"].int64_param = 1


def offset_of_wrong_type(request):
    item = add_input(request)
    item.parameters["shared_memory_region"].string_param = "r"
    item.parameters["shared_memory_offset"].string_param = "1"


def class_and_region(request):
    output = request.outputs.add(name="O")
    output.parameters["shared_memory_region"].string_param = "r"
    output.parameters["classification"].int64_param = 1


def classes(field, value):
    def change(request):
        setattr(request.outputs.add(name="O").parameters["classification"], field, value)

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            two_fields,
            "contents field must not be specified when using raw_input_contents for 'B' for model 'm'",
        ),
        (add_input, "unable to find data for input tensor 'A' for model 'm' in request."),
        (
            lambda r: (add_input(r, raw=b""), r.raw_input_contents.append(b"x")),
            "unexpected additional input data for model 'm': no input takes the last 1 of 2 raw_input_contents",
        ),
        (lambda r: add_input(r, datatype="F", raw=b""), "invalid datatype for input A"),
        (
            shm_with_contents,
            "unexpected 'content' provided when using shared memory for input tensor 'A' for model 'm'",
        ),
        (
            size_without_region,
            "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for tensor 'A'",
        ),
        (
            region_of_wrong_type,
            "invalid value type for 'shared_memory_region' parameter for tensor 'A', expected string_param.",
        ),
        (
            offset_of_wrong_type,
            "invalid value type for 'shared_memory_offset' parameter for tensor 'A', expected int64_param.",
        ),
        (class_and_region, "output can't set both 'shared_memory_region' and 'classification'"),
        (
            classes("string_param", "1"),
            "invalid value type for 'classification' parameter, expected int64_param",
        ),
        (classes("int64_param", 0), "invalid value for 'classification' parameter, expected >= 0"),
        (
            parameter("sequence_id", "bool_param", True),
            "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
        ),
        (
            parameter("sequence_start", "int64_param", 1),
            "invalid value type for 'sequence_start' parameter, expected bool_param.",
        ),
        (
            parameter("sequence_end", "string_param", "x"),
            "invalid value type for 'sequence_end' parameter, expected bool_param.",
        ),
        (
            parameter("priority", "string_param", "x"),
            "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
        ),
        (parameter("priority", "int64_param", -1), "invalid value for 'priority', expected value >= 0."),
        (
            parameter("timeout", "uint64_param", 1),
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        (
            parameter("triton_enable_empty_final_response", "int64_param", 1),
            "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param.",
        ),
        (
            parameter("triton_other", "int64_param", 1),
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
            "starting with 'triton_' are allowed: triton_enable_empty_final_response",
        ),
        (
            lambda r: r.parameters["empty"].SetInParent(),
            "invalid value type for 'empty' parameter, expected int64_param, bool_param, or string_param.",
        ),
    ],
)
def test_bad_requests_are_refused_in_tritons_words(change, fault):
    assert refusal(broken(change)) == fault


def test_large_raw_tensors_stay_views_of_the_message():
    raw = bytes(range(256)) * 1024
    request = message()
    add_input(request, datatype="UINT8", shape=(len(raw),), raw=raw)
    add_input(request, name="B", datatype="UINT8", shape=(3,), raw=b"abc")
    text = request.SerializeToString()
    call = grpc.decode_request(text)
    assert call.inputs[0].data.obj is text
    assert call.inputs[1].data == b"abc"
    assert [bytes(t.data) for t in call.inputs] == [raw, b"abc"]


@pytest.mark.parametrize("strange", [b"\xba\x00\x01x", b"\x08\x01", b"\x3d\0\0\0\0", b"\xfa\x3f\x00"])
def test_a_large_message_in_an_unusual_form_is_left_to_protobuf(strange):
    """An overlong tag of raw_input_contents, and unknown fields of other wire types."""
    request = message()
    add_input(request, datatype="UINT8", shape=(70_000,), raw=b"x" * 70_000)
    text = request.SerializeToString() + strange
    if strange[0] == 0xBA:
        add_input(request, name="B", datatype="UINT8", shape=(1,))
        text = request.SerializeToString() + strange
    assert bytes(grpc.decode_request(text).inputs[0].data) == b"x" * 70_000


@pytest.mark.parametrize("size", [8, 40_000])
def test_every_truncation_is_a_bad_request_or_a_shorter_request(size):
    request = message(id="id")
    request.parameters["p"].double_param = 1
    add_input(request, datatype="UINT8", shape=(size,), raw=b"x" * size)
    request.outputs.add(name="O")
    text = request.SerializeToString()
    ends = [*range(200), *range(len(text) - 100, len(text))] if size > 1000 else range(len(text))
    for end in ends:
        try:
            shorter = grpc.decode_request(text[:end])
        except BadRequest:
            continue
        assert not shorter.inputs  # cut between two fields, before the first input


def test_text_that_is_no_utf8_is_a_bad_request():
    with pytest.raises(BadRequest):
        grpc.decode_request(b"\x0a\x01\xff")


def test_responses_always_carry_one_raw_entry_an_output():
    answer = InferAnswer(
        "m",
        "1",
        outputs=[
            OutputTensor("A", "INT8", [2], data=memoryview(b"\1\2")),
            OutputTensor("E", "FP32", [0], data=b""),
            OutputTensor("S", "FP32", [1], {"k": True}, shm=SharedMemory("r", 4)),
        ],
    )
    response = service_pb2.ModelInferResponse.FromString(grpc.encode_response(answer))
    assert list(response.raw_output_contents) == [b"\1\2", b"", b""]
    assert [o.name for o in response.outputs] == ["A", "E", "S"]
    assert response.outputs[2].parameters["k"].bool_param


def test_answers_with_typed_contents_are_understood_and_lies_are_the_servers_fault():
    response = service_pb2.ModelInferResponse(model_name="m")
    response.outputs.add(name="O", datatype="INT16", shape=[2]).contents.int_contents.extend([1, -2])
    assert grpc.decode_response(response).outputs[0].data == struct.pack("<2h", 1, -2)
    response.raw_output_contents.extend([b"", b""])
    with pytest.raises(BadGateway):
        grpc.decode_response(response)
    response.ClearField("raw_output_contents")
    response.outputs[0].parameters["x"].SetInParent()
    with pytest.raises(BadGateway):
        grpc.decode_response(response)


def comparable(call: InferCall) -> InferCall:
    plain(call)
    for output in call.outputs:
        output.binary = None
    return call


@settings(max_examples=250, deadline=None)
@given(calls())
def test_a_request_survives_the_wire(call: InferCall):
    again = grpc.decode_request(grpc.encode_request(call).SerializeToString())
    assert comparable(again) == call


@settings(max_examples=250, deadline=None)
@given(answers())
def test_an_answer_survives_the_wire(answer: InferAnswer):
    response = service_pb2.ModelInferResponse.FromString(grpc.encode_response(answer))
    assert plain(grpc.decode_response(response)) == answer


def test_every_datatype_is_known():
    request = message()
    for datatype in ALL_DATATYPES:
        add_input(request, name=datatype, datatype=datatype, shape=(0,), raw=b"")
    assert len(decode(request).inputs) == len(ALL_DATATYPES)
