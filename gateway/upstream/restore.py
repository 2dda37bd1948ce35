"""Brings a replica that came back to what was asked of its upstream, before it gets traffic.

Contract: `Desired.restore` is what a replica awaits in its check (`Upstream.restore_with`). Only what was asked
through the gateway is replayed, and of that only what the replica is not as it should be already. One worker does
it (a file lock for each replica; the others wait, find it done, and go on). It returns when the replica has
carried out everything, also what was asked meanwhile.

What the replica refuses (any status but 503: a region whose memory is gone, a model that is no longer in its
repository) is tried `TRIES` times, then reported and left: it gets traffic for what it has, for calls only go where
their model is ready. Any other failure keeps it from traffic, and it is tried again with back-off.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from gateway import logs
from gateway.errors import TidegateError, Unreachable, UpstreamAnswered
from gateway.routing.sequences import hash64
from gateway.upstream.answers import error_of
from gateway.upstream.desired import (
    Wanted,
    in_order,
    model_as_wanted,
    region_as_wanted,
    settings_as_wanted,
    target,
)
from gateway.upstream.events import Counters, Silent
from gateway.upstream.journal import Journal, key_of, pending
from gateway.upstream.replica import Replica

T = TypeVar("T")

TRIES: Final = 3
"""Of one thing that the replica refuses."""
LOAD_TIMEOUT: Final = 600.0
"""Seconds: loading a large model takes minutes; Triton answers when it is done."""
PAGE_TIMEOUT: Final = 10.0
LONGEST_PAUSE: Final = 30.0
"""Seconds between two tries at most; the first is `_FIRST_PAUSE`, then twice as long each time."""

_FIRST_PAUSE: Final = 0.5
_POLL: Final = 0.02  # seconds; a file lock sets no event
_STRIPES: Final = 64

_log = logs.get("restore")


class _Failed(msgspec.Struct):
    times: int
    again_at: float
    error: TidegateError


class Desired:
    """What was asked of the upstreams, and how replicas are brought to it.

    Args:
        folder: in the run directory that the workers share.
        counters: where events go.
    """

    def __init__(self, folder: Path, counters: Counters | None = None) -> None:
        self._folder = folder
        self.journal = Journal(folder)
        self.counters = counters or Silent()
        self._failed: dict[int, _Failed] = {}
        self._refused: set[tuple[int, int]] = set()
        """Replica (key) and serial of what it refused in this life or before."""
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- changes ---------------------------------------------------------------------------------------------

    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Await it; it goes on when the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have left

    @asynccontextmanager
    async def changing(self, upstreams: Sequence[str], wanted: Wanted) -> AsyncIterator[None]:
        """Hold off other changes of the same thing, and the end of restores, until this one is recorded."""
        stripe = hash64("asked", wanted.kind, wanted.name) % _STRIPES
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_held(self._folder / f"thing-{stripe}", fcntl.LOCK_EX))
            for name in sorted(upstreams):
                await stack.enter_async_context(_held(self._busy(name), fcntl.LOCK_SH))
            yield

    async def record(self, upstream: str, wanted: Wanted, did: dict[int, int]) -> None:
        """It was carried out; `did`: by these replicas (keys), in these lives."""
        await asyncio.to_thread(self.journal.record, upstream, wanted, did)

    def unrestored(self, replica: Replica) -> dict[str, str]:
        """What a replica refused to be brought to in this life, and its words."""
        if self.journal.empty:
            return {}
        mark = self.journal.mark(replica.life_key, replica.life)
        wanted = {key_of(entry): entry.serial for entry in self.journal.entries(replica.name)}
        return {key: mark.reasons[key] for key, serial in mark.refused.items() if wanted.get(key) == serial}

    def _busy(self, upstream: str) -> Path:
        return self._folder / f"busy-{hash64('busy', upstream):016x}"

    # -- a replica that came back ----------------------------------------------------------------------------

    async def restore(self, replica: Replica) -> None:
        """Bring it to what was asked. Raises TidegateError when it cannot be done now."""
        if self.journal.empty:
            return
        loop = asyncio.get_running_loop()
        failed = self._failed.get(replica.life_key)
        if failed is not None and loop.time() < failed.again_at:
            raise failed.error
        try:
            async with _held(self._folder / f"replica-{replica.life_key:016x}", fcntl.LOCK_EX):
                await self._bring(replica)
        except TidegateError as error:
            times = 1 if failed is None else failed.times + 1
            pause = min(_FIRST_PAUSE * 2.0 ** (times - 1), LONGEST_PAUSE)
            self._failed[replica.life_key] = _Failed(times, loop.time() + pause, error)
            self.counters.on_event("restore_failed", upstream=replica.name)
            raise
        self._failed.pop(replica.life_key, None)

    async def _bring(self, replica: Replica) -> None:
        life = replica.life
        did: list[str] = []
        while True:
            steps = await asyncio.to_thread(self._pending, replica, life)
            if not steps:
                # Nobody is about to record more.
                async with _held(self._busy(replica.name), fcntl.LOCK_EX):
                    steps = await asyncio.to_thread(self._pending, replica, life)
                if not steps:
                    break
            did += [
                f"{entry.verb} {key_of(entry)}"
                for entry in in_order(tuple(steps))
                if await self._step(replica, life, entry)
            ]
        if did:
            self.counters.on_event("restored", upstream=replica.name)
            fields = {"upstream": replica.name, "replica": replica.label, "steps": did}
            _log.info("%s was brought to the state that was asked for", replica.label, extra={"fields": fields})

    def _pending(self, replica: Replica, life: int) -> list[Wanted]:
        return pending(self.journal.entries(replica.name), self.journal.mark(replica.life_key, life))

    async def _step(self, replica: Replica, life: int, entry: Wanted) -> bool:
        """One entry; whether anything had to be asked and was done."""
        refused: UpstreamAnswered | None = None
        asked = False
        again = (replica.life_key, entry.serial)
        # What it refused before does not hold up its return a second time.
        for attempt in range(1 if again in self._refused else TRIES):
            if attempt:
                await asyncio.sleep(_FIRST_PAUSE * attempt)
            try:
                asked = await self._ask(replica, entry)
                refused = None
                break
            except UpstreamAnswered as error:
                if error.status == 503:  # it is not there; 500 is also Triton's word for a region that is gone
                    raise
                refused = error
        why = None if refused is None else refused.message
        (self._refused.discard if refused is None else self._refused.add)(again)
        await asyncio.to_thread(self.journal.carried_out, replica.life_key, life, entry, why)
        if refused is not None:
            self.counters.on_event("restore_refused", upstream=replica.name)
            fields = {"upstream": replica.name, "replica": replica.label, "detail": refused.detail}
            text = "%s refuses what was asked for and is left without: %s %s: %s"
            _log.warning(text, replica.label, entry.verb, key_of(entry), why, extra={"fields": fields})
            return False
        return asked

    async def _ask(self, replica: Replica, entry: Wanted) -> bool:
        """Ask for it unless it is so already; whether it was asked."""
        match entry.kind:
            case "model":
                index = await _page(replica, "POST", "/v2/repository/index")
                if model_as_wanted(entry, index):
                    return False
                await _page(replica, "POST", entry.target, _body(entry), LOAD_TIMEOUT)
                replica.forget_model(entry.name)
            case "system_shm" | "cuda_shm":
                regions = await _page(replica, "GET", target(entry.kind, "", "status"))
                if region_as_wanted(entry, regions):
                    return False
                if any(row["name"] == entry.name for row in regions):
                    await _page(replica, "POST", target(entry.kind, entry.name, "unregister"))
                await _page(replica, "POST", entry.target, _body(entry))
            case "trace" | "log":
                if settings_as_wanted(entry, await _page(replica, "GET", entry.target)):
                    return False
                await _page(replica, "POST", entry.target, _body(entry))
        return True


def _body(entry: Wanted) -> bytes:
    return msgspec.json.encode(entry.body)


async def _page(replica: Replica, method: str, page: str, body: bytes = b"", timeout: float = PAGE_TIMEOUT) -> Any:
    response = await replica.control(method, page, (), body, timeout)
    if response.status != 200:
        raise error_of(response)
    content = bytes(response.body)
    try:
        return msgspec.json.decode(content) if content else None
    except msgspec.DecodeError as error:
        raise Unreachable("the model server's answer could not be read", detail=f"{page}: {error}") from None


@asynccontextmanager
async def _held(path: Path, how: int) -> AsyncIterator[None]:
    """A file lock, of workers and of tasks alike: each opens the file for itself."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_POLL)
        yield
    finally:
        os.close(file)
