"""Retries, breakers and hedges between a client and real replicas that are really killed, or made to fail."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from driving import STREAM, Load, RawUpstream, channel, fp32, http_answer, message, pages, sleeping, until
from triton_fixture import free_ports, repository, running_triton
from tritonclient.grpc import service_pb2 as pb

ANSWER = (
    b'{"model_name":"m","model_version":"1","outputs":'
    b'[{"name":"OUTPUT0","datatype":"FP32","shape":[1,2],"data":[1,1]}]}'
)


def good(connection: socket.socket) -> None:
    connection.sendall(http_answer(ANSWER))


def refused(connection: socket.socket) -> None:
    connection.sendall(http_answer(b'{"error":"not now"}', "503 Service Unavailable"))


def raises(connection: socket.socket) -> None:
    connection.sendall(http_answer(b'{"error":"the model raised"}', "500 Internal Server Error"))


def breaks(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


class Counted:
    """A behaviour that counts how often it was asked for."""

    def __init__(self, behave) -> None:
        self.behave = behave
        self.times = 0

    def __call__(self, connection: socket.socket) -> None:
        self.times += 1
        self.behave(connection)


@pytest.fixture
def servers():
    """Makes raw model servers; all are closed after the test."""
    with ExitStack() as stack:
        yield lambda behave: stack.enter_context(RawUpstream(pages(behave)))


def settings(*addresses: str, more: str = "", route: str = "") -> str:
    replicas = ", ".join(f"{{http: '{address}'}}" for address in addresses)
    extra = f", {more}" if more else ""
    return f"upstreams: {{one: {{replicas: [{replicas}]{extra}}}}}\nroutes: {{m: {{{route}}}}}\n"


@pytest.mark.parametrize(
    ("behave", "route", "status", "asked"),
    [
        (refused, "", 503, 3),
        (refused, "idempotent: false", 503, 1),
        (breaks, "", 503, 2),
        (breaks, "idempotent: false", 503, 1),
        (raises, "", 500, 1),
    ],
)
def test_what_is_tried_again_on_a_single_replica(gateway, servers, behave, route, status, asked):
    counted = Counted(behave)
    running = gateway(settings(servers(counted).address, route=route))
    answer = running.post("/v2/models/m/infer", fp32())
    assert (answer.status, counted.times) == (status, asked)
    assert running.metric("tidegate_retries_total", upstream="one") == asked - 1


def test_attempts_and_budget_bound_the_retries(gateway, servers):
    counted = Counted(refused)
    running = gateway(settings(servers(counted).address, more="retries: {attempts: 0}"))
    assert running.post("/v2/models/m/infer", fp32()).status == 503
    assert counted.times == 1
    counted = Counted(refused)
    text = settings(
        servers(counted).address,
        more="retries: {attempts: 1, budget: 0.1, min_per_second: 0}, breaker: {failures: 1000}",
    )
    running = gateway(text)
    for _ in range(50):
        assert running.post("/v2/models/m/infer", fp32()).status == 503
    assert 50 < counted.times <= 55
    assert running.metric("tidegate_upstream_events_total", upstream="one", event="no_budget") >= 45


@pytest.mark.parametrize("bad", [refused, breaks])
def test_the_other_replica_answers(gateway, servers, bad):
    first, second = Counted(good), Counted(good)
    text = settings(servers(first).address, servers(second).address, more="breaker: {open: 30s}, ejection: {time: 30s}")
    running = gateway(text)

    def both_serve() -> bool:
        assert running.post("/v2/models/m/infer", fp32()).status == 200
        return bool(first.times and second.times)

    until(both_serve, 30)
    first.times, first.behave = 0, bad
    answers = [running.post("/v2/models/m/infer", fp32()).status for _ in range(30)]
    assert answers == [200] * 30
    # Five in a row open its breaker: the rest is not even tried there.
    assert 1 <= first.times <= 6
    assert running.metric("tidegate_retries_total", upstream="one") == first.times


def test_an_open_breaker_falls_back_at_once_and_closes_again(gateway, servers):
    first = Counted(refused)
    bad, other = servers(first), servers(Counted(good))
    running = gateway(
        f"upstreams: {{one: {{http: '{bad.address}', retries: {{attempts: 0}}, breaker: {{failures: 3, open: 2s}}}}, "
        f"two: {{http: '{other.address}'}}}}\n"
        "routes: {m: {variants: [{name: a, model: m, weight: 1, upstream: one}, {name: b, model: m, weight: 0, "
        "upstream: two}], fallback: [b]}}\n"
    )
    for _ in range(12):
        answer = running.post("/v2/models/m/infer", fp32())
        assert (answer.status, answer.headers["x-tidegate-variant"]) == (200, "b")
    assert first.times <= 4
    assert running.metric("tidegate_upstream_events_total", upstream="one", event="circuit_open") >= 1
    first.behave = good
    until(lambda: running.post("/v2/models/m/infer", fp32()).headers["x-tidegate-variant"] == "a", 20)


def begins_and_breaks(connection: socket.socket) -> None:
    connection.sendall(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        b'12\r\ndata: {"OUT": 1}\n\n\r\n'
    )
    breaks(connection)


def test_streams_that_break_open_the_breaker_for_all_calls_of_the_model(gateway):
    counted, other = Counted(begins_and_breaks), pages(good)

    def answer(line: bytes, connection: socket.socket) -> None:
        (counted if b"/generate_stream " in line else lambda to: other(line, to))(connection)

    with RawUpstream(answer) as server:
        running = gateway(settings(server.address, more="breaker: {failures: 3, open: 60s}"))
        for _ in range(3):
            broken = running.post("/v2/models/m/generate_stream", {"INPUT0": [1, 1]})
            assert broken.status == 200
            assert broken.body.startswith(b'data: {"OUT')
            assert b'"error"' in broken.body
        for page, document in (("generate_stream", {"INPUT0": [1, 1]}), ("infer", fp32())):
            refused = running.post(f"/v2/models/m/{page}", document)
            assert (refused.status, refused.error) == (
                503,
                "the model server keeps failing and is left alone for a moment",
            )
        assert counted.times == 3
        assert running.metric("tidegate_circuit_state", upstream="one", replica="0", model="m") == 2
        (replica,) = running.get("/gateway/v1/upstreams").json()[0]["replicas"]
        assert replica["circuits"] == {"m": "open"}
        assert replica["in_flight"] == 0


def test_messages_of_a_stream_that_never_opens_open_the_breaker(gateway, servers):
    (nobody,) = free_ports(1)
    server = servers(good)
    more = "breaker: {failures: 2, open: 60s}, retries: {attempts: 0}"
    running = gateway(f"upstreams: {{one: {{http: '{server.address}', grpc: '127.0.0.1:{nobody}', {more}}}}}\n")
    with channel(running.grpc) as made:
        stub = made.stream_stream(
            STREAM,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        answers = list(stub(iter([message("m", fp32(), str(at)) for at in range(6)]), timeout=30))
    assert len(answers) == 6
    assert all(answer.error_message for answer in answers)
    assert running.metric("tidegate_upstream_events_total", upstream="one", event="circuit_open") >= 1


def test_a_hedge_answers_for_a_replica_that_hangs(gateway, servers):
    hold = threading.Event()

    def hangs(connection: socket.socket) -> None:
        hold.wait(30)
        good(connection)

    first, second = Counted(good), Counted(good)
    text = settings(servers(first).address, servers(second).address, more="hedge: {quantile: 0.9, at_least: 20ms}")
    running = gateway(text)
    for _ in range(200):
        assert running.post("/v2/models/m/infer", fp32()).status == 200
    first.behave = hangs
    began = time.monotonic()
    try:
        for _ in range(10):
            assert running.post("/v2/models/m/infer", fp32()).status == 200
        assert time.monotonic() - began < 20
    finally:
        hold.set()
    assert running.metric("tidegate_upstream_events_total", upstream="one", event="hedge_won") >= 1


@pytest.mark.parametrize("model", ["identity_fp32", "slow"])
def test_a_killed_triton_costs_no_request(gateway, tmp_path, model):
    """Two real servers under load, one ends with SIGKILL: idempotent requests in flight on it fail over."""
    with ExitStack() as stack:
        models = [repository(tmp_path / "models", model)]
        one, two = (stack.enter_context(running_triton(models, tmp_path / f"triton{at}.log")) for at in range(2))
        replicas = ", ".join(f"{{http: '{each.http}', grpc: '{each.grpc}'}}" for each in (one, two))
        running = gateway(f"upstreams: {{fleet: {{replicas: [{replicas}], concurrency: {{enabled: false}}}}}}\n")
        document = fp32() if model == "identity_fp32" else sleeping(100)
        with Load(running, model, document, http=4, grpc=2, patient=True) as load:
            until(lambda: load.answered() > 30, 30)
            os.kill(one.pid, signal.SIGKILL)
            killed_at = load.answered()
            until(lambda: load.answered() > killed_at + 60, 60)
        assert load.outcome.errors == []
        assert set(load.outcome.statuses) == {"200", "OK"}
