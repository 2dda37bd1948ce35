"""A client that goes away: its unary call to the model server is given up as well, on both protocols."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import grpc
import pytest
from gateway_fixture import start_gateway
from raw_upstream import Peer, raw_upstream
from sides import ask
from tritonclient.grpc import service_pb2 as pb

PATH = "/v2/models/slow/infer"


def body(milliseconds: int) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "MILLISECONDS", "datatype": "INT32", "shape": [1, 1], "data": [milliseconds]}]}
    ).encode()


def message(milliseconds: int) -> bytes:
    made = pb.ModelInferRequest(model_name="slow")
    made.inputs.add(name="MILLISECONDS", datatype="INT32", shape=[1, 1]).contents.int_contents.append(milliseconds)
    return bytes(made.SerializeToString())


def over_http(gateway: Any, path: str, headers: str = "") -> Any:
    """Send a call and return what drops it."""
    host, port = gateway.http.rsplit(":", 1)
    data = body(2_000)
    client = socket.create_connection((host, int(port)))
    client.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(data)}\r\n\r\n".encode() + data)
    return client.close


def over_grpc(gateway: Any, _: str) -> Any:
    channel = grpc.insecure_channel(gateway.grpc)
    future = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(message(2_000), timeout=60)

    def leave() -> None:
        future.cancel()
        channel.close()

    return leave


def over_grpc_deadline(gateway: Any, _: str) -> Any:
    channel = grpc.insecure_channel(gateway.grpc)
    future = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(message(2_000), timeout=0.8)

    def leave() -> None:
        assert future.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        channel.close()

    return leave


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """A gateway in front of a model server that never answers and keeps a list of the calls that were closed."""
    closed: list[float] = []

    async def never(peer: Peer, *_: Any) -> None:
        await peer.gone()
        closed.append(time.monotonic())
        raise ConnectionError

    with raw_upstream(never) as server:
        gateway = start_gateway(
            tmp_path_factory.mktemp("waiting"),
            f"upstreams: {{raw: {{http: '{server.host}:{server.port}'}}}}\n"
            "routes: {slow: {}, hasty: {variants: [{name: only, model: slow}], timeout: 300ms}}\n",
        )
        yield gateway, server, closed
        # Nothing is in flight, and no task died unheard.
        until(lambda: gateway.metric("tidegate_requests_in_flight") == 0)
        assert gateway.stop() == 0
        log = gateway.log.read_text()
        assert "never retrieved" not in log
        assert "Traceback" not in log


def until(holds: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("way", [over_http, over_grpc, over_grpc_deadline], ids=lambda way: way.__name__)
def test_unary_call_is_cancelled(waiting, way):
    gateway, server, closed = waiting
    before, arrived = len(closed), len(server.requests)
    counted = given_up(gateway)
    leavers = [way(gateway, PATH) for _ in range(3)]
    until(lambda: len(server.requests) == arrived + 3)
    if way is over_grpc_deadline:
        time.sleep(0.9)
    else:
        assert len(closed) == before
    for leave in leavers:
        leave()
    until(lambda: len(closed) == before + 3)
    until(lambda: given_up(gateway) == counted + 3)


def given_up(gateway: Any) -> float:
    codes = ("499", "CANCELLED", "504", "DEADLINE_EXCEEDED")
    return sum(gateway.metric("tidegate_requests_total", route="slow", code=code) for code in codes)


def test_timeout_ends_the_call(waiting):
    gateway, _, closed = waiting
    before = len(closed)
    assert ask(gateway.http, "POST", "/v2/models/hasty/infer", body(0)).status == 504
    until(lambda: len(closed) == before + 1)


def test_client_that_leaves_while_it_sends(waiting):
    """Half a body, then gone: nothing is forwarded and the connection is over."""
    gateway, server, _ = waiting
    arrived = len(server.requests)
    host, port = gateway.http.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST " + PATH.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        time.sleep(0.1)
    time.sleep(0.2)
    assert len(server.requests) == arrived
    assert ask(gateway.http, "GET", "/v2/health/live").status == 200


def test_pipelined_requests_of_a_client_that_leaves(waiting):
    """Two calls in one segment, the client gone: the one under way ends, the one behind it is never sent."""
    gateway, server, closed = waiting
    before, arrived = len(closed), len(server.requests)
    data = body(0)
    one = b"POST " + PATH.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
    host, port = gateway.http.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as client:
        client.sendall(one * 2)
        until(lambda: len(server.requests) == arrived + 1)
    until(lambda: len(closed) == before + 1)
    time.sleep(0.3)
    assert len(server.requests) == arrived + 1


def test_grpc_cancellation_reaches_no_answer(shared_gateway):
    """In front of the real Triton: the client's slot in the gateway is free at once.

    Triton 2.51 itself goes on with a unary HTTP call whose client has gone (it looks at the connection again
    only when it answers), so what ends there ends later.
    """
    counted = given_up(shared_gateway)
    leave = over_grpc(shared_gateway, PATH)
    until(lambda: shared_gateway.metric("tidegate_requests_in_flight", protocol="grpc") >= 1)
    leave()
    until(lambda: shared_gateway.metric("tidegate_requests_in_flight", protocol="grpc") == 0)
    assert given_up(shared_gateway) == counted + 1, "it was not served meanwhile"
