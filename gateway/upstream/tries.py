"""One try of a call on one replica; breaker, ejection and latency are told how it ended.

Contract: a unary call is one `attempt`, a straight call without task, timer or lock. A call whose answers come one
by one is a `StreamTry`, from its sending to its last answer. What is in flight is counted here, for both.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.errors import CircuitOpen, TidegateError
from gateway.upstream import transport
from gateway.upstream.plan import Resilience, Sending, is_broken, is_failure, is_servers

if TYPE_CHECKING:
    from gateway.upstream.breaker import Breaker
    from gateway.upstream.replica import Replica
    from gateway.wire.types import InferAnswer

_now = time.monotonic


async def attempt(replica: Replica, shared: Resilience, sending: Sending, timeout: float, began: float) -> InferAnswer:
    """One try of a unary call.

    Args:
        replica: where it goes.
        shared: of its upstream.
        sending: the call; its plan says afterwards where it went.
        timeout: seconds for it.
        began: monotonic time, now.

    Raises:
        CircuitOpen: nothing was sent, the circuit is open.
        TidegateError: see `Replica.infer`.
    """
    model, plan, begun = sending.model, sending.plan, sending.begun
    sending.begun = None
    if begun is None:
        served = replica.traffic.get(model) or replica.traffic.of(model)
        breaker, outlier = served.breaker, replica.outlier
        epoch = breaker.epoch if breaker.closed else _enter(breaker, began, replica, model)
        probing = outlier.out and shared.ejection.began(outlier, began)
    else:
        served, epoch, probing = begun.served, begun.epoch, False
        breaker, outlier = served.breaker, replica.outlier
    plan.replica = replica
    replica.in_flight += 1
    served.in_flight += 1
    load = served.in_flight
    try:
        if begun is not None or served.quickness.quick or replica.grpc_address is None:
            answer = await replica.infer(
                sending.call,
                model=model,
                version=sending.version,
                headers=sending.headers,
                timeout=timeout,
                tell=plan.heeds_timeout,
                again=plan.idempotent and plan.sequence is None,
                begun=begun,
            )
        else:
            answer = await transport.send(replica, sending, timeout)
    except BaseException as error:
        replica.in_flight -= 1
        served.in_flight -= 1
        if is_broken(error):
            plan.broken += 1
        _failed(replica, shared, model, breaker, epoch, error, hurried=plan.hurried, probing=probing)
        raise
    replica.in_flight -= 1
    served.in_flight -= 1
    now = _now()
    # Of many in flight each takes long because of the others (Little's law), however they travel.
    quickness, seconds = served.quickness, (now - began) / load
    if seconds >= quickness.bound or not quickness.sure:
        quickness.observe(seconds)
    if served.latency is not None:
        served.latency.observe(now - began)
    if breaker.epoch == epoch and breaker.closed:
        breaker.failures = 0
    else:
        leave(replica, model, breaker, epoch, now, failed=False)
    if probing:
        shared.ejection.ended(outlier)
    outlier.requests += 1
    outlier.consecutive = 0
    if outlier.out or now >= shared.ejection.judge_at:
        shared.ejection.settle(outlier, now)
    return answer


class StreamTry:
    """A call of a stream on one replica. Whoever makes one MUST call `ended`, once or more."""

    __slots__ = ("_breaker", "_epoch", "_open", "_probing", "_shared", "model", "replica")

    def __init__(self, replica: Replica, shared: Resilience, model: str) -> None:
        """It is about to be sent.

        Raises:
            CircuitOpen: it must not be.
        """
        now = _now()
        self._breaker = breaker = replica.traffic.of(model).breaker
        self._epoch = breaker.epoch if breaker.closed else _enter(breaker, now, replica, model)
        self._probing = replica.outlier.out and shared.ejection.began(replica.outlier, now)
        self._shared = shared
        self._open = True
        self.replica = replica
        self.model = model
        replica.in_flight += 1

    def ended(self, error: BaseException | None, *, hurried: bool = False) -> None:
        """It has had its last answer.

        Args:
            error: what ended it; None: the answer was whole. What is no TidegateError says nothing of the replica.
            hurried: a deadline that is over was the client's own.
        """
        if not self._open:
            return
        self._open = False
        replica, shared, breaker = self.replica, self._shared, self._breaker
        replica.in_flight -= 1
        if error is not None:
            if isinstance(error, TidegateError):
                replica.heard(error, self.model)
            _failed(replica, shared, self.model, breaker, self._epoch, error, hurried=hurried, probing=self._probing)
            return
        now = _now()
        leave(replica, self.model, breaker, self._epoch, now, failed=False)
        if self._probing:
            shared.ejection.ended(replica.outlier)
        shared.ejection.succeeded(replica.outlier, now)


def _failed(
    replica: Replica,
    shared: Resilience,
    model: str,
    breaker: Breaker,
    epoch: int,
    error: BaseException,
    *,
    hurried: bool,
    probing: bool,
) -> None:
    """Tell breaker and ejection of what did not succeed."""
    now = _now()
    failed = is_failure(error, hurried=hurried)
    if probing:
        shared.ejection.ended(replica.outlier)
    leave(replica, model, breaker, epoch, now, failed=failed)
    if failed and is_servers(error):
        shared.ejection.failed(replica.outlier, now)


def leave(replica: Replica, model: str, breaker: Breaker, epoch: int, now: float, *, failed: bool | None) -> None:
    """Tell a circuit, and whoever counts its changes; see `Breaker.leave`."""
    was_closed = breaker.closed
    if breaker.leave(epoch, now, failed=failed):
        replica.traffic.tell(model, "circuit_open")
    elif breaker.closed and not was_closed:
        replica.traffic.tell(model, "circuit_closed")


def _enter(breaker: Breaker, now: float, replica: Replica, model: str) -> int:
    """A place in a circuit that is not closed. Raises CircuitOpen."""
    epoch = breaker.enter(now)
    if epoch is None:
        raise CircuitOpen(f"{replica.address}: {model}", retry_after=breaker.opens_in(now) or 1.0)
    replica.traffic.tell(model, "circuit_half_open")
    return epoch
