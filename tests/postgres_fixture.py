"""A real PostgreSQL of the machine (15 or newer), one server a test process, a database of its own for each test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import pytest
from triton_fixture import free_ports

OLDEST = 15
_NEEDED = ("initdb", "postgres", "pg_isready", "createdb")
_names = count()


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL of the machine."""
    found = []
    debian = Path("/usr/lib/postgresql")
    if debian.is_dir():
        numbered = sorted((int(path.name), path) for path in debian.iterdir() if path.name.isdigit())
        found += [path / "bin" for number, path in reversed(numbered) if number >= OLDEST]
    found += [Path(path).resolve().parent for path in [shutil.which("postgres")] if path]
    return next((path for path in found if all((path / name).exists() for name in _NEEDED)), None)


class PostgresServer:
    """One server on a port of its own; it does not run as root, as PostgreSQL asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = binaries()
        (self.port,) = free_ports(1)
        self._user = None
        if os.getuid() == 0:
            self._user = next(name for name in ("postgres", "nobody") if _known(name))
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._process: subprocess.Popen[bytes] | None = None

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [str(self._bin / words[0]), *words[1:]],
            user=self._user,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        data = self._folder / "data"
        if not data.exists():
            self._run("initdb", "-D", str(data), "-U", "tide", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self._process = subprocess.Popen(
            [
                str(self._bin / "postgres"), "-D", str(data), "-p", str(self.port), "-h", "127.0.0.1",
                "-k", str(self._folder), "-c", "fsync=off", "-c", "max_connections=30", "-c", "shared_buffers=16MB",
            ],
            user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 60
        while time.monotonic() < until:
            ready = subprocess.run(
                [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
            )
            if ready.returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError("PostgreSQL does not answer")

    def kill(self) -> None:
        if self._process is not None:
            self._process.terminate()  # smart shutdown waits for clients; this is `fast` for a test's leftovers
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"tide{next(_names)}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "tide", name)
        return f"postgresql://tide@127.0.0.1:{self.port}/{name}"


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@pytest.fixture(scope="session")
def postgres_server():
    """The server; skipped where the machine has none."""
    if binaries() is None:
        pytest.skip(f"no PostgreSQL {OLDEST} or newer: install Debian's `postgresql`, or put `initdb` on PATH")
    folder = Path(tempfile.mkdtemp(prefix="tidegate-pg-"))
    server = PostgresServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request):
    """`store.url` of an empty database of each kind."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres_server").database()
