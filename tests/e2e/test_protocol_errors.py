"""Every class of `gateway/errors.py`, by a real cause where there is one, on HTTP and on gRPC.

Status, code, the one body shape, `Retry-After`, and the order in which a request that violates several rules is
refused. The table is `docs/errors.md`, which must be current.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_fixture import Answer, start_gateway
from raw_upstream import Peer, raw_upstream
from sides import ask, joined, raw
from triton_fixture import free_ports
from tritonclient.grpc import service_pb2 as pb

from gateway import errors, errors_docs
from gateway.doors.reply import error_reply
from gateway.keys import new_key

METHOD = "/inference.GRPCInferenceService/"
KEYS = {name: new_key() for name in ("alice", "busy", "quota", "parallel", "nobody")}

POLICY = """\
p, role:user, *, model:*, infer, allow
p, role:user, *, model:*, read, allow
p, role:user, *, model:hidden, infer, deny
g, user:alice, role:user, acme
g, user:busy, role:user, busy
g, user:quota, role:user, quota
g, user:parallel, role:user, parallel
"""


async def nonsense(peer: Peer, *_: Any) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nnot OIP")


@pytest.fixture(scope="module")
def gate(tmp_path_factory, triton):
    dead, dead_grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    with raw_upstream(nonsense) as server:
        garbled = f"{server.host}:{server.port}"
        keys = "".join(
            f'    - {{sha256: "{digest}", user: {name}, tenant: {"acme" if name in ("alice", "nobody") else name}}}\n'
            for name, (_, digest) in KEYS.items()
        )
        gateway = start_gateway(
            tmp_path_factory.mktemp("errors"),
            f"""
upstreams:
  triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}
  dead: {{http: '{dead}', grpc: '{dead_grpc}'}}
  garbled: {{http: '{garbled}'}}
  narrow: {{http: '{triton.http}', connections: 1}}
passthrough: true
routes:
  hasty: {{variants: [{{name: only, model: slow}}], timeout: 300ms}}
  narrow: {{variants: [{{name: only, model: slow, upstream: narrow}}], timeout: 1500ms}}
  hidden: {{variants: [{{name: only, model: slow}}]}}
  dead: {{variants: [{{name: only, model: slow, upstream: dead}}]}}
  garbled: {{variants: [{{name: only, model: slow, upstream: garbled}}]}}
identity:
  api_keys:
{keys}
policy: {{file: policy.csv}}
limits:
  body: 64KiB
  body_timeout: 500ms
  header_timeout: 700ms
  tenants:
    busy: {{rate: 1/m, burst: 1}}
    quota: {{bytes: 1KiB/day}}
    parallel: {{concurrent: 1}}
""",
            files={"policy.csv": POLICY},
        )
        yield gateway
        assert gateway.stop() == 0
        log = gateway.log.read_text()
        assert "Traceback" not in log
        assert "never retrieved" not in log


def key(name: str = "alice") -> dict[str, str]:
    return {"x-api-key": KEYS[name][0]}


def slow_body(milliseconds: int = 0) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "MILLISECONDS", "datatype": "INT32", "shape": [1, 1], "data": [milliseconds]}]}
    ).encode()


def http_infer(gate, model: str, milliseconds: int = 0, who: str = "alice", **headers: str) -> Answer:
    return ask(gate.http, "POST", f"/v2/models/{model}/infer", slow_body(milliseconds), {**key(who), **headers})


def slow_message(model: str, milliseconds: int = 0) -> Any:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="MILLISECONDS", datatype="INT32", shape=[1, 1]).contents.int_contents.append(milliseconds)
    return message


def grpc_infer(gate, message: Any, who: str | None = "alice", timeout: float = 10, method: str = "ModelInfer") -> Any:
    """The RpcError of a call that must fail."""
    metadata = () if who is None else (("x-api-key", KEYS[who][0]),)
    data = message if isinstance(message, bytes) else message.SerializeToString()
    with grpc.insecure_channel(gate.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD + method)(data, metadata=metadata, timeout=timeout)
    return caught.value


def grpc_stream(gate, message: Any, who: str = "alice") -> Any:
    """The same call on a stream whose first error ends it."""
    metadata = (("x-api-key", KEYS[who][0]), ("triton_grpc_error", "true"))
    with grpc.insecure_channel(gate.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        method = channel.stream_stream(METHOD + "ModelStreamInfer")
        list(method(iter([message.SerializeToString()]), metadata=metadata, timeout=60))
    return caught.value


def judged(cls: type[errors.TidegateError], reply: Answer | None = None, error: Any = None) -> None:
    """The answers are those of the table."""
    if reply is not None:
        assert reply.status == cls.status, reply.body
        assert reply.error
        assert reply.headers["x-request-id"]
        assert ("retry-after" in reply.headers) == issubclass(cls, errors.Shed)
        if issubclass(cls, errors.Shed):
            assert int(reply.headers["retry-after"]) >= 1
    if error is not None:
        assert error.code().name == cls.code, error
        assert error.details()
        assert dict(error.initial_metadata())["x-request-id"]
        trailing = dict(error.trailing_metadata())
        assert ("retry-after" in trailing) == issubclass(cls, errors.Shed)
        if issubclass(cls, errors.Shed):
            assert int(trailing["grpc-retry-pushback-ms"]) > 0


# -- one test a class; `test_every_class_is_caused` holds the list ---------------------------------------------


def cause_bad_request(gate):
    judged(
        errors.BadRequest,
        ask(gate.http, "POST", "/v2/models/slow/infer", b"{", key()),
        grpc_infer(gate, pb.ModelInferRequest(model_name="slow")),
    )


def cause_unauthenticated(gate):
    reply = ask(gate.http, "POST", "/v2/models/slow/infer", slow_body())
    judged(errors.Unauthenticated, reply, grpc_infer(gate, slow_message("slow"), who=None))
    assert reply.headers["www-authenticate"] == "Bearer"
    wrong = {"x-api-key": "tg_wrong"}
    judged(errors.Unauthenticated, ask(gate.http, "POST", "/v2/models/slow/infer", slow_body(), wrong))


def cause_forbidden(gate):
    judged(errors.Forbidden, http_infer(gate, "hidden"), grpc_infer(gate, slow_message("hidden")))
    judged(errors.Forbidden, error=grpc_stream(gate, slow_message("hidden")))


def cause_not_found(gate):
    judged(errors.NotFound, http_infer(gate, "nothing"), grpc_infer(gate, slow_message("nothing")))
    judged(errors.NotFound, ask(gate.http, "GET", "/v2/nothing", headers=key()))
    judged(errors.NotFound, error=grpc_stream(gate, slow_message("nothing")))


def cause_method_not_allowed(gate):
    reply = ask(gate.http, "PUT", "/v2/models/slow/infer", b"", key())
    judged(errors.MethodNotAllowed, reply)
    assert reply.headers["allow"] == "POST"
    with grpc.insecure_channel(gate.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD + "Nothing")(b"", timeout=60)
    assert caught.value.code().name == errors.MethodNotAllowed.code


def cause_request_timeout(gate):
    """A body that stops: 408, and the connection is closed. gRPC has no half-sent messages."""
    with socket.create_connection(address(gate)) as client:
        client.sendall(head(gate, "content-length: 100") + b"{")
        reply = read_all(client)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"content-type: application/json\r\n" in reply.lower()
    assert b"x-request-id: " in reply.lower()
    assert b'{"error":' in reply


def cause_too_large(gate):
    """With Content-Length and in chunks, read by a client that sends everything first."""
    body = bytes(300_000)
    judged(errors.TooLarge, ask(gate.http, "POST", "/v2/models/slow/infer", body, key()))
    judged(errors.TooLarge, ask(gate.http, "POST", "/v2/models/slow/infer", [body[:65_536]] * 4, key()))
    message = slow_message("slow")
    message.inputs[0].contents.int_contents.extend([1] * 70_000)
    judged(errors.TooLarge, error=grpc_infer(gate, message))
    message.inputs[0].contents.int_contents.extend([1] * 3_000_000)
    # Beyond what is read at all it is grpcio that refuses, with the same code and words of its own.
    assert grpc_infer(gate, message).code().name == errors.TooLarge.code


def cause_unsupported_encoding(gate):
    reply = http_infer(gate, "slow", **{"content-encoding": "br"})
    judged(errors.UnsupportedEncoding, reply)
    assert reply.headers["accept-encoding"] == "gzip, deflate"


def cause_cancelled(gate):
    """Nobody reads it; it is in the counters."""
    before = gate.metric("tidegate_requests_total", code="CANCELLED")
    with grpc.insecure_channel(gate.grpc) as channel:
        call = channel.unary_unary(METHOD + "ModelInfer")
        future = call.future(
            slow_message("slow", 5000).SerializeToString(), metadata=(("x-api-key", KEYS["alice"][0]),)
        )
        time.sleep(0.3)
        future.cancel()
    until(lambda: gate.metric("tidegate_requests_total", code="CANCELLED") > before)


def cause_limited(gate):
    assert http_infer(gate, "slow", who="busy").status == 200
    judged(errors.Limited, http_infer(gate, "slow", who="busy"), grpc_infer(gate, slow_message("slow"), who="busy"))
    judged(errors.Limited, error=grpc_stream(gate, slow_message("slow"), who="busy"))
    while (reply := http_infer(gate, "slow", who="quota")).status == 200:
        pass
    judged(errors.Limited, reply, grpc_infer(gate, slow_message("slow"), who="quota"))
    waiting = threading.Thread(target=http_infer, args=(gate, "slow", 1500), kwargs={"who": "parallel"})
    waiting.start()
    time.sleep(0.4)
    judged(errors.Limited, http_infer(gate, "slow", who="parallel"), grpc_infer(gate, slow_message("slow"), "parallel"))
    waiting.join()


def fails(gate, how: str) -> Answer:
    body = {"inputs": [{"name": "HOW", "datatype": "BYTES", "shape": [1], "data": [how]}]}
    return ask(gate.http, "POST", "/v2/models/fails/infer", json.dumps(body).encode(), key())


def cause_upstream_answered(gate):
    reply = fails(gate, "error:UNAVAILABLE")
    assert (reply.status, reply.error) == (503, "asked to fail with UNAVAILABLE")
    message = pb.ModelInferRequest(model_name="fails")
    message.inputs.add(name="HOW", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"error:NOT_FOUND")
    error = grpc_infer(gate, message)
    assert (error.code().name, error.details()) == ("NOT_FOUND", "asked to fail with NOT_FOUND")


def cause_unsupported(gate):
    """Streams need a gRPC address."""
    events = http_infer(gate, "garbled", accept="text/event-stream")
    judged(errors.Unsupported, events, grpc_stream(gate, slow_message("garbled")))


def cause_unreachable(gate):
    judged(errors.Unreachable, http_infer(gate, "dead"), grpc_infer(gate, slow_message("dead")))
    judged(errors.Unreachable, error=grpc_stream(gate, slow_message("dead")))


def cause_circuit_open(gate):
    """A model that failed five times in a row."""
    end = time.monotonic() + 30
    while "left alone" not in (reply := fails(gate, "error:UNAVAILABLE")).error:
        assert time.monotonic() < end
    assert reply.status == errors.CircuitOpen.status
    assert int(reply.headers["retry-after"]) >= 1


def cause_bad_gateway(gate):
    judged(errors.BadGateway, http_infer(gate, "garbled"), grpc_infer(gate, slow_message("garbled")))


def cause_deadline_exceeded(gate):
    judged(errors.DeadlineExceeded, http_infer(gate, "hasty", 1500), grpc_infer(gate, slow_message("hasty", 1500)))
    judged(errors.DeadlineExceeded, error=grpc_stream(gate, slow_message("hasty", 1500)))
    error = grpc_infer(gate, slow_message("slow", 1500), timeout=0.3)
    assert error.code().name == errors.DeadlineExceeded.code


def cause_defect(gate):
    """No input is known that causes one; so the answer itself, which says nothing of the cause."""
    reply = error_reply(errors.Defect("KeyError('secret')"))
    assert (reply.status, bytes(reply.body)) == (500, b'{"error":"internal error"}')


def cause_sequence_lost(gate):
    """Its cause, a replica that dies in the middle of a sequence, is in `test_fleet.py`; here the answer's form."""
    error = errors.SequenceLost("the sequence's state was lost")
    reply = error_reply(error)
    assert (reply.status, error.code) == (503, "UNAVAILABLE")
    assert bytes(reply.body) == b'{"error":"the sequence\'s state was lost"}'


def cause_gone(gate):
    """Its cause, a log whose beginning was pruned, is in `test_audit_served.py`; here the answer's form."""
    reply = error_reply(errors.Gone("entries 0 to 255 were pruned"))
    assert (reply.status, bytes(reply.body)) == (410, b'{"error":"entries 0 to 255 were pruned"}')


def cause_model_away(gate):
    """Its cause, a model whose only replica died, is in `test_fleet.py`; here the answer's form."""
    reply = error_reply(errors.ModelAway(retry_after=1.2))
    assert (reply.status, bytes(reply.body)) == (503, b'{"error":"the model servers that have this model are down"}')
    assert (b"retry-after", b"2") in reply.headers


def cause_overloaded(gate):
    """One connection to the model server, one call on it, and as many waiting as may wait for it."""
    assert http_infer(gate, "narrow").status == 200
    with ThreadPoolExecutor(9) as others:
        waiting = [others.submit(http_infer, gate, "narrow", 1000) for _ in range(9)]
        time.sleep(0.5)
        judged(errors.Overloaded, http_infer(gate, "narrow"), grpc_infer(gate, slow_message("narrow")))
        assert {future.result().status for future in waiting} <= {200, 504}


CAUSES = {
    cls: globals()["cause_" + "".join("_" + c.lower() if c.isupper() else c for c in cls.__name__).lstrip("_")]
    for cls in errors_docs.answered()
}


@pytest.mark.parametrize("cls", CAUSES, ids=lambda cls: cls.__name__)
def test_cause(gate, cls):
    CAUSES[cls](gate)


def test_every_class_is_in_the_table():
    """Each class of the module is answered, a base of those that are, answered as its base is, or never reaches a client."""
    page = errors_docs.render()
    bases = {"TidegateError", "ClientError", "Shed", "UpstreamError", "SettingsError"}
    for name, member in vars(errors).items():
        if isinstance(member, type) and issubclass(member, errors.TidegateError) and name not in bases:
            assert f"| `{name}` |" in page
            assert member in CAUSES
            assert name in (errors.__doc__ or "")


def test_the_page_is_current():
    page = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
    assert page.read_text() == errors_docs.render(), "run: python -m gateway.errors_docs > docs/errors.md"


# -- order -----------------------------------------------------------------------------------------------------

LARGE = bytes(100_000)
ORDER = [
    # (who, method, path, body, status): each violates what stands to its right as well
    (None, "POST", "/v2/models/nothing/infer", LARGE, 413),
    (None, "POST", "/v2/nothing", LARGE, 413),
    (None, "POST", "/v2/models/nothing/infer", b"{", 401),
    (None, "PUT", "/v2/models/nothing/infer", b"{", 401),
    (None, "GET", "/v2/nothing", None, 401),
    ("nobody", "POST", "/v2/models/nothing/infer", b"{", 403),
    ("alice", "POST", "/v2/models/nothing/infer", b"{", 404),
    ("busy", "POST", "/v2/models/nothing/infer", b"{", 404),
    ("busy", "POST", "/v2/models/slow/infer", b"{", 429),
    ("alice", "POST", "/v2/models/slow/infer", b"{", 400),
]


@pytest.mark.parametrize(("who", "method", "path", "body", "status"), ORDER)
def test_order_http(gate, who, method, path, body, status):
    if who == "busy":
        http_infer(gate, "slow", who="busy")  # uses up what there is
    reply = ask(gate.http, method, path, body, key(who) if who else {})
    assert (reply.status, bool(reply.error)) == (status, True)


@pytest.mark.parametrize(
    ("who", "model", "code"),
    [
        (None, "nothing", "UNAUTHENTICATED"),
        ("nobody", "nothing", "PERMISSION_DENIED"),
        ("busy", "nothing", "NOT_FOUND"),
        ("busy", "slow", "RESOURCE_EXHAUSTED"),
        ("alice", "slow", "INVALID_ARGUMENT"),
    ],
)
def test_order_grpc(gate, who, model, code):
    if who == "busy":
        http_infer(gate, "slow", who="busy")
    assert grpc_infer(gate, pb.ModelInferRequest(model_name=model), who=who).code().name == code


# -- framing ---------------------------------------------------------------------------------------------------


def address(gate) -> tuple[str, int]:
    host, port = gate.http.rsplit(":", 1)
    return host, int(port)


def head(gate, *more: str, method: str = "POST", path: str = "/v2/models/slow/infer") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"x-api-key: {KEYS['alice'][0]}", *more, "", ""]
    return "\r\n".join(lines).encode()


def read_all(client: socket.socket, seconds: float = 60) -> bytes:
    client.settimeout(seconds)
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


def until(holds: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
        b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\nbad header: 1\r\n\r\n",
    ],
    ids=["line", "length-word", "two-lengths", "length-and-chunked", "chunk", "name"],
)
def test_framing(gate, data):
    """400 in the one shape, and the connection closes."""
    with socket.create_connection(address(gate)) as client:
        client.sendall(data)
        reply = read_all(client)
    assert reply.startswith(b"HTTP/1.1 400 "), reply
    assert b"content-type: application/json\r\n" in reply
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]


def test_slow_headers(gate):
    with socket.create_connection(address(gate)) as client:
        client.sendall(b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\n")
        reply = read_all(client)
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_slow_but_steady_body(gate):
    """A KiB within each `body_timeout` is progress: a body that takes longer in all is read."""
    body = slow_body() + b" " * 4096
    with socket.create_connection(address(gate)) as client:
        client.sendall(head(gate, f"content-length: {len(body)}", "connection: close"))
        for start in range(0, len(body), 1100):
            client.sendall(body[start : start + 1100])
            time.sleep(0.3)
        reply = read_all(client)
    assert reply.startswith(b"HTTP/1.1 200 "), reply


def test_trickle(gate):
    """Bytes that come one by one are no progress."""
    with socket.create_connection(address(gate)) as client:
        client.sendall(head(gate, "content-length: 1000"))
        client.settimeout(0.05)
        reply = b""
        for _ in range(60):
            try:
                client.sendall(b" ")
                reply += client.recv(65536)
            except TimeoutError:
                pass
            if reply:
                break
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_too_many_chunks(gate):
    """65,536 chunks are read (and refused for what they hold), one more is not."""
    for count, words in ((65_536, b"JSON"), (65_537, b"Invalid HTTP")):
        with socket.create_connection(address(gate)) as client:
            client.sendall(
                head(gate, "transfer-encoding: chunked", "connection: close") + b"1\r\n{\r\n" * count + b"0\r\n\r\n"
            )
            reply = read_all(client)
        assert reply.startswith(b"HTTP/1.1 400 "), reply
        assert words in reply


def test_shapes_that_would_end_the_server(gate, triton):
    """Products beyond 64 bits are refused here; Triton 2.51 would not survive them."""
    for shape in ([2**62, 1], [2**32, 2**32], [2**63 - 1, 2**63 - 1, 0], [2**64, 1]):
        tensor = {"name": "INPUT0", "datatype": "FP32", "shape": shape, "data": [1]}
        body = json.dumps({"inputs": [tensor]}).encode()
        reply = ask(gate.http, "POST", "/v2/models/identity_fp32/infer", body, key())
        assert reply.status == 400, reply.body
    message = pb.ModelInferRequest(model_name="identity_fp32")
    message.inputs.add(name="INPUT0", datatype="FP32", shape=[2**62, 1]).contents.fp32_contents.append(1)
    judged(errors.BadRequest, error=grpc_infer(gate, message))
    assert ask(triton.http, "GET", "/v2/health/live").status == 200


def test_expect_continue(gate):
    body = slow_body()
    with socket.create_connection(address(gate)) as client:
        client.sendall(head(gate, f"content-length: {len(body)}", "expect: 100-continue", "connection: close"))
        client.settimeout(60)
        assert client.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.sendall(body)
        assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_expect_continue_too_large(gate):
    """Refused before a byte of the body is asked for."""
    with socket.create_connection(address(gate)) as client:
        client.sendall(head(gate, "content-length: 10000000", "expect: 100-continue"))
        client.settimeout(60)
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_pipelined(gate):
    """Three requests in one segment: three answers, in order."""
    body = slow_body()
    one = head(gate, f"content-length: {len(body)}", "x-request-id: %s") + body
    with socket.create_connection(address(gate)) as client:
        client.sendall(
            b"".join(one.replace(b"%s", b"p%d" % i) for i in range(2))
            + head(gate, "x-request-id: p2", "connection: close", method="GET", path="/v2/health/live")
        )
        reply = read_all(client)
    assert reply.count(b"HTTP/1.1 200 ") == 3
    assert [reply.index(b"x-request-id: p%d" % i) for i in range(3)] == sorted(
        reply.index(b"x-request-id: p%d" % i) for i in range(3)
    )


def test_pipelined_after_an_error(gate):
    """The connection goes on after a refusal that was no framing error."""
    body = slow_body()
    good = head(gate, f"content-length: {len(body)}", "connection: close") + body
    with socket.create_connection(address(gate)) as client:
        client.sendall(head(gate, "content-length: 1") + b"{" + good)
        reply = read_all(client)
    assert [reply.count(b"HTTP/1.1 400 "), reply.count(b"HTTP/1.1 200 ")] == [1, 1]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2", "/v2/models/slow"])
def test_head(gate, path):
    """HEAD as Triton has it: 405, here without a body, as HTTP wants it."""
    reply = ask(gate.http, "HEAD", path, headers=key())
    assert (reply.status, reply.body) == (405, b"")


def test_binary_body_that_ends_early(gate):
    body, headers = joined(
        {
            "inputs": [
                {"name": "MILLISECONDS", "datatype": "INT32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
            ]
        },
        raw("INT32", [0])[:2],
    )
    reply = ask(gate.http, "POST", "/v2/models/slow/infer", body, {**headers, **key()})
    assert reply.status == 400
    assert "MILLISECONDS" in reply.error
