"""Messages that are known by heart against the codec that they were learned from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.errors import TidegateError
from gateway.wire import by_heart, grpc, grpc_by_heart, http_request
from gateway.wire.types import MAX_TENSORS, InferCall

RAW = 0x3A


@st.composite
def messages(draw) -> bytes:
    """A request; its raw contents at the end, among the rest, or of other sizes than the like of it had."""
    message = service_pb2.ModelInferRequest(
        model_name=draw(st.sampled_from(["m", "é", ""])), id=draw(st.sampled_from(["", "a"]))
    )
    sizes = draw(st.lists(st.sampled_from([0, 1, 4, 130]), max_size=3))
    for number in range(len(sizes)):
        message.inputs.add(name=f"I{number}", datatype=draw(st.sampled_from(["FP32", "BYTES"])), shape=[1])
    if draw(st.booleans()):
        message.outputs.add(name="O")
    if draw(st.booleans()):
        message.parameters["sequence_id"].int64_param = 3
    raw = [bytes([RAW, size]) if size < 128 else bytes([RAW, size & 127 | 128, size >> 7]) for size in sizes]
    contents = [head + draw(st.binary(min_size=size, max_size=size)) for head, size in zip(raw, sizes, strict=True)]
    rest = message.SerializeToString()
    where = draw(st.sampled_from(["behind", "behind", "before", "around"]))
    whole = b"".join(contents)
    if where == "before":
        return whole + rest
    if where == "around" and contents:
        return contents[0] + rest + b"".join(contents[1:])
    return rest + whole + draw(st.sampled_from([b"", b"", b"", b"\x12\x011"]))


def read(function, message):
    """The call's parts, its tensors as bytes, or what is wrong with the message."""
    try:
        call = function(message, MAX_TENSORS)
    except TidegateError as error:
        return type(error), error.message
    if not isinstance(call, InferCall):
        return str(call.message)
    inputs = [(t.name, t.datatype, t.shape, t.parameters, bytes(t.data)) for t in call.inputs]
    return call.model, call.version, call.id, call.parameters, inputs, call.outputs


@given(st.lists(messages(), min_size=1, max_size=3))
def test_a_message_is_read_as_by_the_codec(several):
    for message in several * 3:
        assert read(grpc_by_heart.read_request, message) == read(grpc.read_request, message)


def request(*data: bytes, name: str = "A") -> bytes:
    message = service_pb2.ModelInferRequest(model_name="heart", raw_input_contents=data)
    for number, one in enumerate(data):
        message.inputs.add(name=f"{name}{number}", datatype="UINT8", shape=[1, len(one)])
    return message.SerializeToString()


def learned(message: bytes) -> InferCall:
    for _ in range(3):
        call = grpc_by_heart.read_request(message, MAX_TENSORS)
    assert isinstance(call, InferCall)
    return call


@pytest.mark.skipif(grpc.NO_EXTENSIONS, reason="protobuf's objects are not learned")
@pytest.mark.parametrize("data", [(b"abc",), (b"abc", b"", b"de")])
def test_the_head_upstream_is_written_once_and_the_same(data):
    call = learned(request(*data))
    assert call.known is not None
    signature = object()
    assert not call.known.fits(signature)
    call.known.found_to_fit(signature)
    other = learned(request(*[bytes(reversed(one)) for one in data]))
    assert other.known is call.known
    assert other.known.fits(signature)
    options = {"want_binary": True, "binary_input": True, "timeout": 0}
    length, parts = by_heart.encode_request(other, **options)
    ordinary = grpc.read_request(request(*[bytes(reversed(one)) for one in data]))
    wanted_length, wanted = http_request.encode_request(ordinary, **options)
    assert (length, b"".join(parts)) == (wanted_length, b"".join(wanted))


@pytest.mark.skipif(grpc.NO_EXTENSIONS, reason="protobuf's objects are not learned")
def test_a_tensor_of_another_size_is_not_of_the_same_head():
    """Two tensors may share their bytes out otherwise."""
    whole = request(b"abcd", b"ef", name="S")
    learned(whole)
    at = whole.index(b"abcd")
    other = whole[:at] + b"abc" + bytes([RAW, 1]) + b"e" + whole[at + 8 :]
    assert read(grpc_by_heart.read_request, other) == read(grpc.read_request, other)


@pytest.mark.skipif(grpc.NO_EXTENSIONS, reason="protobuf's objects are not learned")
def test_few_tensors_allowed_are_counted_by_the_codec():
    message = request(b"a", b"b", name="L")
    learned(message)
    with pytest.raises(TidegateError):
        grpc.call_of(grpc_by_heart.read_request(message, 1), 1)


@pytest.mark.skipif(grpc.NO_EXTENSIONS, reason="protobuf's objects are not learned")
def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(grpc_by_heart, "MOST_HEADS", 4)
    for number in range(40):
        learned(request(b"a", name=f"B{number}-"))
    assert len(grpc_by_heart._known) <= 4
    assert sum(map(len, grpc_by_heart._lengths.values())) <= 8
