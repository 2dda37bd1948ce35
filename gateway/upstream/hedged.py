"""A hedged call: its second try starts when the first takes longer than most.

After J. Dean and L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013.

Contract: the first try runs in the caller's own task; a hedge that answers first cancels it there, as
`asyncio.timeout` does. Whichever loses is cancelled. The second try needs another replica and a place in the
budget; without them there is none.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gateway.errors import TidegateError
from gateway.upstream.plan import CallPlan, Sending, may_retry
from gateway.upstream.tries import attempt

if TYPE_CHECKING:
    from gateway.upstream.replica import Replica
    from gateway.upstream.upstream import Upstream
    from gateway.wire.types import InferAnswer

_now = time.monotonic


class Hedged:
    """One call with two tries at most.

    Args:
        upstream: has the replicas.
        sending: the call; its plan says afterwards which try answered.
        deadline: monotonic time at which it must be answered.
    """

    def __init__(self, upstream: Upstream, sending: Sending, deadline: float) -> None:
        self._upstream = upstream
        self._shared = upstream.resilience
        self._sending = sending
        self._plan = sending.plan
        self._deadline = deadline
        self._second: asyncio.Task[InferAnswer] | None = None
        self._second_plan = CallPlan(
            idempotent=True, hurried=self._plan.hurried, heeds_timeout=self._plan.heeds_timeout
        )
        self._won = False
        self._over = False
        self._task: asyncio.Task[object] | None = None
        self._first: Replica | None = None

    async def run(self, replica: Replica, timeout: float, began: float) -> InferAnswer:
        """The answer that comes first; an error only when no try is left."""
        timer = self._arm(replica, timeout)
        cancels = 0 if self._task is None else self._task.cancelling()
        try:
            return await attempt(replica, self._shared, self._sending, timeout, began)
        except asyncio.CancelledError:
            if self._won and self._task is not None and self._task.uncancel() <= cancels:
                return self._winner()
            raise
        except TidegateError as error:
            if self._second is None or not may_retry(error, self._plan):
                raise
            # The second try is under way already, and is the retry.
            self._over = True
            try:
                await self._second
            except TidegateError:
                raise error from None
            return self._winner()
        finally:
            self._over = True
            if timer is not None:
                timer.cancel()
            if self._second is not None:
                if not self._second.done():
                    self._second.cancel()
                if not self._plan.hedge:
                    self._plan.hedge = "lost"
                self._second = None  # it holds its error, whose traceback holds this frame, and all hold the tensors

    def _arm(self, replica: Replica, timeout: float) -> asyncio.TimerHandle | None:
        """The timer that starts the second try; None: there will be none."""
        hedge = self._shared.hedge
        model = self._sending.model
        latency = (replica.traffic.get(model) or replica.traffic.of(model)).latency
        if hedge is None or latency is None or len(self._upstream.replicas) < 2:
            return None
        delay = max(latency.value, hedge.at_least)
        if delay >= timeout:
            return None
        self._task, self._first = asyncio.current_task(), replica
        return asyncio.get_running_loop().call_later(delay, self._start)

    def _winner(self) -> InferAnswer:
        assert self._second is not None
        self._plan.hedge = "won"
        self._plan.replica = self._second_plan.replica
        self._plan.transport = self._second_plan.transport
        self._shared.event("hedge_won")
        return self._second.result()

    def _start(self) -> None:
        now = _now()
        sending = self._sending
        assert self._first is not None
        try:
            replica = self._upstream.pick(sending.model, sending.version, exclude=(self._first,))
        except TidegateError:
            return
        if replica is self._first or not self._shared.may_try(now):
            return
        self._shared.event("hedge")
        second = Sending(sending.call, sending.model, sending.version, sending.headers, self._second_plan)
        self._second = asyncio.get_running_loop().create_task(
            attempt(replica, self._shared, second, max(self._deadline - now, 0.0), now)
        )
        self._second.add_done_callback(self._done)

    def _done(self, second: asyncio.Task[InferAnswer]) -> None:
        if second.cancelled() or second.exception() is not None or self._over:
            return
        self._won = self._over = True
        assert self._task is not None
        self._task.cancel()
