"""wire._infer_c and wire._infer_write_c against protobuf: where it answers, it answers the same, and to what is usual it does answer."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from wire_tensors import answers, calls, plain

from gateway.errors import BadGateway, TidegateError
from gateway.wire import grpc, grpc_stream
from gateway.wire._infer_c import read_request, read_stream_response
from gateway.wire._infer_write_c import write_response, write_stream_request
from gateway.wire.types import InferAnswer, InferCall, OutputTensor

NAMES = st.text(max_size=8)
VALUES = st.one_of(
    st.tuples(st.just("bool_param"), st.booleans()),
    st.tuples(st.just("int64_param"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("string_param"), st.text(max_size=8)),
    st.tuples(st.just("double_param"), st.floats(allow_nan=False)),
    st.tuples(st.just("uint64_param"), st.integers(0, 2**64 - 1)),
)
KEYS = st.one_of(
    NAMES,
    st.sampled_from(
        ["sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "triton_x", grpc.EMPTY_FINAL]
    ),
)
DIMENSIONS = st.lists(st.one_of(st.integers(0, 300), st.integers(-(2**63), 2**63 - 1)), max_size=5)


@st.composite
def requests(draw) -> pb.ModelInferRequest:
    """Messages of every kind: right, wrong, and with what `_infer_c` leaves to protobuf."""
    made = pb.ModelInferRequest(model_name=draw(NAMES), model_version=draw(NAMES), id=draw(NAMES))
    for key, (field, value) in draw(st.dictionaries(KEYS, VALUES, max_size=3)).items():
        setattr(made.parameters[key], field, value)
    count = draw(st.integers(0, 4))
    for _ in range(count):
        item = made.inputs.add(name=draw(NAMES), datatype=draw(st.sampled_from(["FP32", "BYTES", "INT8", "nothing"])))
        item.shape.extend(draw(DIMENSIONS))
        if draw(st.integers(0, 9)) == 0:
            item.contents.fp32_contents.append(1.0)
        if draw(st.integers(0, 9)) == 0:
            item.parameters["k"].string_param = "v"
    for _ in range(draw(st.integers(0, 2))):
        made.outputs.add(name=draw(NAMES))
    made.raw_input_contents.extend(draw(st.lists(st.binary(max_size=20), min_size=count, max_size=count + 1)))
    return made


def by_protobuf(data: bytes) -> InferCall | str:
    try:
        return grpc.from_message(*grpc.parse_request(data))
    except TidegateError as error:
        return error.message


def same(data: bytes) -> InferCall | None:
    """What `_infer_c` makes of it, after a look at what protobuf does."""
    found = read_request(data, 4096)
    if found is not None:
        assert found == by_protobuf(data)
    return found


@given(requests())
def test_a_message_of_any_kind_is_read_as_protobuf_reads_it(made):
    data = made.SerializeToString()
    expected = by_protobuf(data)
    found = same(data)
    plain = not any(item.parameters or item.HasField("contents") for item in made.inputs)
    unsigned = all(value.WhichOneof("parameter_choice") != "int64_param" or value.int64_param >= 0
                   for value in made.parameters.values())  # fmt: skip
    if plain and unsigned and isinstance(expected, InferCall):
        assert found is not None, "the usual form is read here"


@given(calls())
def test_calls_are_read_as_protobuf_reads_them(call):
    same(grpc.encode_request(call).SerializeToString())


@given(requests(), st.data())
def test_what_is_cut_off_or_damaged_is_read_as_protobuf_reads_it(made, data):
    message = bytearray(made.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        if message:
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    same(bytes(message[: data.draw(st.integers(0, len(message)))]))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them(data):
    same(data)


USUAL = pb.ModelInferRequest(
    model_name="m",
    inputs=[pb.ModelInferRequest.InferInputTensor(name="A", datatype="FP32", shape=[1])],
    raw_input_contents=[struct.pack("<f", 1)],
).SerializeToString()


@pytest.mark.parametrize(
    "tail",
    [
        b"\xa0\x06\x01",  # a field that there is not
        b"\x0b\x0c",  # a group
        b"\x08\x01",  # the name as a number
        b"\x0a\x80",  # a length that does not end
        b"\x0a\x05ab",  # one beyond the end
        b"\x0a\x02\xff\xfe",  # no UTF-8
        b"\x0a\x03\xed\xa0\x80",  # a surrogate
        b"\x0a" + b"\xff" * 9 + b"\x01",  # a length of 2^64 - 1
        b"\x0a" + b"\x80" * 9 + b"\x02",  # more than 64 bits
        b"\x22\x02\x0a\x00",  # a parameter without a value
        b"\x22\x04\x0a\x00\x12\x00",  # with one that has no choice
        b"\x22\x09\x0a\x01a\x12\x04\x08\x01\x10\x07",  # with two: the last counts
        b"\x2a\x02\x18\x01",  # a dimension that is not packed
        b"\x0a\x01x\x0a\x01y",  # a name twice: the last counts
        b"\x0a\x81\x00x",  # a length with a superfluous byte
        b"\x3a\x00",  # one raw content too many
    ],
)  # fmt: skip
def test_what_is_unusual_is_read_as_protobuf_reads_it(tail):
    same(USUAL + tail)
    same(tail + USUAL)
    same(USUAL[:-1])


def test_too_many_tensors_are_left_to_the_one_who_says_so():
    assert read_request(USUAL, 1) is not None
    assert read_request(USUAL * 2, 1) is None
    assert read_request(USUAL + b"\x0a\x00" * 100_000, 1) is None, "each field costs time"


def test_small_contents_are_copied_and_large_ones_are_views():
    made = pb.ModelInferRequest(raw_input_contents=[b"x" * 4095, b"y" * 4096])
    for name in "AB":
        made.inputs.add(name=name, datatype="BYTES", shape=[1])
    message = made.SerializeToString()
    small, large = (tensor.data for tensor in read_request(message, 2).inputs)
    assert small == b"x" * 4095
    assert isinstance(small, bytes)
    assert isinstance(large, memoryview)
    assert large.obj is message


@given(answers())
def test_answers_are_written_as_protobuf_writes_them(answer):
    written = write_response(answer)
    if written is not None:
        assert written == grpc._encode_response(answer)


@given(st.text(max_size=200), st.lists(st.tuples(NAMES, DIMENSIONS, st.binary(max_size=200)), max_size=4))
def test_the_usual_answer_is_written_here(name, outputs):
    made = InferAnswer(
        name, "1", name, outputs=[OutputTensor(n, "BYTES", s, data=memoryview(d) if s else d) for n, s, d in outputs]
    )
    written = write_response(made)
    assert written is not None
    assert written == grpc._encode_response(made)
    assert pb.ModelInferResponse.FromString(written).model_name == name


def test_what_protobuf_refuses_is_left_to_it():
    assert write_response(InferAnswer("m", outputs=[OutputTensor("O", "FP32", [2**63], data=b"")])) is None
    assert write_response(InferAnswer("\ud800")) is None


@given(answers(), st.text(max_size=20))
def test_one_parameter_of_an_answer_is_written_as_protobuf_writes_it(answer, name):
    for key, value in [*answer.parameters.items(), ("triton_final_response", True), ("", ""), (name, name)]:
        made = InferAnswer("m", "1", "i", {key: value}, answer.outputs)
        written = write_response(made)
        assert written == grpc._encode_response(made) or any(tensor.parameters for tensor in answer.outputs)
    assert write_response(InferAnswer("m", parameters={"a": 1, "b": 2})) is None, "their order is protobuf's"


# -- an upstream's stream ------------------------------------------------------------------------------------


@given(calls(), NAMES, st.sampled_from(["", "3"]), NAMES)
def test_calls_are_written_as_protobuf_writes_them(call, model, version, ident):
    written = write_stream_request(call, model, version, ident)
    unusual = any(item.parameters or item.shm for item in [*call.inputs, *call.outputs])
    if written is None:
        assert unusual or any(output.classification for output in call.outputs)
        return
    assert not unusual
    expected = grpc_stream._encode_stream_request(call, model, version, ident)
    assert pb.ModelInferRequest.FromString(written) == pb.ModelInferRequest.FromString(expected)
    if not call.parameters:
        assert written == expected


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": 2**64 - 1},
        {"sequence_id": "s"},
        {"timeout": 2**63},
        {"priority": 7},
        {"p": 2**63},
        {"p": -1},
        {"p": 1.5},
        {"p": False},
        {grpc.EMPTY_FINAL: False},
    ],
)
def test_parameters_have_the_types_that_triton_reads(parameters):
    call = InferCall("m", parameters=parameters)
    written = write_stream_request(call, "m", "", "")
    assert written is not None
    expected = grpc_stream._encode_stream_request(call, "m", "", "")
    assert pb.ModelInferRequest.FromString(written) == pb.ModelInferRequest.FromString(expected)


def test_calls_that_protobuf_refuses_are_left_to_it():
    assert write_stream_request(InferCall("m", parameters={"p": 2**64}), "m", "", "") is None
    assert write_stream_request(InferCall("m", parameters={"priority": -1}), "m", "", "") is None
    assert write_stream_request(InferCall("m"), "\ud800", "", "") is None


@st.composite
def stream_answers(draw) -> pb.ModelStreamInferResponse:
    """Messages of every kind: right, wrong, and with what `_infer_c` leaves to protobuf."""
    made = pb.ModelStreamInferResponse()
    if draw(st.integers(0, 4)) == 0:
        made.error_message = draw(NAMES)
    response = made.infer_response
    response.model_name, response.model_version, response.id = draw(NAMES), draw(NAMES), draw(NAMES)
    keys = st.one_of(NAMES, st.just("triton_final_response"))
    for key, (field, value) in draw(st.dictionaries(keys, VALUES, max_size=2)).items():
        setattr(response.parameters[key], field, value)
    count = draw(st.integers(0, 3))
    for _ in range(count):
        item = response.outputs.add(name=draw(NAMES), datatype=draw(st.sampled_from(["FP32", "nothing"])))
        item.shape.extend(draw(DIMENSIONS))
        if draw(st.integers(0, 9)) == 0:
            item.parameters["k"].string_param = "v"
    contents = st.one_of(st.binary(max_size=20), st.just(b"x" * 5000))
    response.raw_output_contents.extend(draw(st.lists(contents, min_size=count, max_size=count + 1)))
    return made


def same_answer(data: bytes) -> bool:
    """Whether `_infer_c` has read it; then as protobuf does."""
    found = read_stream_response(data)
    if found is None:
        return False
    ident, error, answer, final = grpc_stream._decode_stream_answer(data)
    assert (ident, error, final) == (found[0], found[1], found[3])
    for one in (found[2], answer):
        one.parameters = {key: repr(value) for key, value in one.parameters.items()}  # a NaN is not equal to itself
    assert plain(found[2]) == plain(answer)
    return True


@given(stream_answers())
def test_an_answer_of_any_kind_is_read_as_protobuf_reads_it(made):
    data = made.SerializeToString()
    read = same_answer(data)
    _, _, answer, _ = grpc_stream._decode_stream_answer(data)
    if not made.error_message and not any(item.parameters for item in made.infer_response.outputs):
        assert read or isinstance(answer, BadGateway), "the usual form is read here"
    assert not (read and made.error_message)


@given(stream_answers(), st.data())
def test_an_answer_that_is_cut_off_or_damaged_is_read_as_protobuf_reads_it(made, data):
    message = bytearray(made.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        if message:
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    same_answer(bytes(message[: data.draw(st.integers(0, len(message)))]))


@given(st.binary(max_size=60))
def test_any_bytes_are_an_answer_as_protobuf_reads_them(data):
    same_answer(data)
    same_answer(b"\x12" + bytes([len(data)]) + data)


def test_what_is_no_answer_is_said():
    with pytest.raises(BadGateway):
        grpc_stream.decode_stream_answer(b"\x12\x05ab")
