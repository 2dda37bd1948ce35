"""Slow tier: a real MLServer and a real KServe model server behind a real gateway.

From environments of their own (`tests/venv_fixture.py`); the first run installs them (5 minutes). Afterwards:
10 s for both on two idle cores, 20 s on busy ones.
"""

import http.client
import json
import shutil
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from gateway_fixture import start_gateway
from oip_clients import SAMPLES, ask_everything, http_binary, http_json, raw_binary
from triton_fixture import free_ports
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException
from venv_fixture import environment, server

OTHERS = Path(__file__).resolve().parent / "others"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ONE = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}


def behind(folder, http, grpc_address, binary="auto"):
    upstream = f"{{http: '{http}', grpc: '{grpc_address}', binary: {binary}}}"
    return start_gateway(folder, f"upstreams: {{other: {upstream}}}\n")


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory):
    """MLServer's HTTP and gRPC addresses; models `echo` and, with declared tensors, `declared`."""
    folder = tmp_path_factory.mktemp("mlserver")
    http, rpc, metrics = free_ports(3)
    shutil.copy(OTHERS / "mlserver_echo.py", folder)
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": rpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
    tensor = {"datatype": "FP32", "shape": [-1, 3]}
    declared = {"inputs": [{"name": "X", **tensor}], "outputs": [{"name": "OUT_X", **tensor}]}
    for name, extra in (("echo", {}), ("declared", declared)):
        (folder / name).mkdir()
        model = {"name": name, "implementation": "mlserver_echo.Echo", **extra}
        (folder / name / "model-settings.json").write_text(json.dumps(model))
    command = [environment("mlserver") / "mlserver", "start", folder]
    ready = f"http://127.0.0.1:{http}/v2/health/ready"
    paths = {"PYTHONPATH": str(folder)}
    with server(command, ready=ready, log=folder / "mlserver.log", seconds=90, env=paths, cwd=folder):
        yield f"127.0.0.1:{http}", f"127.0.0.1:{rpc}"


@pytest.fixture(scope="module")
def before_mlserver(mlserver, tmp_path_factory):
    gateway = behind(tmp_path_factory.mktemp("before-mlserver"), *mlserver)
    yield gateway
    assert gateway.stop() == 0, gateway.log.read_text()


@pytest.fixture(scope="module")
def kserve(tmp_path_factory):
    """KServe's HTTP and gRPC addresses; models `echo` and `fails`."""
    folder = tmp_path_factory.mktemp("kserve")
    http, rpc = free_ports(2)
    command = [environment("kserve") / "python", OTHERS / "kserve_echo.py", f"--http_port={http}", f"--grpc_port={rpc}"]
    ready = f"http://127.0.0.1:{http}/v2/health/ready"
    with server(command, ready=ready, log=folder / "kserve.log", seconds=90, cwd=folder):
        yield f"127.0.0.1:{http}", f"127.0.0.1:{rpc}"


@pytest.fixture(scope="module", params=["auto", "always"])
def before_kserve(request, kserve, tmp_path_factory):
    gateway = behind(tmp_path_factory.mktemp("before-kserve"), *kserve, request.param)
    yield gateway, request.param
    assert gateway.stop() == 0, gateway.log.read_text()


def pages(gateway, name, model):
    assert gateway.get("/v2/health/ready").status == 200
    assert gateway.get("/v2").json()["name"] == name
    assert gateway.get(f"/v2/models/{model}").json()["name"] == model
    assert gateway.get(f"/v2/models/{model}/ready").status == 200
    with grpcclient.InferenceServerClient(gateway.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        assert client.get_server_metadata().name == name
        assert client.get_model_metadata(model).name == model


def refused_by_grpc(gateway, model, array, datatype="FP32", parameters=None):
    tensor = grpcclient.InferInput("X", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    with grpcclient.InferenceServerClient(gateway.grpc) as client, pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor], parameters=parameters)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_mlserver_answers_every_client(before_mlserver):
    began = time.monotonic()
    asked = ask_everything(before_mlserver, "echo")
    asked += ask_everything(before_mlserver, "declared", SAMPLES[:1])
    print(f"MLServer: {asked} questions answered right in {time.monotonic() - began:.1f} s")


def test_mlserver_is_known_to_take_json_only(mlserver, before_mlserver, tmp_path):
    (state,) = before_mlserver.get("/gateway/v1/upstreams").json()
    assert (state["server"], state["version"], state["binary"]) == ("mlserver", "1.7.1", False)
    # And that is not for nothing: told to send binary, it answers 500.
    stubborn = behind(tmp_path / "stubborn", *mlserver, "always")
    try:
        assert stubborn.post("/v2/models/echo/infer", ONE).status >= 500
    finally:
        assert stubborn.stop() == 0


def test_mlservers_pages_and_errors(before_mlserver):
    gateway = before_mlserver
    pages(gateway, "mlserver", "echo")
    assert gateway.get("/v2/models/declared").json()["inputs"][0]["shape"] == [-1, 3]
    assert gateway.get("/v2/models/nope").status == 404
    assert gateway.get("/v2/models/nope/ready").status == 404
    missing = gateway.post("/v2/models/nope/infer", ONE)
    assert (missing.status, missing.error) == (404, "Model nope not found")
    wrong = gateway.post("/v2/models/declared/infer", {"inputs": [{**ONE["inputs"][0], "shape": [3]}]})
    assert wrong.status == 400
    own = gateway.post("/v2/models/echo/infer", {**ONE, "parameters": {"fail": "mlserver"}})
    assert (own.status, own.error) == (422, "asked to fail")
    broken = gateway.post("/v2/models/echo/infer", {**ONE, "parameters": {"fail": "oh no"}})
    # Its page is plain text without a reason: not an answer of the protocol.
    assert (broken.status, broken.error) == (502, "the model server's answer could not be understood")
    form = gateway.post("/v2/models/echo/infer", {**ONE, "parameters": {"content_type": 5}})
    assert form.status == 422
    assert "content_type: Input should be a valid string" in form.error
    assert raw_binary(gateway, "echo", "FP16", [1], b"\x00\x3c").status == 400
    row = np.zeros((1, 3), np.float32)
    assert refused_by_grpc(gateway, "nope", row) == ("NOT_FOUND", "Model nope not found")
    assert refused_by_grpc(gateway, "echo", row, parameters={"fail": "mlserver"}) == (
        "INVALID_ARGUMENT",
        "asked to fail",
    )


def test_mlservers_streams_are_refused_in_words(before_mlserver):
    message = service_pb2.ModelInferRequest(model_name="echo")
    message.inputs.add(name="X", datatype="FP32", shape=[1])
    message.raw_input_contents.append(b"\x00\x00\x80\x3f")
    with grpc.insecure_channel(before_mlserver.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        (answer,) = stub.ModelStreamInfer(iter([message]), timeout=20)
    assert answer.error_message == "this model server's streams differ from Triton's on the wire"


def test_kserve_answers_every_client(before_kserve):
    gateway, binary = before_kserve
    began = time.monotonic()
    asked = ask_everything(gateway, "echo") + ask_everything(gateway, "echo_json")
    (state,) = gateway.get("/gateway/v1/upstreams").json()
    assert (state["server"], state["version"], state["binary"]) == ("kserve", "0.21.0", binary == "always")
    print(f"KServe, binary {binary}: {asked} questions answered right in {time.monotonic() - began:.1f} s")


def test_kserves_binary_extension(kserve, before_kserve):
    gateway, binary = before_kserve
    row = np.array([[1.5, 2, 3]], np.float32)
    # What the server itself does with a binary request: these models answer it in JSON and in binary.
    for model, form in (("echo_json", "JSON"), ("echo", "binary")):
        tensor = {"name": "X", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
        direct = http.client.HTTPConnection(kserve[0], timeout=20)
        direct.request("POST", f"/v2/models/{model}/infer", head + row.tobytes(), headers)
        answer = direct.getresponse()
        assert answer.status == 200, answer.read()
        assert (answer.getheader("inference-header-content-length") is None) == (form == "JSON")
        direct.close()
        assert http_binary(gateway, model, "FP32", row).tolist() == row.tolist()
    half = np.array([1.5, 2], np.float16)
    if binary == "always":
        assert http_binary(gateway, "echo", "FP16", half).tolist() == [1.5, 2.0]
    else:
        refused = raw_binary(gateway, "echo", "FP16", [2], half.tobytes())
        assert (refused.status, "FP16" in refused.error) == (400, True)


def test_kserves_pages_and_errors(before_kserve):
    gateway, _ = before_kserve
    pages(gateway, "kserve", "echo")
    assert gateway.get("/v2/models/nope").status == 404
    assert gateway.get("/v2/models/nope/ready").status == 404
    missing = gateway.post("/v2/models/nope/infer", ONE)
    assert (missing.status, missing.error) == (404, "Model with name nope does not exist.")
    refused = gateway.post("/v2/models/fails/infer", ONE)
    assert (refused.status, refused.error) == (400, "asked to refuse")
    flag = {"name": "X", "datatype": "BOOL", "shape": [1], "data": [True]}
    broken = gateway.post("/v2/models/fails/infer", {"inputs": [flag]})
    assert broken.status == 500
    assert "Traceback" not in broken.error
    row = np.zeros((1, 3), np.float32)
    assert refused_by_grpc(gateway, "nope", row) == ("NOT_FOUND", "Model with name nope does not exist.")
    assert refused_by_grpc(gateway, "fails", row) == ("INVALID_ARGUMENT", "asked to refuse")
    assert refused_by_grpc(gateway, "fails", np.array([True]), "BOOL")[0] == "INTERNAL"
    assert http_json(gateway, "echo", *SAMPLES[0]).shape == (2, 3)
