"""Small programs in C that the benchmark compiles for itself, so that the load and the upstream cost little."""

import shutil
import subprocess
from pathlib import Path

from bench.section import Skipped

_SOURCES = Path(__file__).parent


def compiled(name: str, folder: Path, *, library: bool = False) -> Path:
    """`NAME.c` as a program, or as a library for ctypes, in `folder`. Raises Skipped without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Skipped("there is no C compiler (Debian: apt-get install gcc)")
    target = folder / (f"lib{name}.so" if library else name)
    argv = [compiler, "-O2", "-Wall", "-Wextra", "-std=gnu17", "-o", str(target), str(_SOURCES / f"{name}.c"), "-lm"]
    argv += ["-shared", "-fPIC"] if library else []
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"{name}.c does not compile here: {done.stderr.strip().splitlines()[0]}")
    return target
