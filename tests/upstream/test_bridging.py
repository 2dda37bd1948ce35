"""Servers that are no Triton: what they lack is bridged, from every kind of client (`json_only.py`)."""

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from gateway_fixture import start_gateway
from json_only import json_only
from oip_clients import SAMPLES, ask_everything, raw_binary
from tritonclient.utils import InferenceServerException

ONE = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}


@pytest.fixture(scope="module", params=["auto", "never", "always"])
def bridged(request, tmp_path_factory):
    """A JSON-only server, its gateway, and the setting `binary` (`always`: the server reads it too)."""
    with json_only(reads_binary=request.param == "always") as server:
        text = f"upstreams: {{other: {{http: '{server.address}', binary: {request.param}}}}}\n"
        gateway = start_gateway(tmp_path_factory.mktemp("bridged"), text)
        yield gateway, server, request.param
        assert gateway.stop() == 0, gateway.log.read_text()


def test_every_client_gets_right_answers(bridged):
    gateway, server, binary = bridged
    server.asked.clear()
    # Its binary form of BYTES is not what `always` is about.
    samples = [s for s in SAMPLES if s[0] != "BYTES"] if binary == "always" else SAMPLES
    assert ask_everything(gateway, "echo", samples) == len(server.asked)
    sent_binary = ["inference-header-content-length" in headers for headers, _ in server.asked]
    assert set(sent_binary) == {binary == "always"}
    if binary != "always":
        for headers, document in server.asked:
            assert headers["content-type"] == "application/json"
            # Not a word of the binary extension reaches a server that does not know it.
            assert "binary" not in str(document), document


def test_what_it_can_is_known(bridged):
    gateway, _, binary = bridged
    (state,) = gateway.get("/gateway/v1/upstreams").json()
    assert (state["server"], state["version"], state["binary"]) == ("jsononly", "1", binary == "always")


def test_pages_work(bridged):
    gateway, _, _ = bridged
    assert gateway.get("/v2/health/ready").status == 200
    assert gateway.get("/v2/models/typed/ready").status == 200
    assert gateway.get("/v2").json()["name"] == "jsononly"
    page = gateway.get("/v2/models/typed").json()
    assert page["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 3]}]
    assert gateway.get("/v2/models/nope/ready").status == 404
    assert gateway.get("/v2/models/nope").status == 404


def test_a_declared_model_is_checked_and_an_undeclared_one_only_against_itself(bridged):
    gateway, server, _ = bridged
    wrong = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    server.asked.clear()
    refused = gateway.post("/v2/models/typed/infer", wrong)
    assert refused.status == 400
    assert "'X'" in refused.error
    lie = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1, 2]}]}
    assert gateway.post("/v2/models/echo/infer", lie).status == 400
    assert server.asked == []
    assert gateway.post("/v2/models/typed/infer", ONE).status == 200
    assert gateway.post("/v2/models/echo/infer", wrong).status == 200


@pytest.mark.parametrize(
    ("model", "status", "code", "says"),
    [
        ("nope", 404, "NOT_FOUND", "Model nope not found"),
        ("fails", 422, "INVALID_ARGUMENT", "asked to fail"),
        ("formal", 422, "INVALID_ARGUMENT", "body.id: Input should be a string"),
        ("odd", 502, "INTERNAL", "the model server's answer could not be understood"),
        ("garbage", 502, "INTERNAL", "the model server's answer could not be read"),
    ],
)
def test_its_errors_are_answered_in_one_shape(bridged, model, status, code, says):
    gateway, _, _ = bridged
    answer = gateway.post(f"/v2/models/{model}/infer", ONE)
    assert (answer.status, answer.error) == (status, says)
    assert "html" not in answer.body.decode()
    tensor = grpcclient.InferInput("X", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 3), np.float32))
    with grpcclient.InferenceServerClient(gateway.grpc) as client, pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor])
    assert caught.value.status() == f"StatusCode.{code}"
    assert caught.value.message() == says


def test_what_json_cannot_carry_is_refused_in_words(bridged):
    gateway, _, binary = bridged
    half = np.array([1.5, 2], np.float16).tobytes()
    answer = raw_binary(gateway, "echo", "FP16", [2], half)
    if binary == "always":
        assert answer.status == 200, answer.body
        assert answer.json()["outputs"][0]["data"] == [1.5, 2.0]
    else:
        assert answer.status == 400
        assert "'X'" in answer.error
        assert "FP16" in answer.error


def test_an_upstream_without_grpc_says_so_to_grpc_pages(bridged):
    gateway, _, _ = bridged
    with grpcclient.InferenceServerClient(gateway.grpc) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException) as caught:
            client.get_model_metadata("echo")
    assert caught.value.status() == str(grpc.StatusCode.UNIMPLEMENTED)
