"""What one call of a function costs: instructions, counted by callgrind, and CPU time of the thread.

A suite is a function that gives, for a folder of its own, the name of each case and a factory of the call that is
measured: `MODULE:FUNCTION`. Every suite runs in processes of its own, once under valgrind and once without. The cost
of calling a function that does nothing is subtracted; the garbage collector is off, since when it runs depends on
what ran before. Instructions are user space's alone: they do not see system calls, caches or branches.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from bench.native import compiled
from bench.runs import CHECKOUT

Suite: TypeAlias = Mapping[str, Callable[[], Callable[[], object]]]
_HEADER = Path("/usr/include/valgrind/callgrind.h")
_CALLS = 200
"""Counted of each case, after as many that are not: they fill caches, and the code specialises itself."""
_DUMPS = 3
"""Of each case; the least counts, since another thread of the process may have run in between."""
_SLICE_NS = 20_000_000
_NOTHING = "nothing"


class Cost(msgspec.Struct):
    """Of one call."""

    instructions: float | None = None
    """None: there is no valgrind here."""
    ns: list[float] = []
    """CPU time of the thread; one figure a round."""
    calls: int = 0
    """Of all rounds."""
    error: str = ""
    """Why there are no figures: the case does not run."""

    @property
    def median_ns(self) -> float:
        """Of the rounds."""
        return median(self.ns)


def can_count() -> str:
    """Why instructions cannot be counted here; empty when they can."""
    if shutil.which("valgrind") is None or not _HEADER.exists():
        return "valgrind is not installed (Debian: apt-get install valgrind)"
    return ""


def costs(
    suite: str, *, rounds: int, count: bool = True, extensions: bool = True, code: Path = CHECKOUT
) -> dict[str, Cost]:
    """The cost of each case, by name.

    Args:
        suite: `MODULE:FUNCTION`.
        rounds: of CPU time; 0: instructions alone.
        count: instructions too, where that can be done.
        extensions: False: the kernels' twins in Python.
        code: checkout whose gateway, governance and kernels are measured, its kernels built.

    Raises:
        RuntimeError: the suite does not run.
    """
    found: dict[str, Cost] = {}
    twins = {} if extensions else {"TIDEGATE_NO_EXTENSIONS": "1"}
    with tempfile.TemporaryDirectory(prefix="tidegate-counted-") as name:
        folder = Path(name)
        view = _view(folder, code)
        if rounds:
            for case, (calls, ns, error) in _child(suite, folder, view, ["time", str(rounds)], env=twins).items():
                found[case] = Cost(ns=ns, calls=calls, error=error)
        if count and not can_count():
            for case, (instructions, error) in _counted(suite, folder, view).items():
                one = found.setdefault(case, Cost(error=error))
                one.instructions = instructions
    return found


def _view(folder: Path, code: Path) -> Path:
    """A folder from which that checkout's packages are imported, and this one's benchmark."""
    view = folder / "view"
    view.mkdir()
    for package in ("gateway", "governance", "kernels"):
        (view / package).symlink_to(code.resolve() / package)
    for package in ("bench", "tests"):
        (view / package).symlink_to(CHECKOUT / package)
    return view


def _counted(suite: str, folder: Path, view: Path) -> dict[str, tuple[float | None, str]]:
    library = compiled("collect", folder, library=True)
    dumps = folder / "dumps"
    dumps.mkdir()
    valgrind = [
        *(("setarch", "-R") if shutil.which("setarch") else ()),  # addresses are hashed: let them be the same
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={dumps}/out"),
    ]
    failed = _child(suite, folder, view, ["count", str(library)], before=valgrind)
    totals: dict[str, int] = {}
    for path in dumps.iterdir():
        name = total = None
        with path.open(errors="replace") as lines:
            for line in lines:
                if line.startswith("desc: Trigger: Client Request: "):
                    name = line.partition("Client Request: ")[2].strip()
                elif line.startswith("totals: "):
                    total = int(line.split()[1])
        if name is not None and total is not None:
            totals[name] = min(total, totals.get(name, total))
    if _NOTHING not in totals:
        raise RuntimeError("callgrind wrote no figures")
    base = totals.pop(_NOTHING)
    found: dict[str, tuple[float | None, str]] = {
        name: (round((total - base) / _CALLS, 1), "") for name, total in totals.items()
    }
    return found | {name: (None, error) for name, (_, _, error) in failed.items() if error}


def _child(
    suite: str,
    folder: Path,
    view: Path,
    mode: list[str],
    before: Sequence[str] = (),
    env: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, tuple[int, list[float], str]]:
    """Run the suite in a process of its own; calls, nanoseconds and error of each case."""
    output, scratch = folder / f"{mode[0]}.json", folder / f"{mode[0]}-scratch"
    scratch.mkdir()
    argv = [*before, sys.executable, "-m", "bench.counted", suite, str(scratch), str(output), *mode]
    # Hashes of strings decide how many steps a lookup takes.
    done = subprocess.run(
        argv,
        cwd=view,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": "", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{suite} ended with {done.returncode}: {last}")
    found: dict[str, tuple[int, list[float], str]] = json.loads(output.read_text())
    return found


# --- within the process that is measured --------------------------------------------------------------------


def _made(suite: str, folder: Path) -> dict[str, Callable[[], object] | str]:
    """The call of each case, tried once; or why there is none."""
    module, _, function = suite.partition(":")
    made: dict[str, Callable[[], object] | str] = {_NOTHING: lambda: None}
    for name, factory in getattr(importlib.import_module(module), function)(folder).items():
        try:
            call = factory()
            call()
        except Exception as error:  # noqa: BLE001 - another revision may lack what a case asks for
            made[name] = repr(error)
        else:
            made[name] = call
    return made


def _repeat(call: Callable[[], object], times: int) -> None:
    for _ in repeat(None, times):
        call()


def _time(call: Callable[[], object], rounds: int) -> tuple[int, list[float]]:
    """Calls of all rounds, and nanoseconds a call of each."""
    times, spent = 1, 0
    while spent < _SLICE_NS // 4:  # as many as fill a slice
        times *= 2
        began = time.thread_time_ns()
        _repeat(call, times)
        spent = time.thread_time_ns() - began
    times = max(1, round(times * _SLICE_NS / spent))
    found = []
    for _ in range(rounds):
        began = time.thread_time_ns()
        _repeat(call, times)
        found.append((time.thread_time_ns() - began) / times)
    return times * rounds, found


def main() -> int:
    """As `_child` calls it."""
    suite, scratch, output, mode, argument = sys.argv[1:]
    made = _made(suite, Path(scratch))
    gc.collect()
    gc.freeze()
    gc.disable()
    found: dict[str, tuple[int, list[float], str]] = {
        name: (0, [], call) for name, call in made.items() if type(call) is str
    }
    calls = {name: call for name, call in made.items() if callable(call)}
    if mode == "time":
        nothing = median(_time(calls[_NOTHING], 9)[1])
        for name, call in calls.items():
            if name != _NOTHING:
                count, ns = _time(call, int(argument))
                found[name] = (count, [round(one - nothing, 1) for one in ns], "")
    else:
        library = ctypes.CDLL(argument)
        if not library.counting():
            print("not under valgrind", file=sys.stderr)
            return 2
        library.begin()
        for name, call in calls.items():
            _repeat(call, _CALLS)
            for _ in range(_DUMPS):
                random.seed(7)
                library.zero()
                _repeat(call, _CALLS)
                library.dump(name.encode())
    Path(output).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
