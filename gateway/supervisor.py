"""Keeps N workers alive: one small parent, no request ever passes through it.

Contract: reserves the ports, owns `state_dir` (a lock file says so) and the run directory with the shared
counters, starts workers, replaces those that die (with back-off when they die young), and passes SIGHUP on. On
SIGTERM or SIGINT it lets them drain; a second one cuts what is still in flight. A worker whose supervisor
vanishes drains and leaves by itself: it holds the other end of a socket pair. Shared-memory cells of a dead
worker are cleared before its slot is given to the next one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway import lastgood, logs
from gateway.admission import forget_worker
from gateway.ports import reserve
from gateway.settings import Settings
from gateway.triton.supervise import describe_exit
from kernels.counters import SHARED

_log = logs.get("supervisor")

# A worker that lived this long had started well; its death is no start-up failure.
_GROWN_UP_S = 10.0
_FIRST_BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 10.0
# After the drain time a worker has this long to leave by itself before SIGKILL.
_GRACE_S = 5.0


class StateDirError(OSError):
    """`state_dir` cannot be used; the text says why and what to do."""


class Supervisor:
    """The parent process of `tidegate serve`."""

    def __init__(self, config: Path, settings: Settings, workers: int) -> None:
        self._config = config
        self.settings = settings
        self._workers = workers
        self._stopping = asyncio.Event()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._ready: set[int] = set()
        self._owed_hangup: set[int] = set()
        """Workers that were starting, and so deaf, when SIGHUP came."""
        self._lock_file: int | None = None
        self.addresses: dict[str, str] = {}
        self.failed = False
        self._served = False
        """Whether all workers have been ready at once: what follows is no start-up failure."""

    @property
    def run_dir(self) -> Path:
        """Shared counters of this run; nothing in it outlives the run."""
        return self.settings.state_dir / "run"

    def prepare(self) -> None:
        """Take the state directory and the ports, or raise what is wrong with them."""
        if self._workers > 1 and not SHARED:
            raise StateDirError(
                "workers: several workers share their counters through the compiled extension, which is not there "
                "(TIDEGATE_NO_EXTENSIONS is set, or it was not built); run one worker"
            )
        self._take_state_dir()
        self._reserved = []
        listen = self.settings.listen
        wanted = {"http": listen.http, "grpc": listen.grpc, "metrics": self.settings.metrics.listen}
        for name, address in wanted.items():
            if address is not None:
                key = "metrics.listen" if name == "metrics" else f"listen.{name}"
                sock, self.addresses[name] = reserve(address, key)
                self._reserved.append(sock)

    def _take_state_dir(self) -> None:
        directory = self.settings.state_dir
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateDirError(
                f"state_dir: {directory} is in use by another gateway; stop it or give this one a state_dir of its own"
            ) from None
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if self.run_dir.exists():
                shutil.rmtree(self.run_dir)
            self.run_dir.mkdir(mode=0o700)
            lastgood.keep(self.run_dir, self.settings)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StateDirError:
        return StateDirError(
            f"state_dir: cannot write to {self.settings.state_dir}: {error.strerror}; "
            "choose a directory that this user may write"
        )

    async def run(self, on_ready: Callable[[dict[str, str]], None] | None = None) -> int:
        """Serve until told to stop; the exit status of the command.

        `on_ready` is called once with the addresses when every worker accepts requests.
        """
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on_hangup)
        async with asyncio.TaskGroup() as group:
            for slot in range(self._workers):
                group.create_task(self._keep_alive(slot, on_ready))
        return 2 if self.failed else 0

    def stop(self) -> None:
        """Let every worker drain and leave; the second time, at once."""
        if not self._stopping.is_set():
            _log.info("stopping: requests in flight have %g s to finish", self.settings.drain)
            self._stopping.set()
            return
        _log.warning("told to stop again: cutting what is still in flight")
        for slot, process in self._processes.items():
            if process.returncode is None and slot in self._ready:
                process.send_signal(signal.SIGTERM)

    def _pass_on_hangup(self) -> None:
        for slot, process in self._processes.items():
            if process.returncode is None and slot in self._ready:
                process.send_signal(signal.SIGHUP)
            else:
                # Until a worker is ready the signal would end it.
                self._owed_hangup.add(slot)

    async def _keep_alive(self, slot: int, on_ready: Callable[[dict[str, str]], None] | None) -> None:
        """One slot: a worker, and the next one when it dies."""
        backoff = _FIRST_BACKOFF_S
        while not self._stopping.is_set():
            born = time.monotonic()
            try:
                status = describe_exit(await self._one_life(slot, on_ready))
            except OSError as error:
                status = f"could not be started ({error.strerror})"
            if self._stopping.is_set():
                return
            was_ready = slot in self._ready
            self._ready.discard(slot)
            forget_worker(self.run_dir, slot)
            if not was_ready and not self._served:
                # It cannot start at all and has said why on standard error; trying again would say it again.
                _log.error("worker %d %s before it was ready; giving up", slot, status)
                self.failed = True
                self.stop()
                return
            if time.monotonic() - born > _GROWN_UP_S:
                backoff = _FIRST_BACKOFF_S
            _log.error("worker %d %s; starting another in %.2f s", slot, status, backoff)
            try:
                await asyncio.wait_for(self._stopping.wait(), backoff)
            except TimeoutError:
                backoff = min(backoff * 2, _LONGEST_BACKOFF_S)

    async def _one_life(self, slot: int, on_ready: Callable[[dict[str, str]], None] | None) -> int:
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-m", "gateway.worker", "--config", str(self._config), "--slot", str(slot)]
        argv += ["--run-dir", str(self.run_dir), "--status-fd", str(theirs.fileno())]
        argv += ["--workers", str(self._workers)]
        for name, address in self.addresses.items():
            argv += [f"--{name}", address]
        # A session of its own: Ctrl-C reaches the supervisor alone, which then lets the workers drain.
        process = await asyncio.create_subprocess_exec(
            *argv, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._processes[slot] = process
        ready = asyncio.create_task(self._await_ready(slot, ours, on_ready))
        stopping = asyncio.create_task(self._stopping.wait())
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                process.send_signal(signal.SIGTERM)
                await asyncio.wait({ended}, timeout=self.settings.drain + _GRACE_S)
                if not ended.done():
                    _log.error("worker %d did not leave in time; killing it", slot)
                    process.kill()
            return await ended
        finally:
            for task in (ready, stopping):
                task.cancel()
            ours.close()

    async def _await_ready(
        self, slot: int, pipe: socket.socket, on_ready: Callable[[dict[str, str]], None] | None
    ) -> None:
        pipe.setblocking(False)
        if await asyncio.get_running_loop().sock_recv(pipe, 16) != b"ready\n":
            return
        self._ready.add(slot)
        if slot in self._owed_hangup:
            self._owed_hangup.discard(slot)
            self._processes[slot].send_signal(signal.SIGHUP)
        if len(self._ready) == self._workers and not self._served:
            self._served = True
            if on_ready is not None:
                on_ready(self.addresses)
