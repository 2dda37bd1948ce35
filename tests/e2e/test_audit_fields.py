"""Every field of every kind of record, as one who only has the wire, the log's folder and the digests' key sees it."""

from __future__ import annotations

import gzip
import hmac
import json
import re
import socket
import time
from dataclasses import dataclass, field
from hashlib import sha256

import grpc
import numpy as np
import pytest
from driving import STREAM, UNARY, ask, channel, fp32, message, repeat, sleeping, until, word
from gateway_fixture import start_gateway
from test_audit import records, verified
from triton_fixture import free_ports
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import shared_memory

KEYS = {name: f"{name}-key" for name in ("alice", "bob", "slowly")}
TENANTS = {"alice": "acme", "bob": "acme", "slowly": "few"}
SETTINGS = """
workers: {workers}
upstreams:
  triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}
  away: {{http: '127.0.0.1:{away}', grpc: '127.0.0.1:{away_grpc}'}}
routes:
  split: {{variants: [{{name: champion, model: identity_fp32, version: "1"}}]}}
  nowhere: {{variants: [{{name: lost, model: identity_fp32, upstream: away}}]}}
  hasty: {{timeout: 300ms, variants: [{{name: default, model: slow}}]}}
passthrough: true
identity: {{api_keys: [{keys}]}}
policy: {{file: policy.csv}}
limits: {{body: 1MiB, tenants: {{few: {{rate: 1/m, burst: 1}}}}}}
audit: {{mode: {mode}}}
"""
POLICY = """\
# lines are counted from here
p, role:scorer, *, model:*, infer, allow
p, user:bob, acme, model:split, *, deny
p, user:alice, *, server, configure, allow
g, user:alice, role:scorer, acme
g, user:slowly, role:scorer, few
"""
ALICE = {"x-api-key": KEYS["alice"]}
BOB = {"x-api-key": KEYS["bob"]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ALWAYS = {
    "action": "infer",
    "cut": None,
    "details": None,
    "kind": "inference",
    "phase": None,
    "schema": "tidegate.audit/1",
}
NOBODY = {"subject": None, "tenant": None, "roles": None, "sealed": None, "allowed": None, "rule": None}
UNROUTED = {"variant": None, "upstream": None, "version": None}
WHO = {"subject": "user:alice", "tenant": "acme", "roles": None, "sealed": None, "allowed": True, "rule": 2}
SPLIT = {"model": "split", "object": "model:split", "variant": "champion", "upstream": "triton", "version": "1"}
SERVED = WHO | SPLIT | {"outcome": "served"}


@dataclass
class Seen:
    """What a client has of its request."""

    expected: dict
    sent: bytes | None = None
    """None: its digest must be null."""
    got: bytes | None = None
    records: int = 1


@dataclass
class Site:
    """One gateway, asked everything, and stopped."""

    gateway: object
    seen: dict[str, Seen] = field(default_factory=dict)
    strict: bool = False

    def http(self, rid, path, body, headers, expected, *, digests=(True, True), sent=None):
        """POST; `sent`: the bytes that travel, where they are not the body."""
        answer = self.gateway.request("POST", path, body if sent is None else sent, {**headers, "x-request-id": rid})
        assert answer.headers["x-request-id"] == rid
        plain = gzip.decompress(answer.body) if answer.headers.get("content-encoding") == "gzip" else answer.body
        status = {"status": str(answer.status)}
        self.seen[rid] = Seen(expected | status, body if digests[0] else None, plain if digests[1] else None)
        return answer

    def unary(self, made, rid, request, metadata, expected, *, digests=(True, True), **options):
        """ModelInfer."""
        answer = ask(made, request, {**metadata, "x-request-id": rid}, **options)
        data = request.SerializeToString()
        got = answer.response.SerializeToString(deterministic=True) if digests[1] and answer.response else None
        self.seen[rid] = Seen(expected | {"status": answer.code}, data if digests[0] else None, got)
        return answer


def raw(values=(1.0, 2.0)):
    """A request with binary tensors: header length and body."""
    tensor = {
        "name": "INPUT0",
        "datatype": "FP32",
        "shape": [1, len(values)],
        "parameters": {"binary_data_size": 4 * len(values)},
    }
    head = json.dumps(
        {"inputs": [tensor], "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]}
    ).encode()
    return str(len(head)), head + np.array(values, np.float32).tobytes()


def served(site):
    body = json.dumps(fp32()).encode()
    path = "/v2/models/split/infer"
    site.http("json", path, body, ALICE | {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, SERVED | {"trace": TRACE})
    site.http("json-pretty", path, body + b"  ", ALICE, SERVED)
    length, binary = raw()
    site.http("binary", path, binary, ALICE | {"inference-header-content-length": length}, SERVED)
    packed = ALICE | {"content-encoding": "gzip", "accept-encoding": "gzip"}
    answer = site.http("gzip", path, body, packed, SERVED, sent=gzip.compress(body))
    assert answer.headers["content-encoding"] == "gzip"
    large = json.dumps(fp32(0.125) | {"parameters": {"pad": "x" * 600_000}}).encode()
    site.http("large", path, large, ALICE, SERVED)
    plain = WHO | {"outcome": "served", "model": "identity_fp32", "object": "model:identity_fp32"}
    site.http(
        "versioned",
        "/v2/models/identity_fp32/versions/1/infer",
        body,
        ALICE,
        plain | {"variant": "default", "upstream": "triton", "version": "1"},
    )


def refused(site):
    body = json.dumps(fp32()).encode()
    path = "/v2/models/split/infer"
    no = {"outcome": "refused"} | UNROUTED
    split = {"model": "split", "object": "model:split"}
    site.http("nobody", path, body, {}, no | NOBODY | split, digests=(False, False))
    site.http("wrong-key", path, body, {"x-api-key": "no"}, no | NOBODY | split, digests=(False, False))
    bob = {"subject": "user:bob", "tenant": "acme", "roles": None, "allowed": False}
    site.http("denied", path, body, BOB, no | split | bob | {"rule": 3}, digests=(False, False))
    nope = {"model": "nope", "object": "model:nope"}
    site.http(
        "default-denied", "/v2/models/nope/infer", body, BOB, no | nope | bob | {"rule": None}, digests=(False, False)
    )
    site.http("missing", "/v2/models/nope/infer", body, ALICE, no | WHO | nope, digests=(False, False))
    site.http("no-json", path, b"{oops", ALICE, no | WHO | split, digests=(True, False))
    wrong = json.dumps({"inputs": [{"name": "NO", "datatype": "FP32", "shape": [1], "data": [1]}]}).encode()
    site.http("no-fit", path, wrong, ALICE, SERVED | {"outcome": "refused"}, digests=(True, False))
    too_large = site.http("too-large", path, bytes(2 << 20), ALICE, no | NOBODY | split, digests=(False, False))
    assert too_large.status == 413


def failed(site):
    body = json.dumps(fp32()).encode()
    lost = WHO | {"model": "nowhere", "object": "model:nowhere", "variant": "lost", "upstream": "away", "version": None}
    site.http("away", "/v2/models/nowhere/infer", body, ALICE, lost | {"outcome": "failed"}, digests=(True, False))
    late = WHO | {
        "model": "hasty",
        "object": "model:hasty",
        "variant": "default",
        "upstream": "triton",
        "version": None,
    }
    body = json.dumps(sleeping(3000)).encode()
    assert (
        site.http(
            "late", "/v2/models/hasty/infer", body, ALICE, late | {"outcome": "failed"}, digests=(True, False)
        ).status
        == 504
    )
    broken = late | {"model": "fails", "object": "model:fails", "outcome": "failed"}
    body = json.dumps(word("error:INTERNAL", tensor="HOW")).encode()
    assert site.http("error", "/v2/models/fails/infer", body, ALICE, broken, digests=(True, False)).status == 500


def shed(site):
    few = {"subject": "user:slowly", "tenant": "few", "rule": 2, "allowed": True, "outcome": "shed"} | UNROUTED
    body = json.dumps(fp32()).encode()
    path = "/v2/models/split/infer"
    key = {"x-api-key": KEYS["slowly"]}
    assert site.gateway.request("POST", path, body, key).status == 200
    assert site.http("shed", path, body, key, few, digests=(False, False)).status == 429
    with channel(site.gateway.grpc) as made:
        answer = site.unary(made, "shed-grpc", message("split", fp32()), key, few, digests=(False, False))
        assert answer.code == "RESOURCE_EXHAUSTED"


def over_grpc(site):
    no = {"outcome": "refused"} | UNROUTED
    split = {"model": "split", "object": "model:split"}
    with channel(site.gateway.grpc) as made:
        site.unary(made, "grpc", message("split", fp32()), ALICE, SERVED)
        site.unary(made, "grpc-nobody", message("split", fp32()), {}, no | NOBODY | split, digests=(False, False))
        bob = {"subject": "user:bob", "tenant": "acme", "allowed": False, "rule": 3}
        site.unary(made, "grpc-denied", message("split", fp32()), BOB, no | split | bob, digests=(False, False))
        bad = message("split", fp32())
        bad.inputs[0].datatype = "INT8"
        site.unary(made, "grpc-bad", bad, ALICE, SERVED | {"outcome": "refused"}, digests=(True, False))
        late = WHO | {
            "model": "hasty",
            "object": "model:hasty",
            "variant": "default",
            "upstream": "triton",
            "version": None,
        }
        site.unary(
            made,
            "grpc-late",
            message("hasty", sleeping(3000)),
            ALICE,
            late | {"outcome": "failed"},
            digests=(True, False),
        )
        garbage = made.unary_unary(UNARY)
        with pytest.raises(grpc.RpcError) as error:
            garbage(b"\xff\xff", metadata=((*ALICE.items(), ("x-request-id", "grpc-garbage"))))
        nothing = no | NOBODY | {"model": None, "object": "server", "status": error.value.code().name}
        site.seen["grpc-garbage"] = Seen(nothing)


def streamed(site):
    """Two good messages and a bad one on a stream; a stream that nobody may have."""
    with channel(site.gateway.grpc) as made:
        stub = made.stream_stream(STREAM, lambda m: m.SerializeToString(), pb.ModelStreamInferResponse.FromString)
        good, bad = message("split", fp32()), message("nope", fp32())
        answers = list(stub(iter([good]), metadata=((*ALICE.items(), ("x-request-id", "stream")))))
        assert [answer.error_message for answer in answers] == [""]
        site.seen["stream"] = Seen(SERVED | {"status": "OK"}, good.SerializeToString())
        many = repeat(3, 0)
        assert len(list(stub(iter([many]), metadata=((*ALICE.items(), ("x-request-id", "stream-many")))))) >= 3
        several = WHO | {"outcome": "served", "model": "repeat_int32", "object": "model:repeat_int32", "status": "OK"}
        site.seen["stream-many"] = Seen(several, many.SerializeToString(), records=2 if site.strict else 1)
        answers = list(stub(iter([bad]), metadata=((*ALICE.items(), ("x-request-id", "stream-bad")))))
        assert answers[0].error_message
        missing = {"outcome": "refused", "status": "NOT_FOUND", "model": "nope", "object": "model:nope"} | UNROUTED
        site.seen["stream-bad"] = Seen(WHO | missing)
        with pytest.raises(grpc.RpcError):
            list(stub(iter([good]), metadata=(("x-request-id", "stream-nobody"),)))
        refused = {"outcome": "refused", "status": "UNAUTHENTICATED", "model": None, "object": "server"}
        site.seen["stream-nobody"] = Seen(NOBODY | refused | UNROUTED)


def cancelled(site):
    body = json.dumps(sleeping(20_000)).encode()
    host, _, port = site.gateway.http.rpartition(":")
    head = f"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\nx-api-key: {KEYS['alice']}\r\nx-request-id: left\r\ncontent-length: {len(body)}\r\n\r\n"
    gone = WHO | {"outcome": "cancelled", "model": "slow", "object": "model:slow", "variant": "default"}
    with socket.create_connection((host, int(port))) as made:
        made.sendall(head.encode() + body)
        until(lambda: site.gateway.metric("tidegate_requests_in_flight", protocol="http") >= 1)
    site.seen["left"] = Seen(gone | {"status": "499"}, body)
    # Amid the body: nobody knows yet who it is and what is asked.
    never = {"outcome": "cancelled", "status": "499", "model": "split", "object": "model:split"} | NOBODY | UNROUTED
    framings = {
        "cut": ("content-length: 2000", b"{"),
        "cut-chunked": ("transfer-encoding: chunked", b"5\r\n{    \r\n"),
        "cut-large": ("content-length: 1000000", b"{" * 600_000),
    }
    for rid, (framing, part) in framings.items():
        head = f"POST /v2/models/split/infer HTTP/1.1\r\nhost: x\r\nx-request-id: {rid}\r\n{framing}\r\n\r\n"
        with socket.create_connection((host, int(port))) as made:
            made.sendall(head.encode() + part)
            time.sleep(0.2)
        site.seen[rid] = Seen(never)
    until(lambda: site.gateway.metric("tidegate_requests_total", route="split", code="499") == len(framings))
    with channel(site.gateway.grpc) as made:
        request = message("slow", sleeping(20_000)).SerializeToString()
        call = made.unary_unary(UNARY).future(request, metadata=((*ALICE.items(), ("x-request-id", "left-grpc"))))
        until(lambda: site.gateway.metric("tidegate_requests_in_flight", protocol="grpc") >= 1)
        call.cancel()
    site.seen["left-grpc"] = Seen(gone | {"status": "CANCELLED"}, request)


def shared(site):
    """Tensors in shared memory: their bodies say nothing, so they have no digest."""
    region = shared_memory.create_shared_memory_region("audit", "/audit_test", 8)
    try:
        shared_memory.set_shared_memory_region(region, [np.array([1.0, 2.0], np.float32)])
        path = "/v2/systemsharedmemory/region/audit/register"
        control = {"kind": "control", "action": "configure", "object": "server", "model": None, "outcome": "failed"}
        wanted = control | WHO | UNROUTED | {"rule": 4, "details": {"operation": "system_shm_register"}}
        registered = site.http(
            "register",
            path,
            b'{"key": "/audit_test", "offset": 0, "byte_size": 8}',
            ALICE,
            wanted,
            digests=(False, False),
        )
        assert registered.status == 503  # one of the two servers is away
        tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2]}
        tensor["parameters"] = {"shared_memory_region": "audit", "shared_memory_byte_size": 8}
        body = json.dumps({"inputs": [tensor]}).encode()
        assert site.http("shared", "/v2/models/split/infer", body, ALICE, SERVED, digests=(False, True)).status == 200
        out = {"name": "OUTPUT0", "parameters": {"shared_memory_region": "audit", "shared_memory_byte_size": 8}}
        body = json.dumps(fp32() | {"outputs": [out]}).encode()
        assert (
            site.http("shared-out", "/v2/models/split/infer", body, ALICE, SERVED, digests=(True, False)).status == 200
        )
        denied = {"subject": "user:bob", "tenant": "acme", "allowed": False, "rule": None, "outcome": "refused"}
        path = "/v2/systemsharedmemory/region/audit/unregister"
        site.http(
            "unregister",
            path,
            b"",
            BOB,
            wanted | denied | {"details": {"operation": "system_shm_unregister"}},
            digests=(False, False),
        )
        site.gateway.post("/v2/systemsharedmemory/region/audit/unregister", headers=ALICE)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def pages(site):
    """Pages of the gateway's own: what is refused is recorded."""
    for rid, headers in (("page-nobody", {}), ("page-denied", BOB)):
        answer = site.gateway.get("/gateway/v1/snapshot", headers | {"x-request-id": rid})
        who = (
            NOBODY
            if rid == "page-nobody"
            else {"subject": "user:bob", "tenant": "acme", "allowed": False, "rule": None}
        )
        page = {"kind": "control", "action": "read", "object": "server", "model": None, "outcome": "refused"}
        site.seen[rid] = Seen(who | page | UNROUTED | {"status": str(answer.status), "latency_us": None})


@pytest.fixture(scope="module", params=[("async", 1), ("strict", 2)], ids=lambda it: f"{it[0]}-{it[1]}")
def site(request, tmp_path_factory, triton):
    mode, workers = request.param
    keys = ", ".join(
        f"{{sha256: {sha256(key.encode()).hexdigest()}, user: {name}, tenant: {TENANTS[name]}}}"
        for name, key in KEYS.items()
    )
    away, away_grpc = free_ports(2)
    nobody = {"away": away, "away_grpc": away_grpc}
    text = SETTINGS.format(**nobody, triton=triton, keys=keys, mode=mode, workers=workers)
    folder = tmp_path_factory.mktemp("fields")
    running = start_gateway(folder, text, files={"policy.csv": POLICY})
    made = Site(running, strict=mode == "strict")
    try:
        for case in (served, refused, failed, shed, over_grpc, streamed, cancelled, shared, pages):
            case(made)
        time.sleep(0.5)
    finally:
        assert running.stop() == 0, running.log.read_text()
    return made


@pytest.fixture(scope="module")
def found(site):
    """Records by request id, in the log's order."""
    by_id = {}
    for record in records(site.gateway):
        by_id.setdefault(record["id"], []).append(record)
    return by_id


def test_every_request_has_its_record_and_the_log_holds(site, found):
    counts = {rid: len(found.get(rid, ())) for rid in site.seen}
    assert counts == {rid: seen.records for rid, seen in site.seen.items()}
    assert verified(site.gateway) == sum(map(len, found.values()))


def test_every_field_says_what_the_client_saw(site, found):
    problems = []
    for rid, seen in site.seen.items():
        record = found[rid][-1]
        expected = ALWAYS | {"trace": None, "id": rid} | seen.expected
        if seen.records == 2:
            expected["phase"] = "end"
        problems += [
            (rid, name, value, record[name])
            for name, value in expected.items()
            if record[name] != value and not (name == "version" and value is None)
        ]
    assert not problems


def test_digests_can_be_computed_again(site, found):
    key = bytes.fromhex((site.gateway.folder / "state/audit-private/digest.key").read_text())
    problems = []
    for rid, seen in site.seen.items():
        for name, body in (("input_digest", seen.sent), ("output_digest", seen.got)):
            expected = None if body is None else hmac.digest(key, body, "sha256").hex()
            if found[rid][-1][name] != expected:
                problems.append((rid, name, found[rid][-1][name]))
    assert not problems


def test_times_and_hashes(site, found):
    policy = sha256(POLICY.encode()).hexdigest()
    (settings,) = (record for record in found[None] if record["kind"] == "settings")
    for rid in site.seen:
        for record in found[rid]:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", record["time"])
            assert (record["policy"], record["snapshot"]) == (policy, settings["snapshot"])
            assert record["latency_us"] is None or record["latency_us"] > 0
    assert 300_000 <= found["late"][-1]["latency_us"] < 3_000_000
