"""gateway.memory: large blocks that are freed are there for the next one, and go back to the system in time."""

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

GIVEN_BACK = """
import asyncio, random
from gateway import memory

memory.EVERY_S = 0.05
assert memory.keep_freed_memory()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

async def use():
    trims = asyncio.create_task(memory.give_back_freed_memory(None))
    random.seed(1)
    held = [bytes(random.choice((700, 20_000, 150_000))) for _ in range(500)]
    last = bytes(900)  # above all of it: the heap's end does not move down
    most = resident()
    held.clear()
    await asyncio.sleep(1)
    trims.cancel()
    print(most - resident())

asyncio.run(use())
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


def test_what_stays_free_goes_back_to_the_system():
    if faults()[0] == "False":
        pytest.skip("the C library has no mallopt")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK], env=environment, capture_output=True, text=True, check=True
    )
    assert int(run.stdout) > 20_000_000
