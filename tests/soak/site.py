"""The soak's site: two real Tritons as replicas, a real gateway with two workers in front, and what is done to them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from changing import quick
from driving import alive, children, replace, until
from soak.record import Record
from soak.traffic import ALICE, BOB
from triton_fixture import TEST_MODELS, RunningTriton, launch

from gateway.triton import ManagedTriton

MODELS = ("identity_fp32", "sequence_accumulate", "repeat_int32")
POLICY = """\
p, user:alice, lab, *, infer, allow
p, user:alice, lab, *, read, allow
p, user:alice, *, server, read, allow
p, user:bob, shop, model:plain, infer, allow
"""


class Tritons:
    """Servers that are started again when they end, in a thread with a loop of their own."""

    def __init__(self, folder: Path, count: int) -> None:
        models = folder / "models"
        models.mkdir(parents=True)
        for name in MODELS:
            (models / name).symlink_to(TEST_MODELS / name)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        wanted = [launch([models]) for _ in range(count)]
        self.servers = [ManagedTriton(one, folder / f"triton{at}.log") for at, one in enumerate(wanted)]
        self.addresses = [
            (f"{one.listen.host}:{one.listen.http}", f"{one.listen.host}:{one.listen.grpc}") for one in wanted
        ]
        for server in self.servers:
            self._run(server.start())

    def _run(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def stop(self) -> None:
        for server in self.servers:
            self._run(server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Site:
    """Everything that runs."""

    def __init__(self, folder: Path, record: Record) -> None:
        self._record = record
        self._turn = 0
        self.tritons = Tritons(folder, 2)
        first = RunningTriton(*self.tritons.addresses[0], "", 0, folder / "triton0.log")
        text = self._text(0)
        self.gateway = quick(folder / "gateway", first, text, age="20s", files={"policy.csv": POLICY})
        # `quick` writes a single upstream: the file as it is meant takes force before anything is measured.
        listen = self.gateway.config.read_text().partition("\n")[0]
        rows = ", ".join(f"{{http: '{http}', grpc: '{grpc}'}}" for http, grpc in self.tritons.addresses)
        self._head = f"{listen}\nupstreams: {{triton: {{replicas: [{rows}]}}}}\n"
        self._write(self._text(0))
        until(self._both_ready, 60, "both replicas are ready")

    def _both_ready(self) -> bool:
        answer = self.gateway.get("/gateway/v1/upstreams", {"x-api-key": ALICE})
        states = [replica["state"] for replica in answer.json()[0].get("replicas", ())] if answer.status == 200 else []
        return states == ["ready", "ready"]

    def _text(self, turn: int) -> str:
        keys = [(ALICE, "alice", "lab"), (BOB, "bob", "shop")]
        rows = ", ".join(
            f"{{sha256: {hashlib.sha256(key.encode()).hexdigest()}, user: {user}, tenant: {tenant}}}"
            for key, user, tenant in keys
        )
        return f"""
workers: 2
drain: 20s
routes:
  plain: {{variants: [{{name: only, model: identity_fp32}}]}}
  split:
    variants: [{{name: a, model: identity_fp32, weight: {50 + turn % 40}}}, {{name: b, model: identity_fp32, weight: 50}}]
    shadows: [{{name: s, model: identity_fp32, sample: 0.5, compare: {{rtol: 1.0e-4}}}}]
  stream: {{variants: [{{name: only, model: repeat_int32}}]}}
  sum: {{variants: [{{name: only, model: sequence_accumulate}}]}}
identity: {{api_keys: [{rows}]}}
policy: {{file: policy.csv}}
limits: {{tenants: {{lab: {{concurrent: 200}}, shop: {{concurrent: 100}}}}}}
"""

    def _write(self, text: str) -> None:
        replace(self.gateway.config, self._head + text + "state_dir: state\n")
        self.gateway.process.send_signal(signal.SIGHUP)

    # --- faults ---

    def workers(self) -> list[int]:
        return children(self.gateway.process.pid)

    def reload(self) -> None:
        with self._record.fault("reload"):
            self._turn += 1
            self._write(self._text(self._turn))
            time.sleep(1)

    def broken_edit(self) -> None:
        with self._record.fault("broken edit"):
            self._write(self._text(self._turn).replace("drain:", "drian:"))
            time.sleep(2)
            self._write(self._text(self._turn))

    def kill_triton(self) -> None:
        server = random.choice(self.tritons.servers)
        with self._record.fault("kill -9 triton", after=5):
            if server.pid is not None:
                os.kill(server.pid, signal.SIGKILL)
            time.sleep(1)
            until(self._both_ready, 90, "the replica is back")

    def stop_triton(self) -> None:
        server = random.choice(self.tritons.servers)
        with self._record.fault("stop triton 2 s", after=5):
            pid = server.pid
            if pid is not None:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(2)
                os.kill(pid, signal.SIGCONT)
            until(self._both_ready, 60, "the replica is back")

    def kill_worker(self) -> None:
        victim = random.choice(self.workers())
        with self._record.fault("kill -9 worker", after=1):
            os.kill(victim, signal.SIGKILL)
            until(lambda: len([pid for pid in self.workers() if alive(pid)]) >= 2 and victim not in self.workers(), 30)
            time.sleep(2)

    def roll(self) -> None:
        before = set(self.workers())
        with self._record.fault("rolling restart"):
            self.gateway.process.send_signal(signal.SIGUSR2)
            until(lambda: not any(alive(pid) for pid in before), 90, "the old workers have left")

    def mild(self) -> list[Callable[[], None]]:
        """Faults after which the workers are still those that were there."""
        return [self.reload, self.broken_edit, self.kill_triton, self.stop_triton]

    def all(self) -> list[Callable[[], None]]:
        return [*self.mild(), self.kill_worker, self.roll]

    def stop(self) -> int:
        status = self.gateway.stop(timeout=60)
        self.tritons.stop()
        return status
