"""What the gateway's processes hold: memory, descriptors, tasks, connections."""

from __future__ import annotations

import statistics
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from driving import descriptors
from prometheus_client.parser import text_string_to_metric_families
from soak.site import Site

_EVERY_S = 2


def scrape(port: int) -> dict[tuple[str, str], float]:
    """The metrics page: value by name and first label's value, summed over the other labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        text = response.read().decode()
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, next(iter(sample.labels.values()), ""))
            found[key] = found.get(key, 0.0) + sample.value
    return found


@dataclass(frozen=True)
class Growth:
    """One process over a stretch of time."""

    name: str
    pid: int
    first_mib: float
    last_mib: float
    grown: float
    """Share of the first."""
    first_fds: int
    """Most descriptors in the first part, and in the last."""
    last_fds: int


class Watch(threading.Thread):
    """Resident memory and descriptors of every process of the gateways, every two seconds."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site, self._stop_event = site, threading.Event()
        self.samples: list[tuple[float, dict[int, tuple[int, int]]]] = []

    def run(self) -> None:
        """Until `end`."""
        while not self._stop_event.wait(_EVERY_S):
            found = {}
            for _, pid in processes(self._site):
                try:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    found[pid] = (pages * 4096, descriptors(pid))
                except OSError:
                    continue  # it ended
            self.samples.append((time.monotonic(), found))

    def end(self) -> None:
        """Stop looking."""
        self._stop_event.set()
        self.join()

    def growth(self, name: str, pid: int, since: float) -> Growth:
        """Between the first and the last fifth of what was seen since then: the medians of memory."""
        rows = [found[pid] for at, found in self.samples if at >= since and pid in found]
        if not rows:
            return Growth(name, pid, 0.0, 0.0, float("inf"), 0, 0)  # it has ended: nothing killed it in this part
        part = max(1, len(rows) // 5)
        early, late = rows[:part], rows[-part:]
        first, last = (statistics.median(size for size, _ in some) for some in (early, late))
        fds = [max(count for _, count in some) for some in (early, late)]
        return Growth(name, pid, first / 2**20, last / 2**20, last / first - 1, *fds)


def processes(site: Site) -> list[tuple[str, int]]:
    """Name and id of each."""
    named = []
    for name, one in (("gateway", site.gateway), ("gateway with TLS", site.tls)):
        named.append((f"{name}: supervisor", one.process.pid))
        named += [(f"{name}: worker {at}", pid) for at, pid in enumerate(site.workers(one), 1)]
    return named


def tasks(site: Site) -> dict[str, float]:
    """asyncio tasks by worker, as the product counts them."""
    page = scrape(site.metrics_port)
    return {worker: value for (name, worker), value in page.items() if name == "tidegate_worker_tasks"}


def held(site: Site) -> dict[str, float]:
    """Open client connections by door, and requests in flight; the page's own connection is not counted."""
    page = scrape(site.metrics_port)
    found = {door: value for (name, door), value in page.items() if name == "tidegate_connections"}
    found["metrics"] -= 1
    in_flight = sum(value for (name, _), value in page.items() if name == "tidegate_requests_in_flight")
    return {**found, "requests in flight": in_flight}
