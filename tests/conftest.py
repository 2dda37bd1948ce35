"""Shared by every test: Hypothesis profiles, the real Triton, and real gateways in front of it."""

from __future__ import annotations

import os
import signal

from gateway_fixture import gateway, shared_gateway
from hypothesis import HealthCheck, settings
from postgres_fixture import postgres_server, store_url
from redis_fixture import redis_server
from triton_fixture import triton

__all__ = ["gateway", "postgres_server", "redis_server", "shared_gateway", "store_url", "triton"]

# A shell starts what runs in the background with SIGINT ignored, and programs inherit that: the tests' own must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` runs the default profile: the same examples each time, so that what is red is red because of the change.
# `HYPOTHESIS_PROFILE=random` looks elsewhere at every run, `thorough` besides ten times longer.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True, derandomize=True
)
settings.register_profile("random", settings.get_profile("default"), derandomize=False)
settings.register_profile("thorough", settings.get_profile("random"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
