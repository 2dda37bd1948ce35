"""One serving process. Started by the supervisor; runs the application until SIGTERM, or until it is relieved.

SIGUSR2 says that another worker has the ports: connections are let go without losing a call, then it leaves.

Exit status: 0 it was told to stop; 2 it could not start (the reason is on standard error); else it crashed
and is replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop

# What the imports make stays: to look through it for garbage, again and again as it grows, is a tenth of a start.
# `main` turns the collector on.
gc.disable()

from gateway.app import Application, Place  # noqa: E402
from gateway.compiling import SnapshotError  # noqa: E402
from gateway.errors import TidegateError  # noqa: E402
from gateway.life import COVER  # noqa: E402
from gateway.memory import keep_freed_memory  # noqa: E402
from governance.errors import GovernanceError  # noqa: E402

_DOORS = 2
"""Sockets of a seat: HTTP and metrics."""


def main() -> int:
    """Entry point of `python -m gateway.worker`."""
    parser = argparse.ArgumentParser(prog="gateway.worker", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--http-fd", type=int, required=True)
    parser.add_argument("--metrics-fd", type=int)
    parser.add_argument("--grpc")
    args = parser.parse_args()
    place = Place(
        config=args.config,
        slot=args.slot,
        run_dir=args.run_dir,
        slots=args.slots,
        grpc=args.grpc,
    )
    http = _bound(args.http_fd)
    metrics = None if args.metrics_fd is None else _bound(args.metrics_fd)
    keep_freed_memory()
    # What is imported and compiled by now lives as long as the process: the collector need not look at it.
    gc.collect()
    gc.freeze()
    gc.enable()
    return uvloop.run(_serve(place, socket.socket(fileno=args.status_fd), http, metrics))


def _bound(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


async def _serve(place: Place, status: socket.socket, http: socket.socket, metrics: socket.socket | None) -> int:
    try:
        application = Application(place)
    except (SnapshotError, TidegateError, GovernanceError, OSError) as error:
        print(f"tidegate: {error}", file=sys.stderr)
        return 2
    loop = asyncio.get_running_loop()
    stop, relieved = asyncio.Event(), asyncio.Event()

    def told_to_stop() -> None:
        if stop.is_set():
            application.hurry()
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, told_to_stop)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGHUP, application.reload_soon)
    loop.add_signal_handler(signal.SIGUSR2, relieved.set)
    status.setblocking(False)
    covers: set[asyncio.Task[None]] = set()

    def told_of_a_seat() -> None:
        data = b""
        descriptors: list[int] = []
        with contextlib.suppress(ConnectionError):
            data, descriptors, _, _ = socket.recv_fds(status, 3, _DOORS)
        if not data:
            stop.set()  # the supervisor has died; nobody else would stop this worker
            return
        seat = int.from_bytes(data[1:])
        task = loop.create_task(
            application.cover(seat, [_bound(each) for each in descriptors])
            if data[:1] == COVER
            else application.uncover(seat)
        )
        covers.add(task)
        task.add_done_callback(covers.discard)

    loop.add_reader(status.fileno(), told_of_a_seat)
    try:
        await application.start(http, metrics)
    except (OSError, RuntimeError) as error:  # grpcio says with a RuntimeError that it cannot bind
        print(f"tidegate: a worker cannot serve: {error}", file=sys.stderr)
        return 2
    with contextlib.suppress(BrokenPipeError):  # the supervisor has gone; `stop` hears of it
        os.write(status.fileno(), b"ready\n")
    await _first(stop, relieved)
    if not stop.is_set():
        leaving = asyncio.create_task(application.relieved())
        told = asyncio.create_task(stop.wait())
        await asyncio.wait({leaving, told}, return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, told):
            task.cancel()
        await asyncio.wait({leaving, told})
    loop.remove_reader(status.fileno())
    await application.stop()
    return 0


async def _first(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


if __name__ == "__main__":
    sys.exit(main())
