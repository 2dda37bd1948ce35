"""Step 10: what stands in the audit log of each decision.

Contract: one record a decision, made where the decision ends, with what was decided and nothing of the bodies but
their keyed digests. Nothing here waits; in a strict log the caller waits for the future before it answers.
"""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from gateway.errors import Cancelled, ClientError, Defect, Forbidden, Overloaded, Shed, TidegateError
from gateway.observe import code_of
from governance.audit.record import Outcome, Record
from governance.errors import AuditUnavailable

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.monitors.alarms import Event
    from gateway.operations import Operation
    from gateway.snapshot import Admitted, Snapshot
    from governance.audit.entry import Form
    from governance.audit.witness import Suspicion
    from governance.ports import Body, DecisionLog
    from governance.types import Subject

_AWAY = "the decision cannot be recorded"
_RETRY_S = 5.0
"""A disk that is full has room again after minutes, a busy one after moments."""
_READS = frozenset({"", "read"})


Written: TypeAlias = "asyncio.Future[None] | Overloaded | None"
"""What an answer has to wait for: a record on its way to the disk, one that cannot be written, or nothing."""


class PageDecision:
    """What is known of a page while it is served."""

    __slots__ = ("admitted", "model", "operation", "protocol", "request_id", "snapshot", "started")

    def __init__(self, snapshot: Snapshot, operation: Operation, protocol: str, model: str, request_id: str) -> None:
        self.snapshot = snapshot
        self.operation = operation
        self.protocol = protocol
        self.model = model
        self.request_id = request_id
        self.started = time.perf_counter()
        self.admitted: Admitted | None = None
        """None: not, or not yet."""


class Decisions:
    """Records the decisions of one worker.

    Args:
        log: where.
        strict: whether answers wait for their records.
    """

    def __init__(self, log: DecisionLog, *, strict: bool = False) -> None:
        self.log = log
        self._strict = strict

    def admit(self) -> None:
        """Before anything is done for a request. Raises Overloaded: its decision could not be recorded."""
        try:
            self.log.admit()
        except AuditUnavailable as error:
            raise _away(error) from None

    def inference(self, x: Exchange) -> Written:
        """One inference request, however it ended. See `durable`."""
        record = _inference(x, outcome_of(x.error))
        record.status = code_of(x.protocol, x.error)
        record.latency_us = int((time.perf_counter() - x.started) * 1e6)
        record.phase = "end" if x.bracketed else None
        return self._record(record, x.inputs, x.outputs)

    def form(self, x: Exchange) -> Form | None:
        """That of the records of inference requests which were served as this one; see `DecisionLog.form`."""
        record = _inference(x, "served")
        record.status = code_of(x.protocol, None)
        return self.log.form(record)

    async def unread(
        self, snapshot: Snapshot, protocol: str, request_id: str, error: TidegateError, model: str = ""
    ) -> TidegateError:
        """An inference request that was refused before anybody knew what it asks for; what its client is told."""
        record = Record(
            kind="inference",
            action="infer",
            object="model:" + model if model else "server",
            outcome=outcome_of(error),
            status=code_of(protocol, error),
            id=request_id,
            model=model or None,
            snapshot=snapshot.hash,
            policy=snapshot.policy.hash,
        )
        try:
            await durable(self._record(record))
        except Overloaded as away:
            return away
        return error

    def denied(self, snapshot: Snapshot, request_id: str, object_: str, action: str, error: TidegateError) -> Written:
        """A page of the gateway's own that its caller may not see."""
        record = Record(
            kind="control",
            action=action,
            object=object_,
            outcome=outcome_of(error),
            status=code_of("http", error),
            id=request_id,
            snapshot=snapshot.hash,
            policy=snapshot.policy.hash,
        )
        _say_denied(record, error)
        return self._record(record)

    def suspected(self, snapshot: Snapshot, request_id: str, status: int, suspicion: Suspicion) -> Written:
        """Another gateway's log does not continue what this one, its witness, has seen of it."""
        details = msgspec.structs.asdict(suspicion)
        record = Record(
            kind="control",
            action="witness",
            object="audit",
            outcome="refused",
            status=str(status),
            id=request_id,
            snapshot=snapshot.hash,
            policy=snapshot.policy.hash,
            details=details,
        )
        return self._record(record)

    def alert(self, snapshot: Snapshot, route: str, step: str, facts: dict[str, Any]) -> Written:
        """A route's fairness alert begins, or ends."""
        record = Record(
            kind="control",
            action="alert",
            object=f"fairness:{route}",
            outcome="served",
            model=route,
            snapshot=snapshot.hash,
            policy=snapshot.policy.hash,
            details={"alert": step, **facts},
        )
        return self._record(record)

    def joined(self, snapshot: Snapshot, request_id: str, route: str, who: Admitted, facts: dict[str, int]) -> Written:
        """Somebody told of the people whom a route's decisions were about."""
        record = Record(
            kind="control",
            action="join",
            object=f"fairness:{route}",
            outcome="served",
            status="200",
            id=request_id,
            model=route,
            snapshot=snapshot.hash,
            policy=snapshot.policy.hash,
            allowed=True,
            rule=who.line,
            details=dict(facts),
        )
        _say_who(record, who.subject)
        return self._record(record)

    def alarmed(self, snapshot: Snapshot, event: Event) -> Written:
        """An alarm of drift began or ended. A record that is written twice, after a crash, has one id."""
        alarm = event.alarm
        return self._record(
            Record(
                kind="control",
                action="alarm",
                object="route:" + event.route,
                outcome="served",
                status=event.what,
                id=event.id,
                snapshot=snapshot.hash,
                policy=snapshot.policy.hash,
                details={
                    "began": alarm.began.isoformat(),
                    "rows": alarm.rows,
                    # RFC 8785 would have each number as a float64; what people compare is text.
                    "causes": [
                        {"column": cause.column, "what": cause.what, "effect": f"{cause.effect:g}"}
                        for cause in alarm.causes
                    ],
                },
            )
        )

    def begun(self, x: Exchange) -> Written:
        """A stream is about to give its first answer: a strict log has a record of its start and one of its end."""
        if not self._strict or x.bracketed:
            return None
        x.bracketed = True
        record = _inference(x, "served")
        record.phase = "start"
        return self._record(record, x.inputs)

    @asynccontextmanager
    async def deciding(self, decision: PageDecision) -> AsyncIterator[None]:
        """Around a page of the protocol: records what changes something, and refusals of all. Raises as `durable`."""
        self.admit()
        try:
            yield
        except TidegateError as error:
            await durable(self._page(decision, error))
            raise
        except asyncio.CancelledError:
            # Nobody waits for the answer; what was asked of the model servers may have been done.
            self._page(decision, Cancelled("the client went away"))
            raise
        except Exception as error:
            await durable(self._page(decision, Defect(repr(error))))
            raise
        await durable(self._page(decision, None))

    def _page(self, decision: PageDecision, error: TidegateError | None) -> Written:
        operation, admitted, snapshot = decision.operation, decision.admitted, decision.snapshot
        if operation.action in _READS and (not isinstance(error, ClientError) or isinstance(error, Cancelled)):
            return None
        record = Record(
            kind="control",
            action=operation.action or "read",
            object=operation.object_of(decision.model) or "server",
            outcome=outcome_of(error),
            status=code_of(decision.protocol, error),
            id=decision.request_id,
            model=decision.model or None,
            snapshot=snapshot.hash,
            policy=snapshot.policy.hash,
            latency_us=int((time.perf_counter() - decision.started) * 1e6),
            details={"operation": operation.name},
        )
        if admitted is not None:
            _say_who(record, admitted.subject)
            if admitted.asked:
                record.allowed, record.rule = True, admitted.line
        else:
            _say_denied(record, error)
        return self._record(record)

    def in_force(self, run_dir: Path, new: Snapshot) -> None:
        """These settings and this policy are in force from now on: recorded by the first worker that has them.

        `run_dir` is what the workers share, made anew at each start of the gateway.
        """
        with (run_dir / "recorded").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            before = file.read().decode().split()
            if before == [new.hash, new.policy.hash]:
                return
            file.truncate(0)
            file.write(f"{new.hash} {new.policy.hash}".encode())
        snapshot, policy = before or (None, None)
        if policy != new.policy.hash:
            self._change("policy", new, policy, new.policy.hash)
        self._change("settings", new, snapshot, new.hash)

    def _change(self, kind: Any, new: Snapshot, before: str | None, after: str) -> None:
        self._record(
            Record(
                kind=kind,
                action="edit",
                object="policy" if kind == "policy" else "server",
                outcome="served",
                snapshot=new.hash,
                policy=new.policy.hash,
                details={"before": before, "after": after, "source": "file"},
            )
        )

    def _record(self, record: Record, inputs: Body | None = None, outputs: Body | None = None) -> Written:
        try:
            return self.log.record(record, inputs, outputs)
        except AuditUnavailable as error:
            return _away(error)


async def durable(written: Written) -> None:
    """Wait until a record is on the disk. Raises Overloaded: it is not, so what it is about MUST NOT be answered."""
    if written is None:
        return
    if isinstance(written, Overloaded):
        raise written
    try:
        await written
    except AuditUnavailable as error:
        raise _away(error) from None


def _inference(x: Exchange, outcome: Outcome) -> Record:
    subject, variant, assignment = x.subject, x.variant, x.assignment
    record = Record(
        kind="inference",
        action="infer",
        object="model:" + x.model,
        outcome=outcome,
        id=x.request_id,
        model=x.model,
        rule=x.decision_line,
        snapshot=x.snapshot.hash,
        policy=x.snapshot.policy.hash,
    )
    if subject is not None:
        _say_who(record, subject)
        # Who is known is asked about at once (`Pipeline.enter`).
        record.allowed = True
        if type(x.error) is Forbidden:
            record.allowed, record.rule = False, x.error.line
    if variant is not None:
        record.variant, record.upstream = variant.name, variant.upstream
        record.version = x.answered_by or (None if assignment is None else assignment.version) or None
    # One that is not sampled here may be so by its caller, whose context then travels on.
    if x.trace.sampled or x.trace.propagation():
        record.trace = x.trace.id
    return record


def _say_who(record: Record, subject: Subject | None) -> None:
    if subject is not None:
        record.subject, record.tenant = subject.id, subject.tenant
        if subject.roles:
            record.roles = list(subject.roles)


def _say_denied(record: Record, error: TidegateError | None) -> None:
    if isinstance(error, Forbidden):
        _say_who(record, error.subject)
        record.allowed, record.rule = False, error.line


def outcome_of(error: TidegateError | None) -> Outcome:
    """In the log's words."""
    if error is None:
        return "served"
    if isinstance(error, Cancelled):
        return "cancelled"
    if isinstance(error, Shed):
        return "shed"
    # A model server that says 400 tells the client what is wrong with the request.
    return "refused" if isinstance(error, ClientError) or error.status < 500 else "failed"


def _away(error: AuditUnavailable) -> Overloaded:
    return Overloaded(_AWAY, retry_after=_RETRY_S, detail=str(error))
