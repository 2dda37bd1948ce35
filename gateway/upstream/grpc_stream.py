"""One `ModelStreamInfer` stream to a model server, carrying many calls of one client stream.

Contract: each call's answers are delivered one after the other to the function that it was sent with; the
last has `final` set and nothing follows. The stream is read only as fast as answers are taken, so a client
that does not read holds up its own stream and nothing grows. The caller ends a stream by `finish` (no more
calls; the rest is awaited), by `leave` (the client is gone), or finds it ended (`closed`), after which every
open call got its error.

How Triton 2.51 behaves (seen, and what this file rests on):
- With `triton_enable_empty_final_response` every call ends in exactly one message with
  `triton_final_response` true: the last answer of an ordinary model, for decoupled ones an answer without
  outputs and without version (also the only one of a model that answers nothing). Without it the end of a
  decoupled call is never told.
- Errors are messages with `error_message`; `infer_response.id` is set in them. An error before the model was
  asked (unknown model, wrong input, reserved parameter) has no `triton_final_response` and nothing follows;
  the error of a model has it. No status comes with either.
- Error texts may contain `[request id: ID]`.
- Equal ids are not told apart: the answers of both calls come under the one id, mixed.
- Answers of ordinary models keep the order of the calls, those of different models and of decoupled ones do
  not.
- `triton_grpc_error` in the metadata turns a model's error (not the early ones) into the end of the whole
  stream. It must not travel upstream on a shared stream; what it means for a client is the door's to do.
- After half-close Triton still sends every answer, then ends the stream with OK.
- Closing a stream while a model still sends can end the server with signal 11: hence `leave`, and no await
  here that grpc.aio would turn into a cancelled call when the waiting task is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from gateway.driven import begun
from gateway.errors import DeadlineExceeded, TidegateError, Unreachable, UpstreamAnswered
from gateway.upstream.events import Counters
from gateway.upstream.grpc_channel import GrpcChannel, check_metadata
from gateway.upstream.http_response import TOO_LATE
from gateway.upstream.http_stream import DRAIN_BYTES, DRAIN_SECONDS
from gateway.upstream.stream_rpc import ENDED, StreamRpc
from gateway.wire import grpc_stream as codec
from gateway.wire.types import InferAnswer, InferCall

Deliver: TypeAlias = Callable[[InferAnswer | TidegateError, bool], Coroutine[Any, Any, None]]
"""`(answer or error, final)`; awaited before the next message of the stream is read, cancelled when the
stream is left meanwhile. It MUST NOT raise. An answer with `final` and no outputs is Triton's empty final
response, for clients that asked for it."""


class StreamCall:
    """One call of a stream."""

    __slots__ = ("active", "client_id", "deadline", "deliver", "dropped", "key", "timeout")

    def __init__(
        self, key: str, client_id: str, deliver: Deliver, timeout: float, deadline: float | None = None
    ) -> None:
        self.key = key
        """The id under which the server knows it."""
        self.client_id = client_id
        self.deliver = deliver
        self.timeout = timeout
        self.deadline = deadline
        """Loop time after which its client wants no more; None: any time."""
        self.active = 0.0  # loop time of its last sign of life
        self.dropped = False

    @property
    def due(self) -> float:
        """Loop time at which its time is over if nothing is heard."""
        due = self.active + self.timeout
        return due if self.deadline is None else min(due, self.deadline)

    def drop(self) -> None:
        """Take no more of its answers. They are still read, and its id stays taken until the final one."""
        self.dropped = True


class ModelStream:
    """One stream; opened by its first call. All methods belong to the event loop it was made in."""

    def __init__(
        self,
        channel: GrpcChannel,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        drain: Callable[[], bool],
        counters: Counters,
        upstream: str,
    ) -> None:
        """`drain`: whether a stream that is left must be read to its end, asked when it is left.

        Raises:
            BadRequest: the metadata cannot be sent.
        """
        check_metadata(metadata)
        self._channel = channel
        self._metadata = tuple(pair for pair in metadata if pair[0] != "triton_grpc_error")
        self._drain = drain
        self._counters = counters
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, StreamCall] = {}
        self._rpc: StreamRpc | None = None
        self._reader: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # held, or they could be collected while they run
        self._watch: asyncio.TimerHandle | None = None
        self._delivery: asyncio.Task[None] | None = None
        self._half_closed = False
        self._left_bytes: int | None = None  # set once the client has left: what may still be dropped
        self._sent = 0
        self.closed = False

    @property
    def open_calls(self) -> int:
        """Calls without their final answer that somebody waits for."""
        return sum(not handle.dropped for handle in self._calls.values())

    # -- sending ---------------------------------------------------------------------------------------------

    async def send(
        self,
        call: InferCall,
        *,
        model: str,
        version: str = "",
        timeout: float,
        deliver: Deliver,
        deadline: float | None = None,
    ) -> StreamCall:
        """Send one call; returns when it is written, or when the stream broke (`deliver` gets the error).

        Args:
            call: inputs raw or in shared memory.
            model: the model's name on this server.
            version: "" is the server's own choice.
            timeout: seconds to the first answer and between two; then DeadlineExceeded is its final answer.
            deliver: takes its answers, under the client's own id.
            deadline: event-loop time after which the client wants no more; then likewise.

        Raises:
            Unreachable: the stream has ended or was finished.
        """
        if self.closed or self._half_closed:
            raise Unreachable(ENDED, sent=False)
        key = self._free_id(call.id)
        message = codec.encode_stream_request(call, model, version, key)
        handle = StreamCall(key, call.id, deliver, timeout, deadline)
        handle.active = self._loop.time()
        self._calls[key] = handle
        rpc = self._rpc
        if rpc is None:
            rpc = self._rpc = self._channel.stream("ModelStreamInfer", self._metadata)
            self._reader = self._loop.create_task(self._read(rpc))
        self._arm_for(handle)
        await rpc.write(message)
        return handle

    async def answers(
        self,
        call: InferCall,
        *,
        model: str,
        version: str = "",
        timeout: float,
    ) -> AsyncIterator[tuple[InferAnswer, bool]]:
        """Send one call and iterate over `(answer, final)`; an error is raised in its place.

        When the iteration is left early the call is dropped; the stream is still the caller's to end.
        """
        queue: asyncio.Queue[tuple[InferAnswer | TidegateError, bool]] = asyncio.Queue(1)

        async def deliver(answer: InferAnswer | TidegateError, final: bool) -> None:
            await queue.put((answer, final))

        handle = await self.send(call, model=model, version=version, timeout=timeout, deliver=deliver)
        try:
            final = False
            while not final:
                answer, final = await queue.get()
                if isinstance(answer, TidegateError):
                    raise answer
                yield answer, final
        finally:
            handle.drop()
            if not queue.empty():  # the reader may be waiting to put one more
                queue.get_nowait()

    def _free_id(self, wanted: str) -> str:
        """The client's id when no open call has it, so that models see it; else one of ours."""
        self._sent += 1
        key = wanted
        while key in self._calls:
            key = f"{wanted}#{self._sent}"
            self._sent += 1
        return key

    def _hold(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- the end ---------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """No more calls: half-close; returns when all answers are delivered and the stream is over."""
        if self._rpc is None:
            self.closed = True
            return
        self._half_close(self._rpc)
        assert self._reader is not None
        await asyncio.wait([self._reader])  # not `await reader`: a caller that is cancelled must not cancel it

    def leave(self) -> None:
        """The client is gone: nothing is delivered any more.

        The stream is read to its end in the background, within `DRAIN_BYTES` and `DRAIN_SECONDS`, or
        cancelled where the server takes that well.
        """
        if self._rpc is None or self.closed or self._left_bytes is not None:
            self.closed = True
            return
        waiting = bool(self._calls)
        for handle in self._calls.values():
            handle.dropped = True
        self._disarm()
        self._left_bytes = DRAIN_BYTES
        if self._delivery is not None:
            self._delivery.cancel()
        if not waiting:
            self._half_close(self._rpc)
        elif self._drain():
            self._counters.on_event("detach", upstream=self._upstream)
            self._watch = self._loop.call_later(DRAIN_SECONDS, self._cut)
            self._half_close(self._rpc)
        else:
            self._counters.on_event("cancel", upstream=self._upstream)
            self._rpc.cancel()

    def _half_close(self, rpc: StreamRpc) -> None:
        self._half_closed = True
        rpc.half_close()

    def _cut(self) -> None:
        self._left_bytes = -1
        if self._rpc is not None:
            self._rpc.cancel()

    # -- reading ---------------------------------------------------------------------------------------------

    async def _read(self, rpc: StreamRpc) -> None:
        error: TidegateError = Unreachable(ENDED)
        try:
            while (message := await rpc.read()) is not None:
                if self._left_bytes is None:
                    await self._take(message)
                else:
                    self._left_bytes -= len(message)
                    if self._left_bytes < 0:
                        self._cut()
        except TidegateError as told:
            error = told.with_traceback(None)  # which would hold this frame, and so the error itself
            rpc.cancel()  # of one that has ended nothing is left; of a message that is none, the stream is
        self.closed = True
        drained = self._watch is not None and self._left_bytes is not None
        self._disarm()
        if drained:
            event = "drained" if self._left_bytes is not None and self._left_bytes >= 0 else "drain_cut"
            self._counters.on_event(event, upstream=self._upstream)
        for handle in tuple(self._calls.values()):
            await self._deliver(handle, error, final=True)

    async def _take(self, message: bytes) -> None:
        key, failure, read, final = codec.decode_stream_answer(message)
        handle = self._calls.get(key)
        if handle is None:
            return  # no server that keeps to the protocol sends this
        if isinstance(read, InferAnswer):
            read.id = handle.client_id
        await self._deliver(handle, _error_of(failure, handle) if read is None else read, final=final)

    async def _deliver(self, handle: StreamCall, answer: InferAnswer | TidegateError, *, final: bool) -> None:
        if final:
            del self._calls[handle.key]
        if not handle.dropped:
            handle.dropped = final
            began = self._loop.time()
            work = handle.deliver(answer, final)
            # Most answers are taken without waiting. A failure may be sent again, which asks for a task of its own.
            failed = isinstance(answer, TidegateError)
            self._delivery = self._loop.create_task(work) if failed else begun(self._loop, work)
            if self._delivery is not None:
                await asyncio.wait([self._delivery])
                self._delivery = None
            # Nothing was read meanwhile, so no call is to blame for that time.
            now = self._loop.time()
            for each in self._calls.values():
                each.active += now - began
            handle.active = now

    # -- calls whose time is over ----------------------------------------------------------------------------

    def _arm_for(self, handle: StreamCall) -> None:
        due = handle.due
        if self._left_bytes is None and (self._watch is None or due < self._watch.when()):
            self._disarm()
            self._watch = self._loop.call_at(due, self._look)

    def _arm(self) -> None:
        if self._watch is None and self._left_bytes is None:
            due = min((h.due for h in self._calls.values() if not h.dropped), default=None)
            if due is not None:
                self._watch = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """End the calls that heard nothing for too long; the others and the stream go on."""
        self._watch = None
        now = self._loop.time()
        if self._delivery is not None:
            self._watch = self._loop.call_later(_LOOK_AGAIN, self._look)
            return
        for handle in self._calls.values():
            if not handle.dropped and handle.due <= now:
                handle.dropped = True
                self._hold(handle.deliver(DeadlineExceeded(TOO_LATE, detail="between two answers"), True))
        self._arm()

    def _disarm(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


_LOOK_AGAIN = 0.05  # seconds; while the client is slow to take an answer the calls' time does not run


def _error_of(text: str, handle: StreamCall) -> UpstreamAnswered:
    """A stream's error has no status: the words tell whose fault it is."""
    if handle.key != handle.client_id:
        text = text.replace(f"[request id: {handle.key}]", f"[request id: {handle.client_id or '<id_unknown>'}]")
    if text.startswith("Request for unknown model"):
        return UpstreamAnswered(text, status=404)
    if any(words in text for words in _CLIENTS_FAULT):
        return UpstreamAnswered(text, status=400)
    return UpstreamAnswered(text, status=500)


_CLIENTS_FAULT = (
    "inference input",
    "for input '",
    "must specify",
    "parameter keys starting with",
    "inference request",
    "unexpected inference output",
)
"""Triton's words for requests that do not fit the model (src/core of Triton 2.51, seen)."""
