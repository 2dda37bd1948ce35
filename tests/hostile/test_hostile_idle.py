"""10,000 idle connections on each door beside good clients: descriptors and memory stay within `limits.connections`.

`TIDEGATE_HOSTILE_IDLE=FILE` writes the figures of docs/hostile-wire.md.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from pathlib import Path

import pytest
from cases_grpc import HELLO, SETTINGS, frame
from cases_http import GOOD_FIRST
from gateway_fixture import start_gateway
from hostile_site import Site, Watch, rss, worker_of

# Of those that may be held: a few are the good clients'.
MOST = 10_000
SPARE = 16
BATCH = 250
TEXT = """
upstreams: {triton: {http: "$TRITON_HTTP", grpc: "$TRITON_GRPC"}}
limits: {connections: %d, header_timeout: 60s, idle_timeout: 600s}
"""
# Bytes of one idle connection in the worker, with room for other machines; what is measured stands in the docs.
MOST_BYTES = {"http": 24 * 1024, "grpc": 48 * 1024}


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def room() -> int:
    """Connections that this process and a worker may hold each; the limit of this process is raised for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(MOST, hard - 1000)
    if count < 1000:
        pytest.skip(f"this system allows {hard} file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 1000), hard))
    yield count
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def site(tmp_path_factory, triton, room) -> Site:
    text = TEXT.replace("$TRITON_HTTP", triton.http).replace("$TRITON_GRPC", triton.grpc) % room
    gateway = start_gateway(tmp_path_factory.mktemp("idle"), text)
    yield Site(gateway, worker_of(gateway))
    assert gateway.stop() == 0


def begin(door: str, connections: list[socket.socket]) -> None:
    """Each is served, and idle from then on."""
    for one in connections:
        one.sendall(GOOD_FIRST if door == "http" else HELLO + frame(SETTINGS, 1, 0))
    for one in connections:
        assert one.recv(65536)


@pytest.mark.slow
@pytest.mark.parametrize("door", ["http", "grpc"])
def test_idle_connections(site: Site, room: int, door: str):
    before, open_before = rss(site.worker), descriptors(site.worker)
    with contextlib.ExitStack() as held, Watch(site) as seen:
        time.sleep(0.5)  # the good clients connect first
        began = time.monotonic()
        for first in range(0, room - SPARE, BATCH):
            count = min(BATCH, room - SPARE - first)
            begin(door, [held.enter_context(site.connect(door)) for _ in range(count)])
        took = time.monotonic() - began
        each = (rss(site.worker) - before) / (room - SPARE)
        assert descriptors(site.worker) - open_before >= room - SPARE, "they are all there"
        served = seen.served
        time.sleep(2)
        assert seen.served > served, "good clients are served beside them"
        more = [held.enter_context(site.connect(door, timeout=20)) for _ in range(2 * SPARE)]
        time.sleep(0.5)
        assert descriptors(site.worker) <= open_before + room + 2 * SPARE, "bounded by limits.connections"
        last = more[-1]
        with contextlib.suppress(ConnectionError):
            assert last.recv(65536)[:12] in (b"HTTP/1.1 503", b""), "one too many"
    target = os.environ.get("TIDEGATE_HOSTILE_IDLE")
    if target:
        with Path(target).open("a") as out:
            out.write(f"| {door} | {room - SPARE:,} | {each / 1024:.1f} KiB | {took:.1f} s | {seen.slowest:.2f} s |\n")
    assert seen.failed == []
    assert each < MOST_BYTES[door], each
    until = time.monotonic() + 30
    while descriptors(site.worker) > open_before + SPARE and time.monotonic() < until:
        time.sleep(0.1)
    assert descriptors(site.worker) <= open_before + SPARE, "and they all went"
