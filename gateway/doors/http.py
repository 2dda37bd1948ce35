"""The HTTP door: an ASGI application for everything below `/v2`.

Contract: reads a request's bytes within `limits`, turns the request line into an operation, and hands an
Exchange to the pipeline or a PageRequest to the pages. Knows nothing of routing or policy. Runs inside of
Litestar's mount and on any other ASGI server. Every answer that is not a success has the one error body.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from gateway import logs
from gateway.clients import drop_untrusted
from gateway.decisions import PageDecision, durable
from gateway.doors.http_body import ClientWatch, plain_body, read_body
from gateway.doors.http_connection import LARGE, SPELLING_KEY
from gateway.doors.http_pages import PAGES, PageRequest
from gateway.doors.http_stream import generate, generate_stream, infer_stream
from gateway.doors.reply import Reply, error_reply, send_reply
from gateway.errors import BadRequest, Cancelled, Defect, Overloaded, RequestTimeout, TidegateError, TooLarge
from gateway.exchange import Exchange
from gateway.headers import from_asgi, request_id, wants_events
from gateway.operations import Address, parse_path
from gateway.snapshot import admitted_page
from gateway.tls import certificate_of_scope
from gateway.wire import by_heart, compression, rows
from gateway.wire import http as codec
from gateway.wire.types import Buffer

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.decisions import Written
    from gateway.snapshot import Snapshot
    from gateway.tls import PeerCertificate
    from gateway.wire.types import Buffer, InferAnswer, InferCall


_log = logs.get("http")
_AS_WRITTEN: Final[Mapping[str, str]] = MappingProxyType({})


class HttpExchange(Exchange):
    """An inference request that came over HTTP."""

    __slots__ = ("body",)

    protocol = "http"

    def __init__(
        self,
        snapshot: Snapshot,
        headers: Mapping[str, str],
        *,
        operation: str,
        model: str,
        version: str,
        body: Buffer,
        request_id: str,
        peer: str,
        certificate: PeerCertificate | None,
    ) -> None:
        super().__init__(
            snapshot,
            headers,
            operation=operation,
            model=model,
            version=version,
            nbytes=len(body),
            request_id=request_id,
            peer=peer,
            certificate=certificate,
        )
        self.body = body

    def decode(self) -> InferCall:
        """Undo the content encoding and read the envelope."""
        body = plain_body(self.headers, self.body, self.snapshot.settings.limits.body)
        self.inputs = (body,)
        length = codec.parse_header_length(self.headers.get("inference-header-content-length"), len(body))
        call = self.decode_body(body, length)
        if any(tensor.shm is not None for tensor in call.inputs):
            self.inputs = None
        return call

    def decode_body(self, body: Buffer, header_length: int | None) -> InferCall:
        """The call of an uncompressed body; rows of JSON are for routes with a feature plan alone."""
        tensors = self.snapshot.settings.limits.tensors
        if header_length is None and self.model in self.snapshot.features:
            call = rows.decode_request(body, self.model, self.version, tensors)
            if call is not None:
                return call
        return by_heart.decode_request(body, header_length, self.model, self.version, tensors)

    def encode(self, answer: InferAnswer) -> Reply:
        """The answer in the form that the request asked for, compressed when the client takes it."""
        assert self.call is not None
        length, content_type, parts = codec.encode_response(answer, self.call)
        headers = [(b"content-type", content_type.encode())]
        if length is not None:
            headers.append((b"inference-header-content-length", b"%d" % length))
        self.outputs = None if any(output.shm is not None for output in answer.outputs) else parts
        coding = compression.response_coding(self.headers.get("accept-encoding"))
        if coding:
            parts = [compression.encode(parts, coding)]
            headers.append((b"content-encoding", coding.encode()))
        self.nbytes_out = sum(map(len, parts))
        if self.nbytes_out >= LARGE:
            return Reply(200, headers, parts[0], more=parts[1:])
        return Reply(200, headers, parts[0] if len(parts) == 1 else b"".join(parts))


class EventExchange(HttpExchange):
    """An inference request whose answers are sent as events: text, so that every output is answered as JSON."""

    __slots__ = ()

    def decode(self) -> InferCall:
        """As above, and refuse what no event can carry."""
        call = super().decode()
        if call.raw or call.binary_data_output or any(output.binary for output in call.outputs):
            raise BadRequest("binary outputs cannot be sent as server-sent events")
        return call


class HttpDoor:
    """ASGI application for `/v2`."""

    def __init__(self, app: Core) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request; errors become answers, a client that went away gets none."""
        headers = from_asgi(scope["headers"], scope.get(SPELLING_KEY, _AS_WRITTEN))
        watch = ClientWatch(scope, receive)
        served = {"x-request-id": request_id(headers), "x-tidegate-variant": ""}
        try:
            await self._serve(scope, receive, send, headers, watch, served)
        except Cancelled:
            return
        except TidegateError as error:
            reply = error_reply(error)
            if isinstance(error, TooLarge):
                watch.linger()
            elif isinstance(error, RequestTimeout):
                watch.close_after_answer()
            await send_reply(scope, send, reply, served)
        except asyncio.CancelledError:
            if not watch.gone:
                raise
            # The client went away; the pipeline has counted it and there is nobody to answer.
        except Exception as error:  # noqa: BLE001 - the last line of defence, as in the pipeline: no internals get out
            _log.exception("a defect", extra={"fields": {"request_id": served["x-request-id"]}})
            await send_reply(scope, send, error_reply(Defect(repr(error))), served)
        finally:
            watch.done()

    async def _serve(
        self,
        scope: Any,
        receive: Any,
        send: Any,
        headers: dict[str, str],
        watch: ClientWatch,
        served: dict[str, str],
    ) -> None:
        snapshot = self._app.snapshot
        peer = scope["client"][0] if scope["client"] else ""
        if snapshot.settings.identity is not None:
            drop_untrusted(headers, peer, snapshot.settings.listen.trusted_proxies)
        body = await self._body(scope, receive, snapshot, headers, watch, served["x-request-id"])
        watch.body_read()
        try:
            address = parse_path(scope["method"], scope["raw_path"])
        except TidegateError:
            # Refusals have one order: 401 before 404 and 405.
            await snapshot.identifier.identified(headers, certificate_of_scope(scope))
            raise
        name = address.operation.name
        if address.operation.action != "infer":
            await send_reply(scope, send, await self._page(scope, headers, body, address, served), served)
            return
        events = name == "infer" and wants_events(headers)
        x = (EventExchange if events else HttpExchange)(
            snapshot,
            headers,
            operation=name,
            model=address.model,
            version=address.version,
            body=body,
            request_id=served["x-request-id"],
            peer=peer,
            certificate=certificate_of_scope(scope),
        )
        self._app.observer.started(x)
        try:
            if name == "generate":
                reply = await generate(self._app, x)
            elif name == "generate_stream":
                await generate_stream(self._app, x, send, served)
                return
            elif events:
                await infer_stream(self._app, x, send, served)
                return
            else:
                reply = await self._app.pipeline.infer(x)
        finally:
            served["x-tidegate-variant"] = x.variant_name
            served.update(x.notices)
        await send_reply(scope, send, reply, served)

    async def _body(
        self,
        scope: Any,
        receive: Any,
        snapshot: Snapshot,
        headers: dict[str, str],
        watch: ClientWatch,
        rid: str,
    ) -> Buffer:
        """The whole body as it was sent. Raises as `read_body`; an inference request is counted and recorded then."""
        began = time.perf_counter()
        large = watch.large_body(scope)
        try:
            if large is not None:
                return await large.read()
            complete = watch.whole_body_here(scope)
            return await read_body(receive, headers, snapshot.settings.limits, complete=complete)
        except TidegateError as error:
            written = self._unread(scope, snapshot, headers, rid, error, began)
            if not isinstance(error, Cancelled):
                # Its client is told so even where that cannot be recorded: what becomes of the connection hangs on it.
                with contextlib.suppress(Overloaded):
                    await durable(written)
            raise
        except asyncio.CancelledError:
            if watch.gone:
                self._unread(scope, snapshot, headers, rid, Cancelled("the client went away"), began)
            raise

    def _unread(
        self,
        scope: Any,
        snapshot: Snapshot,
        headers: dict[str, str],
        rid: str,
        error: TidegateError,
        began: float,
    ) -> Written:
        """Count and record that an inference request's body was not taken, or broke off; pages leave nothing then."""
        try:
            address = parse_path(scope["method"], scope["raw_path"])
        except TidegateError:
            return None
        if address.operation.action != "infer":
            return None
        x = HttpExchange(
            snapshot,
            headers,
            operation=address.operation.name,
            model=address.model,
            version=address.version,
            body=b"",
            request_id=rid,
            peer=scope["client"][0] if scope["client"] else "",
            certificate=certificate_of_scope(scope),
        )
        x.started = began
        x.route = snapshot.routes.routes.get(x.model)
        self._app.observer.started(x)
        x.error = error
        return self._app.pipeline.leave(x)

    async def _page(
        self, scope: Any, headers: dict[str, str], body: Buffer, address: Address, served: dict[str, str]
    ) -> Reply:
        snapshot = self._app.snapshot
        decision = PageDecision(snapshot, address.operation, "http", address.model, served["x-request-id"])
        async with self._app.decisions.deciding(decision):
            certificate = certificate_of_scope(scope)
            admitted = await admitted_page(snapshot, address.operation, address.model, headers, certificate)
            decision.admitted = admitted
            query = scope["query_string"]
            target = scope["raw_path"] + (b"?" + query if query else b"")
            page = PageRequest(
                app=self._app,
                snapshot=snapshot,
                subject=admitted.subject,
                address=address,
                method=scope["method"],
                target=target.decode("latin-1"),
                body=bytes(plain_body(headers, body, snapshot.settings.limits.body)),
                headers=headers,
                request_id=served["x-request-id"],
            )
            return await PAGES[address.operation.name](page)


def front(door: HttpDoor, rest: Callable[[Any, Any, Any], Coroutine[Any, Any, None]]) -> Any:
    """One ASGI application of two: `/v2` and what is below goes straight to the door, everything else to `rest`.

    The door stands in Litestar's mount too, for other servers; on the way there Litestar looks up what the door
    looks up itself, a twentieth of a request's cost, and has to be imported.
    """

    def app(scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, None]:
        path = scope["path"]
        ours = path.startswith("/v2/") or path == "/v2"
        return door(scope, receive, send) if ours else rest(scope, receive, send)

    return app
