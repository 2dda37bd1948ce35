"""KServe's REST and gRPC clients, unchanged, in an environment of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from venv_fixture import environment

CALLS = Path(__file__).with_name("kserve_calls.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kserve(shared_gateway):
    command = [environment("kserve") / "python", CALLS, shared_gateway.http, shared_gateway.grpc]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines() == [
        "ok rest health",
        "ok rest infer binary=False",
        "ok rest infer binary=True",
        "ok rest error",
        "ok grpc health",
        "ok grpc infer",
        "ok grpc error",
    ]
