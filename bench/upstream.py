"""The model server behind every proxy: a Triton of its own with one identity model."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.latency import get
from bench.load import MODEL
from bench.ports import free_ports
from gateway.triton import Listen, ManagedTriton, command, install

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Server:
    """Addresses as HOST:PORT."""

    http: str
    grpc: str
    version: str


@contextmanager
def triton(directory: Path, *models: str) -> Iterator[Server]:
    """A Triton over copies of test models (the load's when none is named), for the length of a with block."""
    repository = directory / "models"
    for model in models or (MODEL,):
        shutil.copytree(
            CHECKOUT / "tests" / "models" / model,
            repository / model,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    http, grpc, metrics = free_ports(3)
    listen = Listen(http, grpc, metrics)
    launch = command(install(CHECKOUT / ".triton"), repositories=[repository], listen=listen)
    with asyncio.Runner() as runner:
        server = ManagedTriton(launch, directory / "triton.log")
        runner.run(server.start())
        try:
            yield Server(f"{listen.host}:{listen.http}", f"{listen.host}:{listen.grpc}", _version(listen))
        finally:
            runner.run(server.stop())


def _version(listen: Listen) -> str:
    body = get(f"{listen.host}:{listen.http}", "/v2")
    return body.split('"version":"')[1].split('"')[0]
