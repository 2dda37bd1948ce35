"""Who may do what, on every operation of the table in `gateway/operations.py`, over HTTP and gRPC.

Default deny: a caller with an accepted key and no rule gets 403 on everything that is asked of the policy; one
without a key 401 on everything but health. Nothing of that depends on whether the thing exists.
"""

from __future__ import annotations

import json
import re
from typing import Any

import grpc
import pytest
from gateway_fixture import start_gateway
from sides import ask
from tritonclient.grpc import service_pb2 as pb

from gateway.keys import new_key
from gateway.operations import OPERATIONS

KEYS = {name: new_key() for name in ("root", "nobody", "scorer", "reader", "local")}
POLICY = """\
p, role:admin, *, *, *, allow
g, user:root, role:admin, *
g, user:root, role:admin, acme
p, role:scorer, acme, model:income, infer, allow
p, role:scorer, acme, model:identity_*, infer, allow
g, user:scorer, role:scorer, acme
p, role:reader, acme, model:income, read, allow
p, role:reader, acme, model:params_echo, read, allow
g, user:reader, role:reader, acme
p, role:tenant-admin, acme, *, *, allow
g, user:local, role:tenant-admin, acme
"""

HTTP: dict[str, tuple[str, str, bytes]] = {
    "server_live": ("GET", "/v2/health/live", b""),
    "server_ready": ("GET", "/v2/health/ready", b""),
    "server_metadata": ("GET", "/v2", b""),
    "model_ready": ("GET", "/v2/models/income/ready", b""),
    "model_metadata": ("GET", "/v2/models/income", b""),
    "model_config": ("GET", "/v2/models/income/config", b""),
    "model_stats": ("GET", "/v2/models/income/stats", b""),
    "all_stats": ("GET", "/v2/models/stats", b""),
    "infer": ("POST", "/v2/models/income/infer", b"{}"),
    "generate": ("POST", "/v2/models/income/generate", b"{"),
    "generate_stream": ("POST", "/v2/models/income/generate_stream", b"{"),
    "index": ("POST", "/v2/repository/index", b""),
    "load": ("POST", "/v2/repository/models/nothing/load", b""),
    "unload": ("POST", "/v2/repository/models/nothing/unload", b""),
    "system_shm_status": ("GET", "/v2/systemsharedmemory/status", b""),
    "system_shm_register": ("POST", "/v2/systemsharedmemory/region/r/register", b"{}"),
    "system_shm_unregister": ("POST", "/v2/systemsharedmemory/region/r/unregister", b""),
    "cuda_shm_status": ("GET", "/v2/cudasharedmemory/status", b""),
    "cuda_shm_register": ("POST", "/v2/cudasharedmemory/region/r/register", b"{}"),
    "cuda_shm_unregister": ("POST", "/v2/cudasharedmemory/region/r/unregister", b""),
    "trace_setting": ("GET", "/v2/trace/setting", b""),
    "log_settings": ("GET", "/v2/logging", b""),
}
GRPC: dict[str, Any] = {
    "model_ready": pb.ModelReadyRequest(name="income"),
    "model_metadata": pb.ModelMetadataRequest(name="income"),
    "model_config": pb.ModelConfigRequest(name="income"),
    "model_stats": pb.ModelStatisticsRequest(name="income"),
    "all_stats": pb.ModelStatisticsRequest(),
    "infer": pb.ModelInferRequest(model_name="income"),
    "load": pb.RepositoryModelLoadRequest(model_name="nothing"),
    "unload": pb.RepositoryModelUnloadRequest(model_name="nothing"),
    "system_shm_register": pb.SystemSharedMemoryRegisterRequest(name="r", key="/none", byte_size=1),
    "system_shm_unregister": pb.SystemSharedMemoryUnregisterRequest(name="r"),
    "cuda_shm_unregister": pb.CudaSharedMemoryUnregisterRequest(name="r"),
}
OPEN = {"server_live", "server_ready"}
FREE = {"server_metadata", "all_stats", "index"}
"""What an accepted identity is enough for; the lists then show what it may read."""
HTTP_OPS = [name for name in OPERATIONS if name != "stream"]
GRPC_OPS = [name for name, op in OPERATIONS.items() if op.grpc and name != "stream"]
CONTROL = [
    "/gateway/v1/routes",
    "/gateway/v1/routes/income",
    "/gateway/v1/snapshot",
    "/gateway/v1/upstreams",
    "/metrics",
]


def settings(triton: Any, more: str) -> str:
    return f"""
upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}
passthrough: true
routes: {{income: {{}}, alias: {{variants: [{{name: only, model: income}}]}}}}
metrics: {{credentials: true}}
identity:
  api_keys:
{"".join(f"    - {{sha256: {digest}, user: {name}, tenant: acme}}{chr(10)}" for name, (_, digest) in KEYS.items())}
{more}
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory, triton):
    """Keys, a policy, no anonymous callers."""
    gateway = start_gateway(
        tmp_path_factory.mktemp("policy"),
        settings(triton, "policy: {file: policy.csv}"),
        files={"policy.csv": POLICY},
    )
    yield gateway
    assert gateway.stop() == 0


@pytest.fixture(scope="module")
def lax(tmp_path_factory, triton):
    """Keys, anonymous callers, and the default policy: models may be read and asked."""
    text = settings(triton, "  anonymous: {user: anonymous, tenant: public}")
    gateway = start_gateway(tmp_path_factory.mktemp("lax"), text)
    yield gateway
    assert gateway.stop() == 0


def http_status(gateway: Any, name: str, who: str | None) -> int:
    method, path, body = HTTP[name]
    reply = ask(gateway.http, method, path, body or None, {"x-api-key": KEYS[who][0]} if who else {})
    if reply.status != 200:
        assert reply.error
    assert reply.headers["x-request-id"]
    return reply.status


def grpc_code(gateway: Any, name: str, who: str | None) -> str:
    op = OPERATIONS[name]
    message = GRPC.get(name) or getattr(pb, op.grpc + "Request")()
    metadata = (("x-api-key", KEYS[who][0]),) if who else ()
    with grpc.insecure_channel(gateway.grpc) as channel:
        try:
            channel.unary_unary(f"/inference.GRPCInferenceService/{op.grpc}")(
                message.SerializeToString(), metadata=metadata, timeout=10
            )
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


@pytest.mark.parametrize("name", HTTP_OPS)
def test_http(strict, name):
    assert http_status(strict, name, None) == (200 if name in OPEN else 401)
    assert http_status(strict, name, "nobody") == (200 if name in OPEN | FREE else 403)
    assert http_status(strict, name, "root") not in (401, 403)


@pytest.mark.parametrize("name", GRPC_OPS)
def test_grpc(strict, name):
    assert grpc_code(strict, name, None) == ("OK" if name in OPEN else "UNAUTHENTICATED")
    assert grpc_code(strict, name, "nobody") == ("OK" if name in OPEN | FREE else "PERMISSION_DENIED")
    assert grpc_code(strict, name, "root") not in ("UNAUTHENTICATED", "PERMISSION_DENIED")


@pytest.mark.parametrize("name", [name for name, op in OPERATIONS.items() if op.needs == "server"])
def test_a_tenants_everything_is_not_the_server(strict, name):
    """`*` on objects in a tenant never grants what is asked of `server`."""
    assert http_status(strict, name, "local") == 403
    assert grpc_code(strict, name, "local") == "PERMISSION_DENIED"


def test_every_operation_has_a_case():
    assert set(HTTP_OPS) == set(HTTP)


@pytest.mark.parametrize("path", CONTROL)
def test_control_api(strict, path):
    def get(who: str | None) -> Any:
        return ask(strict.http, "GET", path, headers={"x-api-key": KEYS[who][0]} if who else {})

    assert get(None).status == 401
    assert get(None).error
    denied = get("nobody")
    if path.endswith("/routes"):
        assert denied.json() == {"routes": []}
        assert set(get("root").json()["routes"]) == {"income", "alias"}
    else:
        assert denied.status == 403
        assert get("local").status == 403
    assert get("root").status == 200


def test_that_there_is_no_registry_is_told_to_those_who_may_read_it(strict):
    asked = {
        who: ask(strict.http, "GET", "/gateway/v1/registry/income", headers={"x-api-key": key} if key else {}).status
        for who, key in (("none", ""), ("nobody", KEYS["nobody"][0]), ("root", KEYS["root"][0]))
    }
    assert asked == {"none": 401, "nobody": 403, "root": 404}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
def test_health_is_open(strict, path):
    assert ask(strict.http, "GET", path).status == 200
    assert ask(strict.http, "GET", path, headers={"x-api-key": "wrong"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "tg_wrong"},
        {"authorization": "Bearer tg_wrong"},
        {"authorization": "Basic dTpw"},
        {"x-api-key": ""},
        {"x-api-key": KEYS["root"][0], "authorization": f"Bearer {KEYS['scorer'][0]}"},
    ],
    ids=["key", "bearer", "basic", "empty", "two"],
)
def test_wrong_credentials(strict, lax, headers):
    """Whoever shows a credential means to be someone: 401, also where anonymous callers are let in."""
    for gateway in (strict, lax):
        assert ask(gateway.http, "GET", "/v2/models/income", headers=headers).status == 401


def test_bearer(strict):
    headers = {"authorization": f"Bearer {KEYS['root'][0]}"}
    assert ask(strict.http, "GET", "/v2/models/income", headers=headers).status == 200


def test_index_and_statistics_show_what_may_be_read(strict):
    """Over both protocols; under the servers' own names."""
    header = {"x-api-key": KEYS["reader"][0]}
    rows = ask(strict.http, "POST", "/v2/repository/index", headers=header).json()
    assert {row["name"] for row in rows} == {"income", "params_echo"}
    stats = ask(strict.http, "GET", "/v2/models/stats", headers=header).json()["model_stats"]
    assert {row["name"] for row in stats} == {"income", "params_echo"}
    metadata = (("x-api-key", KEYS["reader"][0]),)
    with grpc.insecure_channel(strict.grpc) as channel:
        prefix = "/inference.GRPCInferenceService/"
        index = channel.unary_unary(prefix + "RepositoryIndex")(b"", metadata=metadata, timeout=60)
        assert {m.name for m in pb.RepositoryIndexResponse.FromString(index).models} == {"income", "params_echo"}
        found = channel.unary_unary(prefix + "ModelStatistics")(b"", metadata=metadata, timeout=60)
        names = {s.name for s in pb.ModelStatisticsResponse.FromString(found).model_stats}
        assert names == {"income", "params_echo"}


FEATURES = {"name": "features", "datatype": "FP32", "shape": [1, 14], "data": [0] * 14}


def test_infer_and_read_are_two_rights(strict):
    body = json.dumps({"inputs": [FEATURES]}).encode()
    scorer, reader = ({"x-api-key": KEYS[name][0]} for name in ("scorer", "reader"))
    assert ask(strict.http, "POST", "/v2/models/income/infer", body, scorer).status == 200
    assert ask(strict.http, "GET", "/v2/models/income", headers=scorer).status == 403
    assert ask(strict.http, "POST", "/v2/models/income/infer", body, reader).status == 403
    assert ask(strict.http, "GET", "/v2/models/income", headers=reader).status == 200
    # The name that was asked for decides, not the model behind it.
    assert ask(strict.http, "POST", "/v2/models/alias/infer", body, scorer).status == 403
    events = {**reader, "accept": "text/event-stream"}
    assert ask(strict.http, "POST", "/v2/models/income/infer", body, events).status == 403
    # Refusals are counted under the route that was asked for.
    page = ask(strict.http, "GET", "/metrics", headers={"x-api-key": KEYS["root"][0]}).body.decode()
    for route in ("income", "alias"):
        assert re.search(rf'^tidegate_requests_total\{{route="{route}",.*code="403"', page, re.MULTILINE), page


def features(model: str, call_id: str) -> bytes:
    message = pb.ModelInferRequest(model_name=model, id=call_id)
    message.inputs.add(name="features", datatype="FP32", shape=[1, 14]).contents.fp32_contents.extend([0.0] * 14)
    return bytes(message.SerializeToString())


def test_each_message_of_a_stream_is_decided(strict):
    """Allowed and refused calls on one stream; without a key the stream itself is refused."""
    messages = [features("income", "1"), features("alias", "2"), features("income", "3")]

    def run(metadata: Any) -> dict[str, str]:
        with grpc.insecure_channel(strict.grpc) as channel:
            method = channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            answers = list(method(iter(messages), metadata=metadata, timeout=60))
        return {answer.infer_response.id: answer.error_message for answer in answers}

    seen = run((("x-api-key", KEYS["scorer"][0]),))
    assert seen == {"1": "", "2": "the policy does not allow 'infer' on 'model:alias'", "3": ""}
    with pytest.raises(grpc.RpcError) as caught:
        run(())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_anonymous(lax):
    """With `anonymous` and no policy: models are read and asked, everything else is refused."""
    allowed = {"server_metadata", "all_stats", "index"} | OPEN
    for name, op in OPERATIONS.items():
        if name == "stream":
            continue
        wanted = name in allowed or op.needs == "model"
        assert (http_status(lax, name, None) in (401, 403)) is not wanted, name
        if op.grpc:
            assert (grpc_code(lax, name, None) in ("UNAUTHENTICATED", "PERMISSION_DENIED")) is not wanted, name
    assert len(ask(lax.http, "POST", "/v2/repository/index").json()) > 5


def test_without_identity_everything_is_open(shared_gateway):
    for name in HTTP_OPS:
        if name not in ("load", "unload"):
            assert http_status(shared_gateway, name, None) not in (401, 403), name
