"""A fleet of real Tritons behind a real gateway: one is killed under load, sequences keep to theirs."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from driving import until
from gateway_fixture import start_gateway
from triton_fixture import launch, repository, running_triton
from tritonclient.utils import InferenceServerException

from gateway.triton import ManagedTriton

MODELS = ("identity_fp32", "sequence_accumulate")


def _settings(tritons, more: str = "") -> str:
    rows = "".join(f"      - {{http: '{one.http}', grpc: '{one.grpc}'}}\n" for one in tritons)
    return f"workers: 2\nupstreams:\n  fleet:\n    health: {{warmup: 1s}}\n    replicas:\n{rows}{more}"


@pytest.fixture
def fleet(tmp_path):
    """Two Tritons and a gateway with two workers in front of them."""
    with ExitStack() as stack:
        models = repository(tmp_path / "models", *MODELS)
        tritons = [stack.enter_context(running_triton([models], tmp_path / f"triton{at}.log")) for at in range(2)]
        gateway = start_gateway(tmp_path / "gateway", _settings(tritons))
        stack.callback(gateway.stop)
        until(lambda: _states(gateway) == ["ready", "ready"], 30)
        yield gateway, tritons


@contextmanager
def _started(wanted, log):
    with asyncio.Runner() as runner:
        server = ManagedTriton(wanted, log, grace=0)
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


def _states(gateway) -> list[str]:
    return [each["state"] for each in gateway.get("/gateway/v1/upstreams").json()[0]["replicas"]]


def _http_inputs(value: float):
    tensor = httpclient.InferInput("INPUT0", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.full((1, 2), value, np.float32))
    return [tensor]


def _grpc_inputs(value: float):
    tensor = grpcclient.InferInput("INPUT0", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.full((1, 2), value, np.float32))
    return [tensor]


def _accumulate(client, sequence: int, value: int, **flags: bool) -> int:
    name = "INPUT"
    tensor = grpcclient.InferInput(name, [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[value]], np.int32))
    answer = client.infer("sequence_accumulate", [tensor], sequence_id=sequence, **flags)
    return int(answer.as_numpy("OUTPUT").ravel()[0])


def _load(gateway, protocol: str, stop: threading.Event, told: list[tuple[float, str]]) -> None:
    if protocol == "http":
        client, inputs = httpclient.InferenceServerClient(gateway.http), _http_inputs
    else:
        client, inputs = grpcclient.InferenceServerClient(gateway.grpc), _grpc_inputs
    at = 0.0
    while not stop.is_set():
        at += 1
        try:
            answer = client.infer("identity_fp32", inputs(at))
            right = bool((answer.as_numpy("OUTPUT0") == at).all())
            told.append((time.monotonic(), "ok" if right else "wrong answer"))
        except InferenceServerException as error:
            told.append((time.monotonic(), str(error)))
    client.close()


def test_a_killed_replica_costs_no_request(fleet, capsys):
    gateway, tritons = fleet
    stop = threading.Event()
    told: list[tuple[float, str]] = []
    threads = [
        threading.Thread(target=_load, args=(gateway, protocol, stop, told)) for protocol in ("http", "grpc") * 4
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(told) > 200, 30)
    killed = time.monotonic()
    os.kill(tritons[0].pid, signal.SIGKILL)
    until(lambda: _states(gateway)[0] == "down", 15)
    down = time.monotonic() - killed
    answered = len(told)
    until(lambda: len(told) > answered + 200, 30)
    stop.set()
    for thread in threads:
        thread.join(30)
    after = [(at - killed, what) for at, what in told if at >= killed]
    failed = [what for _, what in after if what != "ok"]
    with capsys.disabled():
        print(
            f"\nfault: kill -9 of one of two Tritons; clients in flight: {len(threads)}; requests after it: "
            f"{len(after)}; failed: {len(failed)} {dict(Counter(failed))}; seen down after {down:.2f} s; "
            f"first answer after {min(at for at, what in after if what == 'ok'):.3f} s"
        )
    assert not failed
    assert gateway.get("/readyz").status == 200


def test_a_sequence_keeps_to_its_replica_and_is_lost_with_it(fleet):
    gateway, tritons = fleet
    with grpcclient.InferenceServerClient(gateway.grpc) as client:
        for sequence in range(1, 9):
            assert _accumulate(client, sequence, 1, sequence_start=True) == 1
        for sequence in range(1, 9):
            assert _accumulate(client, sequence, sequence) == 1 + sequence
        os.kill(tritons[0].pid, signal.SIGKILL)
        until(lambda: _states(gateway)[0] == "down", 15)
        lost, kept = [], []
        for sequence in range(1, 9):
            try:
                assert _accumulate(client, sequence, 10) == 11 + sequence
                kept.append(sequence)
            except InferenceServerException as error:
                assert "state was lost with its replica" in str(error)
                assert "UNAVAILABLE" in str(error.status())
                lost.append(sequence)
        assert lost
        assert kept
        with pytest.raises(InferenceServerException, match="state was lost with its replica"):
            _accumulate(client, lost[0], 1)  # never another's state, however often it is asked
        assert _accumulate(client, lost[0], 5, sequence_start=True) == 5
        assert _accumulate(client, lost[0], 6) == 11
    assert gateway.metric("tidegate_upstream_events_total", event="sequence_lost") >= 2


def test_a_model_that_one_replica_lacks_is_asked_of_the_other(fleet):
    gateway, tritons = fleet
    direct = httpclient.InferenceServerClient(tritons[0].http)
    direct.unload_model("identity_fp32")
    until(
        lambda: (
            not any(
                model.startswith("identity_fp32")
                for model in gateway.get("/gateway/v1/upstreams").json()[0]["replicas"][0]["models"]
            )
        ),
        15,
    )
    client = httpclient.InferenceServerClient(gateway.http)
    for value in range(60):
        assert (client.infer("identity_fp32", _http_inputs(value)).as_numpy("OUTPUT0") == value).all()
    direct.load_model("identity_fp32")
    direct.close()
    client.close()


def test_a_model_whose_only_replica_is_down_is_away_and_not_unknown(fleet):
    gateway, tritons = fleet
    direct = httpclient.InferenceServerClient(tritons[1].http)
    direct.unload_model("identity_fp32")
    direct.close()

    def listed(number: int) -> bool:
        models = gateway.get("/gateway/v1/upstreams").json()[0]["replicas"][number]["models"]
        return any(model.startswith("identity_fp32") for model in models)

    until(lambda: all(listed(0) and not listed(1) for _ in range(8)), 15)  # both workers
    os.kill(tritons[0].pid, signal.SIGKILL)
    until(lambda: all(_states(gateway) == ["down", "ready"] for _ in range(8)), 15)
    request = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
    answer = gateway.post("/v2/models/identity_fp32/infer", request)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.error == "the model servers that have this model are down"
    assert gateway.get("/v2/models/identity_fp32").status == 503
    assert gateway.post("/v2/models/nobody_has_it/infer", request).status == 404
    with grpcclient.InferenceServerClient(gateway.grpc) as client:
        with pytest.raises(InferenceServerException) as refused:
            client.infer("identity_fp32", _grpc_inputs(1.0))
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        assert not client.is_model_ready("identity_fp32")


def test_a_replica_that_comes_back_serves_again_without_an_error(tmp_path):
    with ExitStack() as stack:
        models = repository(tmp_path / "models", MODELS[0])
        one = stack.enter_context(running_triton([models], tmp_path / "one.log"))
        wanted = launch([models])
        listen = wanted.listen
        text = _settings([one]) + f"      - {{http: '127.0.0.1:{listen.http}', grpc: '127.0.0.1:{listen.grpc}'}}\n"
        gateway = start_gateway(tmp_path / "gateway", text)
        stack.callback(gateway.stop)
        assert _states(gateway)[1] == "down"
        stop, told = threading.Event(), []
        thread = threading.Thread(target=_load, args=(gateway, "http", stop, told))
        thread.start()
        stack.enter_context(_started(wanted, tmp_path / "two.log"))
        until(lambda: _states(gateway)[1] in ("warming", "ready"), 30)
        until(lambda: _states(gateway)[1] == "ready", 30)
        answered = len(told)
        until(lambda: len(told) > answered + 100, 30)
        stop.set()
        thread.join(30)
        assert {what for _, what in told} == {"ok"}


def test_a_stream_outlives_a_replica(fleet, capsys):
    """Calls of one stream go to both; those open when one dies are sent again, and the stream goes on."""
    gateway, tritons = fleet
    answers: queue.Queue = queue.Queue()
    with grpcclient.InferenceServerClient(gateway.grpc) as client:
        # A client with some calls open: more than the retry budget holds could not all be sent again.
        room = threading.Semaphore(64)
        client.start_stream(lambda result, error: (answers.put((result, error)), room.release()))
        sent, killed = 0, False
        errors = []
        for burst in range(40):
            for _ in range(20):
                assert room.acquire(timeout=60)
                client.async_stream_infer("identity_fp32", _grpc_inputs(sent), request_id=str(sent))
                sent += 1
            if burst == 20:
                os.kill(tritons[1].pid, signal.SIGKILL)
                killed = True
        got = Counter()
        for _ in range(sent):
            result, error = answers.get(timeout=60)
            if error is not None:
                errors.append(str(error))
            else:
                got[result.get_response().id] += 1
        client.stop_stream()
    assert killed
    with capsys.disabled():
        print(f"\nfault: kill -9 of one of two Tritons amid a stream: {sent} calls, {len(errors)} failed {errors[:1]}")
    assert not errors
    assert set(got.values()) == {1}
    assert len(got) == sent


def test_a_sequence_stays_through_an_edit_of_split_and_list(fleet):
    gateway, tritons = fleet
    route = (
        "routes:\n  sum:\n    variants:\n      - {{name: a, model: sequence_accumulate, weight: {}}}\n"
        "      - {{name: b, model: sequence_accumulate, version: '1', weight: {}}}\n"
    )
    base = gateway.config.read_text().removesuffix("\nstate_dir: state\n")

    def edit(text: str) -> None:
        before = gateway.get("/gateway/v1/snapshot").json()["hash"]
        gateway.config.write_text(text + "state_dir: state\n")
        until(lambda: all(gateway.get("/gateway/v1/snapshot").json()["hash"] != before for _ in range(12)), 20)

    def add(client, sequence: int, value: int, **flags: bool) -> int:
        tensor = httpclient.InferInput("INPUT", [1, 1], "INT32")
        tensor.set_data_from_numpy(np.array([[value]], np.int32))
        return int(client.infer("sum", [tensor], sequence_id=sequence, **flags).as_numpy("OUTPUT").ravel()[0])

    edit(base + "passthrough: true\n" + route.format(1, 0))
    with httpclient.InferenceServerClient(gateway.http) as client:
        for sequence in range(1, 9):
            assert add(client, sequence, 1, sequence_start=True) == 1
        edit(base + "passthrough: true\n" + route.format(0, 1))
        for sequence in range(1, 9):
            assert add(client, sequence, 2) == 3
        gone = f"      - {{http: '{tritons[1].http}', grpc: '{tritons[1].grpc}'}}\n"
        assert gone in base
        edit(base.replace(gone, "") + "passthrough: true\n" + route.format(0, 1))
        kept = lost = 0
        for sequence in range(1, 9):
            try:
                assert add(client, sequence, 3) == 6
                kept += 1
            except InferenceServerException as error:
                assert "state was lost with its replica" in str(error)
                lost += 1
        assert kept
        assert lost
