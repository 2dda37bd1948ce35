"""Calls of the kernels and of the codecs of both doors: `bench.counted` measures them, `bench.gate` judges them."""

import json
import mmap
import random
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.counted import Suite
from bench.load import HTTP_BODY, JSON, MODEL, TENSOR, grpc_message
from gateway.wire import grpc as grpc_codec
from gateway.wire import http as http_codec
from gateway.wire import validate
from gateway.wire.types import InferAnswer, OutputTensor
from kernels import counters, tensors

FLOATS = 200
"""Of a JSON tensor."""


def _floats() -> list[float]:
    rng = random.Random(7)  # noqa: S311 - test data
    return [struct.unpack("<f", struct.pack("<f", rng.gauss(0, 1)))[0] for _ in range(FLOATS)]


def _short_text() -> bytes:
    """As a client writes float32 in the fewest digits that read back: nine at most."""
    return b"[" + b",".join(f"{value:.9g}".encode() for value in _floats()) + b"]"


def _long_text() -> bytes:
    """As Python's json writes the same values: as float64, up to 17 digits."""
    return json.dumps(_floats(), separators=(",", ":")).encode()


def _cells() -> mmap.mmap:
    return mmap.mmap(-1, 1 << 16)


def _histogram() -> Callable[[], object]:
    from gateway import telemetry  # noqa: PLC0415 - another revision's, too

    bounds = telemetry.REQUEST_DURATION.bounds
    return partial(counters.Histogram(_cells(), 0, bounds).observe, bounds[len(bounds) // 2] * 0.99)


def _gcra() -> Callable[[], object]:
    words, now = counters.Atomics(_cells()), 10**15

    def take() -> int:
        nonlocal now
        now += 1_000
        return words.gcra_take(0, now, 1_000, 1_000_000)

    return take


def _enter() -> Callable[[], object]:
    words = counters.Atomics(_cells())

    def enter_and_leave() -> None:
        words.enter(0, 4, 1, 100)
        words.add(1, -1)

    return enter_and_leave


def _pins() -> Callable[[], object]:
    pins = counters.Pins(_cells(), 0, 64)
    pins.put(42, 7, 1)
    return lambda: pins.get(42, 2)


def _http_json_body(text: bytes) -> bytes:
    return b'{"inputs":[{"name":"INPUT0","shape":[1,%d],"datatype":"FP32","data":%b}]}' % (FLOATS, text)


def signature_of(count: int) -> validate.ModelSignature:
    tensor = {"datatype": "FP32", "shape": [-1, count]}
    return validate.ModelSignature.from_triton(
        {"name": MODEL, "inputs": [{"name": "INPUT0", **tensor}], "outputs": [{"name": "OUTPUT0", **tensor}]},
        {"max_batch_size": 8},
    )


def _http_json_in() -> Callable[[], object]:
    body, signature = _http_json_body(_long_text()), signature_of(FLOATS)

    def read() -> None:
        validate.check(http_codec.decode_request(body, None, MODEL, ""), signature)

    return read


def answer_of(data: bytes) -> InferAnswer:
    output = OutputTensor(name="OUTPUT0", datatype="FP32", shape=[1, len(data) // 4], data=data)
    return InferAnswer(model_name=MODEL, model_version="1", outputs=[output])


def _http_out(body: bytes, length: int | None, data: bytes) -> Callable[[], object]:
    call = http_codec.decode_request(body, length, MODEL, "")
    return partial(http_codec.encode_response, answer_of(data), call)


def _upstream_request() -> Callable[[], object]:
    call = http_codec.decode_request(HTTP_BODY, len(JSON), MODEL, "")
    validate.check(call, signature_of(32))
    return partial(http_codec.encode_request, call)


def upstream_answer() -> Callable[[], object]:
    call = http_codec.decode_request(HTTP_BODY, len(JSON), MODEL, "")
    length, _, parts = http_codec.encode_response(answer_of(TENSOR), call)
    return partial(http_codec.decode_response, b"".join(parts), length)


def _grpc_in() -> Callable[[], object]:
    message = grpc_message()
    return partial(grpc_codec.decode_request, message)


def kernels(_folder: Path) -> Suite:
    """Counters in shared memory, and tensors in JSON."""
    raw = struct.pack(f"<{FLOATS}f", *_floats())
    short, long = _short_text(), _long_text()
    envelope = _http_json_body(long)
    strings = b"".join(struct.pack("<I", 12) + b"twelve bytes" for _ in range(FLOATS))
    return {
        "counter, add": lambda: partial(counters.Counter(_cells(), 0).inc, 1.0),
        "gauge, add": lambda: partial(counters.Gauge(_cells(), 0).add, 1.0),
        "histogram, observe": _histogram,
        "rate, take a token": _gcra,
        "concurrency, enter and leave": _enter,
        "pins, find": _pins,
        f"JSON envelope of {FLOATS} floats, scan": lambda: partial(tensors.scan_json, envelope, 100, b"inputs"),
        f"JSON to {FLOATS} FP32, 9 digits": lambda: partial(tensors.parse_array, short, "FP32", FLOATS),
        f"JSON to {FLOATS} FP32, 17 digits": lambda: partial(tensors.parse_array, long, "FP32", FLOATS),
        f"{FLOATS} FP32 to JSON": lambda: partial(tensors.format_array, raw, "FP32"),
        f"{FLOATS} BYTES elements, count": lambda: partial(tensors.count_bytes_elements, strings),
    }


def codecs(_folder: Path) -> Suite:
    """Requests and answers of both doors, FP32[1,32] in binary and JSON of 200 floats."""
    raw = struct.pack(f"<{FLOATS}f", *_floats())
    return {
        "HTTP request, decode": lambda: partial(http_codec.decode_request, HTTP_BODY, len(JSON), MODEL, ""),
        "HTTP answer, encode": lambda: _http_out(HTTP_BODY, len(JSON), TENSOR),
        f"HTTP request in JSON, {FLOATS} floats, decode and check": _http_json_in,
        f"HTTP answer in JSON, {FLOATS} floats, encode": lambda: _http_out(_http_json_body(_long_text()), None, raw),
        "upstream request, encode": _upstream_request,
        "upstream answer, decode": upstream_answer,
        "gRPC request, decode": _grpc_in,
        "gRPC answer, encode": lambda: partial(grpc_codec.encode_response, answer_of(TENSOR)),
    }


def gated(folder: Path) -> Suite:
    """What the gate judges."""
    both: dict[str, Any] = {**kernels(folder), **codecs(folder)}
    return both
