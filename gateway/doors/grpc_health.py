"""`grpc.health.v1.Health`, as load balancers and Kubernetes ask it. Open to everyone, like the health pages.

Services: "" and `inference.GRPCInferenceService`; both are SERVING when the gateway is ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2

from gateway.doors.grpc_exchange import served
from gateway.headers import from_metadata, request_id

if TYPE_CHECKING:
    from gateway.core import Core

_KNOWN: Final = frozenset({"", "inference.GRPCInferenceService"})
# How often a watcher's answer is looked at again.
_WATCH_S: Final = 0.5


def health_handlers(app: Core) -> Any:
    """The generic handler for the service."""

    def status() -> Any:
        response = health_pb2.HealthCheckResponse
        return response.SERVING if app.ready else response.NOT_SERVING

    async def named(context: Any) -> None:
        headers = from_metadata(context.invocation_metadata() or ())
        await context.send_initial_metadata(served(request_id(headers), ""))

    async def check(request: Any, context: Any) -> Any:
        await named(context)
        if request.service not in _KNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status())

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await named(context)
        last: Any = None
        while True:
            unknown = request.service not in _KNOWN
            now = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN if unknown else status()
            if now != last:
                last = now
                yield health_pb2.HealthCheckResponse(status=now)
            await asyncio.sleep(_WATCH_S)

    def codec(make: Any, behaviour: Any) -> Any:
        return make(
            behaviour,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )

    return grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health",
        {
            "Check": codec(grpc.unary_unary_rpc_method_handler, check),
            "Watch": codec(grpc.unary_stream_rpc_method_handler, watch),
        },
    )
