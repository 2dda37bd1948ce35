"""Two real Tritons behind a real gateway: one is busy, one is killed, and one is started again at its address.

One story, told once and asked many times: each start of a Triton takes seconds.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from driving import Background, fp32, sleeping, until
from gateway_fixture import Gateway, start_gateway
from sides import ask
from triton_fixture import FORWARD_HEADERS, MODEL_REPOSITORY, TEST_MODELS, free_ports, installed

from gateway.triton import Launch, Listen, ManagedTriton, command

pytestmark = pytest.mark.slow

WRITE = {"text_input": "The ", "max_tokens": 40, "temperature": 0.0, "seed": 1}
BUSY_MS = 1500
LOST = "state was lost with its replica"
SEQUENCES = range(1, 17)


@contextmanager
def _running(wanted: Launch, log) -> Iterator[ManagedTriton]:
    with asyncio.Runner() as runner:
        server = ManagedTriton(wanted, log, grace=0.0)
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


def _launch(folder, listen: Listen, models: tuple[str, ...]) -> Launch:
    """A server with few models: each start is quicker by it."""
    folder.mkdir()
    for name in models:
        place = MODEL_REPOSITORY if name == "writer" else TEST_MODELS
        (folder / name).symlink_to(place / name)
    return command(installed(), repositories=[folder], listen=listen, otlp=None, extra=FORWARD_HEADERS)


class Sums:
    """`sequence_accumulate` on one gRPC stream, one call at a time."""

    def __init__(self, gateway: Gateway) -> None:
        self._answers: queue.Queue = queue.Queue()
        self._client = grpcclient.InferenceServerClient(gateway.grpc)
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def add(self, sequence: int, value: int, **flags: bool) -> int | str:
        """The sum, or the error's words."""
        tensor = grpcclient.InferInput("INPUT", [1, 1], "INT32")
        tensor.set_data_from_numpy(np.array([[value]], np.int32))
        self._client.async_stream_infer("sequence_accumulate", [tensor], sequence_id=sequence, **flags)
        result, error = self._answers.get(timeout=30)
        return str(error) if error is not None else int(result.as_numpy("OUTPUT").ravel()[0])

    def close(self) -> None:
        self._client.stop_stream()
        self._client.close()


class Writing:
    """`generate` and `generate_stream` without a pause, until it is stopped: page, status, body."""

    def __init__(self, gateway: Gateway) -> None:
        self.told: list[tuple[str, int, bytes]] = []
        self._address = gateway.http
        self._stop = threading.Event()
        pages = ("generate", "generate_stream") * 2
        self._threads = [threading.Thread(target=self._write, args=(page,)) for page in pages]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _write(self, page: str) -> None:
        body = json.dumps({**WRITE, "stream": page == "generate_stream"}).encode()
        while not self._stop.is_set():
            try:
                answer = ask(self._address, "POST", f"/v2/models/writer/{page}", body)
                self.told.append((page, answer.status, answer.body))
            except (OSError, http.client.HTTPException) as error:
                self.told.append((page, 0, repr(error).encode()))


@dataclass
class Story:
    """What was seen."""

    hedges_won: float = 0
    hedged: list[int] = field(default_factory=list)
    left_in_flight: int = -1
    executed: int = -1
    """Calls that the busy server's model carried out, those that kept it busy included."""
    whole: dict[str, bytes] = field(default_factory=dict)
    told: list[tuple[str, int, bytes]] = field(default_factory=list)
    broken: float = 0
    after_kill: dict[int, int | str] = field(default_factory=dict)
    again: dict[int, int | str] = field(default_factory=dict)
    anew: dict[int, int | str] = field(default_factory=dict)
    after_restart: dict[int, int | str] = field(default_factory=dict)
    identities: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


def _replicas(gateway: Gateway) -> list[dict]:
    return gateway.get("/gateway/v1/upstreams").json()[0]["replicas"]


def _states(gateway: Gateway) -> list[str]:
    return [each["state"] for each in _replicas(gateway)]


def _executed(address: str) -> int:
    """Successful executions of the model `slow` on one Triton, read there."""
    page = ask(address, "GET", "/v2/models/slow/stats").json()
    return page["model_stats"][0]["inference_stats"]["success"]["count"]


def _hedge(story: Story, gateway: Gateway, busy: str) -> None:
    """One server's model is kept busy, so that calls wait in its queue."""
    for _ in range(120):
        assert gateway.post("/v2/models/slow/infer", sleeping(1)).status == 200
    before = _executed(busy)
    body = json.dumps(sleeping(BUSY_MS)).encode()
    work = [Background(lambda: ask(busy, "POST", "/v2/models/slow/infer", body).status) for _ in range(2)]
    time.sleep(0.1)  # both instances sleep now
    story.hedged = [gateway.post("/v2/models/slow/infer", sleeping(1)).status for _ in range(8)]
    story.left_in_flight = sum(each["in_flight"] for each in _replicas(gateway))
    assert all(each.running for each in work), "the machine was too slow for this test: it was not busy for long enough"
    assert [each.result() for each in work] == [200, 200]
    story.executed = _executed(busy) - before
    story.hedges_won = gateway.metric("tidegate_upstream_events_total", event="hedge_won")


def _kill(story: Story, gateway: Gateway, server: ManagedTriton, sums: Sums) -> None:
    for page in ("generate", "generate_stream"):
        document = {**WRITE, "stream": page == "generate_stream"}
        story.whole[page] = gateway.post(f"/v2/models/writer/{page}", document).body
    for sequence in SEQUENCES:
        assert sums.add(sequence, 1, sequence_start=True) == 1
    writing = Writing(gateway)
    try:
        until(lambda: len(writing.told) > 20, 30)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: _states(gateway)[0] == "down", 15)
        told = len(writing.told)
        until(lambda: len(writing.told) > told + 20, 30)
    finally:
        writing.stop()
    story.told = writing.told
    for sequence in SEQUENCES[:8]:
        story.after_kill[sequence] = sums.add(sequence, 10)
    for sequence in [each for each, said in story.after_kill.items() if isinstance(said, str)]:
        story.again[sequence] = sums.add(sequence, 10)
        sums.add(sequence, 5, sequence_start=True)
        story.anew[sequence] = sums.add(sequence, 6)


def _after_restart(story: Story, gateway: Gateway, sums: Sums) -> None:
    seen = story.states

    def ready() -> bool:
        state = _states(gateway)[0]
        if not seen or seen[-1] != state:
            seen.append(state)
        story.identities.append(gateway.post("/v2/models/identity_fp32/infer", fp32()).status)
        return state == "ready"

    until(ready, 30)
    for sequence in SEQUENCES[8:]:
        story.after_restart[sequence] = sums.add(sequence, 10)
    story.models = _replicas(gateway)[0]["models"]
    story.identities += [gateway.post("/v2/models/identity_fp32/infer", fp32()).status for _ in range(20)]


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    """Busy, killed, started again with other models."""
    folder = tmp_path_factory.mktemp("fleet-faults")
    every = ("identity_fp32", "sequence_accumulate", "slow", "writer")
    listens = [Listen(*free_ports(3)) for _ in range(2)]
    rows = ", ".join(f"{{http: '127.0.0.1:{each.http}', grpc: '127.0.0.1:{each.grpc}'}}" for each in listens)
    text = (
        "upstreams:\n  fleet:\n    unary: grpc\n    health: {interval: 300ms, warmup: 100ms}\n"
        f"    hedge: {{quantile: 0.9, at_least: 50ms}}\n    replicas: [{rows}]\n"
    )
    told = Story()
    with ExitStack() as stack:
        first, second = (_launch(folder / f"models{at}", each, every) for at, each in enumerate(listens))
        stack.enter_context(_running(second, folder / "second.log"))
        with _running(first, folder / "first.log") as server:
            gateway = start_gateway(folder / "gateway", text)
            stack.callback(gateway.stop)
            until(lambda: _states(gateway) == ["ready", "ready"], 30)
            _hedge(told, gateway, f"127.0.0.1:{listens[1].http}")
            sums = Sums(gateway)
            stack.callback(sums.close)
            _kill(told, gateway, server, sums)
        stack.enter_context(_running(_launch(folder / "fewer", listens[0], every[1:2]), folder / "again.log"))
        _after_restart(told, gateway, sums)
    return told


def test_a_hedge_answers_for_a_busy_triton_and_the_loser_is_cancelled(story, capsys):
    with capsys.disabled():
        print(f"\nhedging: 8 calls, {story.hedges_won:.0f} answered by the second try")
    assert story.hedged == [200] * 8
    assert story.hedges_won >= 1
    assert story.left_in_flight == 0
    assert story.executed == 2, "a call that lost was carried out all the same"


def test_generate_fails_over(story, capsys):
    answers = Counter(status for page, status, _ in story.told if page == "generate")
    with capsys.disabled():
        print(f"\nfault: kill -9 of one of two Tritons, generate: {dict(answers)}")
    assert set(answers) == {200}
    texts = {json.loads(body)["text_output"] for page, _, body in story.told if page == "generate"}
    assert texts == {json.loads(story.whole["generate"])["text_output"]}


def test_a_generate_stream_that_has_begun_ends_with_an_error_and_all_others_are_whole(story, capsys):
    streams = [(status, body) for page, status, body in story.told if page == "generate_stream"]
    assert {status for status, _ in streams} == {200}
    broken = [body for _, body in streams if body != story.whole["generate_stream"]]
    with capsys.disabled():
        print(f"\nfault: kill -9 amid generate_stream: {len(streams)} streams, {len(broken)} broken")
    assert len(broken) <= 2, "no more than were under way"
    for body in broken:
        *pieces, last = body.split(b"\n\n")[:-1]
        assert "error" in json.loads(last.removeprefix(b"data: "))
        assert story.whole["generate_stream"].startswith(b"".join(piece + b"\n\n" for piece in pieces))


def test_sequences_on_streams_end_with_their_replica_and_never_get_anothers_state(story):
    lost = {sequence for sequence, said in story.after_kill.items() if isinstance(said, str)}
    assert lost
    assert lost != set(story.after_kill)
    assert all(LOST in story.after_kill[sequence] for sequence in lost)
    assert {said for sequence, said in story.after_kill.items() if sequence not in lost} == {11}
    assert all(LOST in said for said in story.again.values())
    assert set(story.anew.values()) == {11}


def test_a_restart_at_the_same_address_ends_sequences_and_has_its_models_checked(story):
    """These sequences were not touched while the server was down."""
    lost = [said for said in story.after_restart.values() if isinstance(said, str)]
    assert lost
    assert all(LOST in said for said in lost)
    assert {said for said in story.after_restart.values() if isinstance(said, int)} == {11}
    assert story.states[-1] == "ready"
    assert story.models == ["sequence_accumulate/1"]
    assert set(story.identities) == {200}, "it serves without this model now"
