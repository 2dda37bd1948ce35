"""Workers that were killed: until their successors serve, the others answer what comes to their seats."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest
from driving import children, fp32, until
from triton_fixture import free_ports


def listening(pid: int, port: int) -> int:
    """Listening sockets of this port that a process has."""
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(str(descriptor.readlink()))
        except OSError:  # closed meanwhile
            continue
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[3] == "0A" and row[1].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in held for row in rows)


@pytest.fixture
def site(gateway):
    """Three workers, and the port of the metrics."""
    [port] = free_ports(1)
    one = gateway(
        "workers: 3\nupstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
        f"metrics: {{listen: '127.0.0.1:{port}'}}\n"
    )
    until(lambda: "serving: " in one.log.read_text(), 30, "all of them serve")
    return one, port


def kill_and_hold(one, pid: int) -> int:
    """Kill a worker; its successor's process id, stopped before it can do anything."""
    before = set(children(one.process.pid))
    os.kill(pid, signal.SIGKILL)
    new = until(lambda: set(children(one.process.pid)) - before, 30, "a successor")
    [successor] = new
    os.kill(successor, signal.SIGSTOP)
    return successor


def all_answered(one, port: int) -> None:
    """New connections on both ports, to every seat by all chance."""
    for _ in range(30):
        assert one.post("/v2/models/identity_fp32/infer", fp32()).status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            assert answer.status == 200


def test_connections_to_a_dead_workers_seat_are_answered(site):
    one, port = site
    first, second, third = children(one.process.pid)
    stopped = [kill_and_hold(one, first)]
    try:
        all_answered(one, port)
        # One of the two may be who answers for the first.
        stopped.append(kill_and_hold(one, second))
        all_answered(one, port)
        assert listening(third, port) == 3
        assert listening(third, int(one.http.rpartition(":")[2])) == 3
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    for pid in children(one.process.pid):
        until(lambda pid=pid: listening(pid, port) == 1, 30, "each has its own seat alone")
        until(lambda pid=pid: listening(pid, int(one.http.rpartition(":")[2])) == 1, 30)
    all_answered(one, port)
    assert one.stop() == 0
    assert "Traceback" not in one.log.read_text()
