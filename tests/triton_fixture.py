"""A real Triton for tests.

`triton` is one server for the whole run, over `model_repository/` and `tests/models/`; tests that break their
server, or need other flags, start their own with `running_triton`. Both install the managed server into the
checkout's `.triton/` first, which is quick when it is there. Headers `x-fwd-*` reach models as parameters.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


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


@contextmanager
def running_triton(
    repositories: Sequence[Path],
    log: Path,
    *,
    otlp: str | None = None,
    extra: Sequence[str] = FORWARD_HEADERS,
) -> Iterator[RunningTriton]:
    """A server over `repositories` for the length of a with block; not restarted when it dies."""
    wanted = launch(repositories, otlp=otlp, extra=extra)
    listen = wanted.listen
    with asyncio.Runner() as runner:
        server = ManagedTriton(wanted, log)
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
