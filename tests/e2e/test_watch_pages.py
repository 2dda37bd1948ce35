"""Pages for whoever watches, on the door's port and on `metrics.listen`: answers to the byte, without Litestar."""

from __future__ import annotations

import hashlib
import http.client
import json

import pytest
from driving import fp32, until
from gateway_fixture import Gateway, start_gateway
from triton_fixture import free_ports

SETTINGS = "upstreams: {{triton: {{http: '{}', grpc: '{}'}}}}\n"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture(scope="module")
def apart(tmp_path_factory, triton):
    """A gateway with a port of its own for the metrics."""
    [port] = free_ports(1)
    gateway = start_gateway(
        tmp_path_factory.mktemp("apart"),
        SETTINGS.format(triton.http, triton.grpc) + f"metrics: {{listen: '127.0.0.1:{port}'}}\n",
    )
    yield gateway, f"127.0.0.1:{port}"
    assert gateway.stop() == 0


def answer_of(address: str, method: str, path: str, body: bytes | None = None, **headers: str):
    """(status, headers, body) of one request on a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def imports(gateway: Gateway) -> set[str]:
    """Top-level packages that the gateway's processes have imported."""
    lines = (line for line in gateway.log.read_text().splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_litestar_is_imported_when_a_control_page_is_asked_for(gateway):
    [port] = free_ports(1)
    one = gateway(
        "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
        f"metrics: {{listen: '127.0.0.1:{port}'}}\n",
        env={"PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert one.get("/healthz").status == 200
    assert answer_of(f"127.0.0.1:{port}", "GET", "/metrics")[0] == 200
    assert answer_of(f"127.0.0.1:{port}", "GET", "/nothing")[0] == 404
    assert one.post("/v2/models/identity_fp32/infer", fp32()).status == 200
    for page in ("/v2", "/v2/health/ready", "/v2/models/identity_fp32"):
        assert one.get(page).status == 200
    assert "uvicorn" in imports(one)
    assert "litestar" not in imports(one)
    assert one.get("/gateway/v1/snapshot").status == 200
    until(lambda: "litestar" in imports(one), 5)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/metrics?name=x"])
def test_the_page_by_each_of_its_spellings(apart, path):
    status, headers, body = answer_of(apart[1], "GET", path, **{"x-request-id": "a-1"})
    assert (status, headers["content-type"]) == (200, TEXT)
    assert headers["x-request-id"] == "a-1"
    assert int(headers["content-length"]) == len(body)
    assert b"tidegate_workers 1.0\n" in body
    status, headers, body = answer_of(apart[1], "GET", path, Accept="application/openmetrics-text; version=1.0.0")
    assert (status, body.endswith(b"# EOF\n")) == (200, True)
    assert headers["content-type"].startswith("application/openmetrics-text")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("page", ["/metrics", "/healthz", "/readyz"])
def test_other_methods(apart, page, method):
    address = apart[1] if page == "/metrics" else apart[0].http
    status, headers, body = answer_of(address, method, page, b"some body" if method != "HEAD" else None)
    assert (status, headers["allow"]) == (405, "GET, OPTIONS")
    assert headers["content-type"] == "application/json"
    if method == "HEAD":
        assert body == b""
    else:
        assert json.loads(body) == {"error": "Method Not Allowed"}
    status, headers, body = answer_of(address, "OPTIONS", page)
    assert (status, headers["allow"], body) == (204, "GET, OPTIONS", b"")
    assert "content-length" not in headers
    assert headers["x-request-id"]


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/readyz", "/metrics/more", "/v2", "/v2/health/live", "/gateway/v1/openapi.json"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_the_metrics_port_has_no_other_page(apart, path, method):
    status, headers, body = answer_of(apart[1], method, path)
    assert (status, headers["content-type"]) == (404, "application/json")
    assert headers["x-request-id"]
    assert method == "HEAD" or json.loads(body) == {"error": "Not Found"}


def test_one_connection_serves_many_scrapes(apart):
    connection = http.client.HTTPConnection(apart[1], timeout=60)
    for path, status in (("/metrics", 200), ("/nothing", 404), ("/metrics", 200)):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == status
        response.read()
    connection.close()


def test_switched_off_it_is_not_there(gateway):
    one = gateway("upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\nmetrics: {enabled: false}\n")
    assert one.get("/metrics").status == 404


def test_with_credentials_who_may_not_read_is_refused_and_recorded(gateway):
    [port] = free_ports(1)
    keys = ", ".join(
        f"{{sha256: {hashlib.sha256(name.encode()).hexdigest()}, user: {name}, tenant: acme}}"
        for name in ("reader", "other")
    )
    one = gateway(
        "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
        f"metrics: {{listen: '127.0.0.1:{port}', credentials: true}}\n"
        f"identity: {{api_keys: [{keys}]}}\npolicy: {{file: policy.csv}}\n",
        files={"policy.csv": "p, user:reader, *, server, read, allow\n"},
    )
    address = f"127.0.0.1:{port}"
    status, headers, body = answer_of(address, "GET", "/metrics", **{"x-request-id": "without"})
    assert (status, headers["www-authenticate"], list(json.loads(body))) == (401, "Bearer", ["error"])
    assert answer_of(address, "GET", "/metrics", **{"x-api-key": "wrong"})[0] == 401
    assert answer_of(address, "GET", "/metrics", **{"x-api-key": "other", "x-request-id": "forbidden"})[0] == 403
    assert answer_of(address, "GET", "/metrics", **{"x-api-key": "reader"})[0] == 200
    assert answer_of(address, "POST", "/metrics")[0] == 405, "which methods there are is no secret"
    for rid in (b"without", b"forbidden"):
        until(lambda rid=rid: _records(one, rid), 5)


def _records(one: Gateway, rid: bytes) -> bool:
    """Whether the audit log has a record with this request id."""
    files = (path for path in (one.folder / "state" / "audit").rglob("*") if path.is_file())
    return any(rid in path.read_bytes() for path in files)
