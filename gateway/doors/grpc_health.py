"""`grpc.health.v1.Health`, as load balancers and Kubernetes ask it. Open to everyone, like the health pages.

Services: "" and `inference.GRPCInferenceService`; both are SERVING when the gateway is ready.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from gateway.doors.grpc_call import Call, Gone, Method
from gateway.doors.grpc_exchange import fail, served
from gateway.errors import BadRequest, NotFound
from gateway.headers import request_id

if TYPE_CHECKING:
    from gateway.core import Core

_KNOWN: Final = frozenset({"", "inference.GRPCInferenceService"})
# How often a watcher's answer is looked at again.
_WATCH_S: Final = 0.5


def health_methods(app: Core) -> dict[str, Method]:
    """Of the service."""

    def status() -> Any:
        response = health_pb2.HealthCheckResponse
        return response.SERVING if app.ready else response.NOT_SERVING

    def message(what: Any) -> bytes:
        return bytes(health_pb2.HealthCheckResponse(status=what).SerializeToString())

    async def service_of(call: Call, request: bytes, rid: str) -> str:
        try:
            return str(health_pb2.HealthCheckRequest.FromString(request).service)
        except DecodeError:
            await fail(call, BadRequest("the request message cannot be parsed"), rid, "")

    async def check(call: Call, request: bytes) -> bytes:
        rid = request_id(call.headers)
        if await service_of(call, request, rid) not in _KNOWN:
            await fail(call, NotFound("unknown service"), rid, "")
        await call.begin(served(rid, ""))
        return message(status())

    async def watch(call: Call) -> None:
        rid = request_id(call.headers)
        async for request in call.messages():
            unknown = await service_of(call, request, rid) not in _KNOWN
            await call.begin(served(rid, ""))
            last: Any = None
            while True:
                now = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN if unknown else status()
                if now != last:
                    last = now
                    try:
                        await call.write(message(now))
                    except Gone:
                        return
                await asyncio.sleep(_WATCH_S)

    prefix = "/grpc.health.v1.Health/"
    return {prefix + "Check": Method(unary=check), prefix + "Watch": Method(streaming=watch)}
