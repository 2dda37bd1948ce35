"""What travels upstream, what comes back: headers and metadata, with an identity section and without one."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from gateway_fixture import start_gateway
from raw_upstream import Peer, raw_upstream
from sides import ask
from tritonclient.grpc import service_pb2 as pb

from gateway.keys import new_key

KEY, DIGEST = new_key()
ANSWER = b'{"model_name":"slow","model_version":"1","outputs":[{"name":"SLEPT","datatype":"INT32","shape":[1,1],"data":[0]}]}'
BODY = json.dumps({"inputs": [{"name": "MILLISECONDS", "datatype": "INT32", "shape": [1, 1], "data": [0]}]}).encode()

NEVER = {
    "connection": "x-listed, keep-alive",
    "x-listed": "1",
    "keep-alive": "timeout=5",
    "proxy-authorization": "Basic x",
    "te": "trailers",
    "trailer": "x",
    "upgrade": "h2c",
    "authorization": f"Bearer {KEY}",
    "x-api-key": KEY,
    "cookie": "session=1",
    "x-tidegate-variant": "forged",
    "x-tidegate-shadow": "forged",
}
SENT = {
    "x-request-id": "rid-1",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    "baggage": "k=v",
    "x-custom": "1",
    "under_score": "2",
    "X-Mixed_Case": "3",
    "triton-grpc-protocol-infer": "secret",
}


@pytest.fixture(scope="module")
def sides_of(tmp_path_factory):
    """(gateway without identity, gateway with identity, gateway with a forward list), the requests they sent."""

    async def answer(peer: Peer, *_: Any) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER))

    identity = f"identity: {{api_keys: [{{sha256: {DIGEST}, user: a, tenant: t}}]}}\n"
    with raw_upstream(answer) as server:
        upstream = f"http: '{server.host}:{server.port}'"
        folder = tmp_path_factory.mktemp("headers")
        gateways = {
            "open": start_gateway(folder / "open", f"upstreams: {{raw: {{{upstream}}}}}\n"),
            "keys": start_gateway(folder / "keys", f"upstreams: {{raw: {{{upstream}}}}}\n{identity}"),
            "list": start_gateway(
                folder / "list",
                f"upstreams: {{raw: {{{upstream}, forward_headers: [X-Custom, under_score]}}}}\n{identity}",
            ),
        }
        yield gateways, server.requests
        for gateway in gateways.values():
            assert gateway.stop() == 0


def sent_upstream(sides: Any, which: str, way: str) -> dict[str, str]:
    """The headers that one request brought to the model server, by the names as they were written there."""
    gateways, requests = sides
    gateway = gateways[which]
    requests.clear()
    if way == "http":
        reply = ask(gateway.http, "POST", "/v2/models/slow/infer", BODY, {**SENT, **NEVER})
        assert (reply.status, reply.headers["x-request-id"]) == (200, "rid-1")
        assert reply.headers["x-tidegate-variant"] == "default"
    elif way == "page":
        assert ask(gateway.http, "GET", "/v2/models/slow/stats", headers={**SENT, **NEVER}).status == 200
    else:
        message = pb.ModelInferRequest(model_name="slow")
        message.inputs.add(name="MILLISECONDS", datatype="INT32", shape=[1, 1]).contents.int_contents.append(0)
        allowed = ("authorization", "x-api-key", "cookie", "x-tidegate-variant", "x-tidegate-shadow")
        metadata = {k.lower(): v for k, v in {**SENT, **{k: NEVER[k] for k in allowed}}.items()}
        with grpc.insecure_channel(gateway.grpc) as channel:
            method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            _, call = method.with_call(message.SerializeToString(), metadata=tuple(metadata.items()), timeout=10)
        initial = dict(call.initial_metadata())
        assert (initial["x-request-id"], initial["x-tidegate-variant"]) == ("rid-1", "default")
    return {name.decode(): value.decode() for name, value in requests[-1].headers.items()}


@pytest.mark.parametrize("way", ["http", "page", "grpc"])
def test_without_identity_all_but_credentials(sides_of, way):
    seen = sent_upstream(sides_of, "open", way)
    for name in ("x-request-id", "baggage", "x-custom", "under_score", "x-mixed_case", "triton-grpc-protocol-infer"):
        assert seen[name] == {k.lower(): v for k, v in SENT.items()}[name]
    for name in NEVER:
        assert name not in seen, name
    # Not sampled: Triton would trace whatever carries a traceparent.
    assert "traceparent" not in seen


@pytest.mark.parametrize("way", ["http", "page", "grpc"])
def test_with_identity_only_what_is_listed(sides_of, way):
    seen = sent_upstream(sides_of, "keys", way)
    assert seen["x-request-id"] == "rid-1"
    assert seen["baggage"] == "k=v"
    for name in (*NEVER, "x-custom", "under_score", "x-mixed_case", "triton-grpc-protocol-infer"):
        assert name not in seen, name


@pytest.mark.parametrize("way", ["http", "page", "grpc"])
def test_forward_headers(sides_of, way):
    """Names in the list in any case; credentials cannot be listed (`tidegate check` refuses them)."""
    seen = sent_upstream(sides_of, "list", way)
    assert seen["x-custom"] == "1"
    assert seen["under_score"] == "2"
    for name in (*NEVER, "baggage", "x-request-id", "x-mixed_case"):
        assert name not in seen, name


def test_spelling_is_kept(sides_of):
    """Triton makes parameters of forwarded headers under the name as written."""
    gateways, requests = sides_of
    ask(gateways["open"].http, "POST", "/v2/models/slow/infer", BODY, {"X-Fwd-Some_Name": "1"})
    assert b"x-fwd-some_name" in requests[-1].headers  # the peer of this test lowers names
    # The differential test (`headers-forwarded`) sees the spelling at the real Triton.


@pytest.mark.parametrize("given", [None, "", "with blank", "x" * 129, "\u00e9"])
def test_request_id_is_made(sides_of, given):
    """Absent, empty, too long or not visible ASCII: a new one is made."""
    gateways, _ = sides_of
    headers = {} if given is None else {"x-request-id": given.encode("latin-1")}
    made = ask(gateways["open"].http, "GET", "/v2/health/live", headers=headers).headers["x-request-id"]
    assert len(made) == 32
    assert made != given


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/nothing", 404),
        ("PUT", "/v2", 405),
        ("POST", "/v2/models/slow/infer", 400),
        ("POST", "/v2/models/slow/generate", 400),
        ("POST", "/v2/models/slow/generate_stream", 400),
    ],
)
def test_request_id_on_every_answer(sides_of, method, path, status):
    gateways, _ = sides_of
    body = b"{" if method == "POST" else None
    reply = ask(gateways["open"].http, method, path, body, {"x-request-id": "mine"})
    assert (reply.status, reply.headers["x-request-id"]) == (status, "mine"), reply.body


def test_header_that_cannot_travel(sides_of):
    """A value beyond latin-1 in metadata, a line end: refused by name, or dropped by the parser before."""
    gateways, _ = sides_of
    reply = ask(gateways["open"].http, "POST", "/v2/models/slow/infer", BODY, {"x-latin": b"caf\xe9"})
    assert reply.status == 200
