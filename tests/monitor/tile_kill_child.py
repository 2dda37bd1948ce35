"""Keeps and feeds a minute of a monitor, killed at another call to the disk each time, and looks after it.

Runs with `tests/registry/killing.c` preloaded. Arguments: a folder, whether to kill `before` or `after` the call, which
calls (`first:every`). Prints how many calls there are, how often it was killed, and how often the minute was there.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from tile_site import BEGIN, SECOND, Gateway, in_store

killer = ctypes.CDLL(os.environ["LD_PRELOAD"])
killer.counted.restype = ctypes.c_long
killer.arm.argtypes = (ctypes.c_long, ctypes.c_int)

LATER = BEGIN + 3 * 3600


def forked(folder: Path, kill_at: int, after: bool) -> tuple[int, int]:
    """A gateway that starts, keeps a minute and writes it; its wait status, and how many calls it made."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        one = Gateway(folder, None)
        killer.arm(kill_at, int(after))
        one.minute(LATER)
        made = killer.counted()
        killer.arm(0, 0)
        os.write(theirs, str(made).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        made = pipe.read()
    return os.waitpid(child, 0)[1], int(made or 0)


def main() -> None:
    place, how, which = sys.argv[1:]
    first, every = map(int, which.split(":"))
    base, folder = Path(place) / "base", Path(place) / "now"
    one = Gateway(base, None)
    for minute in range(10):
        one.count(20)
        one.minute(BEGIN + 60 * minute)
    one.count(50)  # not yet in the journal
    known = one.block().copy()

    def fresh() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)

    fresh()
    status, calls = forked(folder, 0, False)
    assert status == 0
    kills = done = 0
    for kill_at in range(first, calls + 1, every):
        fresh()
        status, _ = forked(folder, kill_at, how == "after")
        assert os.WIFSIGNALED(status), status
        kills += 1
        again = Gateway(folder, None)
        there, _ = in_store(again.history.plain, again.monitor)
        counted = int(there[1])
        assert counted in (200, 250), counted
        done += counted == 250
        window = again.monitor.report("1d", (LATER + 1) * SECOND)
        assert (window.rows["current"], window.of) == (250, "store"), window.rows
        again.minute(LATER + 60)
        there, _ = in_store(again.history.plain, again.monitor)
        assert np.array_equal(there, known), "lost, or doubled"
    print(json.dumps({"calls": calls, "kills": kills, "made": done}))


if __name__ == "__main__":
    main()
