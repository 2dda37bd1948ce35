"""What a model raises reaches clients without its traceback, whose lines name files of the server."""

from __future__ import annotations

import json

import grpc
import pytest
from driving import channel, message
from sides import ask
from tritonclient.grpc import service_pb2 as pb

HOW = {"name": "HOW", "datatype": "BYTES", "shape": [1], "data": ["raise"]}
SERVICE = "/inference.GRPCInferenceService/"


def over_http(gateway) -> str:
    reply = ask(gateway.http, "POST", "/v2/models/fails/infer", json.dumps({"inputs": [HOW]}).encode())
    assert reply.status == 500
    return str(reply.error)


def over_grpc(gateway) -> str:
    with channel(gateway.grpc) as opened:
        call = opened.unary_unary(SERVICE + "ModelInfer", request_serializer=pb.ModelInferRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as caught:
            call(message("fails", {"inputs": [HOW]}), timeout=20)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    return str(caught.value.details())


def over_a_stream(gateway) -> str:
    with channel(gateway.grpc) as opened:
        call = opened.stream_stream(
            SERVICE + "ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        (answer,) = call(iter([message("fails", {"inputs": [HOW]})]), timeout=20)
    return str(answer.error_message)


@pytest.mark.parametrize("way", [over_http, over_grpc, over_a_stream])
def test_no_traceback(triton, shared_gateway, way):
    said = way(shared_gateway)
    assert "asked to raise" in said
    assert "model.py" not in said
    assert "At:" not in said
