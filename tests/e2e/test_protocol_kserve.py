"""KServe's REST and gRPC clients, unchanged, in an environment of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from peers_fixture import run_peer

CALLS = Path(__file__).with_name("kserve_calls.py")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kserve(shared_gateway):
    out = run_peer(CALLS, shared_gateway.http, shared_gateway.grpc, seconds=120)
    assert out.splitlines() == [
        "ok rest health",
        "ok rest infer binary=False",
        "ok rest infer binary=True",
        "ok rest error",
        "ok grpc health",
        "ok grpc infer",
        "ok grpc error",
    ]
