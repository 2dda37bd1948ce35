"""The fast HTTP door against ASGI's way: the same bytes, whole and cut in two, are answered with the same bytes.

A request that comes in one segment is served on the connection; one that comes in two goes to ASGI. So one gateway is
its own reference, and nothing in it has to be told which way to take.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from gateway_fixture import Gateway, start_gateway

COUNT = 1500
KEY, OTHER = "tg_fast_door", "tg_other"
# Of `tg_fast_door` and `tg_other`.
SETTINGS = """
upstreams: {triton: {http: "$HTTP", grpc: "$GRPC"}}
passthrough: true
routes:
  split:
    assign_by: header:x-unit
    salt: s
    variants:
      - {name: one, model: identity_fp32, weight: 50}
      - {name: "two", model: identity_fp32, version: "1", weight: 50}
    match: [{headers: {x-variant: two}, variant: two}]
  échec: {variants: [{name: only, model: fails}]}
identity:
  api_keys:
    - {sha256: KEY_DIGEST, user: alice, tenant: acme}
    - {sha256: OTHER_DIGEST, user: bob, tenant: small}
policy: {file: policy.csv}
limits: {body: 64KiB, tenants: {small: {rate: 0.001/s, burst: 5}}}
"""
POLICY = "p, user:alice, acme, model:*, infer, allow\np, user:alice, acme, model:fails, infer, deny\np, user:bob, small, model:split, infer, allow\n"
GOOD = (
    b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}],'
    b'"parameters":{"binary_data_output":%b}}'
)
TENSOR = struct.pack("<4f", 1.0, -2.5, 3.25, 1e30)


@pytest.fixture(scope="module")
def door(tmp_path_factory, triton) -> Iterator[Gateway]:
    import hashlib

    text = SETTINGS.replace("$HTTP", triton.http).replace("$GRPC", triton.grpc)
    for name, key in (("KEY_DIGEST", KEY), ("OTHER_DIGEST", OTHER)):
        text = text.replace(name, hashlib.sha256(key.encode()).hexdigest())
    running = start_gateway(tmp_path_factory.mktemp("fast-door"), text, files={"policy.csv": POLICY})
    yield running
    assert running.stop() == 0, running.log.read_text()


@dataclass
class Wire:
    """A connection that is made anew when the gateway closes it."""

    address: str
    sock: socket.socket | None = None

    def ask(self, data: bytes, cut: int | None = None, answers: int = 1) -> tuple[list[bytes], bool]:
        """The raw answers, and whether the connection was closed behind them."""
        if self.sock is None:
            host, port = self.address.split(":")
            self.sock = socket.create_connection((host, int(port)), 60)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if cut is None:
            self.sock.sendall(data)
        else:
            self.sock.sendall(data[:cut])
            time.sleep(0.004)
            self.sock.sendall(data[cut:])
        got, rest, closed = [], b"", False
        while len(got) < answers and not closed:
            whole, rest = split_answer(rest)
            if whole is not None:
                got.append(whole)
                closed = b"connection: close" in whole.partition(b"\r\n\r\n")[0]
                continue
            more = self.sock.recv(1 << 20)
            closed = not more
            rest += more
        if closed:
            self.sock.close()
            self.sock = None
        return got, closed

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()


def split_answer(data: bytes) -> tuple[bytes | None, bytes]:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None, data
    if head.startswith(b"HTTP/1.1 100"):
        return split_answer(body)
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    if length is None:  # events
        return (data, b"") if body.endswith(b"0\r\n\r\n") else (None, data)
    size = int(length[1])
    return (head + end + body[:size], body[size:]) if len(body) >= size else (None, data)


def normal(answer: bytes) -> bytes:
    """Without ids that the gateway made."""
    answer = re.sub(rb"x-request-id: [0-9a-f]{32}\r", b"x-request-id: MADE\r", answer)
    return re.sub(rb"retry-after: \d+", b"retry-after: N", answer)


def a_body(pick: random.Random) -> tuple[bytes, list[bytes]]:
    """A body and the header lines that frame it."""
    if pick.random() < 0.4:
        head = GOOD % pick.choice([b"true", b"true", b"false"])
        return head + TENSOR, [b"Inference-Header-Content-Length: %d" % len(head)]
    kind = pick.choice(["binary"] * 6 + ["json", "json", "raw", "broken", "empty", "bytes", "gzip", "zlib", "bad gzip"])
    if kind == "empty":
        return b"", []
    if kind == "raw":
        return TENSOR[: pick.choice([16, 16, 12, 7])], [b"Inference-Header-Content-Length: 0"]
    if kind == "broken":
        return pick.choice(
            [b"{", b"[]", b'{"inputs":[]}', b'{"inputs":{}}', b"\xff\xfe", b'{"inputs":[],"inputs":[]}']
        ), []
    if kind == "json":
        item = {
            "name": "INPUT0",
            "datatype": pick.choice(["FP32", "FP32", "FP64", "NOPE"]),
            "shape": [1, 4],
            "data": [1, 2, 3, 4.5],
        }
        if pick.random() < 0.3:
            item["shape"] = pick.choice([[4], [2, 4], [1, -4], [1, 4.0], []])
        document: dict = {"inputs": [item]}
        if pick.random() < 0.3:
            document["id"] = pick.choice(["a", "ü", "x" * 300])
        return json.dumps(document, ensure_ascii=pick.random() < 0.5).encode(), []
    size = pick.choice([16] * 8 + [15, 17, 0, -1, 2**40])
    tensor = {
        "name": pick.choice(["INPUT0"] * 9 + ["INPUT9"]),
        "datatype": "FP32",
        "shape": [1, 4],
        "parameters": {"binary_data_size": size},
    }
    if pick.random() < 0.1:
        tensor["shape"] = pick.choice([[1, 5], [4], [2, 2], [0, 4], [1, 2**62]])
    document = {"inputs": [tensor]}
    if pick.random() < 0.5:
        document["outputs"] = [
            {
                "name": pick.choice(["OUTPUT0"] * 5 + ["NO"]),
                "parameters": {"binary_data": pick.choice([True, True, False])},
            }
        ]
    if pick.random() < 0.4:
        document["parameters"] = pick.choice(
            [{"binary_data_output": True}, {"binary_data_output": True}, {"timeout": 5_000_000}, {"timeout": -1}, {"priority": 1},
             {"sequence_id": 0}, {"triton_x": 1}, {"own": "x"}, {"binary_data_output": 1}]
        )  # fmt: skip
    if pick.random() < 0.2:
        document["id"] = pick.choice(["1", "2", ""])
    head = json.dumps(document, separators=(",", ":")).encode()
    tail = TENSOR + (b"more" if pick.random() < 0.05 else b"")
    length: object = len(head)
    if pick.random() < 0.08:
        length = pick.choice([len(head) - 1, len(head) + 99, -1, "x", "", "1 2", 2**31, "+5", f"00{len(head)}"])
    frame = [b"Inference-Header-Content-Length: %b" % str(length).encode()]
    body = head + tail
    if kind == "gzip":
        return gzip.compress(body), [*frame, b"Content-Encoding: gzip"]
    if kind == "zlib":
        return zlib.compress(body), [*frame, b"content-encoding: deflate"]
    if kind == "bad gzip":
        return b"\x1f\x8b" + body, [*frame, pick.choice([b"Content-Encoding: gzip", b"Content-Encoding: br"])]
    return body, frame


def a_request(pick: random.Random) -> bytes:
    model = pick.choice(["split"] * 12 + ["identity_fp32", "identity_fp32/versions/1", "split/versions/1", "split/versions/7", "nosuch", "fails",
                                         "%C3%A9chec", "%FF", "split%2F", "a b", "split/versions/x", "", "identity_fp32/versions/01"])  # fmt: skip
    path = (
        f"/v2/models/{model}/infer"
        if pick.random() < 0.95
        else pick.choice(["/v2/models/split/infer/", "/v2/models/split/infer?x=1", "//v2/models/split/infer"])
    )
    method = "POST" if pick.random() < 0.97 else pick.choice(["GET", "PUT", "post"])
    version = "HTTP/1.1" if pick.random() < 0.97 else pick.choice(["HTTP/1.0", "HTTP/1.2"])
    body, frame = a_body(pick)
    lines = [b"Host: gateway"] if pick.random() < 0.98 else pick.choice([[], [b"Host: a", b"Host: b"], [b"Host: a/b"]])
    lines += frame
    length: object = len(body)
    if pick.random() < 0.02:
        length = pick.choice([f"{len(body)}, {len(body)}", f"+{len(body)}", 10**30])
    if pick.random() < 0.97 or body:
        lines.append(b"Content-Length: %b" % str(length).encode())
    credential = pick.choice([f"X-API-Key: {KEY}"] * 20 + [f"x-api-key: {KEY}", f"Authorization: Bearer {KEY}", f"authorization: bearer  {KEY} ",
                              "X-API-Key: wrong", "Authorization: Basic x", f"X-API-Key: {OTHER}", "X-No: x"])  # fmt: skip
    lines.append(credential.encode())
    for chance, line in (
        (1.0, b"X-Unit: %d" % pick.randrange(50)),  # without it chance decides
        (0.1, b"x-variant: two"),
        (0.2, b"X-Request-Id: %b" % pick.choice([b"mine", b"i" * 128, b"i" * 129, b"two words", b"\xe9"])),
        (0.1, b"Accept-Encoding: %b" % pick.choice([b"gzip", b"deflate;q=0.5", b"identity", b"br, gzip;q=0"])),
        (0.05, b"Accept: %b" % pick.choice([b"*/*", b"text/event-stream", b"application/json"])),
        (0.1, b"traceparent: 00-%032x-%016x-%02x" % (pick.getrandbits(128), pick.getrandbits(64), pick.randrange(2))),
        (0.05, b"X-Forwarded-For: 10.0.0.1"),
        (0.03, b"Connection: %b" % pick.choice([b"close", b"keep-alive", b"x-unit", b"upgrade"])),
        (0.02, b"Upgrade: h2c"),
        (0.02, b"Expect: 100-continue"),
        (0.02, b"Transfer-Encoding: chunked"),
        (0.02, b"X-Long: " + b"x" * pick.choice([3000, 16000])),
        (0.05, b"content-type: application/octet-stream"),
    ):
        if pick.random() < chance:
            lines.append(line)
    pick.shuffle(lines)
    return b"%b %b %b\r\n%b\r\n\r\n%b" % (method.encode(), path.encode(), version.encode(), b"\r\n".join(lines), body)


def test_same_answers_whole_and_cut_in_two(door):
    pick = random.Random(20261130)
    whole, parts = Wire(door.http), Wire(door.http)
    statuses: dict[bytes, int] = {}
    for number in range(COUNT):
        data = a_request(pick)
        if b"Transfer-Encoding" in data or b"99999" in data or f"X-API-Key: {OTHER}".encode() in data:
            continue  # what waits for more, and a tenant that has less at each turn: below
        end = data.find(b"\r\n\r\n") + 4
        cut = pick.choice([end, len(data) - 1, len(data) // 2, 3])
        once = whole.ask(data)
        twice = parts.ask(data, cut)
        assert [normal(answer) for answer in once[0]] == [normal(answer) for answer in twice[0]], (
            number,
            cut,
            data,
        )
        assert once[1] == twice[1], (number, cut, data)
        status = once[0][0][9:12] if once[0] else b"none"
        statuses[status] = statuses.get(status, 0) + 1
        if pick.random() < 0.3:  # the same head again is known by heart
            assert [normal(answer) for answer in whole.ask(data)[0]] == [normal(answer) for answer in once[0]], data
    whole.close()
    parts.close()
    # What was generated reaches what it is meant for.
    assert statuses[b"200"] > COUNT // 5, statuses
    assert {b"400", b"401", b"403", b"404", b"501"} <= statuses.keys(), statuses


def good(unit: int = 1, extra: bytes = b"", key: str = KEY) -> bytes:
    head = GOOD % b"true"
    return (
        b"POST /v2/models/split/infer HTTP/1.1\r\nHost: g\r\nX-API-Key: %b\r\nX-Unit: %d\r\n%bInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
        % (key.encode(), unit, extra, len(head), len(head) + 16)
        + head
        + TENSOR
    )


def test_pipelined_requests_are_answered_in_their_order(door):
    requests = [good(1, b"X-Request-Id: r%d\r\n" % number) for number in range(30)]
    wire = Wire(door.http)
    got, _ = wire.ask(b"".join(requests), answers=30)
    assert [re.search(rb"x-request-id: (\w+)", answer)[1] for answer in got] == [
        b"r%d" % number for number in range(30)
    ]
    # The first is served when the others come.
    got, _ = wire.ask(b"".join(requests), cut=len(requests[0]), answers=30)
    assert [re.search(rb"x-request-id: (\w+)", answer)[1] for answer in got] == [
        b"r%d" % number for number in range(30)
    ]
    # Others behind one of ours.
    page = b"GET /v2/health/live HTTP/1.1\r\nHost: g\r\n\r\n"
    got, _ = wire.ask(good() + page + good() + page, cut=len(good()), answers=4)
    assert [b'{"live":true}' in answer for answer in got] == [False, True, False, True]
    # One whose body is as long as what stands behind the head before it.
    first = (
        b"POST /v2/models/split/infer HTTP/1.1\r\nHost: g\r\nX-API-Key: %b\r\nContent-Length: 0\r\n\r\n" % KEY.encode()
    )
    size = len(good()) + 1
    second = good().replace(
        b"Content-Length: %d\r\n\r\n" % (len(good().partition(b"\r\n\r\n")[2])), b"Content-Length: %d\r\n\r\n" % size
    )
    second += b"x" * (size - len(second.partition(b"\r\n\r\n")[2]))
    got, _ = wire.ask(first + second, cut=len(first) + size, answers=2)
    assert [answer[9:12] for answer in got] == [b"400", b"400"]
    assert b"unexpected additional input data" in got[1]
    # Framing that is broken, while one is served: its answer comes first.
    got, closed = wire.ask(good() + b"GARBAGE\r\n\r\n", cut=len(good()), answers=2)
    assert [answer[9:12] for answer in got] == [b"200", b"400"]
    assert closed


def test_limits_hold_for_heads_that_are_known(door):
    wire = Wire(door.http)
    answers = [wire.ask(good(key=OTHER))[0][0] for _ in range(8)]
    assert [answer[9:12] for answer in answers] == [b"200"] * 5 + [b"429"] * 3
    wire.close()


def test_a_policy_that_changes_holds_for_heads_that_are_known(gateway, triton):
    import hashlib

    text = f"""
upstreams: {{triton: {{http: "{triton.http}", grpc: "{triton.grpc}"}}}}
routes: {{split: {{variants: [{{name: v, model: identity_fp32}}]}}}}
identity: {{api_keys: [{{sha256: {hashlib.sha256(KEY.encode()).hexdigest()}, user: alice, tenant: acme}}]}}
policy: {{file: policy.csv}}
"""
    one = gateway(text, files={"policy.csv": "p, user:alice, acme, model:*, infer, allow\n"})
    wire = Wire(one.http)
    assert [wire.ask(good())[0][0][9:12] for _ in range(3)] == [b"200"] * 3
    (one.folder / "policy.csv").write_text("p, user:alice, acme, model:other, infer, allow\n")
    until = time.monotonic() + 60
    while (status := wire.ask(good())[0][0][9:12]) == b"200" and time.monotonic() < until:
        time.sleep(0.2)
    assert status == b"403"
    wire.close()
