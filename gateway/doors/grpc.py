"""The gRPC door on grpc.aio: the complete reference engine.

Contract: what is served is said in `grpc_service`; here is how grpcio is made to carry it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
from grpc._cython.cygrpc import ExecuteBatchError  # grpcio exports it nowhere else

from gateway.doors import grpc_service as service
from gateway.doors.grpc_call import Ended, Gone, Metadata, Method, Streaming, Unary
from gateway.doors.grpc_tls import PlainText, Transport
from gateway.headers import from_metadata

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.settings import Limits
    from gateway.tls import PeerCertificate, ServerFiles

_BOUNDS: Final = (
    ("grpc.max_concurrent_streams", service.STREAMS),
    # One limit for all: between grpcio's soft and hard one calls are refused at random.
    ("grpc.max_metadata_size", service.METADATA),
    ("grpc.absolute_max_metadata_size", service.METADATA),
    ("grpc.http2.hpack_table_size.decoder", 4096),
    ("grpc.keepalive_time_ms", round(service.PING_AFTER_S * 1000)),
    ("grpc.keepalive_timeout_ms", round(service.PING_WITHIN_S * 1000)),
    ("grpc.max_connection_idle_ms", round(service.IDLE_S * 1000)),
    ("grpc.http2.min_ping_interval_without_data_ms", round(service.PING_GAP_S * 1000)),
    ("grpc.http2.max_ping_strikes", service.PING_STRIKES),
    ("grpc.keepalive_permit_without_calls", 1),
)

# Streams on an aged connection go on for as long as they last; see `grpc_listener`.
_AGE: Final = "grpc.max_connection_age_ms"
# grpcio spreads the age by a tenth either way.
_AGE_SPREAD: Final = 1.1
_LOOK_S: Final = 0.1
_GRACE_S: Final = 5.0
# What grpcio raises when the client has gone and its handler has not been cancelled yet. It would log an error of its
# core as a defect of this program; for a call that nobody waits for it is a cancellation.
_GONE: Final = (grpc.aio.BaseError, asyncio.InvalidStateError)
# An answer is sent by grpcio itself, behind the handler, and a client that leaves before it has taken it is an error
# with a traceback in grpcio's log.
_SENDER: Final = logging.getLogger("grpc._cython.cygrpc")


def _is_news(record: logging.LogRecord) -> bool:
    """Whether an entry of grpcio's log says more than that a client has gone."""
    return record.exc_info is None or not isinstance(record.exc_info[1], ExecuteBatchError)


class GrpcioCall:
    """A call as grpcio has it."""

    def __init__(self, context: Any, transport: Transport, requests: Any = None) -> None:
        self._context = context
        self._transport = transport
        self._requests = requests
        self.headers = from_metadata(context.invocation_metadata() or ())

    @property
    def deadline(self) -> float | None:
        """In event-loop time."""
        left = self._context.time_remaining()
        return None if left is None else asyncio.get_running_loop().time() + left

    def client(self) -> tuple[str, PeerCertificate | None]:
        """As the transport knows it."""
        return self._transport.client(self._context)

    async def messages(self) -> AsyncIterator[bytes]:
        """To the client's end."""
        async for request in self._requests:
            yield request

    async def begin(self, metadata: Metadata) -> None:
        """Send initial metadata. Raises Gone."""
        try:
            await self._context.send_initial_metadata(tuple(metadata))
        except _GONE as error:
            raise Gone from error

    async def write(self, message: bytes) -> None:
        """Send a message. Raises Gone."""
        try:
            await self._context.write(message)
        except _GONE as error:
            raise Gone from error

    async def abort(self, code: str, message: str, trailing: Metadata = ()) -> NoReturn:
        """End the call with this status. Raises grpcio's own signal for it, or Gone.

        A client whose deadline ends in the same moment is gone before the status is out.
        """
        try:
            await self._context.abort(grpc.StatusCode[code], message, tuple(trailing))
        except ExecuteBatchError as error:
            raise Gone from error
        raise Ended


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Every method, and those that nobody serves."""

    def __init__(self, methods: Mapping[str, Method], transport: Transport) -> None:
        self._transport = transport
        self._methods = {path: self._adapted(method) for path, method in methods.items()}
        self._unknown = self._streaming(service.unknown)

    def service(self, handler_call_details: Any) -> Any:
        """What serves this call."""
        return self._methods.get(handler_call_details.method, self._unknown)

    def _adapted(self, method: Method) -> Any:
        if method.unary is not None:
            return self._unary(method.unary)
        assert method.streaming is not None
        return self._streaming(method.streaming)

    def _unary(self, behaviour: Unary) -> Any:
        async def handler(request: bytes, context: Any) -> bytes:
            try:
                return await behaviour(GrpcioCall(context, self._transport), request)
            except Gone as error:
                raise asyncio.CancelledError from error

        return grpc.unary_unary_rpc_method_handler(handler)

    def _streaming(self, behaviour: Streaming) -> Any:
        async def handler(requests: Any, context: Any) -> None:
            try:
                await behaviour(GrpcioCall(context, self._transport, requests))
            except Gone as error:
                raise asyncio.CancelledError from error

        return grpc.stream_stream_rpc_method_handler(handler)


class GrpcDoor:
    """The gRPC server of one worker."""

    def __init__(self, app: Core, limits: Limits, transport: Transport | None = None) -> None:
        self._app = app
        self.transport: Transport = transport or PlainText()
        """How clients connect."""
        self._fixed = (limits.body, limits.connections, limits.header_timeout)
        limit = limits.body + service.MESSAGE_SLACK
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
            )
        )
        _SENDER.addFilter(_is_news)
        self._server.add_generic_rpc_handlers((_Handlers(service.methods(app), self.transport),))

    def follow(self, limits: Limits) -> bool:
        """Whether other limits hold: grpcio fixes these at its start."""
        return self._fixed == (limits.body, limits.connections, limits.header_timeout)

    def renew(self, files: ServerFiles) -> None:
        """Certificates for the connections to come."""
        self.transport.renew(files)

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
