"""What leaves something behind at the model server: sequences, repository, shared memory, trace and log settings."""

from __future__ import annotations

import json
import uuid
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.utils.shared_memory as shm
from driving import until
from gateway_fixture import start_gateway
from sides import ask, tensors
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from gateway.keys import new_key

KEYS = {tenant: new_key() for tenant in ("acme", "globex")}


@pytest.fixture(scope="module")
def tenants(tmp_path_factory, triton):
    """Two tenants who may ask every model, and no more."""
    keys = "".join(f"    - {{sha256: {digest}, user: {t}, tenant: {t}}}\n" for t, (_, digest) in KEYS.items())
    gateway = start_gateway(
        tmp_path_factory.mktemp("tenants"),
        f"""
upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}
passthrough: true
routes:
  split:
    variants: [{{name: a, model: sequence_accumulate}}, {{name: b, model: sequence_accumulate, version: "1"}}]
identity:
  api_keys:
{keys}
""",
    )
    yield gateway
    assert gateway.stop() == 0


def post(gateway: Any, path: str, document: Any = None, **headers: str) -> Any:
    return ask(gateway.http, "POST", path, b"" if document is None else json.dumps(document).encode(), headers)


# -- sequences -------------------------------------------------------------------------------------------------


def step(gateway: Any, model: str, sequence: Any, value: int, *, flags: str = "", tenant: str = "") -> Any:
    shape = [1] if model == "sequence_string" else [1, 1]
    reply = post(
        gateway,
        f"/v2/models/{model}/infer",
        {
            "inputs": [{"name": "INPUT", "datatype": "INT32", "shape": shape, "data": [value]}],
            "parameters": {
                "sequence_id": sequence,
                "sequence_start": "start" in flags,
                "sequence_end": "end" in flags,
            },
        },
        **({"x-api-key": KEYS[tenant][0]} if tenant else {}),
    )
    assert reply.status == 200, reply.body
    return reply.json()["outputs"][0]["data"][0]


@pytest.mark.parametrize(
    ("model", "ids"),
    [("sequence_accumulate", [71001, 2**63 + 9]), ("sequence_string", ["one", "zwei \u20ac"])],
    ids=["numbers", "strings"],
)
def test_interleaved_over_http(shared_gateway, model, ids):
    first, second = ids
    assert step(shared_gateway, model, first, 1, flags="start") == 1
    assert step(shared_gateway, model, second, 10, flags="start") == 10
    assert step(shared_gateway, model, first, 2) == 3
    assert step(shared_gateway, model, second, 20) == 30
    assert step(shared_gateway, model, first, 3, flags="end") == 6
    assert step(shared_gateway, model, second, 30, flags="end") == 60


@pytest.mark.parametrize("sequence", [71003, "three"])
def test_over_grpc_and_http_together(shared_gateway, sequence):
    """One sequence over both protocols."""
    model = "sequence_string" if isinstance(sequence, str) else "sequence_accumulate"
    assert step(shared_gateway, model, sequence, 1, flags="start") == 1
    shape = [1] if model == "sequence_string" else [1, 1]
    tensor = grpcclient.InferInput("INPUT", shape, "INT32")
    tensor.set_data_from_numpy(np.full(shape, 5, np.int32))
    with grpcclient.InferenceServerClient(shared_gateway.grpc) as client:
        answer = client.infer(model, [tensor], sequence_id=sequence)
        assert answer.as_numpy("OUTPUT").item() == 6
    assert step(shared_gateway, model, sequence, 1, flags="end") == 7


def test_anomaly_as_triton_says(triton, shared_gateway):
    """The stateful example model gives the same scores through the gateway."""
    series = [10.0, 10.5, 9.8, 10.1, 40.0, 10.2]

    def scores(address: str, sequence: int) -> list[float]:
        found = []
        for i, value in enumerate(series):
            document = {
                "inputs": [
                    {"name": "value", "datatype": "FP32", "shape": [1, 1], "data": [value]},
                    {"name": "month", "datatype": "INT32", "shape": [1, 1], "data": [i % 12 + 1]},
                ],
                "parameters": {
                    "sequence_id": sequence,
                    "sequence_start": i == 0,
                    "sequence_end": i == len(series) - 1,
                },
            }
            reply = ask(address, "POST", "/v2/models/anomaly/infer", json.dumps(document).encode())
            assert reply.status == 200, reply.body
            outputs = {o["name"]: o["data"][0] for o in tensors(reply)["outputs"]}
            found.append(round(outputs["score"], 4))
        return found

    assert scores(shared_gateway.http, 71010) == scores(triton.http, 71011)


@pytest.mark.parametrize("sequence", [71020, "same"])
def test_tenants_do_not_meet(tenants, sequence):
    """The same sequence id of two tenants is two sequences, over HTTP and over gRPC."""
    model = "sequence_string" if isinstance(sequence, str) else "sequence_accumulate"
    assert step(tenants, model, sequence, 1, flags="start", tenant="acme") == 1
    assert step(tenants, model, sequence, 100, flags="start", tenant="globex") == 100
    assert step(tenants, model, sequence, 2, tenant="acme") == 3
    assert step(tenants, model, sequence, 200, flags="end", tenant="globex") == 300
    shape = [1] if model == "sequence_string" else [1, 1]
    tensor = grpcclient.InferInput("INPUT", shape, "INT32")
    tensor.set_data_from_numpy(np.full(shape, 3, np.int32))
    with grpcclient.InferenceServerClient(tenants.grpc) as client:
        answer = client.infer(
            model, [tensor], sequence_id=sequence, sequence_end=True, headers={"x-api-key": KEYS["acme"][0]}
        )
        assert answer.as_numpy("OUTPUT").item() == 6


def test_sequences_of_a_split_route_stay(tenants):
    """Twelve interleaved sequences over a 50:50 route: every sum is right, so every step met its own state."""
    for step_number in range(4):
        flags = {0: "start", 3: "end"}.get(step_number, "")
        for sequence in range(12):
            total = step(tenants, "split", 72000 + sequence, sequence, flags=flags, tenant="acme")
            assert total == sequence * (step_number + 1)


# -- repository ------------------------------------------------------------------------------------------------


def gone(gate) -> bool:
    """Whether the unload of `batched` is over: until then Triton answers a load with 200 and may drop the model still."""
    rows = {row["name"]: row.get("state") for row in post(gate, "/v2/repository/index").json()}
    return rows["batched"] == "UNAVAILABLE"


def test_unload_and_load(triton, gateway):
    """The server's own names; empty bodies; a model that is gone is 404 at once and there again after the load."""
    gate = gateway("upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n")
    body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    assert post(gate, "/v2/models/batched/infer", body).status == 200
    try:
        reply = post(gate, "/v2/repository/models/batched/unload", {"parameters": {"unload_dependents": False}})
        assert (reply.status, reply.body) == (200, b"")
        assert ask(gate.http, "GET", "/v2/models/batched/ready").status in (400, 404)
        assert post(gate, "/v2/models/batched/infer", body).status in (400, 404)
        rows = {row["name"]: row["state"] for row in post(gate, "/v2/repository/index").json()}
        assert rows["batched"] in ("UNLOADING", "UNAVAILABLE")
        ready = post(gate, "/v2/repository/index", {"ready": True}).json()
        assert "batched" not in {row["name"] for row in ready}
    finally:
        until(lambda: gone(gate), 30, "the model is unloaded")
        reply = post(gate, "/v2/repository/models/batched/load")
    assert (reply.status, reply.body) == (200, b"")
    assert post(gate, "/v2/models/batched/infer", body).status == 200


def test_load_with_another_config(gateway):
    """A config in the load takes effect, and what the gateway knew of the model is forgotten: over gRPC as well."""
    gate = gateway("upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n")
    six = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [6, 4], "data": [0] * 24}]}
    assert post(gate, "/v2/models/batched/infer", six).status == 200
    config = ask(gate.http, "GET", "/v2/models/batched/config").json()
    config["max_batch_size"] = 4
    config["dynamic_batching"] = {}
    try:
        with grpcclient.InferenceServerClient(gate.grpc) as client:
            client.load_model("batched", config=json.dumps(config))
        reply = post(gate, "/v2/models/batched/infer", six)
        assert reply.status == 400
        assert "4" in reply.error
        for bad in ("file:../x", "file:/etc/x", "file:"):
            reply = post(gate, "/v2/repository/models/batched/load", {"parameters": {bad: "aGk="}})
            assert reply.status == 400
            assert "inside the model" in reply.error
    finally:
        # A plain load keeps the config of the load before; after an unload it is the repository's again.
        assert post(gate, "/v2/repository/models/batched/unload").status == 200
        until(lambda: gone(gate), 30, "the model is unloaded")
        assert post(gate, "/v2/repository/models/batched/load").status == 200
    assert post(gate, "/v2/models/batched/infer", six).status == 200


# -- shared memory ---------------------------------------------------------------------------------------------


@pytest.fixture
def region():
    """A POSIX region of 64 bytes: 16 of input, 16 of output."""
    name = f"tidegate_{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region(name, f"/{name}", 64)
    shm.set_shared_memory_region(handle, [np.arange(4, dtype=np.float32)])
    yield name, handle
    shm.destroy_shared_memory_region(handle)


def test_system_shared_memory_over_http(shared_gateway, region):
    name, handle = region
    base = f"/v2/systemsharedmemory/region/{name}"
    reply = post(shared_gateway, f"{base}/register", {"key": f"/{name}", "offset": 0, "byte_size": 64})
    assert (reply.status, reply.body) == (200, b"")
    try:
        status = ask(shared_gateway.http, "GET", f"{base}/status").json()
        assert status == [{"name": name, "key": f"/{name}", "offset": 0, "byte_size": 64}]
        document = {
            "inputs": [
                {
                    "name": "INPUT0",
                    "datatype": "FP32",
                    "shape": [1, 4],
                    "parameters": {"shared_memory_region": name, "shared_memory_byte_size": 16},
                }
            ],
            "outputs": [
                {
                    "name": "OUTPUT0",
                    "parameters": {
                        "shared_memory_region": name,
                        "shared_memory_byte_size": 16,
                        "shared_memory_offset": 32,
                    },
                }
            ],
        }
        reply = post(shared_gateway, "/v2/models/identity_fp32/infer", document)
        assert reply.status == 200, reply.body
        (output,) = reply.json()["outputs"]
        assert output == {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 4]}  # as Triton 2.51 answers
        assert shm.get_contents_as_numpy(handle, np.float32, [4], offset=32).tolist() == [0, 1, 2, 3]
        document["inputs"][0]["parameters"]["shared_memory_byte_size"] = 12
        reply = post(shared_gateway, "/v2/models/identity_fp32/infer", document)
        assert reply.status == 400
        assert "INPUT0" in reply.error
    finally:
        assert post(shared_gateway, f"{base}/unregister").status == 200
    assert (
        ask(shared_gateway.http, "GET", f"{base}/status").status == 404
        or name not in ask(shared_gateway.http, "GET", "/v2/systemsharedmemory/status").body.decode()
    )


def test_raw_contents_beside_shared_memory(triton, shared_gateway, region):
    """Raw entries are for the inputs that are in no region, in their order; as Triton answers."""
    name, _ = region
    message = service_pb2.ModelInferRequest(model_name="identity_all", raw_input_contents=[b"\x01"])
    item = message.inputs.add(name="INPUT_FP32", datatype="FP32", shape=[4])
    item.parameters["shared_memory_region"].string_param = name
    item.parameters["shared_memory_byte_size"].int64_param = 16
    message.inputs.add(name="INPUT_BOOL", datatype="BOOL", shape=[1])
    message.outputs.add(name="OUTPUT_FP32")
    message.outputs.add(name="OUTPUT_BOOL")
    base = f"/v2/systemsharedmemory/region/{name}"
    post(shared_gateway, f"{base}/register", {"key": f"/{name}", "offset": 0, "byte_size": 64})
    try:
        answers = []
        for address in (triton.grpc, shared_gateway.grpc):
            with grpc.insecure_channel(address) as channel:
                method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                answers.append(service_pb2.ModelInferResponse.FromString(method(message.SerializeToString())))
        assert answers[0] == answers[1]
        assert b"\x01" in answers[0].raw_output_contents
    finally:
        post(shared_gateway, f"{base}/unregister")


def test_system_shared_memory_over_grpc(shared_gateway, region):
    """With tritonclient itself, unary and on a stream."""
    name, handle = region
    tensor = grpcclient.InferInput("INPUT0", [1, 4], "FP32")
    tensor.set_shared_memory(name, 16)
    output = grpcclient.InferRequestedOutput("OUTPUT0")
    output.set_shared_memory(name, 16, offset=32)
    with grpcclient.InferenceServerClient(shared_gateway.grpc) as client:
        client.register_system_shared_memory(name, f"/{name}", 64)
        try:
            assert client.get_system_shared_memory_status(name).regions[name].byte_size == 64
            answer = client.infer("identity_fp32", [tensor], outputs=[output])
            assert answer.get_response().raw_output_contents == [b""]  # likewise
            assert shm.get_contents_as_numpy(handle, np.float32, [4], offset=32).tolist() == [0, 1, 2, 3]
            shm.set_shared_memory_region(handle, [np.full(4, 7, np.float32)])
            answers: list[Any] = []
            client.start_stream(lambda result, error: answers.append(error or result))
            client.async_stream_infer("identity_fp32", [tensor], outputs=[output])
            client.stop_stream()
            assert not isinstance(answers[0], InferenceServerException), answers
            assert shm.get_contents_as_numpy(handle, np.float32, [4], offset=32).tolist() == [7] * 4
        finally:
            client.unregister_system_shared_memory(name)
        assert name not in client.get_system_shared_memory_status().regions


# -- settings --------------------------------------------------------------------------------------------------


def test_trace_settings_are_set_and_cleared(triton, shared_gateway):
    """Over HTTP and gRPC; what is set through the gateway is what Triton says."""
    before = ask(triton.http, "GET", "/v2/models/params_echo/trace/setting").json()
    reply = post(shared_gateway, "/v2/models/params_echo/trace/setting", {"trace_rate": "555"})
    assert reply.status == 200, reply.body
    assert reply.json()["trace_rate"] == "555"
    assert ask(triton.http, "GET", "/v2/models/params_echo/trace/setting").json()["trace_rate"] == "555"
    with grpcclient.InferenceServerClient(shared_gateway.grpc) as client:
        seen = client.get_trace_settings("params_echo", as_json=True)["settings"]
        assert seen["trace_rate"]["value"] == ["555"]
        client.update_trace_settings("params_echo", {"trace_rate": None})
    assert ask(triton.http, "GET", "/v2/models/params_echo/trace/setting").json() == before


def test_log_settings_are_set(triton, shared_gateway):
    reply = post(shared_gateway, "/v2/logging", {"log_verbose_level": 1})
    try:
        assert reply.status == 200
        assert ask(triton.http, "GET", "/v2/logging").json()["log_verbose_level"] == 1
        with grpcclient.InferenceServerClient(shared_gateway.grpc) as client:
            assert client.get_log_settings(as_json=True)["settings"]["log_verbose_level"]["uint32_param"] == 1
            client.update_log_settings({"log_verbose_level": 0})
        assert ask(triton.http, "GET", "/v2/logging").json()["log_verbose_level"] == 0
    finally:
        post(shared_gateway, "/v2/logging", {"log_verbose_level": 0})
