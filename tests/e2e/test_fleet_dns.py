"""`dns://HOST:PORT` in the real gateway, by a real name server: replicas come and go under load without an error."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from driving import until
from gateway_fixture import start_gateway
from name_server import asking_it, name_server
from triton_fixture import free_ports

TENSOR = [{"name": "X", "datatype": "FP32", "shape": [-1, 1]}]
PAGES = {
    "/v2": {"name": "triton", "version": "2.51.0", "extensions": []},
    "/v2/health/ready": {},
    "/v2/health/live": {},
    "/v2/models/m": {"name": "m", "versions": ["1"], "platform": "x", "inputs": TENSOR, "outputs": TENSOR},
    "/v2/models/m/config": {"name": "m", "max_batch_size": 8},
    "/v2/repository/index": [{"name": "m", "version": "1", "state": "READY"}],
}
REQUEST = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]})


class Replica(ThreadingHTTPServer):
    """A model server that takes 10 ms, and counts what it served."""

    daemon_threads = True
    served = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self.path.endswith("/infer"):
            self.do_GET()
            return
        time.sleep(0.01)
        assert isinstance(self.server, Replica)
        self.server.served += 1
        self._send(
            {"model_name": "m", "model_version": "1", "outputs": [{**TENSOR[0], "shape": [1, 1], "data": [1.0]}]}
        )

    def do_GET(self) -> None:
        self._send(PAGES.get(self.path), 200 if self.path in PAGES else 404)

    def _send(self, document: object, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def replica(address: str, port: int) -> Iterator[Replica]:
    """Runs for the length of a with block."""
    server = Replica((address, port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def load(address: str, stop: threading.Event, told: list[tuple[int, bytes]]) -> None:
    """One request after the other on one connection."""
    connection = http.client.HTTPConnection(address, timeout=30)
    while not stop.is_set():
        connection.request("POST", "/v2/models/m/infer", REQUEST, {"content-type": "application/json"})
        answer = connection.getresponse()
        told.append((answer.status, answer.read()))
    connection.close()


def test_addresses_come_and_go_under_load(tmp_path):
    (port,) = free_ports(1)
    with ExitStack() as stack:
        names = stack.enter_context(name_server())
        first, second = (stack.enter_context(replica(f"127.0.0.{at}", port)) for at in (1, 2))
        names.addresses["tritons.test"] = ["127.0.0.1"]
        text = f"workers: 2\nupstreams: {{fleet: {{http: 'dns://tritons.test:{port}', health: {{warmup: 1s}}}}}}\n"
        gateway = start_gateway(tmp_path / "gateway", text, under=asking_it(tmp_path))
        stack.callback(gateway.stop)
        stop, told = threading.Event(), []
        clients = [threading.Thread(target=load, args=(gateway.http, stop, told)) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            until(lambda: first.served > 20, 30)
            assert second.served == 0
            names.addresses["tritons.test"] = ["127.0.0.1", "127.0.0.2"]
            until(lambda: second.served > 50, 60)
            names.silent = True  # a name server that is away takes no replica away
            time.sleep(8)
            names.silent = False
            served = first.served, second.served
            until(lambda: first.served > served[0] and second.served > served[1], 30)
            names.addresses["tritons.test"] = ["127.0.0.2"]
            until(lambda: gateway.metric("tidegate_upstream_events_total", event="replica_removed") >= 2, 60)
            last, now = first.served, second.served
            until(lambda: second.served > now + 50, 30)
            assert first.served <= last + len(clients)
        finally:
            stop.set()
            for client in clients:
                client.join(30)
        assert {status for status, _ in told} == {200}
        assert names.asked["tritons.test"] > 4
