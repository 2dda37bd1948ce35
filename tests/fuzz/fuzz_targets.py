"""Every decoder that reads what others wrote, as a function of bytes: it answers or refuses, and nothing else.

A target returns for what is sound, and for what is not raises only the errors of its contract, which are caught
here. Whatever else comes out of it is a finding. `test_fuzz.py` and `fuzz_atheris.py` both run these.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import fuzz_features
import fuzz_files
import fuzz_governance
import fuzz_identity
import fuzz_server
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from gateway import headers, tracecontext
from gateway.errors import TidegateError
from gateway.wire import compression, generate, grpc, http
from gateway.wire.http_answer import decode_response
from gateway.wire.tensors import DATATYPES, materialise
from gateway.wire.types import InferCall
from kernels.tensors import _format_py, _parse_py, _scan_py, count_bytes_elements, format_array, parse_array, scan_json

CORPUS = Path(__file__).resolve().parent / "corpus"
_TYPES = sorted(DATATYPES)
_PARSED = [name for name in _TYPES if name not in {"FP16", "BF16"}]
_LIMIT = 1 << 20


def _materialise(call: InferCall) -> None:
    for tensor in call.inputs:
        if tensor.shm is None and not call.raw:
            materialise(tensor)


def http_request(data: bytes) -> None:
    """The first two bytes are IHCL (0xffff: none), the rest is the body."""
    body = data[2:]
    length = int.from_bytes(data[:2]) if len(data) > 1 else 0xFFFF
    with contextlib.suppress(TidegateError):
        _materialise(http.decode_request(body, length if length <= len(body) else None, "m", ""))


def http_response(data: bytes) -> None:
    body = data[2:]
    length = int.from_bytes(data[:2]) if len(data) > 1 else 0xFFFF
    with contextlib.suppress(TidegateError):
        answer = decode_response(body, length if length <= len(body) else None)
        http.encode_response(answer, InferCall(model="m"))
        grpc.encode_response(answer)


def header_length(data: bytes) -> None:
    with contextlib.suppress(TidegateError):
        http.parse_header_length(data.decode("latin-1"), 100)


def grpc_request(data: bytes) -> None:
    with contextlib.suppress(TidegateError):
        _materialise(grpc.decode_request(data))


def grpc_large(data: bytes) -> None:
    """As above, long enough for the way that cuts raw tensors out; what both ways take must mean the same."""
    padded = data + b"\x3a" + b"\x80\x80\x01" + bytes(16384)
    with contextlib.suppress(TidegateError):
        _, raw = grpc.parse_request(padded)
        if raw is not None:
            plain = pb.ModelInferRequest.FromString(padded)
            assert [bytes(one) for one in raw] == list(plain.raw_input_contents)


def grpc_response(data: bytes) -> None:
    message = pb.ModelInferResponse()
    try:
        message.ParseFromString(data)
    except DecodeError:  # grpcio would not have handed it on
        return
    with contextlib.suppress(TidegateError):
        grpc.decode_response(message)


def json_scan(data: bytes) -> None:
    """The compiled kernel and its specification: the same spans, or both refuse; skimmed or not."""
    for skim in (False, True):
        _same(
            lambda skim=skim: scan_json(data, 100, b"inputs", skim=skim),
            lambda skim=skim: _scan_py.scan_json(data, 100, b"inputs", skim=skim),
        )


def json_array(data: bytes) -> None:
    """As above, for arrays; the first two bytes choose datatype and count."""
    if len(data) < 2:
        return
    name, count, text = _PARSED[data[0] % len(_PARSED)], data[1], data[2:]
    # Blanks behind let the quick readers see what else only the plain ones would.
    for one in (text, text + b" " * 100):
        _same(
            lambda one=one: parse_array(one, name, count),
            lambda one=one: _parse_py.parse_array(one, name, count),
        )


def raw_tensor(data: bytes) -> None:
    if not data:
        return
    name, raw = _TYPES[data[0] % len(_TYPES)], data[1:]
    _same(lambda: count_bytes_elements(raw), lambda: _format_py.count_bytes_elements(raw))
    _same(lambda: format_array(raw, name), lambda: _format_py.format_array(raw, name))


def _same(one: Callable[[], object], other: Callable[[], object]) -> None:
    results = []
    for function in (one, other):
        try:
            results.append((True, function()))
        except ValueError:
            results.append((False, None))
    assert results[0] == results[1], results


def content_coding(data: bytes) -> None:
    for coding in ("gzip", "deflate"):
        with contextlib.suppress(TidegateError):
            assert len(compression.decode(data, coding, _LIMIT)) <= _LIMIT
    compression.response_coding(data.decode("latin-1"))


def generate_request(data: bytes) -> None:
    with contextlib.suppress(TidegateError):
        generate.decode_request(data)


def generate_answer(data: bytes) -> None:
    """Events split anywhere; what `rename` leaves is the same document but for the name."""
    cut = data[0] if data else 0
    reader = generate.EventReader()
    with contextlib.suppress(TidegateError):
        for one in [*reader.feed(data[1 : 1 + cut]), *reader.feed(data[1 + cut :])]:
            generate.rename(one, "name")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    renamed = json.loads(generate.rename(data, "other"))
    if isinstance(document, dict) and isinstance(document.get("model_name"), str) and b"\\" not in data:
        assert renamed["model_name"] == "other"


def header_values(data: bytes) -> None:
    parent, _, state = data.partition(b"\n")
    context = tracecontext.parse(parent.decode("latin-1"), state.decode("latin-1"))
    assert context is None or len(context.state) <= 512
    found = headers.from_asgi([(b"x-request-id", parent), (b"connection", state)])
    made = headers.request_id(found)
    assert made.isascii()
    assert len(made) <= 128
    headers.upstream_headers(found, None, made)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        http_request, http_response, header_length, grpc_request, grpc_large, grpc_response, json_scan, json_array,
        raw_tensor, content_coding, generate_request, generate_answer, header_values,
    )
}  # fmt: skip
_OTHERS = (fuzz_server, fuzz_identity, fuzz_files, fuzz_features, fuzz_governance)
for _other in _OTHERS:
    TARGETS |= _other.TARGETS


def seeds(name: str) -> list[bytes]:
    """Sound inputs of a target, and what once broke it (files of `corpus/NAME-*`)."""
    request = (
        b'{"id":"a","inputs":[{"name":"A","datatype":"FP32","shape":[1,2],"data":[1.5,NaN]}],"outputs":[{"name":"B"}]}'
    )
    binary = b'{"inputs":[{"name":"A","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}}]}'
    answer = b'{"model_name":"m","outputs":[{"name":"A","datatype":"INT64","shape":[2],"data":[1,-2]}]}'
    message = pb.ModelInferRequest(model_name="m", id="1")
    message.inputs.add(name="A", datatype="INT8", shape=[2]).contents.int_contents.extend([1, -1])
    message.parameters["priority"].int64_param = 3
    reply = pb.ModelInferResponse(model_name="m", raw_output_contents=[bytes(8)])
    reply.outputs.add(name="A", datatype="FP64", shape=[1])
    none, tail = b"\xff\xff", struct.pack("<I", 1) + b"x"
    known = {
        "http_request": [none + request, struct.pack(">H", len(binary)) + binary + tail, b"\0\0raw"],
        "http_response": [none + answer],
        "header_length": [b"12", b"-1", b"+5"],
        "grpc_request": [message.SerializeToString()],
        "grpc_large": [message.SerializeToString()],
        "grpc_response": [reply.SerializeToString()],
        "json_scan": [request, b'{"inputs":[{"data":["\\u0000\\ud800"]}]}'],
        "json_array": [
            bytes([n, 2]) + text for n in range(len(_PARSED)) for text in (b"[1,2]", b"[[true],[false]]", b'["a","b"]')
        ],
        "raw_tensor": [bytes([n]) + bytes(8) for n in range(len(_TYPES))],
        "content_coding": [
            compression.encode([request], "gzip"),
            compression.encode([request], "deflate"),
            b"gzip;q=0.5, *",
        ],
        "generate_request": [b'{"id":"a","text_input":"x","parameters":{"sequence_id":5,"n":[1,2]}}'],
        "generate_answer": [b'{"model_name":"m","a":[{"model_name":"n"}]}', b'\x05data: {"model_name":"m"}\r\n\r\n'],
        "header_values": [b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01\na=b,c@d=e"],
    }
    for other in _OTHERS:
        known |= other.seeds()
    return [*known[name], *(path.read_bytes() for path in sorted(CORPUS.glob(f"{name}-*")))]
