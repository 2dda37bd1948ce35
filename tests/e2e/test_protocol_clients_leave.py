"""A client that goes away: its unary call ends at the model server as well, on both protocols.

The `slow` model has two instances and ends its sleep when it is cancelled. Two calls of 20 s take both; once
their clients are gone a third call of 0 ms is answered at once, or the calls were not cancelled.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import grpc
import pytest
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
    data = body(20_000)
    client = socket.create_connection((host, int(port)))
    client.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(data)}\r\n\r\n".encode() + data)
    return client.close


def over_grpc(gateway: Any, _: str) -> Any:
    channel = grpc.insecure_channel(gateway.grpc)
    future = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(message(20_000), timeout=60)

    def leave() -> None:
        future.cancel()
        channel.close()

    return leave


def over_grpc_deadline(gateway: Any, _: str) -> Any:
    channel = grpc.insecure_channel(gateway.grpc)
    future = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(message(20_000), timeout=0.8)

    def leave() -> None:
        assert future.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        channel.close()

    return leave


def seconds_to_answer(gateway: Any) -> float:
    began = time.monotonic()
    assert ask(gateway.http, "POST", PATH, body(0), timeout=30).status == 200
    return time.monotonic() - began


@pytest.mark.parametrize("way", [over_http, over_grpc, over_grpc_deadline], ids=lambda way: way.__name__)
def test_unary_call_is_cancelled(shared_gateway, way):
    before = cancelled(shared_gateway)
    leavers = [way(shared_gateway, PATH) for _ in range(2)]
    time.sleep(0.6)
    for leave in leavers:
        leave()
    assert seconds_to_answer(shared_gateway) < 3
    deadline = time.monotonic() + 3
    while cancelled(shared_gateway) < before + 2:
        assert time.monotonic() < deadline, "the calls that were given up are not in the counters"
        time.sleep(0.05)


def cancelled(gateway: Any) -> float:
    codes = ("499", "CANCELLED", "504", "DEADLINE_EXCEEDED")
    return sum(gateway.metric("tidegate_requests_total", route="slow", code=code) for code in codes)


def test_timeout_cancels_upstream(gateway):
    """The route's timeout ends the call at the model server, too."""
    gate = gateway(
        "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\nroutes: {slow: {timeout: 300ms}}\n"
    )
    replies: list[int] = []
    threads = [
        threading.Thread(target=lambda: replies.append(ask(gate.http, "POST", PATH, body(20_000)).status))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [504, 504]
    time.sleep(0.1)
    began = time.monotonic()
    while ask(gate.http, "POST", PATH, body(0)).status != 200:
        assert time.monotonic() - began < 3


def test_nobody_is_left_behind(shared_gateway):
    """After all of that nothing is in flight, and no task died unheard."""
    deadline = time.monotonic() + 5
    while shared_gateway.metric("tidegate_requests_in_flight") != 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log = shared_gateway.log.read_text()
    assert "never retrieved" not in log
    assert "Traceback" not in log
