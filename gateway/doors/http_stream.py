"""HTTP answers that come in pieces, and Triton's generate extension.

    POST .../infer with `Accept: text/event-stream`   OIP answers as server-sent events, also of decoupled models
    POST .../generate                                 one JSON answer
    POST .../generate_stream                          Triton's own events

Contract: as the unary door's: the pipeline decides; errors before the first event are ordinary answers, later
ones are events with the one error body, since the status line is gone by then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from gateway import telemetry
from gateway.decisions import durable
from gateway.doors.http_body import plain_body
from gateway.doors.reply import JSON_TYPE, Reply, error_body, served_headers
from gateway.errors import Cancelled, TidegateError, Unreachable, UpstreamAnswered
from gateway.pipeline import missing, tell
from gateway.stream import StreamSession
from gateway.upstream.plan import CallPlan
from gateway.wire import generate as codec
from gateway.wire import http as oip
from gateway.wire.types import InferAnswer, InferCall

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.decisions import Written
    from gateway.doors.http import HttpExchange
    from gateway.tracing import Step
    from gateway.upstream import Stream
    from gateway.upstream.tries import StreamTry


class EventWriter:
    """The answer's head with its first event, then event after event."""

    def __init__(self, send: Any, served: Mapping[str, str]) -> None:
        self._send = send
        self._served = served
        self.begun = False

    async def write(self, data: bytes) -> int:
        """One event; the bytes written."""
        await self._begin()
        event = codec.event(data)
        await self._send({"type": "http.response.body", "body": event, "more_body": True})
        return len(event)

    async def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            headers = [(b"content-type", codec.CONTENT_TYPE.encode()), *served_headers(self._served)]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def close(self) -> None:
        """The last piece; of a model that gave no answer the only one."""
        await self._begin()
        await self._send({"type": "http.response.body", "body": b""})


async def infer_stream(app: Core, x: HttpExchange, send: Any, served: dict[str, str]) -> None:
    """OIP answers as events. Raises what goes wrong before the first one."""
    writer = EventWriter(send, served)
    refused: TidegateError | None = None

    async def deliver(_: Any, answer: InferAnswer | TidegateError, final: bool) -> None:
        nonlocal refused
        served["x-tidegate-variant"] = x.variant_name
        served.update(x.notices)
        if isinstance(answer, TidegateError):
            if writer.begun:
                await writer.write(error_body(answer))
            else:
                refused = answer
            return
        try:
            assert x.call is not None
            _, _, parts = oip.encode_response(answer, x.call)
        except TidegateError as error:
            await deliver(_, error, final)
            return
        x.nbytes_out += await writer.write(b"".join(parts))

    session = StreamSession(app.pipeline, deliver)
    try:
        await session.submit(x)
        await session.finish()
    except asyncio.CancelledError:
        session.leave()
        raise
    if refused is not None and not writer.begun:
        raise refused
    served["x-tidegate-variant"] = x.variant_name
    served.update(x.notices)
    await writer.close()


async def generate(app: Core, x: HttpExchange) -> Reply:
    """Triton's `generate`: one JSON document in, one out."""
    async with _Generate(app, x, "generate") as call:
        body = await call.stream.read(x.snapshot.settings.limits.body)
        answer = codec.rename(body, x.model)
        x.nbytes_out = len(answer)
        x.outputs = (answer,)
        return Reply(200, [JSON_TYPE], answer)


async def generate_stream(app: Core, x: HttpExchange, send: Any, served: dict[str, str]) -> None:
    """Triton's `generate_stream`: its events, under the name that was asked for."""
    writer = EventWriter(send, served)
    try:
        async with _Generate(app, x, "generate_stream") as call:
            served["x-tidegate-variant"] = x.variant_name
            served.update(x.notices)
            reader = codec.EventReader()
            async for chunk in call.stream:
                for data in reader.feed(chunk):
                    await durable(app.pipeline.begun(x))
                    x.nbytes_out += await writer.write(codec.rename(data, x.model))
    except TidegateError as error:
        if not writer.begun or isinstance(error, Cancelled):
            raise
        await writer.write(error_body(error))
    await writer.close()


class _Generate:
    """One generate call: steps 2 to 8 on entry, counting on exit, however it ends."""

    def __init__(self, app: Core, x: HttpExchange, page: str) -> None:
        self._app = app
        self._x = x
        self._page = page
        self._try: StreamTry | None = None
        self._hurried = False
        self._began = 0.0
        self._forward: Step | None = None
        self.stream: Stream

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException as error:
            await durable(self._end(error))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = self._try
        if ending is not None:
            ending.ended(error, hurried=self._hurried)
            if error is not None:
                await ending.replica.leave(self.stream)
            else:
                await self.stream.aclose()
            if isinstance(error, Unreachable):
                # A call of a sequence that broke on the way ends it.
                told = self._broke(error)
                if told is not error:
                    await durable(self._end(told))
                    raise told from None
        await durable(self._end(error))

    async def _open(self) -> None:
        x, pipeline = self._x, self._app.pipeline
        await pipeline.enter(x)
        body = bytes(plain_body(x.headers, x.body, x.snapshot.settings.limits.body))
        x.inputs = (body,)
        asked = codec.decode_request(body)
        # The tensors stay in the body: only what assignment looks at is in the call.
        call = x.call = InferCall(model=x.model, version=x.version, id=asked.id, parameters=asked.parameters)
        to = pipeline.assign(x, call)
        if call.parameters.get("sequence_id") != asked.parameters.get("sequence_id"):
            body = _with_sequence_id(bytes(body), call.parameters["sequence_id"])
        upstream = x.snapshot.upstreams[to.variant.upstream]
        codec.check(asked, await pipeline.signature(x, to), x.model)
        headers = [*pipeline.travelling(x, upstream.name), *x.trace.propagation()]
        self._began = time.perf_counter()
        # Until the last event, not just until the answer's head.
        self._forward = x.trace.span(telemetry.SPAN_FORWARD)
        self._forward.set(telemetry.UPSTREAM, upstream.name)
        self._forward.set(telemetry.TRITON_MODEL, to.variant.model)
        self._forward.set(telemetry.TRITON_VERSION, to.version)
        self._forward.__enter__()
        left = x.time_left()
        self._hurried = x.hurried(left)
        assert x.route is not None
        plan = CallPlan(idempotent=x.route.idempotent, hurried=self._hurried)
        try:
            self._try, self.stream = await upstream.open_generate(
                call,
                body,
                model=to.variant.model,
                version=to.version,
                headers=headers,
                timeout=left,
                page=self._page,
                plan=plan,
            )
        except UpstreamAnswered as error:
            if plan.replica is not None and plan.replica.lacks(to.variant.model, error):
                raise missing(x, to, error) from None
            raise
        finally:
            tell(self._forward, plan)

    def _broke(self, error: TidegateError) -> TidegateError:
        x = self._x
        assert x.assignment is not None
        assert x.call is not None
        to = x.assignment
        return x.snapshot.upstreams[to.variant.upstream].broke(x.call, to.variant.model, to.version, error)

    def _end(self, error: BaseException | None) -> Written:
        x = self._x
        if self._forward is not None:
            self._forward.__exit__(None if error is None else type(error), error, None)
        if self._began:
            x.upstream_seconds = time.perf_counter() - self._began
        if isinstance(error, TidegateError):
            x.error = error
        elif error is not None:
            x.error = Cancelled("the client went away")
        gone = isinstance(x.error, Cancelled)
        written = self._app.pipeline.leave(x)
        return None if gone else written


def _with_sequence_id(body: bytes, sequence: Any) -> bytes:
    """The same document with the sequence id that tells tenants apart."""
    document = msgspec.json.decode(body)
    holder = document if "sequence_id" in document else document["parameters"]
    holder["sequence_id"] = sequence
    return msgspec.json.encode(document)
