"""The soft limit of file descriptors is raised to the hard one, and said; one that is too low is warned of."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_fixture import start_gateway

from gateway import descriptors

SETTINGS = "upstreams: {none: {http: 127.0.0.1:1}}\n"


def limits_of(pid: int) -> tuple[int, int]:
    (line,) = [
        line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max open files")
    ]
    return int(line.split()[3]), int(line.split()[4])


def test_workers_inherit_what_was_raised(tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # The limit of this process is lowered for the child alone: soft, so that it can be raised again.
    soft = min(512, hard)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        gateway = start_gateway(tmp_path, SETTINGS, wait="live")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    pid = gateway.process.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert workers
    assert {limits_of(int(one)) for one in [pid, *workers]} == {(hard, hard)}
    assert gateway.stop() == 0
    said = [line["message"] for line in gateway.log_lines() if line["message"].startswith("file descriptors")]
    if soft != hard:
        assert said[0] == f"file descriptors: limit raised from {soft} to {hard}"


CHILD = """
import resource, sys
sys.path.insert(0, sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from gateway.descriptors import raise_limit
print(*raise_limit())
"""


@pytest.mark.parametrize(("soft", "hard"), [(100, 200), (200, 200)])
def test_as_far_as_this_user_may(soft, hard):
    root = str(Path(descriptors.__file__).resolve().parents[1])
    argv = [sys.executable, "-c", CHILD, str(soft), str(hard), root]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(soft), str(hard)]


def test_a_limit_that_is_too_low_is_warned_of(tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    gateway = start_gateway(tmp_path, f"{SETTINGS}limits: {{connections: {hard}}}\n", wait="live")
    assert gateway.stop() == 0
    (warned,) = [line for line in gateway.log_lines() if "lower limits.connections" in line["message"]]
    assert str(descriptors.needed(2, hard, [256])) in warned["message"]
    assert str(hard) in warned["message"]
