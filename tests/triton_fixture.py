"""A real Triton for tests.

`triton` is one server for the whole run, over `model_repository/` and `tests/models/`; tests that break their
server, or need other flags, start their own with `running_triton`. Both install the managed server into the
checkout's `.triton/` first, which is quick when it is there. Headers `x-fwd-*` reach models as parameters.

A start takes half a second for each model, and an end in order three seconds or, while a client is connected,
ten: so tests name the few models they need (`repository`), and a server whose end is not what is tested is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.triton import Installation, Launch, Listen, ManagedTriton, Unsupported, command, install

CHECKOUT = Path(__file__).resolve().parent.parent
TEST_MODELS = CHECKOUT / "tests" / "models"
MODEL_REPOSITORY = CHECKOUT / "model_repository"
FORWARD_HEADERS = ("--http-header-forward-pattern=x-fwd-.*", "--grpc-header-forward-pattern=x-fwd-.*")


@dataclass(frozen=True)
class RunningTriton:
    """Addresses as HOST:PORT."""

    http: str
    grpc: str
    metrics: str
    pid: int
    log: Path


PORTS = range(10000, 32000)
"""Below what Linux gives to outgoing connections and to `bind` of port 0, so that neither takes a port between the
moment it is chosen here and the moment the server that it is for listens."""
_next_port = itertools.count(os.getpid() * 7919)
"""Processes that run tests side by side begin far from each other."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now, all different, and other than those of earlier calls."""
    found: list[int] = []
    while len(found) < count:
        port = PORTS[next(_next_port) % len(PORTS)]
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def installed() -> Installation:
    """The managed server of this checkout; skips the test where there cannot be one."""
    try:
        return install(CHECKOUT / ".triton")
    except Unsupported as error:
        pytest.skip(str(error))


def launch(repositories: Sequence[Path], *, otlp: str | None = None, extra: Sequence[str] = FORWARD_HEADERS) -> Launch:
    """A launch on free ports."""
    listen = Listen(*free_ports(3))
    return command(installed(), repositories=repositories, listen=listen, otlp=otlp, extra=extra)


def repository(folder: Path, *names: str) -> Path:
    """A folder of links to these test models alone; made anew."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).symlink_to(TEST_MODELS / name)
    return folder


@contextmanager
def running_triton(
    repositories: Sequence[Path],
    log: Path,
    *,
    otlp: str | None = None,
    extra: Sequence[str] = FORWARD_HEADERS,
    grace: float = 0.0,
) -> Iterator[RunningTriton]:
    """A server over `repositories` for the length of a with block.

    `grace`: seconds it has to end in order, as when it must send its last spans; else it is killed.
    """
    wanted = launch(repositories, otlp=otlp, extra=extra)
    listen = wanted.listen
    with asyncio.Runner() as runner:
        server = ManagedTriton(wanted, log, grace=grace)
        runner.run(server.start())
        assert server.pid is not None
        try:
            yield RunningTriton(
                http=f"{listen.host}:{listen.http}",
                grpc=f"{listen.host}:{listen.grpc}",
                metrics=f"{listen.host}:{listen.metrics}",
                pid=server.pid,
                log=log,
            )
        finally:
            runner.run(server.stop())


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """The run's shared server; tests must not stop it, kill its backends or leave models unloaded."""
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    with running_triton([MODEL_REPOSITORY, TEST_MODELS], log) as server:
        yield server
