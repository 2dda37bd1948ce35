"""A stream is a door of many calls: each message is decided, assigned, counted and traced alone.

Contract: one session per client stream. `submit` takes the calls in order; answers come to the door's
`deliver`, one at a time, under the name that the client asked for; those of ordinary models, refusals among
them, in the order of the calls, those of decoupled ones as they come. Each call goes to a replica of its own
choice, a sequence to the one that has its state. Calls of one session share an upstream
stream per replica, and a second one for its decoupled models: Triton 2.51 ends with signal 6 ("ASSERTION
FAILED: !byte_buffer->Valid()") within some fifty calls when decoupled and ordinary models answer on one. The
session ends by `finish` (the client sends no more; open calls are answered) or by `leave` (the client is gone;
what the model servers still send is read and dropped where closing would be dangerous). The sequence of steps
is the pipeline's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from gateway import logs, telemetry
from gateway.decisions import durable
from gateway.errors import Cancelled, Defect, Overloaded, TidegateError, Unreachable, not_the_clients_fault
from gateway.headers import metadata_of
from gateway.pipeline import missing
from gateway.routing import sequence_id
from gateway.stream_order import Line, Say, Turn
from gateway.upstream.tries import StreamTry
from gateway.wire.types import InferAnswer

if TYPE_CHECKING:
    from gateway.admission.concurrency import Gate
    from gateway.approvals import Notices
    from gateway.decisions import Written
    from gateway.exchange import Exchange
    from gateway.pipeline import Pipeline
    from gateway.routing import Assignment, TargetVariant
    from gateway.routing.lane import Copy
    from gateway.routing.shadows import Dropped
    from gateway.tracing import Step
    from gateway.upstream import ModelStream, Replica

_log = logs.get("stream")

HELD_BYTES = 32 * 1024 * 1024
"""Requests of one stream that may be without their last answer at the same time, in bytes, with the answers that
wait for their turn; beyond it the next is not read. Requests are kept for the fallbacks, and a client that sends
and never reads must not fill the memory. One request is always let in, however large."""
EMPTY_FINAL = "triton_enable_empty_final_response"

Deliver: TypeAlias = Callable[["Exchange", InferAnswer | TidegateError, bool], Awaitable[None]]
"""`(exchange, answer or error, final)`. Awaited before the next answer is read, so a slow client slows its
own stream alone. It MUST NOT raise."""


class StreamSession:
    """All calls of one client stream."""

    def __init__(self, pipeline: Pipeline, deliver: Deliver) -> None:
        self.pipeline = pipeline
        self.deliver = deliver
        self._upstreams: dict[tuple[Replica, bool], ModelStream] = {}
        self._draws: dict[str, int] = {}
        self._open: set[_OpenCall] = set()
        self._line = Line()
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusals = 0
        """That wait for their turn."""
        self._held = 0
        self._room = asyncio.Event()
        self._gone = False

    async def submit(self, x: Exchange) -> None:
        """Steps 2 to 8 of one call; a refusal is its only answer. The exchange has been `started`.

        Waits first while the stream's open calls hold too much.
        """
        while self._held and self._held + x.nbytes > HELD_BYTES:
            self._room.clear()
            await self._room.wait()
        self._held += x.nbytes
        call = _OpenCall(self, x, self._line.turn())
        self._open.add(call)
        self._idle.clear()
        try:
            await self.pipeline.enter(x)
            x.call = x.decode()
            if "timeout" in x.call.parameters:
                x.hurry(x.call.parameters["timeout"])
            assignment = self.pipeline.assign(x, x.call, self._draws)
            if x.snapshot.features:
                await self.pipeline.transform(x, x.call)
            assert x.route is not None
            assert x.view is not None
            call.alternatives = list(x.route.fallbacks(x.view, assignment))
            await self._send(call, assignment)
        except TidegateError as error:
            await call.answered(error, final=True)
        except Exception as error:  # noqa: BLE001  as in the pipeline: one call fails, the stream goes on
            _log.exception("a defect", extra={"fields": {"request_id": x.request_id}})
            await call.answered(Defect(repr(error)), final=True)

    async def refuse(self, say: Say) -> None:
        """A message that is no call has its only answer in its turn too."""
        if self._gone:
            return
        self._idle.clear()

        async def said() -> None:
            await say()
            self._refusals = max(self._refusals - 1, 0)  # 0 already where the client has left meanwhile
            self._rest()

        self._refusals += 1
        await self._line.say(self._line.turn(), said, last=True)

    async def finish(self) -> None:
        """The client sends no more: wait until every call has its last answer.

        A call whose time was over has had its own, though the model server still works on it: the client does
        not wait for that.
        """
        await self._idle.wait()
        for stream in self._upstreams.values():
            stream.leave()

    def leave(self) -> None:
        """The client is gone. Never waits."""
        self._gone = True
        for stream in self._upstreams.values():
            stream.leave()
        self._line.clear()
        self._refusals = 0
        for call in tuple(self._open):
            call.end(Cancelled("the client left the stream"))
            self.closed(call)  # one that has had its last answer, which waited for its turn, among them
        self._held = 0
        self._room.set()
        self._rest()

    async def _send(self, call: _OpenCall, to: Assignment) -> None:
        x = call.x
        assert x.call is not None
        assert x.route is not None
        with x.trace.span(telemetry.SPAN_TRANSFORM):
            signature = await self.pipeline.fit(x, x.call, to)
        if x.snapshot.judged:
            self.pipeline.judge(x, x.call)
        if signature.decoupled:
            await self._line.set_free(call.turn)
        else:
            await self._enter(call, to)
        call.began = time.perf_counter()
        if not call.copies and to.shadows and not signature.decoupled:
            call.copies = self.pipeline.mirror(x, x.call, to)
        upstream = x.snapshot.upstreams[to.variant.upstream]
        if call.tried:
            replica = upstream.pick(to.variant.model, to.version, call.tried)
        else:
            upstream.resilience.budget.deposit(time.monotonic())
            replica = upstream.pick_for(x.call, to.variant.model, to.version)
        stream = self._stream_to(x, upstream.name, replica, decoupled=signature.decoupled)
        call.forwarding(to, StreamTry(replica, upstream.resilience, to.variant.model))
        await stream.send(
            x.call,
            model=to.variant.model,
            version=to.version,
            timeout=x.route.timeout,
            deliver=call.answered,
            deadline=x.deadline,
        )

    async def _enter(self, call: _OpenCall, to: Assignment) -> None:
        """A place at the model. Decoupled models have none: how long they answer is the client's wish."""
        call.give_back(answered=False)  # of the variant that failed
        gate = self.pipeline.gates.of(to.variant.upstream, to.variant.model)
        if gate is None:
            return
        now = time.perf_counter()
        place = gate.try_enter(now)
        if not place:
            assert call.x.call is not None
            place = await self.pipeline.wait(call.x, call.x.call, gate, now)
        call.gate, call.place, call.entered = gate, place, time.perf_counter()
        if call.ended:
            call.give_back(answered=False)
            raise Cancelled("the client left the stream")

    def _stream_to(self, x: Exchange, name: str, replica: Replica, *, decoupled: bool) -> ModelStream:
        stream = self._upstreams.get((replica, decoupled))
        if stream is None or stream.closed:
            headers = [*self.pipeline.travelling(x, name), *x.trace.propagation()]
            stream = self._upstreams[replica, decoupled] = replica.open_stream(metadata=metadata_of(headers))
        return stream

    async def resend(self, call: _OpenCall, error: TidegateError) -> bool:
        """Send a call whose replica broke before its first answer to another one; False when that is not safe."""
        x, to, under_way = call.x, call.to, call.under_way
        if to is None or under_way is None or self._gone or not isinstance(error, Unreachable):
            return False
        upstream = x.snapshot.upstreams[to.variant.upstream]
        assert x.call is not None
        assert x.route is not None
        safe = sequence_id(x.call.parameters) is None and (x.route.idempotent or not error.sent)
        call.tried.append(under_way.replica)
        # A call that ends its server must not be handed on through all replicas.
        most = min(1 if error.sent else upstream.resilience.attempts, len(upstream.replicas) - 1)
        if not safe or len(call.tried) > most:
            return False
        if not upstream.resilience.may_try(time.monotonic()):
            return False
        upstream.resilience.event("retry")
        call.forwarded(error)
        try:
            await self._send(call, to)
        except TidegateError as failed:
            call.forwarded(failed)
            return False
        return True

    async def retry(self, call: _OpenCall) -> bool:
        """Send a call that failed before its first answer to the next fallback; False when there is none."""
        while call.failure is not None and call.alternatives and not self._gone:
            to = call.alternatives.pop(0)
            call.tried.clear()
            self.pipeline.fell_back(call.x, to, call.failure.error)
            try:
                await self._send(call, to)
            except TidegateError as failed:
                call.forwarded(failed)
                call.failed(failed)
                continue
            return True
        return False

    async def hand_on(self, call: _OpenCall, answer: InferAnswer | TidegateError | None, *, final: bool) -> None:
        """An answer of a call to the client, in its turn; None: the call is over without another one."""
        size = _size(answer) if isinstance(answer, InferAnswer) else 0

        async def say() -> None:
            if answer is not None:
                await self.deliver(call.x, answer, final)
            self._held -= size
            self._room.set()
            if final:
                self.closed(call)

        if self._gone:
            self.closed(call)
            return
        self._held += size
        await self._line.say(call.turn, say, last=final)

    def closed(self, call: _OpenCall) -> None:
        """A call has had its last answer."""
        if call not in self._open:
            return
        self._open.remove(call)
        self._held -= call.x.nbytes
        self._room.set()
        self._rest()

    def _rest(self) -> None:
        if not self._open and not self._refusals:
            self._idle.set()


class _Failure(NamedTuple):
    """Of a variant, for a reason that is not the client's."""

    error: TidegateError
    variant: TargetVariant | None
    notices: Notices


class _OpenCall:
    """One call that has not had its last answer."""

    __slots__ = (
        "alternatives", "began", "copies", "ended", "entered", "failure", "gate", "place", "session", "started", "step",
        "to", "tried", "turn", "under_way", "x",
    )  # fmt: skip

    def __init__(self, session: StreamSession, x: Exchange, turn: Turn) -> None:
        self.session = session
        self.x = x
        self.turn = turn
        """Its answers' place among those of the other calls."""
        self.alternatives: list[Assignment] = []
        self.failure: _Failure | None = None
        """What its client is told when no fallback answers."""
        self.to: Assignment | None = None
        self.under_way: StreamTry | None = None
        """On the replica that has it."""
        self.tried: list[Replica] = []
        """Replicas of this variant that broke before they answered."""
        self.copies: Sequence[Copy | Dropped] = ()
        self.began = 0.0
        self.gate: Gate | None = None
        """Where it holds a place, to its last answer."""
        self.place = 0
        self.entered = 0.0
        self.step: Step | None = None
        """The span from the sending to the last answer; of each variant that was tried its own."""
        self.started = False
        """An answer has reached the client: from now on it cannot be taken back."""
        self.ended = False

    def give_back(self, *, answered: bool) -> None:
        """The call's place at the model is free."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.leave(self.place, self.entered, time.perf_counter(), answered)

    def forwarding(self, to: Assignment, under_way: StreamTry) -> None:
        """The call goes to a replica now."""
        self.to, self.under_way = to, under_way
        step = self.step = self.x.trace.span(telemetry.SPAN_FORWARD)
        step.__enter__()
        step.set(telemetry.UPSTREAM, to.variant.upstream)
        step.set(telemetry.TRITON_MODEL, to.variant.model)
        step.set(telemetry.TRITON_VERSION, to.version)

    def forwarded(self, error: TidegateError | None) -> None:
        """It has had its last answer from there."""
        self._tell_replica(error)
        self.under_way = None
        step, self.step = self.step, None
        if step is not None:
            step.__exit__(None if error is None else type(error), error, None)

    def _tell_replica(self, error: TidegateError | None) -> None:
        """How its call ended there; what it is told first counts."""
        if self.under_way is not None:
            over = self.x.deadline
            # Of two ends of its time it was the client's own if that has come.
            self.under_way.ended(error, hurried=over is not None and asyncio.get_running_loop().time() >= over)

    async def answered(self, answer: InferAnswer | TidegateError, final: bool) -> None:
        """One answer of the model server, or the error that ends the call."""
        if self.ended:
            return
        if isinstance(answer, TidegateError):
            if final:
                answer = self._judged(answer)
                if not self.started:
                    if await self._sent_again(answer):
                        return
                    answer = self._told(answer)
                self._settle(None)
                answer = await _recorded(self.end(answer, close=False)) or answer
            await self.session.hand_on(self, answer, final=final)
        else:
            await self._gave(answer, final)

    async def _gave(self, answer: InferAnswer, final: bool) -> None:
        """Hand on an answer, or what is the last one in its place."""
        x = self.x
        answer.model_name = x.model
        x.answered_by = answer.model_version or x.answered_by
        empty = final and not answer.outputs
        if not empty:
            self._settle(answer)
        written = None
        if final:
            x.answer = answer if not self.started and not empty else None
            written = self.end(None, close=False)
        elif not self.started:
            written = self.session.pipeline.begun(x)
        unrecorded = await _recorded(written)
        if unrecorded is not None:
            self.end(unrecorded, close=False)
            await self.session.hand_on(self, unrecorded, final=True)
        elif not empty or (x.call is not None and x.call.parameters.get(EMPTY_FINAL) is True):
            self.started = True
            if not empty and x.snapshot.fairness:
                self.session.pipeline.watch(x, answer)
            await self.session.hand_on(self, answer, final=final)
        elif final:
            await self.session.hand_on(self, None, final=True)

    async def _sent_again(self, error: TidegateError) -> bool:
        """A call without an answer yet failed: to another replica, else to the next fallback; False: to none."""
        if await self.session.resend(self, error):
            return True
        self.forwarded(error)
        self.failed(error)
        return await self.session.retry(self)

    def failed(self, error: TidegateError) -> None:
        """A variant failed. What a fallback refuses is no news to the client, as in `Pipeline.infer`."""
        if not_the_clients_fault(error):
            self.failure = _Failure(error, self.x.variant, self.x.notices)

    def _told(self, last: TidegateError) -> TidegateError:
        """What the client is told after the last try."""
        if self.failure is None:
            return last
        self.x.variant, self.x.notices = self.failure.variant, self.failure.notices
        return self.failure.error

    def _judged(self, error: TidegateError) -> TidegateError:
        """What the failure says of the replica, and what it means for a sequence."""
        x, to = self.x, self.to
        if to is None or self.under_way is None or x.call is None:
            return error
        self._tell_replica(error)
        if self.under_way.replica.lacks(to.variant.model, error):
            return missing(x, to, error)
        return x.snapshot.upstreams[to.variant.upstream].broke(x.call, to.variant.model, to.version, error)

    def _settle(self, answer: InferAnswer | None) -> None:
        for copy in self.copies:
            copy.primary_done(answer)
        self.copies = ()

    def end(self, error: TidegateError | None, *, close: bool = True) -> Written:
        """Count and record the call, once; what its last answer has to wait for."""
        if self.ended:
            return None
        self.ended = True
        self._settle(None)
        self.give_back(answered=error is None)
        self.forwarded(error)
        self.x.error = error
        if self.began:
            self.x.upstream_seconds = time.perf_counter() - self.began
        written = self.session.pipeline.leave(self.x)
        if close:
            self.session.closed(self)
        return written


def _size(answer: InferAnswer) -> int:
    """Bytes of its tensors."""
    return len(answer.tail) or sum(len(output.data) for output in answer.outputs if output.data is not None)


async def _recorded(written: Written) -> TidegateError | None:
    """Wait for a record; the error that the client is told instead of an answer that has none."""
    try:
        await durable(written)
    except Overloaded as error:
        return error
    return None
