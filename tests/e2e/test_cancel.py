"""A client that leaves frees its place and cancels Triton's work, whichever door and however it leaves."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import pytest
from driving import ask, channel, message, sleeping, until
from gateway_fixture import Gateway
from triton_fixture import repository, running_triton

SLOW = "/v2/models/slow/infer"
LEAVERS = 24
EACH_MS = 1500
"""Two instances would need 18 s for what the clients that leave asked for."""


@pytest.fixture(scope="module")
def own_triton(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cancel")
    models = repository(folder / "models", "slow", "identity_fp32")
    with running_triton([models], folder / "triton.log") as server:
        yield server


def leave_http(gateway: Gateway) -> None:
    """Send requests and close the connections without an answer."""
    body = json.dumps(sleeping(EACH_MS)).encode()
    host, _, port = gateway.http.rpartition(":")
    opened = []
    for _ in range(LEAVERS):
        made = socket.create_connection((host, int(port)))
        made.sendall(f"POST {SLOW} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        opened.append(made)
    until(lambda: gateway.metric("tidegate_requests_in_flight", protocol="http") >= LEAVERS)
    for made in opened:
        made.close()


def leave_grpc(gateway: Gateway) -> None:
    """Start calls and cancel them."""
    with channel(gateway.grpc) as made:
        stub = made.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        data = message("slow", sleeping(EACH_MS)).SerializeToString()
        calls = [stub.future(data) for _ in range(LEAVERS)]
        until(lambda: gateway.metric("tidegate_requests_in_flight", protocol="grpc") >= LEAVERS)
        for call in calls:
            call.cancel()


def leave_by_deadline(gateway: Gateway) -> None:
    """Start calls whose deadline ends while they wait."""
    with channel(gateway.grpc) as made:
        stub = made.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        data = message("slow", sleeping(EACH_MS)).SerializeToString()
        for call in [stub.future(data, timeout=0.5) for _ in range(LEAVERS)]:
            assert call.code().name == "DEADLINE_EXCEEDED"


def executions(gateway: Gateway) -> int:
    page = gateway.get("/v2/models/slow/stats").json()
    return page["model_stats"][0]["inference_stats"]["success"]["count"]


@pytest.mark.parametrize("leave", [leave_http, leave_grpc, leave_by_deadline])
def test_work_of_clients_that_left_is_not_done(gateway, own_triton, leave):
    running = gateway(
        f"upstreams: {{one: {{http: '{own_triton.http}', grpc: '{own_triton.grpc}', concurrency: {{enabled: false}}}}}}\n"
    )
    assert running.post(SLOW, sleeping(1)).status == 200
    before = executions(running)
    leave(running)
    began = time.monotonic()
    assert running.post(SLOW, sleeping(10)).status == 200
    waited = time.monotonic() - began
    assert waited < LEAVERS * EACH_MS / 2000 / 3, waited
    protocol = "http" if leave is leave_http else "grpc"
    until(lambda: running.metric("tidegate_requests_in_flight", protocol=protocol) <= (protocol == "http"))
    # Those that ran ended early, those in the queue were dropped: at most some had been finished.
    assert executions(running) - before <= LEAVERS // 2
    os.kill(own_triton.pid, 0)


def test_quick_calls_that_are_cancelled_do_not_end_triton(gateway, tmp_path):
    """What a cancellation of quick calls does to Triton 2.51 itself is in `upstream/transport.py`.

    A call that lasts longer than the gateway waits, as one may on a busy machine, is cancelled all the same: of three
    Tritons one has to outlive two thousand calls.
    """
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        with running_triton([repository(folder / "models", "identity_fp32")], folder / "triton.log") as triton:
            running = gateway(f"upstreams: {{one: {{http: '{triton.http}', grpc: '{triton.grpc}', unary: grpc}}}}\n")
            last = cancelled_at_once(running)
            if last.code == "OK":
                break
    else:
        pytest.fail(f"{last}\n{running.log.read_text()[-2000:]}")
    # Or it would be HTTP calls that were cancelled: those open connections, one after the other.
    assert running.metric("tidegate_upstream_events_total", upstream="one", event="channel") == 1


def cancelled_at_once(running: Gateway) -> Any:
    """Two thousand calls are; the answer to one that is not."""
    document = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    with channel(running.grpc) as made:
        stub = made.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        data = message("identity_fp32", document).SerializeToString()
        for _ in range(100):
            calls = [stub.future(data) for _ in range(20)]
            time.sleep(0.003)
            for call in calls:
                call.cancel()
        return ask(made, message("identity_fp32", document))
