"""One serving process. Started by the supervisor; runs the application until SIGTERM.

Exit status: 0 it was told to stop; 2 it could not start (the reason is on standard error); else it crashed
and is replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop

from gateway.app import Application, Place
from gateway.errors import TidegateError
from gateway.ports import listen
from gateway.snapshot import SnapshotError


def main() -> int:
    """Entry point of `python -m gateway.worker`."""
    parser = argparse.ArgumentParser(prog="gateway.worker", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--http", required=True)
    parser.add_argument("--grpc")
    parser.add_argument("--metrics")
    args = parser.parse_args()
    place = Place(
        config=args.config,
        slot=args.slot,
        run_dir=args.run_dir,
        workers=args.workers,
        http=args.http,
        grpc=args.grpc,
        metrics=args.metrics,
    )
    # What is imported and compiled by now lives as long as the process: the collector need not look at it.
    gc.collect()
    gc.freeze()
    return uvloop.run(_serve(place, socket.socket(fileno=args.status_fd)))


async def _serve(place: Place, status: socket.socket) -> int:
    try:
        application = Application(place)
    except (SnapshotError, TidegateError, OSError) as error:
        print(f"tidegate: {error}", file=sys.stderr)
        return 2
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def told_to_stop() -> None:
        if stop.is_set():
            application.hurry()
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, told_to_stop)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGHUP, application.reload_soon)
    status.setblocking(False)
    # The supervisor's end closes when it dies; then nobody would stop this worker.
    loop.add_reader(status.fileno(), stop.set)
    try:
        http = listen(place.http)
        metrics = None if place.metrics is None else listen(place.metrics)
        await application.start(http, metrics)
    except (OSError, RuntimeError) as error:  # grpcio says with a RuntimeError that it cannot bind
        print(f"tidegate: a worker cannot serve: {error}", file=sys.stderr)
        return 2
    os.write(status.fileno(), b"ready\n")
    await stop.wait()
    loop.remove_reader(status.fileno())
    await application.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
