"""Environments of their own for the slow tier's real servers (MLflow, Phoenix, MLServer, KServe).

Contract: `environment(NAME)` makes `.venv-NAME` in the checkout from `requirements/NAME.lock`, exact versions
and hashes, the first time and whenever the lock or the interpreter changes; afterwards it takes milliseconds.
One process installs at a time. `python tests/venv_fixture.py NAME...` does the same from a shell.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

CHECKOUT = Path(__file__).resolve().parent.parent
NAMES = ("mlserver", "kserve", "mlflow", "phoenix", "oracles")


def environment(name: str) -> Path:
    """The `bin` folder of the environment; installs what is missing (minutes, the first time)."""
    folder = CHECKOUT / f".venv-{name}"
    lock = CHECKOUT / "requirements" / f"{name}.lock"
    stamp = folder / ".lock"
    wanted = f"# {sys.version}\n{lock.read_text()}"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            began = time.monotonic()
            print(f"==> installing {folder.name} (minutes, once)", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", lock], check=True)
            stamp.write_text(wanted)
            print(f"==> {folder.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return folder / "bin"


@contextmanager
def server(
    command: Sequence[str | Path],
    *,
    ready: str,
    log: Path,
    seconds: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own for the length of a with block, once `ready` (a URL) is 200."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            process_group=0,
        )
    try:
        _wait(process, ready, log, seconds)
        yield process
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], ready: str, log: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urlopen(ready, timeout=5) as answer:
                if answer.status == 200:
                    return
        except HTTPError as error:
            error.close()
        except (URLError, OSError):
            pass
        time.sleep(0.2)
    tail = log.read_text(errors="replace")[-3000:]
    raise AssertionError(f"{ready} was not 200 within {seconds} s (process: {process.poll()}):\n{tail}")


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 15)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()


if __name__ == "__main__":
    for wanted_name in sys.argv[1:] or NAMES:
        environment(wanted_name)
