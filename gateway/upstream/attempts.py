"""The attempts of one call: pick, send, and where that is safe send again or hedge.

Contract: the path on which nothing fails is one straight call: no task, no timer, no lock. What is done besides is
written into the call's `CallPlan` and counted. `plan.py` says what is safe and what counts as a failure, `tries.py`
makes one try.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from gateway.errors import TidegateError
from gateway.upstream.hedged import Hedged
from gateway.upstream.plan import CallPlan, Sending, allowed, late, may_retry
from gateway.upstream.tries import attempt

if TYPE_CHECKING:
    from gateway.upstream.replica import Replica
    from gateway.upstream.upstream import Upstream
    from gateway.wire.types import InferAnswer

BACKOFF = 0.025
"""Seconds before the first further try on the same replica, doubled for each next, half of it at random (Envoy's
base interval; its jitter is the whole interval)."""

_now = time.monotonic


async def run(upstream: Upstream, sending: Sending, timeout: float) -> InferAnswer:
    """One unary call to one of the replicas.

    Args:
        upstream: has the replicas.
        sending: the call; its plan says afterwards what happened.
        timeout: seconds for everything, further tries included.

    Raises:
        TidegateError: of the last try; see `Replica.infer`.
        CircuitOpen: every replica that has the model is left alone just now.
    """
    shared, plan, begun = upstream.resilience, sending.plan, sending.begun
    if begun is None:
        began = _now()
        shared.budget.deposit(began)
    else:
        began = begun.began
    if begun is not None:
        replica = begun.replica
    elif "sequence_id" in sending.call.parameters:
        replica = upstream.pick_for(sending.call, sending.model, sending.version, plan)
    else:
        replica = upstream.pick(sending.model, sending.version)
    try:
        if shared.hedge is None or not plan.idempotent or plan.sequence is not None:
            return await attempt(replica, shared, sending, timeout, began)
        return await Hedged(upstream, sending, began + timeout).run(replica, timeout, began)
    except TidegateError as error:
        last = error
    deadline = began + timeout
    tried: list[Replica] = []
    while (other := await another(upstream, sending.model, sending.version, plan, last, tried, deadline)) is not None:
        now = _now()
        try:
            return await attempt(other, shared, sending, deadline - now, now)
        except TidegateError as error:
            last = error
    try:
        raise late(last, deadline, _now())
    finally:
        del last  # else its traceback, which holds this frame, and it hold one another, and the tensors


async def another(
    upstream: Upstream,
    model: str,
    version: str,
    plan: CallPlan,
    last: TidegateError,
    tried: list[Replica],
    deadline: float,
) -> Replica | None:
    """Where a call goes that failed, after a pause when it has been there; None: `last` is its answer.

    Args:
        upstream: has the replicas.
        model: the model's name there.
        version: "" is the server's own choice.
        plan: of the call; `replica` is where it failed, and its further tries are counted in it.
        last: the failure.
        tried: where it was; kept here.
        deadline: monotonic time at which it must be answered.
    """
    shared = upstream.resilience
    if plan.retries >= shared.attempts or not may_retry(last, plan):
        return None
    if plan.replica is not None and plan.replica not in tried:
        tried.append(plan.replica)
    try:
        replica = upstream.pick(model, version, exclude=tried)
    except TidegateError:
        return None  # none is left: what the last one said is the answer
    now = _now()
    if not allowed(replica, model, now) or not shared.may_try(now):
        return None
    plan.retries += 1
    if replica in tried:
        pause = BACKOFF * 2 ** (plan.retries - 1) * (0.5 + random.random())  # noqa: S311  no secret
        if now + pause >= deadline:
            return None
        await asyncio.sleep(pause)
    if _now() >= deadline:
        return None
    shared.event("retry")
    return replica
