"""One request of every kind through a running gateway, and what its trace has to look like."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from otlp_receiver import Received, attributes
from triton_fixture import MODEL_REPOSITORY, TEST_MODELS, RunningTriton, running_triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

SOON = ("--trace-config=opentelemetry,bsp_schedule_delay=100",)
"""Triton exports every 100 ms and not every 5 s."""
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
"""So does the gateway."""
TRITON_SPANS = frozenset({"InferRequest", "compute"})
"""Two of the three; the third bears the model's name."""


@dataclass
class Caller:
    """A caller's own span."""

    sampled: bool = True
    state: str = "vendor=caller"
    trace_id: str = field(default_factory=lambda: f"{random.getrandbits(128):032x}")
    span_id: str = field(default_factory=lambda: f"{random.getrandbits(64):016x}")

    @property
    def headers(self) -> dict[str, str]:
        flag = "01" if self.sampled else "00"
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-{flag}", "tracestate": self.state}


IDENTITY = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [0.5, 1, 2, 3]}]}
REPEAT = {
    "inputs": [
        {"name": "IN", "datatype": "INT32", "shape": [3], "data": [4, 5, 6]},
        {"name": "DELAY", "datatype": "UINT32", "shape": [3], "data": [0, 0, 0]},
        {"name": "WAIT", "datatype": "UINT32", "shape": [1], "data": [0]},
    ]
}
WRITE = {"text_input": "The sea", "max_tokens": 3, "seed": 1}


ONE = (("INPUT0", "FP32", np.array([[0.5, 1, 2, 3]], np.float32)),)


def infer_request(model: str, tensors=ONE, call_id=""):
    """A `ModelInferRequest` with raw contents."""
    request = service_pb2.ModelInferRequest(model_name=model, id=call_id)
    for name, datatype, array in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def repeat_request(model="repeat_int32", count=3):
    return infer_request(
        model,
        [
            ("IN", "INT32", np.arange(count, dtype=np.int32)),
            ("DELAY", "UINT32", np.zeros(count, np.uint32)),
            ("WAIT", "UINT32", np.zeros(1, np.uint32)),
        ],
    )


@contextmanager
def stub(address: str) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def http_json(front, headers) -> None:
    answer = front.post("/v2/models/identity_fp32/infer", IDENTITY, headers)
    assert answer.status == 200, answer.body
    assert answer.json()["outputs"][0]["data"] == [0.5, 1, 2, 3]


def http_binary(front, headers) -> None:
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = head + np.float32([1, 2, 3, 4]).tobytes()
    answer = front.request(
        "POST",
        "/v2/models/identity_fp32/infer",
        body,
        {**headers, "inference-header-content-length": str(len(head))},
    )
    assert answer.status == 200, answer.body
    assert answer.body.endswith(np.float32([1, 2, 3, 4]).tobytes())


def grpc_unary(front, headers) -> None:
    with stub(front.grpc) as client:
        answer = client.ModelInfer(infer_request("identity_fp32"), metadata=tuple(headers.items()), timeout=20)
    assert answer.raw_output_contents[0] == np.float32([0.5, 1, 2, 3]).tobytes()


def grpc_stream(front, headers) -> None:
    """One decoupled call."""
    with stub(front.grpc) as client:
        answers = list(client.ModelStreamInfer(iter([repeat_request()]), metadata=tuple(headers.items()), timeout=20))
    assert [a.error_message for a in answers] == [""] * 3, answers


def http_events(front, headers) -> None:
    answer = front.post("/v2/models/repeat_int32/infer", REPEAT, {**headers, "accept": "text/event-stream"})
    assert answer.status == 200, answer.body
    assert answer.body.count(b"data:") == 3, answer.body


def generate(front, headers) -> None:
    answer = front.post("/v2/models/writer/generate", {**WRITE, "stream": False}, headers)
    assert answer.status == 200, answer.body
    assert answer.json()["text_output"]


def generate_stream(front, headers) -> None:
    answer = front.post("/v2/models/writer/generate_stream", {**WRITE, "stream": True}, headers)
    assert answer.status == 200, answer.body
    assert b"text_output" in answer.body


KINDS = {
    http_json: ("POST /v2/models/{model}/infer", "identity_fp32"),
    http_binary: ("POST /v2/models/{model}/infer", "identity_fp32"),
    grpc_unary: ("inference.GRPCInferenceService/ModelInfer", "identity_fp32"),
    grpc_stream: ("inference.GRPCInferenceService/ModelStreamInfer", "repeat_int32"),
    http_events: ("POST /v2/models/{model}/infer", "repeat_int32"),
    generate: ("POST /v2/models/{model}/generate", "writer"),
    generate_stream: ("POST /v2/models/{model}/generate_stream", "writer"),
}
"""Every kind of request: the name of its server span, and its model."""


@contextmanager
def traced_triton(folder: Path, endpoint: str) -> Iterator[RunningTriton]:
    """A Triton with the models of `KINDS` and `fails` that sends its spans to an OTLP/HTTP endpoint."""
    models = folder / "models"
    for name in ("identity_fp32", "repeat_int32", "fails"):
        shutil.copytree(TEST_MODELS / name, models / name)
    shutil.copytree(MODEL_REPOSITORY / "writer", models / "writer")
    with running_triton([models], folder / "triton.log", otlp=endpoint, extra=SOON) as server:
        yield server


def by_name(received: Received, trace_id: str) -> dict[str, list]:
    """The spans of one trace."""
    found: dict[str, list] = {}
    for span in received.spans():
        if span.trace_id.hex() == trace_id:
            found.setdefault(span.name, []).append(span)
    return found


def wait_for(received: Received, trace_id: str, names, seconds: float = 60.0) -> dict[str, list]:
    """The same, once spans of all these names are there."""
    until = time.monotonic() + seconds
    while True:
        spans = by_name(received, trace_id)
        if set(names) <= set(spans):
            return spans
        assert time.monotonic() < until, f"of {sorted(names)} there are {sorted(spans)}"
        time.sleep(0.02)


def joined(send, front, triton_spans: Received, model: str) -> tuple[Caller, dict[str, list]]:
    """A sampled request whose spans Triton has exported, and these spans.

    Asked without any gateway, Triton 2.51 loses all spans of one request in some fifty; then another one is
    sent.
    """
    for _ in range(6):
        caller = Caller()
        send(front, caller.headers)
        try:
            return caller, wait_for(triton_spans, caller.trace_id, {*TRITON_SPANS, model}, seconds=3.0)
        except AssertionError:
            continue
    raise AssertionError(f"Triton exported no spans of {model} for any of six requests")


def resource_of(received: Received, name: str) -> dict:
    """The resource that sent a span of this name."""
    for request in received.traces:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                if any(span.name == name for span in scope.spans):
                    return attributes(resource.resource.attributes)
    raise AssertionError(f"no span {name}")
