"""Whichever ends first: the route's timeout, the gRPC deadline, the client's own `timeout`; and what travels on."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from driving import MODEL_PAGE, ask, channel, fp32, http_answer, message, sleeping
from gateway_fixture import start_gateway


@pytest.fixture(scope="module")
def running(tmp_path_factory, triton):
    """The model `slow` as two routes, `1s` and `60s`, each with that timeout; and by its own name, with the default."""
    text = (
        f"upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}\npassthrough: true\n"
        "routes: {1s: {timeout: 1s, variants: [{name: a, model: slow}]}, "
        "60s: {timeout: 60s, variants: [{name: a, model: slow}]}}\n"
    )
    one = start_gateway(tmp_path_factory.mktemp("deadlines"), text)
    yield one
    assert one.stop() == 0


@pytest.mark.parametrize(
    ("route", "own_us", "within"),
    [("1s", None, 1.0), ("60s", 700_000, 0.7), ("1s", 30_000_000, 1.0), ("1s", 0, 1.0)],
)
def test_the_first_to_end_decides_over_http(running, route, own_us, within):
    document = sleeping(20_000)
    if own_us is not None:
        document["parameters"] = {"timeout": own_us}
    began = time.monotonic()
    answer = running.post(f"/v2/models/{route}/infer", document)
    waited = time.monotonic() - began
    assert answer.status == 504, answer.body
    assert within * 0.9 <= waited < within + 15


@pytest.mark.parametrize(("deadline", "own_us"), [(0.7, None), (20, 700_000)])
def test_the_first_to_end_decides_over_grpc(running, deadline, own_us):
    document = sleeping(20_000)
    if own_us is not None:
        document["parameters"] = {"timeout": own_us}
    with channel(running.grpc) as made:
        began = time.monotonic()
        answer = ask(made, message("slow", document), timeout=deadline)
        assert answer.code == "DEADLINE_EXCEEDED"
        assert time.monotonic() - began < 15


class Recorder:
    """A model server that says it is `name`, knows the model `m`, and keeps the bodies of its inferences."""

    def __init__(self, name: str, *, heeds: bool) -> None:
        self._policy = {"timeout_action": "REJECT", "allow_timeout_override": heeds}
        self.bodies: list[dict] = []
        self._page = json.dumps({"name": name, "version": "2.51.0", "extensions": ["binary_tensor_data"]}).encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(made,), daemon=True).start()

    def _serve(self, made: socket.socket) -> None:
        with made, made.makefile("rb") as lines:
            while line := lines.readline():
                headers = {}
                while (text := lines.readline().strip()) != b"":
                    key, _, value = text.partition(b":")
                    headers[key.lower()] = value.strip()
                body = lines.read(int(headers.get(b"content-length", 0)))
                made.sendall(self._answer(line.split()[1], headers, body))

    def _answer(self, target: bytes, headers: dict[bytes, bytes], body: bytes) -> bytes:
        if target.endswith(b"/infer"):
            cut = int(headers.get(b"inference-header-content-length", len(body)))
            self.bodies.append(json.loads(body[:cut]))
            output = {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
            return http_answer(json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode())
        if target.endswith(b"/config"):
            return http_answer(
                json.dumps({"name": "m", "dynamic_batching": {"default_queue_policy": self._policy}}).encode()
            )
        if target.startswith(b"/v2/models/"):
            return http_answer(MODEL_PAGE)
        return http_answer(b"" if target.startswith(b"/v2/health") else self._page)


SERVERS = {"r0": ("triton", True), "r1": ("triton", False), "r2": ("other", True)}
"""By route: what the server says it is, and whether its queues heed a timeout."""


@pytest.fixture(scope="module")
def recorders(tmp_path_factory):
    """A gateway and the server behind each of its routes."""
    with ExitStack() as stack:
        servers = {route: Recorder(name, heeds=heeds) for route, (name, heeds) in SERVERS.items()}
        for server in servers.values():
            stack.callback(server.close)
        upstreams = ", ".join(f"{route}: {{http: '{server.address}'}}" for route, server in servers.items())
        routes = ", ".join(
            f"{route}: {{timeout: 30s, variants: [{{name: a, model: m, upstream: {route}}}]}}" for route in servers
        )
        one = start_gateway(tmp_path_factory.mktemp("recorders"), f"upstreams: {{{upstreams}}}\nroutes: {{{routes}}}\n")
        stack.callback(one.stop)
        yield one, servers


@pytest.mark.parametrize(
    ("name", "heeds", "own", "least", "most"),
    [
        ("triton", True, None, 25_000_000, 30_000_000),
        ("triton", True, 10_000_000, 5_000_000, 10_000_000),
        ("triton", True, 0, 25_000_000, 30_000_000),
        ("triton", True, 90_000_000, 25_000_000, 30_000_000),
        ("triton", False, None, None, None),
        ("triton", False, 10_000_000, 10_000_000, 10_000_000),
        ("other", True, None, None, None),
        ("other", True, 10_000_000, 10_000_000, 10_000_000),
    ],
)
def test_the_time_that_is_left_travels_to_queues_that_heed_it(recorders, name, heeds, own, least, most):
    gateway, servers = recorders
    route = next(route for route, server in SERVERS.items() if server == (name, heeds))
    document = fp32()
    if own is not None:
        document["parameters"] = {"timeout": own}
    assert gateway.post(f"/v2/models/{route}/infer", document).status == 200
    sent = servers[route].bodies[-1].get("parameters", {}).get("timeout")
    if least is None:
        assert sent is None
    else:
        assert least <= sent <= most
