"""Sends copies of calls to shadows and counts how their answers differ.

Contract: a side channel. `offer` is synchronous and costs the same whatever the tensors' size, nothing waits
for a copy, and whatever happens to one shows in counters alone. Bounded for each shadow of a route, in this
worker: copies under way (`concurrency`), copies waiting (`queue`), and the bytes of all tensors that copies
keep alive until they are compared. Beyond a bound a copy is dropped and counted.

All methods MUST be called on the event loop's thread. One runner serves a worker through all reloads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from gateway.errors import TidegateError
from gateway.routing.compare import compare
from gateway.routing.copies import answer_bytes, copy_of, mark
from gateway.routing.lane import Copy, FullError, Infers, Lane
from gateway.routing.route import CompiledShadow
from gateway.routing.state import ShadowMeters
from gateway.wire.types import InferAnswer, InferCall

_log = logging.getLogger(__name__)

HELD_BYTES = 64 * 1024 * 1024
"""Tensor bytes that the copies of one shadow may keep alive: the default `limits.body`, so that the largest
call fits once. A larger one is let in when nothing else is held."""
INLINE_BYTES = 64 * 1024
"""Larger answers are compared on a thread of their own; up to here it takes less time than going there."""


class Dropped:
    """What `offer` returns for a copy that is not sent."""

    def primary_done(self, answer: InferAnswer | None) -> None:
        """Nothing to compare it with."""


_DROPPED = Dropped()


class ShadowRunner:
    """All shadows of a worker.

    Args:
        meters: the counters of (route, shadow).
        held_bytes: see `HELD_BYTES`.
    """

    def __init__(self, meters: Callable[[str, str], ShadowMeters], held_bytes: int = HELD_BYTES) -> None:
        self._held_bytes = held_bytes
        self._meters = meters
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    def offer(
        self,
        shadow: CompiledShadow,
        call: InferCall,
        upstream: Infers,
        headers: Iterable[tuple[str, str]],
        *,
        room: bool = True,
        decided: Callable[[InferAnswer], None] | None = None,
    ) -> Copy | Dropped:
        """Copy a call whose tensors are in raw form; sent when the caller next awaits, so after the call.

        The caller MUST call `primary_done` of what is returned, and MUST NOT reuse the tensors' buffers.

        Args:
            shadow: of the assignment, which has sampled already.
            call: as it goes to the variant.
            upstream: the shadow's.
            headers: those of the call, for that upstream.
            room: False: the model servers have enough to do, the copy is dropped.
            decided: called with the shadow's answer, if there is one; MUST NOT raise.
        """
        lane = self._lane(shadow)
        copied = copy_of(call, shadow)
        if copied is None or self._closed:
            lane.meters.dropped.inc()
            return _DROPPED
        copy = Copy(lane, shadow, copied, upstream, [*headers, mark(shadow)], decided)
        try:
            if not room:
                raise FullError
            ready = lane.add(copy)
        except FullError:
            lane.meters.dropped.inc()
            lane.break_sequence(copy)
            return _DROPPED
        if ready is not None:
            self._keep(asyncio.get_running_loop().create_task(self._send_all(lane, ready)))
        return copy

    def retain(self, shadows: Iterable[CompiledShadow]) -> None:
        """After a reload: copies that wait for a shadow that is no more are dropped."""
        kept = {(shadow.route, shadow.name) for shadow in shadows}
        for key in self._lanes.keys() - kept:
            self._lanes.pop(key).drop_waiting()

    async def drain(self, seconds: float) -> None:
        """Take no more copies, wait that long for those taken, drop the rest. At shutdown."""
        self._closed = True
        deadline = time.monotonic() + seconds
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        for lane in self._lanes.values():
            lane.drop_waiting()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def idle(self) -> bool:
        """Whether every copy so far is through: answered, compared or dropped."""
        return not self._tasks and all(lane.idle for lane in self._lanes.values())

    def _lane(self, shadow: CompiledShadow) -> Lane:
        key = (shadow.route, shadow.name)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(self._meters(*key), self._compare, self._held_bytes)
        return lane

    def _compare(self, copy: Copy, ours: InferAnswer, theirs: InferAnswer) -> None:
        """Compare two answers soon: small ones in a later turn of the loop, large ones on a thread."""
        rtol, atol, classes = copy.shadow.rtol, copy.shadow.atol, copy.classes
        loop = asyncio.get_running_loop()
        if answer_bytes(ours) + answer_bytes(theirs) <= INLINE_BYTES:
            loop.call_soon(lambda: copy.compared(compare(ours, theirs, rtol, atol, classes)))
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "shadow-compare")

        async def aside() -> None:
            copy.compared(await loop.run_in_executor(self._thread, compare, ours, theirs, rtol, atol, classes))

        self._keep(loop.create_task(aside()))

    def _keep(self, task: asyncio.Future[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_all(self, lane: Lane, first: Copy) -> None:
        """Send a copy, then those that wait: one of at most `concurrency` such tasks of a lane."""
        copy: Copy | None = first
        while copy is not None:
            try:
                await self._send(lane, copy)
            except asyncio.CancelledError:
                lane.drop(copy)
                lane.running -= 1
                raise
            copy = lane.next(copy)

    @staticmethod
    async def _send(lane: Lane, copy: Copy) -> None:
        shadow, call = copy.shadow, copy.call
        assert call is not None
        lane.meters.requests.inc()
        began = time.perf_counter()
        try:
            answer = await copy.upstream.infer(
                call, model=shadow.model, version=shadow.version, headers=copy.headers, timeout=shadow.timeout
            )
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the lane's other copies
            lane.meters.errors.inc()
            lane.break_sequence(copy)
            copy.lose()
            if not isinstance(error, TidegateError):
                _log.exception("shadow %s of route %s: copy failed", shadow.name, shadow.route)
        else:
            copy.answered(answer, time.perf_counter() - began)
