"""Start, readiness, drain and death of real gateways under real load."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

import grpc
import pytest
from driving import (
    STREAM,
    Background,
    Load,
    alive,
    ask,
    call,
    channel,
    children,
    fp32,
    message,
    refused_connection,
    repeat,
    sleeping,
    until,
)
from gateway_fixture import start_gateway
from triton_fixture import free_ports
from tritonclient.grpc import service_pb2 as pb

TRITON = "upstreams: {triton: {http: $TRITON_HTTP, grpc: $TRITON_GRPC}}\n"


def stream_of(made, request, timeout=30):
    """Responses of one stream; the client's side is closed after the request."""
    stub = made.stream_stream(
        STREAM,
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    return stub(iter([request]), timeout=timeout)


class Relay:
    """A TCP port in front of an upstream that can be opened and shut."""

    def __init__(self, port: int, target: str) -> None:
        self.port = port
        self._target = target
        self._sockets: list = []
        self._listener = None

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener) -> None:
        host, _, port = self._target.rpartition(":")
        while True:
            try:
                ours, _ = listener.accept()
                theirs = socket.create_connection((host, int(port)))
            except OSError:
                return
            self._sockets += [ours, theirs]
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source, sink) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.close()


def grpc_health(address: str, what: str) -> bool:
    from tritonclient.grpc import service_pb2_grpc

    with channel(address) as made:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(made)
        if what == "live":
            return stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live
        return stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready


def test_it_is_ready_only_while_an_upstream_answers(gateway, triton):
    # Both ports: inference may travel over either.
    ports = free_ports(2)
    relays = [Relay(port, target) for port, target in zip(ports, (triton.http, triton.grpc), strict=True)]
    addresses = f"http: 127.0.0.1:{ports[0]}, grpc: 127.0.0.1:{ports[1]}"
    one = gateway(f"upstreams: {{triton: {{{addresses}}}}}", wait="live")

    def not_ready() -> None:
        assert one.get("/healthz").status == 200
        assert one.get("/v2/health/live").status == 200
        assert one.get("/readyz").status == 503
        assert one.get("/v2/health/ready").status >= 400
        assert grpc_health(one.grpc, "live")
        assert not grpc_health(one.grpc, "ready")
        answer = one.post("/v2/models/identity_fp32/infer", fp32())
        assert answer.status == 503, answer
        assert answer.error
        with channel(one.grpc) as made:
            assert ask(made, message("identity_fp32", fp32())).code == "UNAVAILABLE"

    not_ready()
    for relay in relays:
        relay.open()
    one.wait_ready(5)
    assert one.get("/v2/health/ready").status == 200
    assert grpc_health(one.grpc, "ready")
    assert one.post("/v2/models/identity_fp32/infer", fp32()).status == 200
    for relay in relays:
        relay.shut()
    until(lambda: one.get("/readyz").status == 503, 5)
    not_ready()
    for relay in relays:
        relay.open()
    one.wait_ready(5)
    assert one.post("/v2/models/identity_fp32/infer", fp32()).status == 200
    for relay in relays:
        relay.shut()
    assert one.stop() == 0
    assert "Traceback" not in one.log.read_text()


def in_flight(one, milliseconds):
    """A slow call each by HTTP and gRPC, a server-sent event stream, and a gRPC stream; all under way."""
    sse = one.http

    def events():
        connection = http.client.HTTPConnection(sse, timeout=30)
        body = message_json(milliseconds)
        connection.request("POST", "/v2/models/repeat_int32/infer", body, {"accept": "text/event-stream"})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text.count("data:")

    def streamed():
        with channel(one.grpc) as made:
            responses = list(stream_of(made, repeat(4, milliseconds // 4)))
            return [response.error_message for response in responses]

    def unary():
        with channel(one.grpc) as made:
            return ask(made, message("slow", sleeping(milliseconds))).code

    calls = {
        "http": Background(lambda: one.post("/v2/models/slow/infer", sleeping(milliseconds)).status),
        "grpc": Background(unary),
        "sse": Background(events),
        "stream": Background(streamed),
    }
    until(lambda: one.metric("tidegate_requests_in_flight") == len(calls), what="all are under way")
    assert not [(name, each.result()) for name, each in calls.items() if not each.running]
    return calls


def message_json(milliseconds):
    inputs = [
        {"name": "IN", "datatype": "INT32", "shape": [4], "data": [0, 1, 2, 3]},
        {"name": "DELAY", "datatype": "UINT32", "shape": [4], "data": [milliseconds // 4] * 4},
        {"name": "WAIT", "datatype": "UINT32", "shape": [1], "data": [0]},
    ]
    return json.dumps({"inputs": inputs}).encode()


@pytest.mark.parametrize("sig", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_what_is_in_flight_finishes_within_drain(gateway, sig):
    one = gateway(TRITON + "drain: 60s\n")
    idle = http.client.HTTPConnection(one.http, timeout=60)
    idle.request("GET", "/healthz")
    idle.getresponse().read()
    calls = in_flight(one, 2000)
    began = time.monotonic()
    one.process.send_signal(sig)
    until(lambda: refused_connection(one.http), 3, "HTTP refuses new connections")
    until(lambda: refused_connection(one.grpc), 3, "gRPC refuses new connections")
    assert calls["http"].running
    # An idle kept-alive connection is closed in order: its next request is not half-answered.
    assert idle.sock.recv(1) == b""
    idle.close()
    assert calls["http"].result() == 200
    assert calls["grpc"].result() == "OK"
    status, events = calls["sse"].result()
    assert (status, events >= 4) == (200, True)
    assert [text for text in calls["stream"].result() if text] == []
    assert one.process.wait(60) == 0
    assert time.monotonic() - began < 40, "it did not wait for the end of drain"
    log = one.log.read_text()
    assert "cut" not in log
    assert "Traceback" not in log


def test_what_takes_longer_than_drain_is_cut_and_counted(gateway):
    one = gateway(TRITON + "drain: 1s\n")
    calls = in_flight(one, 8000)
    began = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - began > 0.9
    with pytest.raises((http.client.HTTPException, OSError)):
        calls["http"].result()
    assert calls["grpc"].result() in {"UNAVAILABLE", "CANCELLED"}
    with contextlib.suppress(http.client.HTTPException, OSError):
        calls["sse"].result()
    with pytest.raises(grpc.RpcError):
        calls["stream"].result()
    cut = [line for line in one.log_lines() if "cut" in line]
    assert [line["cut"] for line in cut] == [4], one.log.read_text()
    assert "Traceback" not in one.log.read_text(), one.log.read_text()


def test_a_second_signal_cuts_at_once(gateway):
    one = gateway(TRITON + "drain: 30s\n")
    slow = Background(lambda: one.post("/v2/models/slow/infer", sleeping(12_000)))
    until(lambda: one.metric("tidegate_requests_in_flight") == 1)
    one.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert slow.running
    assert one.process.poll() is None
    began = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - began < 11
    with pytest.raises((http.client.HTTPException, OSError)):
        slow.result()
    assert any(line.get("cut") == 1 for line in one.log_lines()), one.log.read_text()


def test_workers_leave_when_their_supervisor_is_killed(gateway):
    one = gateway(TRITON + "workers: 2\ndrain: 5s\n")
    workers = children(one.process.pid)
    assert len(workers) == 2
    slow = Background(lambda: one.post("/v2/models/slow/infer", sleeping(1000)).status)
    time.sleep(0.4)
    one.process.kill()
    one.process.wait()
    assert slow.result() == 200, "requests in flight finish all the same"
    until(lambda: not any(alive(pid) for pid in workers), 5, "the workers are gone")
    # The state directory and the ports are free for the next gateway.
    again = start_gateway(one.folder, one.config.read_text(), wait="")
    again.http, again.grpc = one.http, one.grpc
    try:
        again.wait_ready()
    finally:
        assert again.stop() == 0


@pytest.fixture(scope="module")
def three(tmp_path_factory, triton):
    """Three workers with limits, for tests that kill workers or look at them from outside."""
    text = f"""
upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}
workers: 3
limits: {{tenants: {{public: {{concurrent: 8}}}}}}
"""
    running = start_gateway(tmp_path_factory.mktemp("three"), text)
    # `/readyz` is any worker's word; this is said once, when all of them serve.
    until(lambda: "serving: " in running.log.read_text(), 15)
    yield running
    assert running.stop() == 0, running.log.read_text()


def test_every_worker_gets_traffic_and_every_worker_tells_of_all(three):
    before = three.metric("tidegate_requests_total", code="200") + three.metric("tidegate_requests_total", code="OK")
    for _ in range(40):
        assert three.post("/v2/models/identity_fp32/infer", fp32()).status == 200
        with channel(three.grpc) as made:
            assert ask(made, message("identity_fp32", fp32())).code == "OK"
    for _ in range(12):  # whichever worker answers
        now = three.metric("tidegate_requests_total", code="200") + three.metric("tidegate_requests_total", code="OK")
        assert now - before == 80
    workers = children(three.process.pid)
    shares = [cpu_ticks(pid) for pid in workers]
    served = [count for pid in workers if (count := connections_served(three, pid)) is not None]
    assert len(workers) == 3
    assert all(share > 0 for share in shares)
    assert len(served) == 3
    assert all(both for each in served for both in each), f"(HTTP, gRPC) by worker: {served}"


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def connections_served(one, pid: int) -> tuple[int, int]:
    """Requests of this worker by protocol, from its own metrics file."""
    from gateway.metrics import Reader

    counts = {"http": 0, "grpc": 0}
    workers = sorted(one.folder.glob("state/run/worker-*.metrics"))
    slot = worker_slot(pid)
    with tempfile.TemporaryDirectory() as alone:
        shutil.copy(workers[slot], alone)
        for labels, value in Reader(Path(alone)).collect()["tidegate_requests_total"].items():
            counts[labels[2]] += round(value)
    return counts["http"], counts["grpc"]


def worker_slot(pid: int) -> int:
    argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return int(argv[argv.index("--slot") + 1])


def test_a_killed_worker_is_replaced_and_costs_only_its_own_requests(three):
    counted = three.metric("tidegate_requests_total")
    workers = children(three.process.pid)
    held = [Background(lambda: three.post("/v2/models/slow/infer", sleeping(1000))) for _ in range(6)]
    time.sleep(0.5)
    victim = max(workers, key=lambda pid: in_flight_of(three, worker_slot(pid)))
    lost = in_flight_of(three, worker_slot(victim))
    assert lost >= 2
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(set(children(three.process.pid)) - {victim}) == 3, 10, "a new worker")
    until(lambda: three.log.read_text().count("SIGKILL") == 1)
    failed = 0
    for each in held:
        try:
            assert each.result().status == 200
        except (OSError, http.client.HTTPException):
            failed += 1
    assert failed == lost
    until(lambda: sum(in_flight_of(three, slot) for slot in range(3)) == 0, 5, "its cells are free")
    # All eight places are there again, and what it had counted is still counted.
    again = [Background(lambda: three.post("/v2/models/slow/infer", sleeping(50)).status) for _ in range(8)]
    assert [each.result() for each in again] == [200] * 8
    assert three.metric("tidegate_requests_total") >= counted + 8 + (6 - lost)
    three.wait_ready()


def in_flight_of(one, slot: int) -> int:
    """Requests in flight of one worker, by the limits table."""
    from gateway.admission.limit_table import FILE, IN_FLIGHT, LimitTable

    table = LimitTable(one.folder / "state" / "run" / FILE, 6)
    try:
        return table.words.load(table.row("public") + IN_FLIGHT + slot)
    finally:
        table.close()


def test_a_replacement_starts_from_what_was_last_in_force(three):
    good = three.config.read_text()
    before = three.get("/gateway/v1/snapshot").json()["hash"]
    three.config.write_text(good + "\nnonsense: 1\n")
    try:
        victim = children(three.process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: '"not loaded' in three.log.read_text(), 15, "the new worker says what is wrong")
        assert f"{three.config}:" in three.log.read_text()
        until(lambda: len(set(children(three.process.pid)) - {victim}) == 3)
        time.sleep(1)
        hashes = {three.get("/gateway/v1/snapshot").json()["hash"] for _ in range(30)}
        assert hashes == {before}
    finally:
        three.config.write_text(good)
    until(lambda: three.log.read_text().count("nothing has changed") >= 3, 8)


def test_hangup_during_the_start_ends_nothing(gateway):
    one = gateway(TRITON, wait="")
    while not children(one.process.pid):
        time.sleep(0.01)
        assert one.process.poll() is None
    for _ in range(20):
        one.process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    one.wait_ready()
    assert call_ok(one)
    assert len(one.log_lines()) < 40
    assert one.stop() == 0


def call_ok(one) -> bool:
    with channel(one.grpc) as made:
        return call(made, message("identity_fp32", fp32())).code == "OK"


def test_steady_load_while_workers_come_and_go(three):
    """A killed worker may cost the requests that it held; the others never."""
    with Load(three, "identity_fp32", fp32(), http=3, grpc=2, patient=True) as load:
        until(lambda: load.answered() > 50)
        os.kill(children(three.process.pid)[0], signal.SIGKILL)
        count = load.answered()
        until(lambda: load.answered() > count + 300, 20)
    assert len(load.outcome.errors) <= 5, load.outcome.errors
