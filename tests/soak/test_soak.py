"""Five minutes of `make soak`: mixed traffic, faults every few seconds, and nothing is lost or leaked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from triton_fixture import CHECKOUT, installed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_minutes():
    installed()
    path = os.pathsep.join(str(CHECKOUT / folder) for folder in ("", "tests", "tests/e2e"))
    environment = {"SOAK_SECONDS": "300", **os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "soak"], capture_output=True, text=True, env=environment, timeout=880, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
