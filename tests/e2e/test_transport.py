"""HTTP or gRPC upstream: the client sees the same answer, whichever way a call travels, and over either door."""

from __future__ import annotations

import json
from typing import Any

import pytest
from driving import channel, message
from gateway_fixture import Gateway, start_gateway
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2 as pb

BYTES = [{"name": "INPUT0", "datatype": "BYTES", "shape": [1], "data": ["x"]}]


@pytest.fixture(scope="module")
def both(triton, tmp_path_factory):
    """Two gateways before one Triton: one calls it over HTTP, the other over gRPC."""
    made = []
    for unary in ("http", "grpc"):
        text = f"upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}', unary: {unary}, "
        # The model fails on purpose, time after time: each call must get its own answer, not the breaker's.
        text += "retries: {attempts: 0}, breaker: {failures: 1000}}}\n"
        made.append(start_gateway(tmp_path_factory.mktemp(unary), text))
    yield made
    for one in made:
        assert one.stop() == 0, one.log.read_text()


HTTP_SAYS_400 = ("error:UNKNOWN", "error:CANCELLED", "error:ALREADY_EXISTS")
"""Codes that Triton 2.51 does not tell apart over HTTP."""

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp32": ("identity_fp32", {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, -2.5, 3e20]}]}),
    "id": ("identity_fp32", {"id": "a b", "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}),
    "named output": (
        "identity_fp32",
        {
            "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [1]}],
            "outputs": [{"name": "OUTPUT0"}],
        },
    ),
    "bytes": ("params_echo", {"inputs": BYTES}),
    "priority and timeout": ("params_echo", {"inputs": BYTES, "parameters": {"priority": 1, "timeout": 5_000_000}}),
    "parameters of one's own": ("params_echo", {"inputs": BYTES, "parameters": {"a": "b", "n": 3, "t": True}}),
    "a sequence": (
        "sequence_accumulate",
        {
            "inputs": [{"name": "INPUT", "datatype": "INT32", "shape": [1, 1], "data": [4]}],
            "parameters": {"sequence_id": 77, "sequence_start": True, "sequence_end": True},
        },
    ),
    "slow": ("slow", {"inputs": [{"name": "MILLISECONDS", "datatype": "INT32", "shape": [1, 1], "data": [5]}]}),
    "unknown model": ("nobody", {"inputs": BYTES}),
    "no such output": ("params_echo", {"inputs": BYTES, "outputs": [{"name": "NONE"}]}),
    "wrong shape": ("identity_fp32", {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2, 2, 2], "data": [0] * 8}]}),
} | {
    f"fails {how}": ("fails", {"inputs": [{"name": "HOW", "datatype": "BYTES", "shape": [1], "data": [how]}]})
    for how in ("raise", "error:INVALID_ARG", "error:NOT_FOUND", "error:UNAVAILABLE", "error:UNSUPPORTED", "error:INTERNAL", *HTTP_SAYS_400)
}  # fmt: skip


def over_http(gateway: Gateway, model: str, document: dict[str, Any]) -> Any:
    answer = gateway.post(f"/v2/models/{model}/infer", document)
    head = {name: answer.headers.get(name) for name in ("content-type", "inference-header-content-length")}
    return answer.status, head, json.loads(answer.body)


def over_grpc(gateway: Gateway, model: str, document: dict[str, Any]) -> Any:
    asked = message(model, document, document.get("id", ""))
    for output in document.get("outputs", []):
        asked.outputs.add(name=output["name"])
    with channel(gateway.grpc) as made:
        stub = made.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        call = stub.future(asked.SerializeToString(), timeout=30)
        if call.exception() is not None:
            return call.code().name, call.details()
        return MessageToDict(pb.ModelInferResponse.FromString(call.result()))


@pytest.mark.parametrize("door", [over_http, over_grpc])
@pytest.mark.parametrize("case", CALLS)
def test_the_same_answer_either_way(both, door, case):
    model, document = CALLS[case]
    http, grpc = (door(gateway, model, document) for gateway in both)
    assert "left alone" not in str(http) + str(grpc)
    if door is over_grpc and case.removeprefix("fails ") in HTTP_SAYS_400:
        code = case.removeprefix("fails error:")
        assert (http[0], grpc[0]) == ("INVALID_ARGUMENT", code)
        assert http[1] == grpc[1]
    else:
        assert http == grpc


def test_grpc_is_kept_to_however_quick_the_model(both):
    """The code of a model's own error tells which way it came, also after many quick answers and refusals."""
    _, gateway = both
    for _ in range(30):
        assert over_http(gateway, *CALLS["fp32"])[0] == 200
        assert over_grpc(gateway, *CALLS["fails error:CANCELLED"])[0] == "CANCELLED"


def test_the_two_ways_were_taken(both):
    """Or the comparison would be of HTTP with HTTP."""
    http, grpc = (
        gateway.metric("tidegate_upstream_events_total", upstream="triton", event="channel") for gateway in both
    )
    assert (http, grpc) == (0, 1)
