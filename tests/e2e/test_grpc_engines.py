"""Both gRPC engines asked the same, side by side: bytes, status, words and metadata are equal, whatever was sent."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest
from gateway_fixture import Gateway, start_gateway
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_fixture import free_ports
from tritonclient.grpc import service_pb2 as pb

from gateway.operations import OPERATIONS

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
ENGINES = ("nghttp2", "grpcio")
LIMIT = 1024 * 1024


@pytest.fixture(scope="module")
def channels(tmp_path_factory, triton) -> Iterator[list[grpc.Channel]]:
    running: list[Gateway] = []
    for engine in ENGINES:
        http, port = free_ports(2)
        text = (
            f"listen: {{http: '127.0.0.1:{http}', grpc: '127.0.0.1:{port}', grpc_engine: {engine}}}\n"
            f"upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}\nlimits: {{body: {LIMIT}}}\n"
        )
        one = start_gateway(tmp_path_factory.mktemp(engine), text, wait="")
        one.http, one.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{port}"
        running.append(one)
    for one in running:
        one.wait_ready()
    opened = [grpc.insecure_channel(one.grpc, options=[("grpc.max_send_message_length", -1)]) for one in running]
    yield opened
    for channel in opened:
        channel.close()
    for one in running:
        assert one.stop() == 0
        assert "defect" not in one.log.read_text()


def metadata_of(pairs) -> list[tuple[str, object]]:
    """In order, without what is another one in each answer."""
    return [(name, "" if name == "x-request-id" else value) for name, value in pairs or ()]


def unary(channel: grpc.Channel, method: str, data: bytes, metadata=(), **more):
    try:
        answer, call = channel.unary_unary(method).with_call(data, timeout=60, metadata=metadata, **more)
    except grpc.RpcError as error:
        return (
            error.code().name,
            error.details(),
            metadata_of(error.initial_metadata()),
            metadata_of(error.trailing_metadata()),
        )
    return "OK", answer, metadata_of(call.initial_metadata()), metadata_of(call.trailing_metadata())


def same(channels: list[grpc.Channel], method: str, data: bytes, metadata=(), **more):
    first, second = (unary(channel, method, data, metadata, **more) for channel in channels)
    assert first == second
    return first


def request(**fields) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="identity_fp32", **fields)
    made.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 2])
    made.raw_input_contents.append(struct.pack("<2f", 1, 2))
    return made


@st.composite
def messages(draw) -> bytes:
    """Requests with a fault in them, or none; then damaged, or not."""
    made = request(id=draw(st.text(max_size=4)))
    for change in draw(st.lists(st.sampled_from(sorted(set(CHANGES) - {RACE})), max_size=2, unique=True)):
        CHANGES[change](made)
    data = bytearray(made.SerializeToString())
    if draw(st.integers(0, 3)) == 0:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 3)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return bytes(data)


RACE = "a timeout that is over"
"""Which of two refusals comes first is chance."""
CHANGES = {
    "unknown model": lambda m: setattr(m, "model_name", "nothing"),
    "no model": lambda m: setattr(m, "model_name", ""),
    "a version": lambda m: setattr(m, "model_version", "1"),
    "no such version": lambda m: setattr(m, "model_version", "77"),
    "a word for a version": lambda m: setattr(m, "model_version", "v1"),
    "a datatype that is none": lambda m: setattr(m.inputs[0], "datatype", "FP33"),
    "another shape": lambda m: m.inputs[0].shape.append(3),
    "no raw contents": lambda m: m.raw_input_contents.pop(),
    "typed contents": lambda m: m.inputs[0].contents.fp32_contents.extend([1, 2]),
    "one input too many": lambda m: m.inputs.add(name="X", datatype="FP32", shape=[1]),
    "an output": lambda m: m.outputs.add(name="OUTPUT0"),
    "an output that is none": lambda m: m.outputs.add(name="Ö"),
    "a parameter": lambda m: setattr(m.parameters["p"], "string_param", "v"),
    "a reserved parameter": lambda m: setattr(m.parameters["triton_x"], "bool_param", True),
    RACE: lambda m: setattr(m.parameters["timeout"], "int64_param", 1),
    "priority below zero": lambda m: setattr(m.parameters["priority"], "int64_param", -1),
}


@settings(max_examples=80)
@given(messages())
def test_inference(channels, data):
    same(channels, INFER, data)


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_alone(channels, change):
    made = request()
    CHANGES[change](made)
    first, second = (unary(channel, INFER, made.SerializeToString()) for channel in channels)
    if change == RACE:
        assert {first[0], second[0]} <= {"OK", "DEADLINE_EXCEEDED"}
    else:
        assert first == second


METHODS = sorted({op.grpc for op in OPERATIONS.values()} - {"", "ModelInfer", "ModelStreamInfer"})


@pytest.mark.parametrize("data", [b"", b"\xff\xff", b"\x0a\x0didentity_fp32", b"\x12\x0didentity_fp32"])
@pytest.mark.parametrize("method", METHODS)
def test_pages(channels, method, data):
    if method == "ModelStatistics" and data != b"\xff\xff":
        data = b"\x0a\x07nothing"  # counters go on between two looks
    if method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        data = b"\x12\x07nothing" if data else data
    first, second = (unary(channel, f"/inference.GRPCInferenceService/{method}", data) for channel in channels)
    if first[0] == "OK":  # protobuf writes maps in any order
        answer = getattr(pb, method + "Response")
        assert answer.FromString(first[1]) == answer.FromString(second[1])
        first, second = first[2:], second[2:]
    assert first == second


@pytest.mark.parametrize("data", [b"", b"\x0a\x04what", b"\xff"])
def test_health(channels, data):
    same(channels, "/grpc.health.v1.Health/Check", data)


@pytest.mark.parametrize("method", ["/a/b", "/inference.GRPCInferenceService/Nothing", "/inference/ModelInfer"])
def test_methods_that_nobody_serves(channels, method):
    assert same(channels, method, b"")[:2] == ("UNIMPLEMENTED", "Method not found!")


@pytest.mark.parametrize(
    "metadata",
    [
        (("x-request-id", "mine"),),
        (("x-request-id", "not an id"),),
        (("a", "1"), ("a", "2"), ("b-bin", b"\0\xff")),
        (("x-forwarded-for", "1.2.3.4"), ("authorization", "Bearer nothing")),
    ],
)
def test_metadata(channels, metadata):
    assert same(channels, INFER, request().SerializeToString(), metadata)[0] == "OK"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(channels, compression):
    made = request()
    made.inputs[0].shape[:] = [1, 5000]
    made.raw_input_contents[0] = bytes(20_000)
    assert same(channels, INFER, made.SerializeToString(), compression=compression)[0] == "OK"


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 65_535, 65_536, 200_000, LIMIT // 4 - 100])
def test_sizes(channels, size):
    made = request()
    made.inputs[0].shape[:] = [1, size]
    made.raw_input_contents[0] = os.urandom(4 * size)
    assert same(channels, INFER, made.SerializeToString())[0] == "OK"


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT, 3 * LIMIT])
def test_sizes_beyond_the_limit(channels, size):
    first, second = (unary(channel, INFER, bytes(size)) for channel in channels)
    assert first[0] == second[0] == "RESOURCE_EXHAUSTED"
    if size < 2 * LIMIT:
        assert first == second, "what is far beyond it, each engine refuses in its own words"


def streamed(channel: grpc.Channel, data: list[bytes], metadata=()):
    call = channel.stream_stream(STREAM)(iter(data), timeout=60, metadata=metadata)
    answers = []
    with contextlib.suppress(grpc.RpcError):
        answers += call
    # Whoever answers first gives the variant, and refusals have none.
    initial = [pair for pair in metadata_of(call.initial_metadata()) if pair[0] != "x-tidegate-variant"]
    return answers, call.code().name, call.details(), initial, metadata_of(call.trailing_metadata())


@settings(max_examples=25)
@given(st.lists(messages(), max_size=1), st.booleans())
def test_streams(channels, data, ends):
    metadata = (("triton_grpc_error", "true"),) if ends else ()
    first, second = (streamed(channel, [request().SerializeToString(), *data], metadata) for channel in channels)
    # Two calls of one stream may be answered in either order.
    assert sorted(first[0]) == sorted(second[0]) or ends
    assert first[1:] == second[1:]


@pytest.mark.parametrize("count", [0, 1, 30])
def test_long_streams(channels, count):
    data = [request(id=str(number)).SerializeToString() for number in range(count)]
    first, second = (streamed(channel, data) for channel in channels)
    assert len(first[0]) == count
    assert sorted(first[0]) == sorted(second[0])
    assert first[1:] == second[1:]


def test_an_engine_that_is_not_there_is_a_start_up_error(tmp_path):
    (tmp_path / "tidegate.yaml").write_text(
        "listen: {http: '127.0.0.1:0', grpc: '127.0.0.1:0', grpc_engine: nghttp2}\n"
        "upstreams: {t: {http: '127.0.0.1:1', grpc: '127.0.0.1:2'}}\nstate_dir: state\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "--config", str(tmp_path / "tidegate.yaml")],
        env={**os.environ, "TIDEGATE_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "listen.grpc_engine: nghttp2 cannot be used" in done.stderr
    assert "libnghttp2-14" in done.stderr
