"""Reloads at full load: no request fails, every decision is of one snapshot, broken edits have no effect."""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
from collections import Counter
from pathlib import Path

import grpc
import pytest
from changing import quick
from driving import Clients, ask, channel, children, fp32, message, replace, until

KEY = "a-key-that-never-changes"
HASH = hashlib.sha256(KEY.encode()).hexdigest()


def settings(which: str) -> str:
    """Two snapshots in which everything differs: a mixture of them would refuse the key's tenant, or say both names."""
    return f"""
workers: 2
routes: {{r: {{variants: [{{name: {which}, model: identity_fp32}}]}}}}
identity: {{api_keys: [{{sha256: {HASH}, user: alice, tenant: t{which}}}]}}
policy: {{file: policy.csv, tests: policy_tests.yaml}}
limits: {{tenants: {{t{which}: {{concurrent: 100}}}}}}
"""


def policy(which: str) -> str:
    return f"p, user:alice, t{which}, model:r, infer, allow\np, user:alice, *, server, read, allow\n"


def judged(which: str) -> str:
    return f"tests: [{{name: it may, request: [user:alice, t{which}, model:r, infer], allow: true}}]\n"


class Driver(Clients):
    """Clients that note every answer's variant and everything that is no 200."""

    def __init__(self, one) -> None:
        self._one = one
        super().__init__([self._http] * 3 + [self._grpc] * 2)
        self.variants: Counter[str] = Counter()
        self.wrong: list[str] = []

    def _http(self) -> None:
        connection = http.client.HTTPConnection(self._one.http, timeout=30)
        body = json.dumps(fp32())
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v2/models/r/infer", body, {"x-api-key": KEY})
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                connection.close()
                continue
            if answer.status != 200:
                self.wrong.append(f"{answer.status} {text!r}")
            self.variants[answer.headers.get("x-tidegate-variant", "")] += 1
        connection.close()

    def _grpc(self) -> None:
        request = message("r", fp32())
        with channel(self._one.grpc) as made:
            while not self._stop.is_set():
                try:
                    answer = ask(made, request, {"x-api-key": KEY})
                except grpc.RpcError as error:
                    self.wrong.append(repr(error))
                    continue
                if answer.code != "OK":
                    self.wrong.append(f"{answer.code} {answer.details}")
                self.variants[answer.variant] += 1


def since(state: dict) -> list[tuple[int, str, str]]:
    """What every worker has in force, and since when."""
    return [(worker["worker"], worker["hash"], worker["since"]) for worker in state["workers"]]


def resident(pids: list[int]) -> int:
    """Bytes of memory of these processes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids)


BROKEN = (
    ("tidegate.yaml", lambda text: text.replace("workers: 2", "wrokers: 2"), "tidegate.yaml"),
    ("tidegate.yaml", lambda text: text.replace("routes: {r:", "routes: {r: ["), "tidegate.yaml"),
    ("policy.csv", lambda text: text + "p, user:alice\n", "policy.csv"),
    ("policy_tests.yaml", lambda text: text.replace("allow: true", "allow: false"), "policy_tests.yaml"),
)


@pytest.mark.parametrize("reloads", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_reloads_under_load(tmp_path, triton, reloads):
    files = {"policy.csv": policy("a"), "policy_tests.yaml": judged("a")}
    one = quick(tmp_path / "site", triton, settings("a"), age="5s", files=files)
    until(lambda: "serving: " in one.log.read_text(), 15)
    head = one.config.read_text().split("\nworkers:")[0]
    headers = {"x-api-key": KEY}

    def state() -> dict:
        answer = one.get("/gateway/v1/snapshot", headers)
        assert answer.status == 200, answer
        return answer.json()

    def write(which: str) -> None:
        replace(one.folder / "policy.csv", policy(which))
        replace(one.folder / "policy_tests.yaml", judged(which))
        replace(one.config, head + settings(which) + "state_dir: state\n")

    def refused_by_all(count: int) -> bool:
        return one.metric("tidegate_reloads_total", outcome="refused") >= 2 * count

    sizes = []
    now, broken = "a", 0
    try:
        with Driver(one) as driver:
            until(lambda: sum(driver.variants.values()) > 100)
            for n in range(reloads):
                before = state()
                assert before["agreed"]
                assert len(before["workers"]) == 2
                if n % 2:
                    name, spoil, where = BROKEN[n // 2 % len(BROKEN)]
                    path = one.folder / name
                    good = path.read_text()
                    replace(path, spoil(good))
                    one.process.send_signal(signal.SIGHUP)
                    broken += 1
                    until(lambda broken=broken: refused_by_all(broken), 20)
                    after = state()
                    assert since(after) == since(before)
                    assert after["refused"]["standing"]
                    found = after["refused"]["findings"][0]
                    assert found["file"] == where
                    assert found["line"] > 0
                    assert all(
                        worker["refused"]["findings"] == after["refused"]["findings"] for worker in after["workers"]
                    )
                    replace(path, good)
                else:
                    now = "b" if now == "a" else "a"
                    write(now)
                    one.process.send_signal(signal.SIGHUP)
                    until(lambda before=before: (s := state())["agreed"] and s["hash"] != before["hash"], 20)
                if n in (reloads // 4, reloads - 1):
                    sizes.append(resident(children(one.process.pid)))
        assert driver.wrong == []
        assert set(driver.variants) == {"a", "b"}
        # Pools, signatures and code of the allocator are warm after a quarter.
        assert sizes[1] < sizes[0] * 1.10, sizes
        total = sum(driver.variants.values())
        grown = sizes[1] / sizes[0] - 1
        print(f"\nreloads: {reloads} ({broken} broken, all refused), {total} requests, 0 failed, RSS {grown:+.1%}")
    finally:
        assert one.stop() == 0
    assert "Traceback" not in one.log.read_text()
