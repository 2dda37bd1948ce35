"""Loads, regions and settings reach every one of two real Tritons; one that comes back is brought to them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import threading
from collections import Counter
from contextlib import ExitStack

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from changing import another
from driving import until
from gateway_fixture import start_gateway
from triton_fixture import free_ports, launch, repository
from tritonclient.utils import InferenceServerException, shared_memory

from gateway.triton import ManagedTriton
from gateway.upstream.shm_ring import PREFIX

MODELS = ("identity_fp32", "params_echo", "sequence_accumulate")


class Fleet:
    """Two Tritons that can be killed and started again on their ports, and a gateway in front of them."""

    def __init__(self, folder, stack: ExitStack) -> None:
        models = repository(folder / "models", *MODELS)
        self._runner = stack.enter_context(asyncio.Runner())
        self._launches = [launch([models]) for _ in range(2)]
        self._logs = [folder / f"triton{at}.log" for at in range(2)]
        self._servers = [self._started(at) for at in range(2)]
        stack.callback(self._stop)
        self.http = [f"{one.listen.host}:{one.listen.http}" for one in self._launches]
        grpc = [f"{one.listen.host}:{one.listen.grpc}" for one in self._launches]
        rows = "".join(
            f"      - {{http: '{http}', grpc: '{grpc}'}}\n" for http, grpc in zip(self.http, grpc, strict=True)
        )
        self.gateway = start_gateway(
            folder / "gateway",
            f"workers: 2\nupstreams:\n  fleet:\n    health: {{warmup: 0s, timeout: 10s, unhealthy_after: 5}}\n    replicas:\n{rows}",
        )
        stack.callback(self.gateway.stop)
        self.client = stack.enter_context(httpclient.InferenceServerClient(self.gateway.http, network_timeout=60))
        self.grpc = stack.enter_context(grpcclient.InferenceServerClient(self.gateway.grpc))
        self.direct = [stack.enter_context(httpclient.InferenceServerClient(http)) for http in self.http]
        self.settled(["ready", "ready"])

    def _started(self, at: int) -> ManagedTriton:
        server = ManagedTriton(self._launches[at], self._logs[at], grace=0)
        self._runner.run(server.start())
        return server

    def _stop(self) -> None:
        for server in self._servers:
            self._runner.run(server.stop())

    def kill(self, at: int) -> None:
        pid = self._servers[at].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def start_again(self, at: int) -> None:
        self._runner.run(self._servers[at].stop())
        self._servers[at] = self._started(at)

    def states(self) -> list[str]:
        return [each["state"] for each in self.replicas()]

    def replicas(self):
        return self.gateway.get("/gateway/v1/upstreams").json()[0]["replicas"]

    def settled(self, states: list[str]) -> None:
        """Both workers are asked, in whatever order: several looks in a row must say the same."""
        until(lambda: all(self.states() == states for _ in range(8)), 30)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """For tests that leave both servers up."""
    with ExitStack() as stack:
        yield Fleet(tmp_path_factory.mktemp("fleet"), stack)


def _here(client, model: str) -> bool:
    return any(row["name"] == model and row.get("state") == "READY" for row in client.get_model_repository_index())


def _regions(client) -> set[str]:
    """Names of those that clients registered; the gateway has its own."""
    names = (row["name"] for row in client.get_system_shared_memory_status())
    return {name for name in names if not name.startswith(PREFIX)}


def _override(fleet) -> str:
    """Its own configuration with another parameter."""
    config = fleet.direct[0].get_model_config("params_echo")
    return json.dumps({**config, "parameters": {"marked": {"string_value": "3"}}})


def _marked(client) -> str | None:
    """The parameter that only the overriding configuration has."""
    return client.get_model_config("params_echo")["parameters"].get("marked", {}).get("string_value")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_loads_reach_every_replica(fleet, protocol):
    client = fleet.client if protocol == "http" else fleet.grpc
    override = _override(fleet)
    client.unload_model("params_echo")
    until(lambda: not any(_here(one, "params_echo") for one in fleet.direct), 10)
    client.load_model("params_echo", config=override)
    assert [_marked(one) for one in fleet.direct] == ["3", "3"]
    client.unload_model("params_echo")
    client.load_model("params_echo")
    assert all(_here(one, "params_echo") for one in fleet.direct)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_all_refuse_comes_in_tritons_words(fleet, protocol):
    via = fleet.client if protocol == "http" else fleet.grpc
    with pytest.raises(InferenceServerException) as direct:
        fleet.direct[0].load_model("no_such_model")
    with pytest.raises(InferenceServerException) as through:
        via.load_model("no_such_model")
    assert through.value.message() == direct.value.message()


def test_index_and_statistics_are_those_of_both(fleet):
    def statistics() -> list[dict]:
        return [one.get_inference_statistics("identity_fp32")["model_stats"][0] for one in fleet.direct]

    def counted() -> int:
        return sum(one["inference_count"] for one in statistics())

    before = counted()
    for at in range(12):
        tensor = httpclient.InferInput("INPUT0", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.full((1, 2), at, np.float32))
        fleet.client.infer("identity_fp32", [tensor])
    until(lambda: counted() == before + 12)  # Triton counts after it has answered
    each = statistics()
    through = fleet.client.get_inference_statistics("identity_fp32")["model_stats"][0]
    grpc = fleet.grpc.get_inference_statistics("identity_fp32").model_stats[0]
    for field in ("inference_count", "execution_count"):
        assert through[field] == getattr(grpc, field) == sum(one[field] for one in each)
    assert through["inference_stats"]["success"]["ns"] == sum(one["inference_stats"]["success"]["ns"] for one in each)
    assert grpc.inference_stats.success.ns == through["inference_stats"]["success"]["ns"]
    assert through["last_inference"] == max(one["last_inference"] for one in each)
    # One replica without the model: READY, and who lacks it.
    fleet.direct[1].unload_model("params_echo")
    until(lambda: not _here(fleet.direct[1], "params_echo"), 10)
    rows = [row for row in fleet.client.get_model_repository_index() if row["name"] == "params_echo"]
    assert [row["state"] for row in rows] == ["READY"]
    assert "fleet[1]" in rows[0]["reason"]
    told = [row for row in fleet.grpc.get_model_repository_index().models if row.name == "params_echo"]
    assert [(row.state, row.reason) for row in told] == [("READY", rows[0]["reason"])]
    assert fleet.client.is_model_ready("params_echo")
    assert fleet.grpc.is_model_ready("params_echo")
    fleet.direct[1].load_model("params_echo")


def test_each_replicas_own_statistics_are_shown(fleet):
    def counted(answer) -> list[dict[str, int]]:
        return [{row["model"]: row["succeeded"] for row in each["models"]} for each in answer.json()]

    page = fleet.gateway.get("/gateway/v1/upstreams/fleet/statistics")
    assert page.status == 200
    assert [each["name"] for each in page.json()] == ["fleet[0]", "fleet[1]"]
    assert all(each["state"] == "ready" and each["error"] is None for each in page.json())
    before = counted(page)
    tensor = httpclient.InferInput("INPUT0", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
    for _ in range(3):
        fleet.direct[1].infer("identity_fp32", [tensor])

    def more() -> list[int]:
        after = counted(fleet.gateway.get("/gateway/v1/upstreams/fleet/statistics"))
        return [now["identity_fp32"] - then["identity_fp32"] for then, now in zip(before, after, strict=True)]

    until(lambda: more() == [0, 3], 10)  # Triton counts once it has answered
    row = next(row for row in page.json()[0]["models"] if row["model"] == "identity_fp32")
    assert row["version"] == "1"
    assert 0 <= row["mean_queue_ms"] <= row["mean_ms"] or not row["succeeded"]
    assert fleet.gateway.get("/gateway/v1/upstreams/nosuch/statistics").status == 404


def test_settings_reach_every_replica(fleet):
    fleet.client.update_log_settings({"log_verbose_level": 1})
    assert [one.get_log_settings()["log_verbose_level"] for one in fleet.direct] == [1, 1]
    fleet.grpc.update_log_settings({"log_verbose_level": 0})
    assert [one.get_log_settings()["log_verbose_level"] for one in fleet.direct] == [0, 0]
    fleet.direct[0].update_log_settings({"log_verbose_level": 2})
    differing = fleet.gateway.get("/v2/logging")
    assert differing.headers["x-tidegate-differs"] == "fleet[1]"
    fleet.client.update_log_settings({"log_verbose_level": 0})
    assert "x-tidegate-differs" not in fleet.gateway.get("/v2/logging").headers
    fleet.grpc.update_trace_settings(settings={"trace_rate": "7"})
    assert [one.get_trace_settings()["trace_rate"] for one in fleet.direct] == ["7", "7"]
    fleet.client.update_trace_settings(settings={"trace_rate": None})


def test_a_replica_that_comes_back_is_as_was_asked(tmp_path, capsys):
    with ExitStack() as stack:
        fleet = Fleet(tmp_path, stack)
        region = shared_memory.create_shared_memory_region("fan", "/tidegate_fanout_test", 64)
        stack.callback(shared_memory.destroy_shared_memory_region, region)
        lost = shared_memory.create_shared_memory_region("lost", "/tidegate_fanout_lost", 64)
        fleet.client.register_system_shared_memory("fan", "/tidegate_fanout_test", 64)
        fleet.grpc.register_system_shared_memory("lost", "/tidegate_fanout_lost", 64)
        for one in fleet.direct:
            assert _regions(one) == {"fan", "lost"}
        assert len(fleet.client.get_system_shared_memory_status()) == 2
        assert len(fleet.grpc.get_system_shared_memory_status().regions) == 2
        fleet.client.load_model("params_echo", config=_override(fleet))
        assert [_marked(one) for one in fleet.direct] == ["3", "3"]
        fleet.grpc.update_log_settings({"log_verbose_level": 1})

        fleet.kill(1)
        fleet.settled(["ready", "down"])
        told = []
        for via in (fleet.client, fleet.grpc):
            with pytest.raises(InferenceServerException) as partial:
                via.unload_model("identity_fp32")
            told.append(partial.value.message())
            assert "1 of 2 replicas did it; fleet[1] did not: " in told[-1]
            assert fleet.http[1] not in told[-1]
        index = fleet.gateway.post("/v2/repository/index")
        assert index.headers["x-tidegate-partial"] == "fleet[1]"
        assert all("fleet[1]: cannot be asked" in row["reason"] for row in index.json())
        silent = fleet.gateway.get("/gateway/v1/upstreams/fleet/statistics").json()[1]
        assert (silent["state"], silent["models"]) == ("down", [])
        assert silent["error"]
        assert fleet.http[1] not in silent["error"]
        shared_memory.destroy_shared_memory_region(lost)

        fleet.start_again(1)
        fleet.settled(["ready", "ready"])
        back = fleet.direct[1]
        assert not _here(back, "identity_fp32")
        assert _marked(back) == "3"
        assert back.get_log_settings()["log_verbose_level"] == 1
        assert _regions(back) == {"fan"}
        left = fleet.replicas()[1]["unrestored"]
        assert list(left) == ["system_shm lost"]
        log = fleet.gateway.log.read_text()
        assert log.count("was brought to the state that was asked for") == 1
        with capsys.disabled():
            print(f"\npartial: {told[0]!r}; left out: {left}")


TAKEN_OVER = """
workers: 2
drain: 2s
listen: {{http: '{http}', grpc: '{grpc}', grpc_connection_age: 1s}}
passthrough: true
routes: {{acc: {{variants: [{{name: a, model: sequence_accumulate, weight: 50}},
                        {{name: b, model: sequence_accumulate, weight: 50}}]}}}}
identity:
  anonymous: {{user: nobody, tenant: public}}
  api_keys: [{{sha256: {key}, user: alice, tenant: acme}}]
policy: {{file: policy.csv}}
limits: {{tenants: {{acme: {{rate: 0.001/s, burst: 12, concurrent: 100, bytes: 1GiB/day}}}}}}
upstreams:
  fleet:
    health: {{warmup: 0s, interval: 500ms, timeout: 10s, unhealthy_after: 5}}
    replicas:
"""


@pytest.fixture
def taken_over(fleet, tmp_path):
    """A gateway of its own in front of the fleet, and those that take over from it."""
    http, grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    rows = "".join(
        f"      - {{http: '{one.listen.host}:{one.listen.http}', grpc: '{one.listen.host}:{one.listen.grpc}'}}\n"
        for one in fleet._launches
    )
    text = TAKEN_OVER.format(http=http, grpc=grpc, key=hashlib.sha256(b"alice").hexdigest()) + rows
    policy = "p, user:nobody, public, *, *, allow\np, user:alice, acme, *, *, allow\n"
    policy += "p, user:nobody, *, server, read, allow\n"
    one = start_gateway(tmp_path / "gateway", text, files={"policy.csv": policy}, wait="")
    one.http, one.grpc = http, grpc
    running = [one]
    try:
        one.wait_ready()
        until(lambda: "serving: " in one.log.read_text(), 15)
        yield running
    finally:
        for each in running:
            each.stop()
    for each in running:
        assert "Traceback" not in each.log.read_text(), each.log.read_text()


def _step(one, sequence: int, value: int, **flags: bool):
    tensor = {"name": "INPUT", "datatype": "INT32", "shape": [1, 1], "data": [value]}
    answer = one.post("/v2/models/acc/infer", {"inputs": [tensor], "parameters": {"sequence_id": sequence, **flags}})
    if answer.status != 200:
        return answer.status, answer.error
    return answer.json()["outputs"][0]["data"][0], answer.headers["x-tidegate-variant"]


@pytest.mark.slow
def test_a_takeover_carries_on(fleet, taken_over, capsys):
    """Sequences stay where they are, limits are as used as before, and a replica that had fallen is restored."""
    one = taken_over[0]
    patient = fleet.direct[0].get_model_config("sequence_accumulate")
    patient["sequence_batching"]["max_sequence_idle_microseconds"] = 600_000_000
    for each in fleet.direct:
        each.load_model("sequence_accumulate", config=json.dumps(patient))
    begun = {at: _step(one, at, at, sequence_start=True) for at in range(1, 13)}
    assert [total for total, _ in begun.values()] == list(range(1, 13))
    assert {variant for _, variant in begun.values()} == {"a", "b"}
    held = [each.get_inference_statistics("sequence_accumulate")["model_stats"] for each in fleet.direct]
    assert all(rows and rows[0]["inference_count"] for rows in held), "both replicas have some"
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    identity = {"inputs": [tensor]}
    used = Counter(
        one.post("/v2/models/identity_fp32/infer", identity, {"x-api-key": "alice"}).status for _ in range(5)
    )
    assert used == {200: 5}
    config = _override(fleet)
    assert one.post("/v2/repository/models/params_echo/load", {"parameters": {"config": config}}).status == 200

    fleet.kill(1)

    def states() -> list[str]:
        return [row["state"] for row in one.get("/gateway/v1/upstreams").json()[0]["replicas"]]

    until(lambda: all(states() == ["ready", "down"] for _ in range(8)), 20)
    lost = {at for at in begun if _step(one, at, 0)[0] == 503}
    assert 0 < len(lost) < 12

    new = another(one, "--takeover")
    taken_over.append(new)
    until(lambda: "serving: " in new.log.read_text(), 30)
    fleet.start_again(1)
    assert one.process.wait(30) == 0
    until(lambda: all(states() == ["ready", "ready"] for _ in range(8)), 20)
    assert _marked(fleet.direct[1]) == "3", "the new gateway knows what the old one was asked"
    assert new.log.read_text().count("was brought to the state that was asked for") == 1
    for at, (total, variant) in begun.items():
        found = _step(one, at, 100)
        if at in lost:
            assert found[0] == 503
            assert "the sequence's state was lost" in found[1]
        else:
            assert found == (total + 100, variant)
    used = Counter(
        one.post("/v2/models/identity_fp32/infer", identity, {"x-api-key": "alice"}).status for _ in range(10)
    )
    assert used == {200: 7, 429: 3}
    assert all(_step(one, at, 1, sequence_start=True)[0] == 1 for at in lost), "they may begin anew"
    with capsys.disabled():
        print(
            f"\ntakeover: 12 sequences, {len(lost)} lost with their replica, {12 - len(lost)} went on; 12 of 15 admitted"
        )


@pytest.mark.slow
def test_no_call_reaches_a_server_that_is_not_restored(fleet, capsys):
    """A quick restart: what was unloaded through the gateway is there in the new process until it is restored."""
    one = fleet.gateway
    fleet.client.unload_model("identity_fp32")
    until(lambda: not any(_here(each, "identity_fp32") for each in fleet.direct), 10)
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    stop, seen = threading.Event(), Counter()

    def ask() -> None:
        while not stop.is_set():
            seen[one.post("/v2/models/identity_fp32/infer", {"inputs": [tensor]}).status] += 1

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        fleet.kill(1)
        fleet.start_again(1)
        fleet.settled(["ready", "ready"])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen.total() > 50
    assert seen[200] == 0, seen
    fleet.client.load_model("identity_fp32")
    with capsys.disabled():
        print(f"\nquick restart: {seen.total()} calls of an unloaded model, {seen[200]} served")
