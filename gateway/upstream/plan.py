"""What a call allows, what its failures say, and what all calls of an upstream share.

Contract: decides and counts; sends nothing.

A further try is safe when nothing of the request was sent (no connection), and, on idempotent routes, when the
server answered 503 or the connection broke before the answer. A connection that broke is tried again only once: a
request that ends its server must not be handed on through all replicas. A model whose process has ended (Triton's
Python backend answers 500 from then on, and does not start it again) is as a connection that broke. Sequences are
never tried again, and what was answered otherwise is the answer. Each try needs a place in the budget (`budget.py`)
and time that is left.

What counts as a failure: no connection, a broken one, an answer that cannot be read, 502, 503 and 504, and a deadline
when the route's own `timeout` ended it. Not: what the client got wrong, 500 (a model that raises), a client that leaves
or is in a hurry, and Triton's refusals of a queue that is full, which are load and no fault. Each failure counts for
the breaker of the model on the replica. For the ejection of the replica as a whole counts only what the server did not
answer itself (`is_servers`): a model that raises UNAVAILABLE (503) must not take its neighbours away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from gateway import settings
from gateway.errors import BadGateway, CircuitOpen, DeadlineExceeded, TidegateError, Unreachable, UpstreamAnswered
from gateway.upstream.budget import RetryBudget
from gateway.upstream.ejection import Ejection, Outlier, Reason
from gateway.upstream.events import Counters
from gateway.upstream.http_response import TOO_LATE

if TYPE_CHECKING:
    from gateway.upstream.http_client import Connection
    from gateway.upstream.http_response import Response
    from gateway.upstream.replica import Replica
    from gateway.upstream.served import Served
    from gateway.wire.types import InferCall

_FAILED = frozenset({502, 503, 504})
_QUEUE_FULL = "Exceeds maximum queue size"
_QUEUE_LATE = "Request timeout expired"
"""Triton's words (src/core/scheduler_utils.cc), both UNAVAILABLE."""
_ENDED = "Stub process"
"""Words of Triton's Python backend (src/python_be.cc): `Stub process 'NAME' is not healthy.`"""


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
    """Tries that ended with a broken connection, or the model's process."""
    hedge: Literal["", "won", "lost"] = ""
    transport: Literal["http", "grpc"] = "http"


class Begun(msgspec.Struct):
    """A try that was sent without a coroutine (`straight.py`), and that one is to end."""

    replica: Replica
    served: Served
    epoch: int
    """Of its circuit, when it was sent."""
    began: float
    """Monotonic time."""
    connection: Connection
    future: asyncio.Future[Response] | None
    """Of the response; whoever waits for it takes it out."""
    request: bytes
    """The whole of it."""
    sent_at: float
    """Loop time."""


class Sending(msgspec.Struct, gc=False):
    """One unary call as it goes to a replica."""

    call: InferCall
    """Inputs raw."""
    model: str
    """The model's name there."""
    version: str
    """"" is the server's own choice."""
    headers: Sequence[tuple[str, str]]
    """What else travels."""
    plan: CallPlan
    begun: Begun | None = None
    """Its first try is under way already."""


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


def is_failure(error: BaseException, *, hurried: bool) -> bool | None:
    """Whether an error is the replica's failure; None: it says nothing of the replica."""
    if isinstance(error, UpstreamAnswered):
        if error.status == 503 and (_QUEUE_FULL in error.message or _QUEUE_LATE in error.message):
            return None
        return error.status in _FAILED or ended(error)
    if isinstance(error, CircuitOpen):
        return None
    if isinstance(error, DeadlineExceeded):
        return None if hurried else True
    if isinstance(error, (Unreachable, BadGateway)):
        return True
    return None


def ended(error: UpstreamAnswered) -> bool:
    """Whether the model's own process is gone from its server."""
    return error.status == 500 and _ENDED in error.message and "not healthy" in error.message


def is_broken(error: BaseException) -> bool:
    """Whether the call may be what broke its server or its model."""
    return (isinstance(error, Unreachable) and error.sent) or (isinstance(error, UpstreamAnswered) and ended(error))


def is_servers(error: BaseException) -> bool:
    """Whether a failure is the whole server's and not the model's: it said nothing itself."""
    return not isinstance(error, UpstreamAnswered)


def may_retry(error: TidegateError, plan: CallPlan) -> bool:
    """Whether sending the call again is safe."""
    if plan.sequence is not None:
        return False
    if isinstance(error, Unreachable):
        return not error.sent or (plan.idempotent and plan.broken <= 1)
    if not isinstance(error, UpstreamAnswered) or not plan.idempotent:
        return False
    return error.status == 503 or (ended(error) and plan.broken <= 1)


def late(error: TidegateError, deadline: float, now: float) -> TidegateError:
    """Triton's word that a request waited too long is the deadline's when that is over."""
    if isinstance(error, UpstreamAnswered) and _QUEUE_LATE in error.message and now >= deadline - 0.01:
        return DeadlineExceeded(TOO_LATE, detail=error.message)
    return error
