"""The attempts of one unary call: pick, send, and where that is safe send again or hedge.

Contract: the path on which nothing fails is one straight call: no task, no timer, no lock. What is done besides is
written into the call's `CallPlan` and counted.

A further try is safe when nothing of the request was sent (no connection), and, on idempotent routes, when the
server answered 503 or the connection broke before the answer. A connection that broke is tried again only once: a
request that ends its server must not be handed on through all replicas. Sequences are never tried again, and what
was answered otherwise is the answer. Each try needs a place in the budget (`budget.py`) and time that is left.

What counts as a failure of the replica (breaker, ejection): no connection, a broken one, 502, 503 and 504, and a
deadline when the route's own `timeout` ended it. Not: what the client got wrong, 500 (a model that raises), a client
that leaves or is in a hurry, and Triton's refusals of a queue that is full, which are load and no fault.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from gateway import settings
from gateway.errors import (
    BadGateway,
    CircuitOpen,
    DeadlineExceeded,
    TidegateError,
    Unreachable,
    UpstreamAnswered,
)
from gateway.upstream.budget import RetryBudget
from gateway.upstream.ejection import Ejection, Outlier, Reason
from gateway.upstream.events import Counters
from gateway.upstream.http_response import TOO_LATE

if TYPE_CHECKING:
    from gateway.upstream.breaker import Breaker
    from gateway.upstream.replica import Replica
    from gateway.upstream.served import Served
    from gateway.upstream.upstream import Upstream
    from gateway.wire.types import InferAnswer, InferCall

BACKOFF = 0.025
"""Seconds before the first further try on the same replica, doubled for each next, half of it at random (Envoy's
base interval; its jitter is the whole interval)."""

_FAILED = frozenset({502, 503, 504})
_QUEUE_FULL = "Exceeds maximum queue size"
_QUEUE_LATE = "Request timeout expired"
"""Triton's words (src/core/scheduler_utils.cc), both UNAVAILABLE."""

_now = time.monotonic


class CallPlan(msgspec.Struct, gc=False):
    """What a call allows, and what became of it."""

    idempotent: bool = True
    """It may run twice."""
    sequence: int | str | float | None = None
    """Correlation id; None: no sequence."""
    hurried: bool = False
    """The client's own deadline ends before the route's timeout."""
    heeds_timeout: bool = False
    """The model's queue takes the request's `timeout`: the time that is left travels as that."""
    replica: Replica | None = None
    """Where the last try went, or the one that answered."""
    retries: int = 0
    broken: int = 0
    """Tries that ended with a broken connection."""
    hedge: Literal["", "won", "lost"] = ""
    transport: Literal["http", "grpc"] = "http"


class Resilience:
    """What all calls of one upstream share: budget, ejection, hedging."""

    __slots__ = ("_counters", "_name", "attempts", "budget", "ejection", "hedge")

    def __init__(self, name: str, config: settings.Upstream, counters: Counters) -> None:
        self._name = name
        self._counters = counters
        self.attempts = config.retries.attempts
        self.hedge = config.hedge
        self.budget = RetryBudget(config.retries.budget, config.retries.min_per_second)
        self.ejection = Ejection(config.ejection, ejected=self._ejected)

    def event(self, name: str) -> None:
        """Count what happened."""
        self._counters.on_event(name, upstream=self._name)

    def may_try(self, now: float) -> bool:
        """A further try's place in the budget; counted either way."""
        if self.budget.withdraw(now):
            return True
        self.event("no_budget")
        return False

    def _ejected(self, one: Outlier, reason: Reason) -> None:  # noqa: ARG002  counted by upstream alone
        self.event("eject")


def allowed(replica: Replica, model: str, now: float) -> bool:
    """Whether ejection and breaker let a request of this model go there."""
    outlier = replica.outlier
    if outlier.out and not outlier.allows(now):
        return False
    served = replica.traffic.get(model)
    return served is None or served.breaker.closed or served.breaker.allows(now)


def is_failure(error: TidegateError, *, hurried: bool) -> bool | None:
    """Whether an error is the replica's failure; None: it says nothing of the replica."""
    if isinstance(error, UpstreamAnswered):
        if error.status == 503 and (_QUEUE_FULL in error.message or _QUEUE_LATE in error.message):
            return None
        return error.status in _FAILED
    if isinstance(error, CircuitOpen):
        return None
    if isinstance(error, DeadlineExceeded):
        return None if hurried else True
    if isinstance(error, (Unreachable, BadGateway)):
        return True
    return None


def _judge(error: TidegateError, plan: CallPlan) -> bool | None:
    if isinstance(error, Unreachable) and error.sent:
        plan.broken += 1
    return is_failure(error, hurried=plan.hurried)


def may_retry(error: TidegateError, plan: CallPlan) -> bool:
    """Whether sending the call again is safe."""
    if plan.sequence is not None:
        return False
    if isinstance(error, Unreachable):
        return not error.sent or (plan.idempotent and plan.broken <= 1)
    return isinstance(error, UpstreamAnswered) and error.status == 503 and plan.idempotent


async def run(
    upstream: Upstream,
    call: InferCall,
    *,
    model: str,
    version: str,
    headers: Sequence[tuple[str, str]],
    timeout: float,
    plan: CallPlan,
) -> InferAnswer:
    """One unary call to one of the replicas.

    Args:
        upstream: has the replicas.
        call: inputs raw.
        model: the model's name there.
        version: "" is the server's own choice.
        headers: what else travels.
        timeout: seconds for everything, further tries included.
        plan: what the call allows; says afterwards what happened.

    Raises:
        TidegateError: of the last try; see `Replica.infer`.
        CircuitOpen: every replica that has the model is left alone just now.
    """
    shared = upstream.resilience
    began = _now()
    shared.budget.deposit(began)
    replica = upstream.pick_for(call, model, version, plan)
    try:
        if shared.hedge is None or not plan.idempotent or plan.sequence is not None:
            return await attempt(replica, shared, call, model, version, headers, timeout, plan, began)
        hedged = _Hedged(upstream, shared, call, model, version, headers, began + timeout, plan)
        return await hedged.run(replica, timeout, began)
    except TidegateError as error:
        if not may_retry(error, plan) or not shared.attempts:
            raise _late(error, began + timeout) from None
        last = error
    return await _again(upstream, shared, call, model, version, headers, began + timeout, plan, last)


async def _again(
    upstream: Upstream,
    shared: Resilience,
    call: InferCall,
    model: str,
    version: str,
    headers: Sequence[tuple[str, str]],
    deadline: float,
    plan: CallPlan,
    last: TidegateError,
) -> InferAnswer:
    """Further tries after one that failed."""
    tried: list[Replica] = []
    while plan.retries < shared.attempts and may_retry(last, plan):
        if plan.replica is not None and plan.replica not in tried:
            tried.append(plan.replica)
        try:
            replica = upstream.pick(model, version, exclude=tuple(tried))
        except TidegateError:
            break  # none is left: what the last one said is the answer
        now = _now()
        if not allowed(replica, model, now) or not shared.may_try(now):
            break
        plan.retries += 1
        if replica in tried:
            pause = BACKOFF * 2 ** (plan.retries - 1) * (0.5 + random.random())  # noqa: S311  no secret
            if _now() + pause >= deadline:
                break
            await asyncio.sleep(pause)
        now = _now()
        if now >= deadline:
            break
        shared.event("retry")
        try:
            return await attempt(replica, shared, call, model, version, headers, deadline - now, plan, now)
        except TidegateError as error:
            last = error
    raise _late(last, deadline)


def _late(error: TidegateError, deadline: float) -> TidegateError:
    """Triton's word that a request waited too long is the deadline's when that is over."""
    if isinstance(error, UpstreamAnswered) and _QUEUE_LATE in error.message and _now() >= deadline - 0.01:
        return DeadlineExceeded(TOO_LATE, detail=error.message)
    return error


async def attempt(
    replica: Replica,
    shared: Resilience,
    call: InferCall,
    model: str,
    version: str,
    headers: Sequence[tuple[str, str]],
    timeout: float,
    plan: CallPlan,
    began: float,
) -> InferAnswer:
    """One try on one replica; breaker, ejection and latency are told how it ended."""
    served = replica.traffic.get(model) or replica.served(model)
    breaker, outlier = served.breaker, replica.outlier
    epoch = breaker.epoch if breaker.closed else _enter(breaker, began, f"{replica.address}: {model}")
    probing = outlier.out and shared.ejection.began(outlier, began)
    plan.replica = replica
    replica.in_flight += 1
    served.in_flight += 1
    load = served.in_flight
    failed: bool | None = None
    try:
        if served.quickness.quick or replica.grpc_address is None:
            answer = await replica.infer(
                call, model=model, version=version, headers=headers, timeout=timeout, tell=plan.heeds_timeout
            )
        else:
            answer = await replica.send(
                call, served, model=model, version=version, headers=headers, timeout=timeout, plan=plan
            )
        failed = False
    except TidegateError as error:
        failed = _judge(error, plan)
        load = 0  # a refusal is no sign of how quick the model is
        raise
    else:
        return answer
    finally:
        replica.in_flight -= 1
        served.in_flight -= 1
        now = _now()
        if probing:
            shared.ejection.ended(outlier)
        if failed is False:
            _answered(served, epoch, began, now, load)
            outlier.requests += 1
            outlier.consecutive = 0
            if outlier.out or now >= shared.ejection.judge_at:
                shared.ejection.settle(outlier, now)
        else:
            _failed(replica, shared, breaker, epoch, now, failed)


def _failed(
    replica: Replica, shared: Resilience, breaker: Breaker, epoch: int, now: float, failed: bool | None
) -> None:
    """Tell breaker and ejection of what did not succeed; `failed` None: it says nothing of the replica."""
    if breaker.leave(epoch, now, failed=failed):
        shared.event("circuit_open")
    if failed:
        shared.ejection.failed(replica.outlier, now)


def _answered(served: Served, epoch: int, began: float, now: float, load: int) -> None:
    """Tell breaker and latency of an answer; `load`: calls of the model in flight there, 0 for a refusal."""
    if load:
        # Of many in flight each takes long because of the others (Little's law), however they travel.
        served.quickness.observe((now - began) / load)
        if served.latency is not None:
            served.latency.observe(now - began)
    breaker = served.breaker
    if breaker.closed and breaker.epoch == epoch:
        breaker.succeeded()
    else:
        breaker.leave(epoch, now, failed=False)


def _enter(breaker: Breaker, now: float, detail: str) -> int:
    """A place in a circuit that is not closed. Raises CircuitOpen."""
    epoch = breaker.enter(now)
    if epoch is None:
        raise CircuitOpen(detail)
    return epoch


class _Hedged:
    """A call whose second try starts when the first takes longer than most.

    The first runs in the caller's own task. A hedge that answers first cancels it there, as `asyncio.timeout` does.
    """

    def __init__(
        self,
        upstream: Upstream,
        shared: Resilience,
        call: InferCall,
        model: str,
        version: str,
        headers: Sequence[tuple[str, str]],
        deadline: float,
        plan: CallPlan,
    ) -> None:
        self._upstream = upstream
        self._shared = shared
        self._call = call
        self._model = model
        self._version = version
        self._headers = headers
        self._deadline = deadline
        self._plan = plan
        self._second: asyncio.Task[InferAnswer] | None = None
        self._second_plan = CallPlan(idempotent=True, hurried=plan.hurried)
        self._won = False
        self._over = False
        self._task: asyncio.Task[object] | None = None
        self._first: Replica | None = None

    async def run(self, replica: Replica, timeout: float, began: float) -> InferAnswer:
        """The answer that comes first; an error only when no try is left."""
        timer = self._arm(replica, timeout)
        cancels = 0 if self._task is None else self._task.cancelling()
        try:
            return await attempt(
                replica,
                self._shared,
                self._call,
                self._model,
                self._version,
                self._headers,
                timeout,
                self._plan,
                began,
            )
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

    def _arm(self, replica: Replica, timeout: float) -> asyncio.TimerHandle | None:
        """The timer that starts the second try; None: there will be none."""
        hedge = self._shared.hedge
        latency = (replica.traffic.get(self._model) or replica.served(self._model)).latency
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
        assert self._first is not None
        try:
            replica = self._upstream.pick(self._model, self._version, exclude=(self._first,))
        except TidegateError:
            return
        if replica is self._first or not self._shared.may_try(now):
            return
        self._shared.event("hedge")
        self._second = asyncio.get_running_loop().create_task(
            attempt(
                replica,
                self._shared,
                self._call,
                self._model,
                self._version,
                self._headers,
                max(self._deadline - now, 0.0),
                self._second_plan,
                now,
            )
        )
        self._second.add_done_callback(self._done)

    def _done(self, second: asyncio.Task[InferAnswer]) -> None:
        if second.cancelled() or second.exception() is not None or self._over:
            return
        self._won = self._over = True
        assert self._task is not None
        self._task.cancel()
