"""Makes the managed Triton's environment: `install(root)`.

Layout of ROOT (by default `.triton/`):

    env/             a virtual environment of Python 3.11 with triton.lock in it, to the hash
    lib/             one link, the interpreter's libpython3.11.so.1.0, for LD_LIBRARY_PATH
    installed.json   the marker: hash of the lock and what was used; written last
    .lock            held while somebody installs

The marker decides: with the lock's hash in it and the files in place there is nothing to do. Without it
whatever lies in `env/` was interrupted and is made again from nothing; pip's own cache keeps that short.
The wheel's tree stays in place, for its libraries are found relative to it; only the Python backend's stub
for 3.11 is copied to where Triton looks for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.triton.errors import REMEDY, InstallFailed, Unsupported
from gateway.triton.interpreter import LIBRARY, Interpreter, find
from gateway.triton.launch import Installation, managed

LOCK = Path(__file__).with_name("triton.lock")
SERVER_VERSION = "2.51.0"
"""The server inside nvidia-pytriton 0.7.0."""
_GLIBC = (2, 35)  # the wheel's platform tag is manylinux_2_35
_SILENCE_SECONDS = 10.0  # pip unpacks half a gigabyte without a word; say something so that nobody presses Ctrl-C
_TAIL_LINES = 3


def install(root: Path, python: Path | None = None, progress: Callable[[str], object] = print) -> Installation:
    """Install the managed Triton under `root`, or return at once what is already there.

    Args:
        root: folder of the managed environment; made when missing.
        python: the Python 3.11 to use; by default one is looked for.
        progress: called with one line at the start of each step and every few seconds of a long one.

    Raises:
        Unsupported: not Linux x86-64 with glibc 2.35 or newer.
        InstallFailed: no fitting Python 3.11, no network, no room; what was begun is redone next time.
    """
    check_platform()
    root = root.absolute()
    if is_current(root):
        return managed(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _exclusive(root, progress):
            if not is_current(root):  # somebody else may have installed while this process waited
                _install(root, find(python), progress)
    except OSError as error:
        raise InstallFailed(
            f"cannot install Triton into {root}: {error.strerror or error}. "
            f"Choose another folder with --root, or {REMEDY}."
        ) from error
    return managed(root)


def check_platform() -> None:
    """Raise Unsupported unless the managed server's binary can run here."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise Unsupported(f"the managed Triton runs on Linux x86-64 and this is {system} {machine}: {REMEDY}.")
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < _GLIBC:
        found = f"{libc} {version}".strip() or "another C library"
        raise Unsupported(f"the managed Triton needs glibc 2.35 or newer and this system has {found}: {REMEDY}.")


def is_current(root: Path) -> bool:
    """Whether `root` holds a finished installation of this lock."""
    try:
        marker = json.loads((root / "installed.json").read_text())
    except (OSError, ValueError):
        return False
    if not isinstance(marker, dict) or marker.get("lock_sha256") != _lock_hash():
        return False
    found = managed(root)
    return found.server.exists() and _stub(root).exists() and (root / "lib" / LIBRARY).exists()


def _install(root: Path, interpreter: Interpreter, progress: Callable[[str], object]) -> None:
    (root / "installed.json").unlink(missing_ok=True)
    progress(f"triton: environment {root} with {interpreter.executable}")
    _run([str(interpreter.executable), "-m", "venv", "--clear", str(root / "env")], root)
    _pip(root, progress)
    library = root / "lib" / LIBRARY
    library.parent.mkdir(exist_ok=True)
    library.unlink(missing_ok=True)
    library.symlink_to(interpreter.library)
    stub = _stub(root)
    shutil.copy2(stub.parents[2] / "python_backend_stubs" / "3.11" / stub.name, stub)
    stub.chmod(0o755)
    _check_binaries(root)
    marker = {
        "lock_sha256": _lock_hash(),
        "server_version": SERVER_VERSION,
        "python": str(interpreter.executable),
        "libpython": str(interpreter.library),
    }
    draft = root / "installed.json.new"
    draft.write_text(json.dumps(marker, indent=2) + "\n")
    draft.replace(root / "installed.json")
    progress(f"triton: installed Triton {SERVER_VERSION}")


def _stub(root: Path) -> Path:
    backends = managed(root).backends
    assert backends is not None  # a managed installation always has them
    return backends / "python" / "triton_python_backend_stub"


def _lock_hash() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def _pip(root: Path, progress: Callable[[str], object]) -> None:
    total = sum("==" in line and not line.startswith(("#", " ")) for line in LOCK.read_text().splitlines())
    argv = [
        str(root / "env/bin/python"),
        "-m",
        "pip",
        "install",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    argv += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "-r", str(LOCK)]
    progress(f"triton: fetching {total} packages, about 200 MB (a few minutes the first time)")
    errors: list[str] = []
    fetched = 0
    pip: subprocess.Popen[bytes] | None = None
    try:
        with _interrupts_later():
            pip = subprocess.Popen(  # noqa: S603 - argv is made here
                argv,
                env=_clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        for line in _lines(pip, lambda: progress("triton: still working")):
            if line.startswith("Collecting "):
                fetched += 1
                if fetched % 10 == 0 or line.startswith("Collecting nvidia-pytriton"):
                    progress(f"triton: package {fetched} of {total}, {line.split()[1]}")
            elif line.startswith("Installing collected packages"):
                progress(f"triton: unpacking {total} packages")
            elif "ERROR" in line:
                errors.append(line.strip())
        code = pip.wait()
    finally:
        if pip is not None and pip.poll() is None:  # Ctrl-C: pip must not go on in the background
            pip.terminate()
            pip.wait()
    if code != 0:
        said = " ".join(errors[-_TAIL_LINES:]) or "no error message"
        raise InstallFailed(
            f"cannot install Triton into {root}: pip ended with status {code} ({said}). "
            f"Check the network and pip's index settings and try again, or {REMEDY}."
        )


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C within the block has its effect after it: in the midst of `Popen` it would leave a child without a parent.

    In another thread than the main one there is nothing to do: Python handles signals in the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if came:
        signal.raise_signal(signal.SIGINT)


def _lines(process: subprocess.Popen[bytes], silent: Callable[[], object]) -> Iterator[str]:
    """The process's output line by line; `silent` is called whenever it said nothing for a while."""
    assert process.stdout is not None
    descriptor, rest = process.stdout.fileno(), b""
    with process.stdout:
        while True:
            if not select.select([descriptor], [], [], _SILENCE_SECONDS)[0]:
                silent()
                continue
            chunk = os.read(descriptor, 65536)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
    if rest:
        yield rest.decode(errors="replace")


def _check_binaries(root: Path) -> None:
    """Load server and stub once: a missing library is an error of the install and not of a request."""
    found = managed(root)
    environment = {**_clean_environment(), **found.environment}
    for binary in (found.server, _stub(root)):
        argv = [str(binary), "--help"]
        run = subprocess.run(argv, env=environment, capture_output=True, check=False)  # noqa: S603 - ours
        if run.returncode == 127:  # the dynamic loader's: a library is missing
            said = run.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise InstallFailed(f"Triton's {binary.name} cannot be loaded here ({' '.join(said)}): {REMEDY}.")


def _run(argv: list[str], root: Path) -> None:
    run = subprocess.run(  # noqa: S603 - argv is made here
        argv, env=_clean_environment(), capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        said = " ".join((run.stdout + run.stderr).strip().splitlines()[-_TAIL_LINES:])
        raise InstallFailed(f"cannot make an environment in {root}: {said}. Fix that, or {REMEDY}.")


def _clean_environment() -> dict[str, str]:
    """This process's environment without what would point another Python at this one's packages."""
    ours = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_REQUIRE_VIRTUALENV")
    return {key: value for key, value in os.environ.items() if key not in ours}


@contextmanager
def _exclusive(root: Path, progress: Callable[[str], object]) -> Iterator[None]:
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"triton: another process installs into {root}, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
