"""What the gRPC door serves, whichever engine carries it: OIP's `GRPCInferenceService` and `grpc.health.v1`.

Contract: as the HTTP door, for gRPC: takes messages, metadata and deadline, hands an Exchange to the pipeline or a
message to the pages. Answers carry `x-request-id` and `x-tidegate-variant` as initial metadata. Nothing in the
pipeline knows which door called it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from gateway import logs
from gateway.decisions import PageDecision
from gateway.doors.grpc_call import Call, Method, Unary
from gateway.doors.grpc_exchange import GrpcExchange, believed, check_size, fail, served
from gateway.doors.grpc_health import health_methods
from gateway.doors.grpc_pages import PAGES, GrpcPage
from gateway.doors.grpc_stream import StreamDoor
from gateway.errors import Defect, TidegateError
from gateway.headers import request_id
from gateway.operations import OPERATIONS
from gateway.snapshot import admitted_page
from gateway.wire.grpc_by_heart import read_request

if TYPE_CHECKING:
    from gateway.approvals import Notices
    from gateway.core import Core

_log = logs.get("grpc")

_SERVICE: Final = "/inference.GRPCInferenceService/"

# The bounds of both engines.
MESSAGE_SLACK: Final = 1024 * 1024
"""Of a message beyond `limits.body`: envelope, names, parameters."""
STREAMS: Final = 1024
"""Calls of one connection at a time, the answer to floods of HEADERS and rapid reset: eight times what Envoy and nginx
allow, because one client library may share one connection among all threads of a large host."""
METADATA: Final = 16 * 1024
"""Bytes of a call's metadata, as the HTTP door's."""
PING_AFTER_S: Final = 60.0
"""A connection that was silent for so long is asked for a sign of life: a client that does not answer within"""
PING_WITHIN_S: Final = 20.0
"""is gone, or does not read."""
IDLE_S: Final = 15 * 60.0
"""A connection without a call is asked to go, gracefully. Long, because clients keep a channel for their whole life."""
PING_GAP_S: Final = 10.0
"""Clients ping idle connections; Triton's own default tolerance is as generous."""
PING_STRIKES: Final = 2
"""Pings that may come sooner before the connection ends."""


def methods(app: Core) -> Mapping[str, Method]:
    """By `/SERVICE/METHOD`."""
    found = {
        _SERVICE + operation.grpc: Method(unary=_page(app, operation.name))
        for operation in OPERATIONS.values()
        if operation.name in PAGES
    }
    found[_SERVICE + "ModelInfer"] = Method(unary=_infer(app), direct=True)
    found[_SERVICE + "ModelStreamInfer"] = Method(streaming=lambda call: StreamDoor(app, call).run())
    return found | health_methods(app)


async def unknown(call: Call) -> None:
    """Methods that nobody serves: grpcio's own status and words, and the request id that every answer carries."""
    error = TidegateError("Method not found!")
    error.code = "UNIMPLEMENTED"
    await fail(call, error, request_id(call.headers), "")


def _infer(app: Core) -> Unary:
    async def infer(call: Call, request: bytes) -> bytes:
        headers = call.headers
        rid, variant = request_id(headers), ""
        notices: Notices = ()
        snapshot = app.snapshot
        settings = snapshot.settings
        try:
            check_size(request, settings.limits.body)
            read = read_request(request, settings.limits.tensors)
        except TidegateError as error:
            told = await app.decisions.unread(snapshot, "grpc", rid, error)
            app.observer.unread("grpc", told)
            await fail(call, told, rid, variant)
        try:
            peer, certificate = call.client()
            if settings.identity is not None:
                headers = believed(headers, peer, settings.listen.trusted_proxies)
            x = GrpcExchange(
                snapshot,
                headers,
                operation="infer",
                read=read,
                request=request,
                request_id=rid,
                peer=peer,
                deadline=call.deadline,
                certificate=certificate,
            )
            app.observer.started(x)
            try:
                answer: bytes = await app.pipeline.infer(x)
            finally:
                variant, notices = x.variant_name, x.notices
        except TidegateError as error:
            await fail(call, error, rid, variant)
        await call.begin(served(rid, variant, notices))
        return answer

    return infer


def _page(app: Core, name: str) -> Unary:
    operation, page = OPERATIONS[name], PAGES[name]

    async def handler(call: Call, request: bytes) -> bytes:
        snapshot = app.snapshot
        headers = call.headers
        rid = request_id(headers)
        try:
            check_size(request, snapshot.settings.limits.body)
            asked = GrpcPage.parse(app, snapshot, operation, request)
            peer, certificate = call.client()
            if snapshot.settings.identity is not None:
                headers = believed(headers, peer, snapshot.settings.listen.trusted_proxies)
            decision = PageDecision(snapshot, asked.operation, "grpc", asked.model, rid)
            async with app.decisions.deciding(decision):
                admitted = await admitted_page(snapshot, asked.operation, asked.model, headers, certificate)
                decision.admitted, asked.subject = admitted, admitted.subject
                asked.headers, asked.request_id = headers, rid
                answer: bytes = await page(asked)
        except TidegateError as error:
            await fail(call, error, rid, "")
        except Exception as error:  # noqa: BLE001  the last line of defence, as in the pipeline
            _log.exception("a defect", extra={"fields": {"request_id": rid}})
            await fail(call, Defect(repr(error)), rid, "")
        await call.begin((*served(rid, ""), *asked.said.items()))
        return answer

    return handler
