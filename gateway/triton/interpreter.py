"""Finds a Python 3.11 that can carry Triton's Python backend.

The backend's stub is linked against `libpython3.11.so.1.0`, so an interpreter alone is not enough: its shared
library has to exist as well. Where that lies differs: pyenv and conda put it into the prefix, Debian into the
multiarch folder, a build without --enable-shared has none. Each candidate is asked, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.triton.errors import REMEDY, InstallFailed

VERSION = (3, 11)
"""The one version whose stub Tidegate uses; the wheel carries 3.8 to 3.13, the lock is made for 3.11."""
LIBRARY = "libpython3.11.so.1.0"
"""The name in the stub's dynamic section."""

_PROBE = r"""
import importlib.util, json, os, sys, sysconfig
var = sysconfig.get_config_var
lib, arch = var("LIBDIR") or "", var("MULTIARCH") or ""
prefix = sys.base_prefix
places = [lib, os.path.join(lib, arch), os.path.join(prefix, "lib"), os.path.join(prefix, "lib64"),
          os.path.join("/usr/lib", arch), "/usr/local/lib"]
print(json.dumps({
    "version": list(sys.version_info[:2]),
    "executable": getattr(sys, "_base_executable", sys.executable),
    "library": next((os.path.realpath(os.path.join(p, sys.argv[1])) for p in places
                     if os.path.exists(os.path.join(p, sys.argv[1]))), None),
    "pip": importlib.util.find_spec("ensurepip") is not None,
}))
"""
_PROBE_SECONDS = 20  # a cold interpreter on a loaded machine; a hanging wrapper must not hang the install


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python 3.11 and the shared library that belongs to it."""

    executable: Path
    library: Path


def find(wanted: Path | None = None) -> Interpreter:
    """The interpreter `wanted`, else this one, else the first fitting `python3.11` on PATH or of pyenv.

    Raises:
        InstallFailed: none fits; the message names what was tried and why it did not do.
    """
    reasons = []
    for candidate in [wanted] if wanted is not None else _candidates():
        found = _probe(candidate)
        if isinstance(found, Interpreter):
            return found
        reasons.append(f"{candidate}: {found}")
    tried = "; ".join(reasons) or "no python3.11 on PATH"
    raise InstallFailed(
        f"the managed Triton needs a Python 3.11 with its shared library, and none fits ({tried}). "
        "Install one (Debian 12: apt-get install python3.11 python3.11-venv libpython3.11; "
        "pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.11; uv: uv python install 3.11) "
        f"and name it with --python PATH, or {REMEDY}."
    )


def _candidates() -> Iterator[Path]:
    seen = set()
    for path in _places():
        real = path.resolve()
        if path.is_file() and real not in seen:
            seen.add(real)
            yield path


def _places() -> Iterator[Path]:
    if sys.version_info[:2] == VERSION:
        yield Path(sys.executable)
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        yield Path(folder) / "python3.11"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted((pyenv / "versions").glob("3.11*/bin/python3.11"), reverse=True)
    yield from sorted((Path.home() / ".local/share/uv/python").glob("cpython-3.11*/bin/python3.11"), reverse=True)


def _probe(executable: Path) -> Interpreter | str:
    """The interpreter, or in a few words why it does not fit."""
    # Isolated and without the caller's Python variables: the answer must be the one Triton's stub will see.
    try:
        run = subprocess.run(  # noqa: S603 - an interpreter that the user has on PATH or named
            [str(executable), "-I", "-c", _PROBE, LIBRARY],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
        facts = json.loads(run.stdout) if run.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"does not run ({error.__class__.__name__})"
    if facts is None:
        return "does not run"  # a pyenv shim whose version is not selected, for one
    if tuple(facts["version"]) != VERSION:
        return f"is Python {facts['version'][0]}.{facts['version'][1]}, not 3.11"
    if facts["library"] is None:
        return f"has no {LIBRARY} (built without --enable-shared)"
    if not facts["pip"]:
        return "cannot make environments with pip (Debian: apt-get install python3.11-venv)"
    return Interpreter(Path(facts["executable"]), Path(facts["library"]))
