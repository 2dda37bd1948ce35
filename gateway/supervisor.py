"""Keeps N workers alive: one small parent, no request ever passes through it.

Contract: holds the ports and `state_dir` (a lock file says so) and the run directory with the shared tables,
starts a worker on each of N seats (a seat is one bound HTTP socket), and replaces those that die, with back-off
when they die young. SIGHUP is passed on. SIGUSR2 replaces the workers one after another without losing a request:
the new one is ready before the old one is relieved. Another `tidegate serve --takeover` may take all of it over
(`takeover`). On SIGTERM or SIGINT workers drain; a second one cuts what is still in flight.

A worker also has a slot, its rows and files in the shared tables. There are twice as many as seats, since an old
worker and the one that relieves it live side by side. A worker's cells are cleared when it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from gateway import lastgood, logs, takeover
from gateway.admission import forget_worker
from gateway.auditing import sequencing
from gateway.courier import Courier
from gateway.descriptors import needed, raise_limit
from gateway.life import Life
from gateway.ports import PortInUseError, another, reserve
from gateway.registry_follow import Follower
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
# Beyond its gRPC connections' age, for what a relieved worker waits before it drains.
_RELIEF_S = 10.0


# A killed gateway's workers close its ports as soon as they hear of it. Who came to take over waits for so long.
_ORPHANS_S = 10.0


def _reserve(address: str, key: str, patience: float) -> tuple[socket.socket, str]:
    """`ports.reserve`, tried again for `patience` seconds while another has the port."""
    over = time.monotonic() + patience
    while True:
        try:
            return reserve(address, key)
        except PortInUseError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE or time.monotonic() > over:
                raise
        time.sleep(0.05)


class StateDirError(OSError):
    """`state_dir` cannot be used; the text says why and what to do."""


class Supervisor:
    """The parent process of `tidegate serve`."""

    def __init__(self, config: Path, settings: Settings, workers: int) -> None:
        self._config = config
        self.settings = settings
        self._workers = workers
        self._stopping = asyncio.Event()
        self._parting = signal.SIGTERM
        """What workers are told when it stops: SIGUSR2 when another gateway has the ports."""
        self._lives: dict[int, Life] = {}
        """The worker in charge of each seat."""
        self._covers: dict[int, Life] = {}
        """Who answers at seats that have no worker."""
        self._leaving: dict[Life, asyncio.Task[None]] = {}
        """Workers that were relieved."""
        self._turned: dict[int, asyncio.Event] = {seat: asyncio.Event() for seat in range(workers)}
        """Set when a seat has another worker."""
        self._busy: set[int] = set()
        """Slots of workers that live, another gateway's included while this one takes over from it."""
        self._seats: dict[str, list[socket.socket]] = {}
        self._reserved: list[socket.socket] = []
        self._lock_file: int | None = None
        self._taken: takeover.Taken | None = None
        self._door: socket.socket | None = None
        self._changing = False
        """A rolling restart or a takeover is under way."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.addresses: dict[str, str] = {}
        self.failed = False
        self._served = False
        """Whether all workers have been ready at once: what follows is no start-up failure."""
        self._on_ready: Callable[[dict[str, str]], None] | None = None

    @property
    def run_dir(self) -> Path:
        """Shared counters of this run; nothing in it outlives the run."""
        return self.settings.state_dir / "run"

    @property
    def slots(self) -> int:
        """Rows of the shared tables."""
        return 2 * self._workers

    def _wanted(self) -> dict[str, str | None]:
        listen = self.settings.listen
        return {"http": listen.http, "grpc": listen.grpc, "metrics": self.settings.metrics.listen}

    def prepare(self, *, take: bool = False) -> None:
        """Take the state directory and the ports, or raise what is wrong with them.

        Args:
            take: from the gateway that has them now, if there is one.
        """
        if self._workers > 1 and not SHARED:
            raise StateDirError(
                "workers: several workers share their counters through the compiled extension, which is not there "
                "(TIDEGATE_NO_EXTENSIONS is set, or it was not built); run one worker"
            )
        if take and self.settings.state_dir.is_dir():
            self._taken = takeover.take(self.settings.state_dir, self._workers, self._wanted())
        if self._taken is not None:
            self._adopt(self._taken)
            return
        self._take_state_dir()
        for name, address in self._wanted().items():
            if address is None:
                continue
            key = "metrics.listen" if name == "metrics" else f"listen.{name}"
            sock, self.addresses[name] = _reserve(address, key, _ORPHANS_S if take else 0.0)
            if name == "grpc":
                self._reserved.append(sock)
            else:
                self._seats[name] = [sock, *(another(self.addresses[name]) for _ in range(1, self._workers))]

    def _adopt(self, taken: takeover.Taken) -> None:
        """All that another gateway has."""
        self._lock_file = taken.lock
        self._seats, self._reserved = taken.seats, taken.reserved
        self.addresses = dict(taken.said.addresses)
        self._busy = set(taken.said.busy)
        self._changing = True
        lastgood.keep(self.run_dir, self.settings)

    def _take_state_dir(self) -> None:
        directory = self.settings.state_dir
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateDirError(
                f"state_dir: {directory} is in use by another gateway; stop it, give this one a state_dir of its own, "
                "or take over from it with --takeover"
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
        self._on_ready = on_ready
        self._raise_descriptors()
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on_hangup)
        loop.add_signal_handler(signal.SIGUSR2, self._roll_soon)
        if self._taken is not None:
            self._spawn(self._watch_incumbent(self._taken))
        if self.settings.registry is not None:
            follower = Follower(self.settings)
            await asyncio.to_thread(follower.look)  # before a worker reads what it saw
            self._spawn(follower.follow())
        if self.settings.webhooks is not None:
            self._spawn(Courier(self._config, self.settings).follow())
        sequencer = await asyncio.to_thread(sequencing, self.settings)
        async with asyncio.TaskGroup() as group:
            for seat in range(self._workers):
                group.create_task(self._keep_alive(seat))
        while self._leaving:
            await asyncio.wait(list(self._leaving.values()))
        if sequencer is not None:  # what the workers wrote last
            await asyncio.to_thread(sequencer.close)
        for task in self._tasks:
            task.cancel()
        if not self.failed:
            _log.info("stopped: every worker has left")
        return 2 if self.failed else 0

    def _raise_descriptors(self) -> None:
        """For the workers, which inherit it."""
        before, now = raise_limit()
        if now != before:
            _log.info("file descriptors: limit raised from %d to %d", before, now)
        settings = self.settings
        each = (up.connections * max(1, len(up.replicas)) for up in settings.upstreams.values())
        most = needed(len(self.addresses), settings.limits.connections, each)
        if most > now:
            _log.warning(
                "file descriptors: a worker may hold %d, a process of this system may hold %d; raise the hard limit "
                "(LimitNOFILE, ulimit -Hn) or lower limits.connections",
                most,
                now,
            )

    def stop(self) -> None:
        """Let every worker drain and leave; the second time, at once."""
        if not self._stopping.is_set():
            _log.info("stopping: requests in flight have %g s to finish", self.settings.drain)
            self._part(signal.SIGTERM)
            return
        _log.warning("told to stop again: cutting what is still in flight")
        for life in (*self._lives.values(), *self._leaving):
            if life.ready.is_set():
                # One that was relieved and not yet told to stop has to hear both.
                life.signal(signal.SIGTERM)

    def _part(self, parting: signal.Signals) -> None:
        self._parting = parting
        self._stopping.set()
        self._close_door()
        for sock in (*self._reserved, *(sock for seat in self._seats.values() for sock in seat)):
            sock.close()
        if parting == signal.SIGTERM:
            for life in self._leaving:
                life.signal(signal.SIGTERM)

    def _pass_on_hangup(self) -> None:
        for life in self._lives.values():
            life.signal(signal.SIGHUP)

    async def _keep_alive(self, seat: int) -> None:
        """One seat: a worker, and the next one when it dies."""
        backoff = _FIRST_BACKOFF_S
        while not self._stopping.is_set():
            born = time.monotonic()
            try:
                life = self._lives[seat] = await self._begin(seat)
                ready = await self._until_ready(life)
                if ready:
                    self._all_ready()
                    if (cover := self._covers.pop(seat, None)) is not None:
                        cover.uncover(seat)
                life, status = await self._until_ended(seat)
            except OSError as error:
                ready, status = False, f"could not be started ({error.strerror})"
            if self._stopping.is_set():
                return
            if not ready and not self._served:
                # It cannot start at all and has said why on standard error; trying again would say it again.
                _log.error("worker %d %s before it was ready; giving up", seat, status)
                self.failed = True
                self.stop()
                return
            if time.monotonic() - born > _GROWN_UP_S:
                backoff = _FIRST_BACKOFF_S
            _log.error("worker %d %s; starting another in %.2f s", life.slot, status, backoff)
            for alone in {seat, *(other for other, cover in self._covers.items() if cover is life)}:
                self._cover(alone)
            try:
                await asyncio.wait_for(self._stopping.wait(), backoff)
            except TimeoutError:
                backoff = min(backoff * 2, _LONGEST_BACKOFF_S)

    def _cover(self, seat: int) -> None:
        """Let another worker answer what comes to a seat whose own has died, until there is one again.

        The kernel goes on to spread connections over all seats, and a worker takes seconds to start where the
        processor is short, and more where it dies again.
        """
        now = self._covers.get(seat)
        if now is not None and not now.ended.done():
            return
        others = [life for life in self._lives.values() if life.ready.is_set() and not life.ended.done()]
        if not others:
            return
        cover = others[seat % len(others)]
        try:
            cover.cover(seat, [sockets[seat].fileno() for sockets in self._seats.values()])
        except OSError as error:
            _log.warning("nobody answers at the seat of the worker that died: %s", error.strerror)
            return
        self._covers[seat] = cover

    async def _begin(self, seat: int) -> Life:
        """A new worker on the seat, in a slot of its own. Raises OSError."""
        slot = await self._free_slot()
        arguments = ["--config", str(self._config), "--run-dir", str(self.run_dir), "--slots", str(self.slots)]
        descriptors = []
        for name, sockets in self._seats.items():
            descriptors.append(sockets[seat].fileno())
            arguments += [f"--{name}-fd", str(descriptors[-1])]
        if "grpc" in self.addresses:
            arguments += ["--grpc", self.addresses["grpc"]]
        try:
            life = await Life.begin(slot, arguments, descriptors)
        except OSError:
            self._busy.discard(slot)
            raise
        life.ended.add_done_callback(lambda _: self._free(slot))
        return life

    async def _free_slot(self) -> int:
        while True:
            for slot in range(self.slots):
                if slot not in self._busy:
                    self._busy.add(slot)
                    return slot
            await asyncio.sleep(0.05)  # a relieved worker is still draining

    def _free(self, slot: int) -> None:
        forget_worker(self.run_dir, slot)
        self._busy.discard(slot)

    async def _until_ready(self, life: Life) -> bool:
        """Whether it is before it ends, or before this supervisor stops."""
        waiting = {asyncio.create_task(event.wait()) for event in (life.ready, self._stopping)}
        await asyncio.wait({*waiting, life.ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return life.ready.is_set()

    async def _until_ended(self, seat: int) -> tuple[Life, str]:
        """Of the worker that has the seat, whichever it is by then; how it ended."""
        while True:
            life, turned = self._lives[seat], self._turned[seat]
            waiting = {asyncio.create_task(event.wait()) for event in (turned, self._stopping)}
            await asyncio.wait({*waiting, life.ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            if self._stopping.is_set():
                parting = self._parting if life.ready.is_set() else signal.SIGTERM
                return life, describe_exit(await self._leave(life, parting))
            if turned.is_set():
                turned.clear()
                continue
            return life, describe_exit(life.ended.result())

    async def _leave(self, life: Life, sig: signal.Signals) -> int:
        patience = self.settings.drain + _GRACE_S
        if sig == signal.SIGUSR2:
            patience += 1.1 * self.settings.listen.grpc_connection_age + _RELIEF_S
        status = await life.leave(sig, patience)
        if status < 0:
            _log.error("worker %d did not leave in time, or died: %s", life.slot, describe_exit(status))
        return status

    def _all_ready(self) -> None:
        if self._served or len(self._lives) < self._workers:
            return
        if not all(life.ready.is_set() for life in self._lives.values()):
            return
        self._served = True
        if self._taken is not None:
            with contextlib.suppress(OSError):  # it has ended: its place is free all the same
                self._taken.link.send(takeover.COMMIT)
        else:
            self._open_door()
        if self._on_ready is not None:
            self._on_ready(self.addresses)

    # --- replacing workers, one seat after another ---

    def _roll_soon(self) -> None:
        if self._changing or not self._served or self._stopping.is_set():
            _log.warning("workers are not replaced: the gateway starts, stops, or is being replaced already")
            return
        self._changing = True
        self._spawn(self._roll())

    async def _roll(self) -> None:
        try:
            for seat in range(self._workers):
                if not await self._replace(seat):
                    return
            _log.info("every worker has been replaced; those before serve their connections to the end")
        finally:
            self._changing = False

    async def _replace(self, seat: int) -> bool:
        try:
            new = await self._begin(seat)
        except OSError as error:
            _log.error("worker of seat %d is not replaced: the new one could not be started (%s)", seat, error.strerror)
            return False
        if not await self._until_ready(new) or self._stopping.is_set():
            await self._leave(new, signal.SIGTERM)
            if not self._stopping.is_set():
                _log.error("worker of seat %d is not replaced: the new one ended before it was ready", seat)
            return False
        old = self._lives[seat]
        self._lives[seat] = new
        self._turned[seat].set()
        leaving = asyncio.create_task(self._relieve(old))
        self._leaving[old] = leaving
        leaving.add_done_callback(lambda _: self._leaving.pop(old, None))
        _log.info("worker %d is relieved by worker %d", old.slot, new.slot)
        return True

    async def _relieve(self, life: Life) -> None:
        await self._leave(life, signal.SIGUSR2)

    # --- another gateway takes over, or is taken over from ---

    def _open_door(self) -> None:
        try:
            self._door = takeover.listen(self.settings.state_dir)
        except OSError as error:
            _log.warning("nobody can take over from this gateway: %s", error.strerror)
            return
        asyncio.get_running_loop().add_reader(self._door, self._newcomer)

    def _close_door(self) -> None:
        if self._door is not None:
            asyncio.get_running_loop().remove_reader(self._door)
            self._door.close()
            self._door = None

    def _newcomer(self) -> None:
        assert self._door is not None
        try:
            link, _ = self._door.accept()
        except OSError:
            return
        link.setblocking(False)
        self._spawn(self._hand_over(link))

    async def _hand_over(self, link: socket.socket) -> None:
        with link:
            if self._changing or not takeover.same_user(link):
                with contextlib.suppress(OSError):
                    takeover.give(link, takeover.Handover(refused="it is being changed, or is another user's"), [])
                return
            self._changing = True
            good = (self.run_dir / lastgood.FILE).read_bytes()
            said = takeover.Handover(
                workers=self._workers, wanted=self._wanted(), addresses=self.addresses, busy=sorted(self._busy)
            )
            assert self._lock_file is not None
            sockets = [sock for seat in self._seats.values() for sock in seat] + self._reserved
            _log.info("another gateway takes over: it starts its workers")
            answer = b""
            with contextlib.suppress(OSError):
                takeover.give(link, said, [self._lock_file, *(sock.fileno() for sock in sockets)])
                answer = await asyncio.get_running_loop().sock_recv(link, 1)
            if self._stopping.is_set():
                return
            if answer != takeover.COMMIT:
                _log.error("the gateway that would take over has ended: this one goes on")
                lastgood.restore(self.run_dir, good)
                self._changing = False
                return
            _log.info("another gateway has taken over: requests in flight finish, then this one leaves")
            self._part(signal.SIGUSR2)
            # The link ends with this process, which tells the other that all slots are its own.
            await asyncio.Event().wait()

    async def _watch_incumbent(self, taken: takeover.Taken) -> None:
        """Until the gateway that this one relieves has ended: then its slots are free."""
        taken.link.setblocking(False)
        with taken.link, contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_recv(taken.link, 1)
        mine = {life.slot for life in (*self._lives.values(), *self._leaving)}
        for slot in set(taken.said.busy) - mine:
            self._free(slot)
        self._taken = None
        self._changing = False
        if not self._stopping.is_set():
            self._open_door()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
