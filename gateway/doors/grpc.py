"""The gRPC door on grpc.aio: OIP's `GRPCInferenceService` with raw-bytes handlers, and `grpc.health.v1`.

Contract: as the HTTP door, for gRPC: reads bytes, metadata and deadline, hands an Exchange to the pipeline or
a message to the pages. Answers carry `x-request-id` and `x-tidegate-variant` as initial metadata. This is the
complete reference door; nothing in the pipeline knows which door called it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from gateway import logs
from gateway.clients import drop_untrusted
from gateway.doors.grpc_exchange import GrpcExchange, check_size, deadline_of, fail, served
from gateway.doors.grpc_health import health_handlers
from gateway.doors.grpc_pages import PAGES, GrpcPage
from gateway.doors.grpc_stream import StreamDoor
from gateway.doors.grpc_tls import PlainText, Transport
from gateway.errors import Defect, TidegateError
from gateway.headers import from_metadata, request_id
from gateway.operations import OPERATIONS
from gateway.snapshot import admitted_page
from gateway.wire import grpc as codec

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.settings import Limits

_log = logs.get("grpc")

_SERVICE: Final = "inference.GRPCInferenceService"
# Beyond the message itself: envelope, names, parameters.
_MESSAGE_SLACK: Final = 1024 * 1024
_BOUNDS: Final = (
    # Calls of one connection at a time, the answer to floods of HEADERS and rapid reset: eight times what Envoy and
    # nginx allow, because one client library may share one connection among all threads of a large host.
    ("grpc.max_concurrent_streams", 1024),
    # One limit for all: between grpcio's soft and hard one calls are refused at random. As the HTTP door's.
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.http2.hpack_table_size.decoder", 4096),
    # A client that does not answer is gone, or does not read.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # An idle connection is asked to go, gracefully. Long, because clients keep a channel for their whole life.
    ("grpc.max_connection_idle_ms", 15 * 60_000),
)

# Streams on an aged connection go on for as long as they last; see `grpc_listener`.
_AGE: Final = "grpc.max_connection_age_ms"
# grpcio spreads the age by a tenth either way.
_AGE_SPREAD: Final = 1.1
_LOOK_S: Final = 0.1
_GRACE_S: Final = 5.0


class _Unknown(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Methods that nobody serves: grpcio's own status and words, and the request id that every answer carries."""

    def service(self, _: Any) -> Any:
        """As the last of the handlers: for whatever the others do not know."""
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    @staticmethod
    async def _refuse(_: Any, context: Any) -> None:
        error = TidegateError("Method not found!")
        error.code = "UNIMPLEMENTED"
        await fail(context, error, request_id(from_metadata(context.invocation_metadata() or ())), "")


class GrpcDoor:
    """The gRPC server of one worker."""

    def __init__(self, app: Core, limits: Limits, transport: Transport | None = None) -> None:
        self._app = app
        self.transport: Transport = transport or PlainText()
        """How clients connect."""
        limit = limits.body + _MESSAGE_SLACK
        # Until the handshake of TLS is over, the client's first bytes are understood, and our settings are answered.
        hello = max(1, round(limits.header_timeout * 1000))
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.server_handshake_timeout_ms", hello),
                ("grpc.http2.settings_timeout", hello),
                ("grpc.max_allowed_incoming_connections", limits.connections),
                *_BOUNDS,
                *(((_AGE, round(age * 1000)),) if (age := app.snapshot.settings.listen.grpc_connection_age) else ()),
                # Clients ping idle connections; Triton's own default tolerance is as generous.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.http2.max_ping_strikes", 2),
                ("grpc.keepalive_permit_without_calls", 1),
            )
        )
        handlers = {
            operation.grpc: grpc.unary_unary_rpc_method_handler(self._page_handler(operation.name))
            for operation in OPERATIONS.values()
            if operation.name in PAGES
        }
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, handlers), health_handlers(app), _Unknown())
        )

    @staticmethod
    def must_renew(old: Limits, new: Limits) -> bool:
        """Whether a running server cannot take the new limits over: grpcio fixes these at its start."""
        return (old.body, old.connections, old.header_timeout) != (new.body, new.connections, new.header_timeout)

    async def start(self, address: str) -> None:
        """Accept calls on a reserved address."""
        await self.transport.bind(self._server, address)
        await self._server.start()
        await self.transport.accept()

    async def relieved(self) -> None:
        """Another server has the port: take no more connections, and return when those that there are have gone.

        They come of age one by one and go without losing a call. Returns as well when only streams can be left.
        """
        self.transport.stop_accepting()
        age = self._app.snapshot.settings.listen.grpc_connection_age
        loop = asyncio.get_running_loop()
        over = loop.time() + age * _AGE_SPREAD + 1.0 if age else 0.0
        while loop.time() < over and self.transport.connections():  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(_LOOK_S)

    async def stop(self, drain: float) -> None:
        """Refuse new calls, let those in progress finish for `drain` seconds, then cut them."""
        self.transport.stop_accepting()
        # Whoever cuts, calls again with 0: grpcio 1.85 ends the process (SIGSEGV) when a second stop comes as the
        # time of the first one runs out, so that time is longer than any caller waits.
        await self._server.stop(drain + _GRACE_S if drain else None)
        self.transport.close()

    async def _infer(self, request: bytes, context: Any) -> bytes:
        headers = from_metadata(context.invocation_metadata() or ())
        rid, variant = request_id(headers), ""
        snapshot = self._app.snapshot
        try:
            check_size(request, snapshot.settings.limits.body)
            message, raw = codec.parse_request(request)
            peer, certificate = self.transport.client(context)
            if snapshot.settings.identity is not None:
                drop_untrusted(headers, peer, snapshot.settings.listen.trusted_proxies)
            x = GrpcExchange(
                snapshot,
                headers,
                operation="infer",
                message=message,
                raw=raw,
                nbytes=len(request),
                request_id=rid,
                peer=peer,
                deadline=deadline_of(context),
                certificate=certificate,
            )
            self._app.observer.started(x)
            try:
                answer: bytes = await self._app.pipeline.infer(x)
            finally:
                variant = x.variant_name
        except TidegateError as error:
            await fail(context, error, rid, variant)
        await context.send_initial_metadata(served(rid, variant))
        return answer

    async def _stream(self, requests: Any, context: Any) -> None:
        await StreamDoor(self._app, context, self.transport).run(requests)

    def _page_handler(self, name: str) -> Any:
        operation, page = OPERATIONS[name], PAGES[name]

        async def handler(request: bytes, context: Any) -> bytes:
            snapshot = self._app.snapshot
            headers = from_metadata(context.invocation_metadata() or ())
            rid = request_id(headers)
            try:
                check_size(request, snapshot.settings.limits.body)
                call = GrpcPage.parse(self._app, snapshot, operation, request)
                peer, certificate = self.transport.client(context)
                if snapshot.settings.identity is not None:
                    drop_untrusted(headers, peer, snapshot.settings.listen.trusted_proxies)
                call.subject = await admitted_page(snapshot, call.operation, call.model, headers, certificate)
                call.headers, call.request_id = headers, rid
                answer: bytes = await page(call)
            except TidegateError as error:
                await fail(context, error, rid, "")
            except Exception as error:  # noqa: BLE001  grpcio would tell the client what it is
                _log.exception("a defect", extra={"fields": {"request_id": rid}})
                await fail(context, Defect(repr(error)), rid, "")
            await context.send_initial_metadata((*served(rid, ""), *call.said.items()))
            return answer

        return handler
