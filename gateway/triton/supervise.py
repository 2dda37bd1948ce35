"""`ManagedTriton`: a Triton process kept alive beside the gateway.

    starting ──ready──> ready ──process ends──> backing off ──> starting ...
        └── ends or stays unready on the very first start: TritonFailed (a wrong setting, not bad luck)
    any ──stop()──> stopped

Contract: `start` returns once the server is ready. From then on its end is reported with the last lines of
its log and it is started again after a pause that doubles up to a limit; nothing here ends the gateway.
`stop` sends SIGTERM, waits `grace` seconds, sends SIGKILL, and returns when no process and no shared memory
of it is left. The server runs in a session of its own: Ctrl-C in a terminal reaches the gateway alone, which
drains first.

One event loop owns an object of this class; the loop must run in the main thread, since the kernel ends the
server when the thread that started it ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from gateway.triton import logfile
from gateway.triton.errors import TritonFailed
from gateway.triton.launch import EXIT_SECONDS, Launch

State = Literal["new", "starting", "ready", "backing off", "stopped"]

GRACE = EXIT_SECONDS + 5.0
"""Seconds between SIGTERM and SIGKILL: Triton's own exit timeout and what unloading takes after it."""
READY_SECONDS = 180.0
"""Loading a repository's models: seconds on a laptop, minutes with large models or a cold disk."""
BACKOFF = (0.5, 30.0)
"""First and longest pause before another start; the pause doubles in between."""
STEADY_SECONDS = 60.0
"""After this long in service a crash counts as the first again."""
_POLL_SECONDS = 0.1
_HEALTH_SECONDS = 5.0
_LOG_CHECK_SECONDS = 5.0
_TAIL_LINES = 12
_EXEC_CHILD = Path(__file__).with_name("exec_child.py")

_log = logging.getLogger(__name__)


class ManagedTriton:
    """One supervised server.

    Args:
        launch: from `gateway.triton.command`.
        log: file for the server's output; bounded, see `logfile`.
        grace: seconds between SIGTERM and SIGKILL.
        ready_timeout: seconds a start may take until the server is ready.
        backoff: first and longest pause before a restart.
        report: called with one message for each crash and restart, the last log lines in it.
    """

    def __init__(
        self,
        launch: Launch,
        log: Path,
        *,
        grace: float = GRACE,
        ready_timeout: float = READY_SECONDS,
        backoff: tuple[float, float] = BACKOFF,
        report: Callable[[str], object] = _log.warning,
    ) -> None:
        self.launch = launch
        self.log = log
        self.state: State = "new"
        self.restarts = 0
        """How often the server was started again after a crash."""
        self._grace = grace
        self._ready_timeout = ready_timeout
        self._backoff = backoff
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._log_began = 0
        """Where in the log this start begins."""

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the server and wait until it is ready.

        Raises:
            TritonFailed: a port is in use, the server ended before it was ready, or it took too long.
        """
        assert self.state == "new"
        check_ports(self.launch)
        try:
            await self._spawn()
            await self._until_ready()
        except BaseException:  # also on cancellation: no server without a supervisor may stay behind
            await self._end()
            self.state = "stopped"
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name="triton-supervisor")

    async def wait_ready(self) -> None:
        """Wait until the server is ready, as after a crash. The caller sets the timeout."""
        await self._ready.wait()

    async def stop(self) -> None:
        """Stop supervising, then the server. May be called in any state, and again."""
        self.state = "stopped"
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        await self._end()

    async def _supervise(self) -> None:
        first, longest = self._backoff
        pause = first
        while True:
            began = time.monotonic()
            await self._watch()
            lasted = time.monotonic() - began
            pause = first if lasted >= STEADY_SECONDS else pause
            await self._restart(pause, lasted)
            pause = min(pause * 2, longest)

    async def _watch(self) -> None:
        """Return when the process has ended; keep its log bounded until then."""
        assert self._process is not None
        ended = asyncio.ensure_future(self._process.wait())
        try:
            while not (await asyncio.wait({ended}, timeout=_LOG_CHECK_SECONDS))[0]:
                logfile.bound(self.log)
        finally:
            ended.cancel()

    async def _restart(self, pause: float, lasted: float) -> None:
        """Report the end, pause, start again; a start that fails is the next round's business."""
        assert self._process is not None
        self.state = "backing off"
        self._ready.clear()
        how = describe_exit(self._process.returncode)
        await self._end()  # its backend processes and shared memory outlive a killed server
        tail = "\n".join(f"  | {line}" for line in logfile.tail(self.log, _TAIL_LINES))
        self._report(f"Triton {how} after {lasted:.1f} s; starting it again in {pause:g} s. Last lines:\n{tail}")
        await asyncio.sleep(pause)
        self.restarts += 1
        try:
            await self._spawn()
            await self._until_ready()
        except (TritonFailed, OSError) as error:
            self._report(f"Triton did not come back: {error}")
            await self._end()  # it may be alive and never have become ready
            return
        self._report(f"Triton is ready again (restart {self.restarts})")

    async def _spawn(self) -> None:
        self.state = "starting"
        launch = self.launch
        changes = json.dumps({"set": dict(launch.environment), "unset": launch.unset})
        with logfile.open_bounded(self.log) as output:
            self._log_began = output.seek(0, os.SEEK_END)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", str(_EXEC_CHILD), str(os.getpid()), changes),
                *launch.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._ready_timeout
        while not await is_ready(self.launch.listen.host, self.launch.listen.http):
            code = self._process.returncode
            if code is not None:
                raise TritonFailed(
                    f"Triton {describe_exit(code)} before it was ready; its log is {self.log}:",
                    log_tail=self._what_it_said(),
                )
            if time.monotonic() > deadline:
                raise TritonFailed(
                    f"Triton was not ready after {self._ready_timeout:g} s; its log is {self.log}:",
                    log_tail=self._what_it_said(),
                )
            await asyncio.sleep(_POLL_SECONDS)
        self.state = "ready"
        self._ready.set()

    def _what_it_said(self) -> tuple[str, ...]:
        """The errors of this start, and the last lines of the log."""
        errors = logfile.errors(self.log, self._log_began, _TAIL_LINES)
        tail = logfile.tail(self.log, _TAIL_LINES)
        return (*(line for line in errors if line not in tail), *tail)

    async def _end(self) -> None:
        """SIGTERM, grace, SIGKILL; then whatever of its session and shared memory is left."""
        self._ready.clear()
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    await process.wait()
        # Its session's id is its pid: backend processes that outlived it still hold the group together.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        remove_shared_memory(self.launch.shm_prefix)


def remove_shared_memory(prefix: str) -> None:
    """Remove what backends of a killed server left; Triton's Python backend keeps its regions in /dev/shm."""
    for region in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108 - shm_open's place, not a temporary folder
        region.unlink(missing_ok=True)


def check_ports(launch: Launch) -> None:
    """Raise TritonFailed for the first port that is taken: Triton's own message drowns in its log."""
    listen = launch.listen
    for purpose, port in listen.ports().items():
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listen.host, port))
            except OSError as error:
                raise TritonFailed(
                    f"Triton cannot listen on {listen.host}:{port} ({purpose}): {error.strerror}. "
                    "Stop the program that holds the port or choose another one."
                ) from error


async def is_ready(host: str, port: int) -> bool:
    """Whether `GET /v2/health/ready` answers 200; a refused connection or a timeout is False."""
    request = f"GET /v2/health/ready HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    try:
        async with asyncio.timeout(_HEALTH_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                status = await reader.readline()
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return False
    return status.split(b" ")[1:2] == [b"200"]


def describe_exit(code: int | None) -> str:
    """An exit code in words: `ended with status 1`, `was ended by SIGSEGV`."""
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"
