"""What is done to the site, and how it is known to be over."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

from driving import alive, fp32, until
from soak.record import Record
from soak.site import ALICE, BOB, Site, settings
from tls_fixture import der, served_certificate


class Faults:
    """Each a method without arguments, which returns when everything is as before."""

    def __init__(self, site: Site, record: Record) -> None:
        self._site = site
        self._record = record
        self._turn = 0

    def mild(self) -> list[Callable[[], None]]:
        """Faults after which the workers are still those that were there."""
        return [
            self.reload,
            self.broken_edit,
            self.policy,
            self.certificates,
            self.load_and_unload,
            self.kill_triton,
            self.stop_triton,
        ]

    def all(self) -> list[Callable[[], None]]:
        """Every one."""
        return [*self.mild(), self.kill_worker, self.roll]

    def reload(self) -> None:
        """Another share of a split."""
        with self._record.fault("reload"):
            before = self._hash()
            self._turn += 1
            self._site.write(settings(self._turn))
            until(lambda: self._site.agreed_on_another(before), 20, "the settings are in force")

    def broken_edit(self) -> None:
        """Settings that are refused, then those before."""
        with self._record.fault("broken edit"):
            before = self._hash()
            self._site.write(settings(self._turn).replace("drain:", "drian:"))
            until(self._refused, 20, "the edit is refused")
            self._site.write(settings(self._turn))
            until(lambda: not self._refused(), 20, "the good settings lie there again")
            if self._hash() != before:
                raise AssertionError("a broken edit changed what is in force")

    def policy(self) -> None:
        """Bob may not, then may: both are seen to hold on whichever worker."""
        with self._record.fault("policy change"):
            for rule, status in (("deny", 403), ("allow", 200)):
                before = self._hash()
                self._site.write_policy(rule)
                until(lambda before=before: self._site.agreed_on_another(before), 20, "the policy is in force")
                for _ in range(8):
                    got = self._site.gateway.post("/v2/models/flip/infer", fp32(), {"x-api-key": BOB}).status
                    if got != status:
                        raise AssertionError(f"policy says {rule}, bob got {got}")

    def certificates(self) -> None:
        """A pair that does not match is refused, a new one shown, on both doors."""
        with self._record.fault("certificate swap"):
            doors = (self._site.tls.http, self._site.tls.grpc)
            count = self._site.tls.log.read_text().count("not reloaded")
            self._site.mismatch()
            self._site.tls.process.send_signal(signal.SIGHUP)
            until(lambda: self._site.tls.log.read_text().count("not reloaded") > count, 20, "the pair is refused")
            if any(served_certificate(door) != der(self._site.shown) for door in doors):
                raise AssertionError("the last good certificate is not shown")
            self._site.shown = self._site.certify()
            self._site.tls.process.send_signal(signal.SIGHUP)
            for door in doors:
                until(lambda at=door: served_certificate(at) == der(self._site.shown), 20, "the certificate is shown")

    def load_and_unload(self) -> None:
        """A model leaves every replica and comes back."""
        with self._record.fault("load and unload"):
            for verb in ("unload", "load"):
                began = self._record.begin()
                answer = self._site.gateway.post(f"/v2/repository/models/params_echo/{verb}", {}, {"x-api-key": ALICE})
                problem = "" if answer.status == 200 else f"{answer.status} {answer.body[:200]!r}"
                self._record.call("load and unload", began, problem)

    def kill_triton(self) -> None:
        """One of two."""
        server = random.choice(self._site.tritons.servers)
        with self._record.fault("kill -9 triton", after=2):
            pid = server.pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            until(lambda: server.pid not in (None, pid), 60, "the server runs again")
            until(self._site.both_ready, 90, "the replica is back")

    def stop_triton(self) -> None:
        """One of two stands still for two seconds."""
        server = random.choice(self._site.tritons.servers)
        with self._record.fault("stop triton 2 s", after=2):
            pid = server.pid
            if pid is not None:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(2)
                os.kill(pid, signal.SIGCONT)
            until(self._site.both_ready, 60, "the replica is back")

    def kill_worker(self) -> None:
        """One of two."""
        victim = random.choice(self._site.workers())
        # What it held is cut at once. A gRPC client whose new connection was in its queue tries again after a second,
        # and fails its calls until then.
        with self._record.fault("kill -9 worker", after=1.5):
            os.kill(victim, signal.SIGKILL)
            until(
                lambda: len(self._site.workers()) >= 2 and victim not in self._site.workers(), 30, "another worker runs"
            )
        until(lambda: self._workers() >= 2, 60, "another worker serves")

    def roll(self) -> None:
        """Every worker is replaced. Those before serve their connections to the end, a fault in its own time."""
        for gateway in (self._site.gateway, self._site.tls):
            count = gateway.log.read_text().count("every worker has been replaced")
            before = set(self._site.workers(gateway))
            with self._record.fault("rolling restart"):
                gateway.process.send_signal(signal.SIGUSR2)
                until(
                    lambda gateway=gateway, count=count: (
                        gateway.log.read_text().count("every worker has been replaced") > count
                    ),
                    60,
                    "the workers are replaced",
                )
                until(lambda before=before: not any(alive(pid) for pid in before), 90, "the old workers have left")

    def _hash(self) -> str:
        answer = self._site.page("/gateway/v1/snapshot")
        if answer.status != 200:
            raise AssertionError(f"the snapshot's page answers {answer.status} {answer.body[:200]!r}")
        return str(answer.json()["hash"])

    def _refused(self) -> bool:
        workers = self._site.page("/gateway/v1/snapshot").json()["workers"]
        return all((worker["refused"] or {}).get("standing") for worker in workers)

    def _workers(self) -> int:
        return len(self._site.page("/gateway/v1/snapshot").json()["workers"])
