"""One proxy, one round: start it, see that it answers, load it, read what it used."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from bench import clients, proc
from bench.latency import Added, added, check_http
from bench.load import check_grpc
from bench.peers import Peer, Running
from bench.upstream import Server

WARM_UP = 0.1
"""Share of the requests that are sent before anything is counted: caches, connections, lazy imports."""


@dataclass(frozen=True)
class Load:
    """How much."""

    requests: int
    latency_requests: int
    protocols: tuple[str, ...]
    idle_seconds: float = 3.0
    """After the first answer, until memory is read."""


@dataclass
class Measured:
    """What one round found of one proxy."""

    peer: str
    runs: dict[str, clients.Run] = field(default_factory=dict)
    cpu_us: dict[str, float] = field(default_factory=dict)
    """By protocol: microseconds of CPU a request; absent without a proxy."""
    latency: Added | None = None
    idle: list[proc.Memory] = field(default_factory=list)
    loaded: list[proc.Memory] = field(default_factory=list)


def measure(peer: Peer, upstream: Server, directory: Path, otlp: str, load: Load) -> Measured:
    """One round of one proxy."""
    found = Measured(peer.name)
    requests, latency_requests = (
        max(round(count * peer.share), 200) for count in (load.requests, load.latency_requests)
    )
    directory.mkdir(parents=True)
    with peer.start(upstream, directory, otlp) as proxy:
        check_http(proxy.http)
        time.sleep(0 if proxy.pid is None else load.idle_seconds)
        found.idle = [] if proxy.pid is None else proc.memory(proxy.pid)
        for protocol in peer.protocols:
            if protocol in load.protocols:
                _load(found, protocol, proxy, directory.parent, requests)
        if proxy.pid is not None:
            found.loaded = proc.memory(proxy.pid)
            if "http" in load.protocols:
                found.latency = added(upstream.http, proxy.http, latency_requests)
    return found


def _load(found: Measured, protocol: str, proxy: Running, files: Path, requests: int) -> None:
    if protocol == "http":

        def send(count: int) -> clients.Run:
            return clients.run_http(proxy.http, count, files)
    else:
        answer_bytes = check_grpc(proxy.grpc)

        def send(count: int) -> clients.Run:
            return clients.run_grpc(proxy.grpc, count, files, answer_bytes)

    send(max(int(requests * WARM_UP), 100))
    before = 0.0 if proxy.pid is None else proc.cpu_seconds(proxy.pid)
    run = send(requests)
    if run.errors:
        raise RuntimeError(f"{run.errors} of {run.requests} {protocol} requests failed: no figure")
    if proxy.pid is not None:
        found.cpu_us[protocol] = (proc.cpu_seconds(proxy.pid) - before) / run.requests * 1e6
    found.runs[protocol] = run
