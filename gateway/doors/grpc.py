"""The gRPC door on grpc.aio: OIP's `GRPCInferenceService` with raw-bytes handlers, and `grpc.health.v1`.

Contract: as the HTTP door, for gRPC: reads bytes, metadata and deadline, hands an Exchange to the pipeline or
a message to the pages. Answers carry `x-request-id` and `x-tidegate-variant` as initial metadata. This is the
complete reference door; nothing in the pipeline knows which door called it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc

from gateway import logs
from gateway.doors.grpc_exchange import GrpcExchange, check_size, deadline_of, fail, served
from gateway.doors.grpc_health import health_handlers
from gateway.doors.grpc_pages import PAGES, GrpcPage
from gateway.doors.grpc_stream import StreamDoor
from gateway.errors import Defect, TidegateError
from gateway.headers import from_metadata, request_id
from gateway.operations import OPERATIONS
from gateway.wire import grpc as codec

if TYPE_CHECKING:
    from gateway.core import Core

_log = logs.get("grpc")

_SERVICE: Final = "inference.GRPCInferenceService"
# Beyond the message itself: envelope, names, parameters.
_MESSAGE_SLACK: Final = 1024 * 1024


class GrpcDoor:
    """The gRPC server of one worker."""

    def __init__(self, app: Core, body_limit: int) -> None:
        self._app = app
        limit = body_limit + _MESSAGE_SLACK
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
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
            (grpc.method_handlers_generic_handler(_SERVICE, handlers), health_handlers(app))
        )

    async def start(self, address: str) -> None:
        """Accept calls on a reserved address."""
        self._server.add_insecure_port(address)
        await self._server.start()

    async def stop(self, drain: float) -> None:
        """Refuse new calls, let those in progress finish for `drain` seconds, then cut them."""
        await self._server.stop(drain)

    async def _infer(self, request: bytes, context: Any) -> bytes:
        headers = from_metadata(context.invocation_metadata() or ())
        rid, variant = request_id(headers), ""
        snapshot = self._app.snapshot
        try:
            check_size(request, snapshot.settings.limits.body)
            message, raw = codec.parse_request(request)
            x = GrpcExchange(
                snapshot,
                headers,
                operation="infer",
                message=message,
                raw=raw,
                nbytes=len(request),
                request_id=rid,
                peer=context.peer(),
                deadline=deadline_of(context),
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
        await StreamDoor(self._app, context).run(requests)

    def _page_handler(self, name: str) -> Any:
        operation, page = OPERATIONS[name], PAGES[name]

        async def handler(request: bytes, context: Any) -> bytes:
            snapshot = self._app.snapshot
            headers = from_metadata(context.invocation_metadata() or ())
            rid = request_id(headers)
            try:
                check_size(request, snapshot.settings.limits.body)
                call = GrpcPage.parse(self._app, snapshot, operation, request)
                call.subject = snapshot.admit_page(call.operation, call.model, headers)
                call.headers, call.request_id = headers, rid
                answer: bytes = await page(call)
            except TidegateError as error:
                await fail(context, error, rid, "")
            except Exception as error:  # noqa: BLE001  grpcio would tell the client what it is
                _log.exception("a defect", extra={"fields": {"request_id": rid}})
                await fail(context, Defect(repr(error)), rid, "")
            await context.send_initial_metadata(served(rid, ""))
            return answer

        return handler
