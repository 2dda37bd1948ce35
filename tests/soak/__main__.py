"""`make soak`: mixed traffic and faults for SOAK_SECONDS (3600); a table; status 1 when something does not hold.

Three parts. In the first quarter every fault comes, workers are killed and replaced. Then the workers stay, so
that their memory can be watched, while Tritons are killed and stopped, and settings change. At the end a rolling
restart, and nothing may be left: no request in flight, no connection, no descriptor.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from driving import alive, descriptors, until
from soak.record import Record
from soak.site import Site
from soak.traffic import Traffic

FLAT = 0.05
SLACK_FDS = 8
"""Idle upstream connections come and go."""


class Watch(threading.Thread):
    """Memory and descriptors of the gateway's processes, every two seconds."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site, self._stop_event = site, threading.Event()
        self.samples: list[tuple[float, dict[int, tuple[int, int]]]] = []

    def run(self) -> None:
        while not self._stop_event.wait(2):
            found = {}
            for pid in (self._site.gateway.process.pid, *self._site.workers()):
                try:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    found[pid] = (pages * 4096, descriptors(pid))
                except OSError:
                    continue  # it ended
            self.samples.append((time.monotonic(), found))

    def end(self) -> None:
        self._stop_event.set()
        self.join()

    def growth(self, pid: int, since: float) -> tuple[float, float, float, int]:
        """MiB at the beginning and at the end, growth between, and the largest number of descriptors, since then."""
        rows = [found[pid] for at, found in self.samples if at >= since and pid in found]
        if not rows:
            return 0.0, 0.0, float("inf"), 0  # it has ended: nothing killed it in this part
        part = max(1, len(rows) // 5)
        first, last = (statistics.median(size for size, _ in some) for some in (rows[:part], rows[-part:]))
        return first / 2**20, last / 2**20, last / first - 1, max(fds for _, fds in rows)


def main() -> int:
    """The soak."""
    seconds = float(os.environ.get("SOAK_SECONDS", "3600"))
    random.seed(int(os.environ.get("SOAK_SEED", "4")))
    record, problems = Record(), []
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), record)
        print(f"soak: {seconds:g} s against {site.gateway.http} and {site.gateway.grpc}", file=sys.stderr)
        traffic, watch = Traffic(record, site.gateway.http, site.gateway.grpc), Watch(site)
        began = time.monotonic()
        try:
            traffic.start()
            watch.start()
            _inject(site, site.all(), began + seconds / 4)
            site.roll()
            settled = time.monotonic()
            pids = [site.gateway.process.pid, *(pid for pid in site.workers() if alive(pid))]
            _inject(site, site.mild(), began + seconds)
            memory = [(pid, watch.growth(pid, settled + (time.monotonic() - settled) / 4)) for pid in pids]
            site.roll()
        finally:
            traffic.stop()
            watch.end()
            problems += _left_over(site)
            log = site.gateway.log.read_text()
            status = site.stop()
        if status != 0:
            problems.append(f"the gateway ended with {status}")
        if "Traceback" in log:
            problems.append("a traceback in the log:\n" + log[log.index("Traceback") :][:3000])
    table, unexplained = record.table()
    print(table)
    print("\n| process | MiB at first | MiB at last | growth | most descriptors |\n|---|---|---|---|---|")
    for at, (pid, (first, last, grown, fds)) in enumerate(memory):
        name = "supervisor" if at == 0 else f"worker {at}"
        print(f"| {name} ({pid}) | {first:.1f} | {last:.1f} | {grown:+.1%} | {fds} |")
        if grown > FLAT:
            problems.append(f"{name} grew by {grown:.1%}")
    if unexplained:
        problems.append(f"{unexplained} failures that no fault explains")
    print(f"\nsoak: {sum(record.calls.values())} calls in {time.monotonic() - began:.0f} s, ", end="")
    print("; ".join(problems) if problems else "everything holds")
    return 1 if problems else 0


def _inject(site: Site, faults, until_: float) -> None:
    """Faults in random rounds, each once a round, every few seconds."""
    while time.monotonic() < until_:
        for fault in random.sample(faults, len(faults)):
            if time.monotonic() >= until_:
                return
            fault()
            time.sleep(random.uniform(1, 3))


def _left_over(site: Site) -> list[str]:
    """What is still held once nobody asks any more."""
    problems = []
    gateway = site.gateway
    try:
        until(lambda: gateway.metric("tidegate_requests_in_flight") == 0, 30)
    except AssertionError:
        problems.append(f"{gateway.metric('tidegate_requests_in_flight')} requests are still in flight")
    time.sleep(25)  # gRPC connections come of age
    counts = [descriptors(pid) for pid in site.workers()]
    if counts and max(counts) - min(counts) > SLACK_FDS:
        problems.append(f"descriptors differ: {counts}")
    print(f"descriptors of idle workers at the end: {counts}", file=sys.stderr)
    return problems


if __name__ == "__main__":
    sys.exit(main())
