"""Makes one step of the registry again and again, killed at another call to the disk each time, and looks after it.

Runs with `killing.c` preloaded. Arguments: the folder of a site, its state before the step, where copies may lie,
whether to kill `before` or `after` the call, which calls (`first:every`), and the words of the command. Prints how many
calls there are, how often it was killed, and how often the step had been made by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

from gateway import cli
from governance.audit.verify import read_keys, verify
from governance.store import database, steps  # noqa: F401 - imported once, and not in every child
from governance.store.reading import reader, sqlite_path

killer = ctypes.CDLL(os.environ["LD_PRELOAD"])
killer.counted.restype = ctypes.c_long
killer.arm.argtypes = (ctypes.c_long, ctypes.c_int)


def quietly(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        return cli.main(list(words)), out.getvalue()


def forked(kill_at: int, after: bool, words: list[str]) -> tuple[int, int]:
    """The command in a process of its own; its wait status, and how many calls it made."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        killer.arm(kill_at, int(after))
        status = quietly(*words)[0]
        made = killer.counted()
        killer.arm(0, 0)
        os.write(theirs, str(made).encode())
        os._exit(status)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        made = pipe.read()
    return os.waitpid(child, 0)[1], int(made or 0)


def look(state: Path, before: int, words: list[str], again: list[str]) -> bool:
    """After a kill: whether the step was made. Then the same step once more, and everything has to be there once."""
    made = reader("", state).latest()[0]
    assert made in (before, before + 1), made
    status, said = quietly(*words)
    assert status == (0 if made == before or again else 1), said
    wanted = max(made, before + 1) + (made > before and bool(again))
    assert reader("", state).latest()[0] == wanted
    db = sqlite3.connect(sqlite_path(state))
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert db.execute("SELECT COUNT(*) FROM registry_step WHERE NOT recorded").fetchone() == (0,)
    db.close()
    log = state / "audit"
    assert verify(log, read_keys(log / "log.vkey"), []).ok
    records = [json.loads(line) for line in quietly("audit", "show", str(log))[1].splitlines()]
    served = [one for one in records if one["kind"] in ("registry", "approval") and one["outcome"] == "served"]
    ids = [one["id"] for one in served]
    assert len(set(ids)) == wanted, "a step without a record"
    assert len(ids) <= wanted + 1, "more than one step is recorded twice"
    numbers = [one["details"]["number"] for one in served]
    assert numbers == sorted(numbers), "out of order"
    return made > before


def main() -> None:
    site, base, place, how, which, *words = sys.argv[1:]
    again = [word for word in words if word == "register"]  # a step that may be made twice
    state = Path(site) / "state"
    begun = Path(base)
    first, every = map(int, which.split(":"))

    def fresh() -> None:
        shutil.rmtree(state, ignore_errors=True)
        if begun.exists():
            shutil.copytree(begun, state)

    fresh()
    before = reader("", state).latest()[0]
    status, calls = forked(0, False, words)
    assert status == 0, "the step does not work at all"
    kills = done = 0
    for kill_at in range(first, calls + 1, every):
        fresh()
        status, _ = forked(kill_at, how == "after", words)
        if not os.WIFSIGNALED(status):  # threads of the log do a little more or less each time
            assert status == 0
            continue
        kills += 1
        done += look(state, before, words, again)
    print(json.dumps({"calls": calls, "kills": kills, "made": done}))
    shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
