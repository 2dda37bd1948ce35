"""Control pages, their description, help texts and logs: what an operator meets."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driving import RawUpstream, children, fp32, until
from gateway_fixture import start_gateway
from triton_fixture import free_ports

PAGES = ("/gateway/v1/snapshot", "/gateway/v1/routes", "/gateway/v1/routes/r", "/gateway/v1/upstreams")
POLICY = """\
p, user:reader, *, route:r, read, allow
p, user:reader, *, server, read, allow
p, user:other, acme, *, *, allow
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory, triton):
    http, grpc, metrics = free_ports(3)
    keys = "".join(
        f"    - {{sha256: {hashlib.sha256(name.encode()).hexdigest()}, user: {name}, tenant: acme}}\n"
        for name in ("reader", "other")
    )
    gateway = start_gateway(
        tmp_path_factory.mktemp("control"),
        f"""
listen: {{http: '127.0.0.1:{http}', grpc: '127.0.0.1:{grpc}'}}
upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}
routes: {{r: {{variants: [{{name: one, model: identity_fp32}}]}}, hidden: {{variants: [{{name: one, model: slow}}]}}}}
identity: {{api_keys: [
{keys.replace("    - ", "  ").replace("}" + chr(10), "}," + chr(10))}]}}
policy: {{file: policy.csv}}
metrics: {{listen: '127.0.0.1:{metrics}', credentials: true}}
""",
        files={"policy.csv": POLICY},
        wait="",
    )
    gateway.http, gateway.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
    gateway.wait_ready()
    gateway.env["METRICS"] = f"127.0.0.1:{metrics}"
    yield gateway
    assert gateway.stop() == 0


READER, OTHER = {"x-api-key": "reader"}, {"x-api-key": "other"}


@pytest.mark.parametrize("page", PAGES)
def test_control_pages_ask_who_and_whether_they_may(site, page):
    answer = site.get(page)
    assert answer.status == 401
    assert answer.error
    answer = site.get(page, OTHER)
    if page.endswith("/routes"):
        assert answer.json() == {"routes": []}
    else:
        assert answer.status == 403
        assert "read" in answer.error
    answer = site.get(page, READER)
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("application/json")
    if page.endswith("/routes"):
        assert answer.json() == {"routes": ["r"]}


@pytest.mark.parametrize(
    "page", ["/gateway/v1/nothing", "/gateway/v2", "/nothing", "/gateway/v1/routes/r/more", "/", "/console"]
)
def test_unknown_pages(site, page):
    for method in ("GET", "POST", "PUT"):
        answer = site.request(method, page, headers=READER)
        assert (answer.status, bool(answer.error)) == (404, True), answer


def test_a_route_that_is_not_there_and_wrong_methods(site):
    assert site.get("/gateway/v1/routes/none", READER).status == 403, "who may not ask learns nothing"
    for page in (*PAGES, "/healthz", "/readyz"):
        answer = site.post(page, {}, READER)
        assert answer.status == 405, (page, answer)
        assert "GET" in answer.headers["allow"]
        assert answer.error


def test_the_description_lists_the_pages(site):
    assert site.get("/gateway/v1/openapi.json").status == 401, "only for callers who are accepted"
    answer = site.get("/gateway/v1/openapi.json", READER)
    assert answer.status == 200
    document = answer.json()
    assert re.fullmatch(r"3\.\d+\.\d+", document["openapi"])
    assert document["info"]["title"] == "Tidegate control API"
    paths = {path.rstrip("/"): item for path, item in document["paths"].items()}
    assert set(paths) == {
        "/gateway/v1/monitors",
        "/gateway/v1/monitors/{name}",
        "/gateway/v1/snapshot",
        "/gateway/v1/fairness/{name}",
        "/gateway/v1/fairness/{name}/attributes",
        "/gateway/v1/registry",
        "/gateway/v1/registry/{model}",
        "/gateway/v1/routes",
        "/gateway/v1/routes/{name}",
        "/gateway/v1/upstreams",
        "/gateway/v1/upstreams/{upstream}/statistics",
    }
    names = set()
    for path, item in paths.items():
        operation = item["post" if path.endswith("/attributes") else "get"]
        assert operation["summary"] and operation["operationId"]
        names.add(operation["operationId"])
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        for reference in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema)):
            assert reference in document["components"]["schemas"]
    assert len(names) == len(paths)
    for reference in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]


def test_metrics_on_an_address_of_their_own(site):
    from sides import ask

    assert site.get("/metrics", READER).status == 404
    address = site.env["METRICS"]
    assert ask(address, "GET", "/metrics").status == 401
    assert ask(address, "GET", "/metrics", headers=OTHER).status == 403
    page = ask(address, "GET", "/metrics", headers=READER)
    assert page.status == 200
    assert b"tidegate_build_info" in page.body
    assert ask(address, "GET", "/v2/health/live").status == 404, "nothing else is served there"


def test_upstreams_say_what_they_are(site):
    (state,) = site.get("/gateway/v1/upstreams", READER).json()
    assert (state["name"], state["ready"], state["server"], state["binary"]) == ("triton", True, "triton", True)


def test_the_log_is_one_json_object_a_line(site):
    lines = [json.loads(line) for line in site.log.read_text().splitlines()]
    assert lines
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)
    text = site.log.read_text()
    assert "reader" not in [line.get("message") for line in lines]
    assert hashlib.sha256(b"reader").hexdigest() not in text


def test_an_idle_worker_is_small(site):
    (worker,) = children(site.process.pid)
    lines = Path(f"/proc/{worker}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    print(f"idle worker: {resident:.0f} MiB resident")
    assert resident <= 150


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("serve", ["examples:", "--config", "--workers", "SIGHUP", "SIGTERM", "drain", "upstreams:", "exit status"]),
        ("up", ["examples:", "HTTP_PORT", "TRITON_GRPC_PORT", "--model-repository", "tidegate triton install"]),
    ],
)
def test_help_teaches(command, words):
    done = subprocess.run(
        [sys.executable, "-m", "gateway", command, "--help"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0
    for word in words:
        assert word in done.stdout, (word, done.stdout)


@pytest.mark.slow
def test_a_telemetry_endpoint_that_hangs_delays_neither_answers_nor_the_end(tmp_path, triton):
    """Spans wait in a bounded queue; at the end they get a few seconds."""
    with RawUpstream(lambda *_: None) as hangs:
        one = start_gateway(
            tmp_path,
            f"upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}\n"
            f"telemetry: {{traces: {{endpoint: 'http://{hangs.address}', sample_ratio: 1}}}}\ndrain: 2s\n",
        )
        until(lambda: one.post("/v2/models/identity_fp32/infer", fp32()).status == 200)
        began = time.monotonic()
        for _ in range(20):
            assert one.post("/v2/models/identity_fp32/infer", fp32()).status == 200
        assert time.monotonic() - began < 20
        began = time.monotonic()
        assert one.stop() == 0
        assert time.monotonic() - began < 30
        assert "killing it" not in one.log.read_text()
