"""gateway.memory: large blocks that are freed are there for the next one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from gateway.memory import keep_freed_memory
print(keep_freed_memory())
for count in (3, 40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        bytes(6_000_000).count(b"x")
        bytearray(b"x" * 3_000_000).count(b"y")
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[str, int]:
    """What `keep_freed_memory` said, and the page faults of forty blocks after the first few."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    own |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=own, capture_output=True, text=True, check=True)
    said, count = run.stdout.split()
    return said, int(count)


def test_freed_memory_is_used_again():
    said, kept = faults()
    if said == "False":
        pytest.skip("the C library has no mallopt")
    # The operator's word counts: here that everything from 128 KiB on is mapped anew.
    said, mapped = faults(MALLOC_MMAP_THRESHOLD_="131072")
    assert said == "False"
    assert kept < mapped / 10, (kept, mapped)
