"""`grpc.health.v1.Health`, as load balancers and Kubernetes ask it. Open to everyone, like the health pages.

Services: "" and `inference.GRPCInferenceService`; both are SERVING when the gateway is ready.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from gateway.doors.grpc_call import Call, Method
from gateway.doors.grpc_exchange import fail, served
from gateway.errors import BadRequest, NotFound
from gateway.headers import request_id

if TYPE_CHECKING:
    from gateway.core import Core

_KNOWN: Final = frozenset({"", "inference.GRPCInferenceService"})
_UNKNOWN: Final = bytes(
    health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()
)
# How often a watcher's answer is looked at again.
_WATCH_S: Final = 0.5


class _Health:
    """The service."""

    def __init__(self, app: Core) -> None:
        self._app = app

    async def check(self, call: Call, request: bytes) -> bytes:
        """Once."""
        rid = request_id(call.headers)
        if await _service_of(call, request, rid) not in _KNOWN:
            await fail(call, NotFound("unknown service"), rid, "")
        await call.begin(served(rid, ""))
        return self._message()

    async def watch(self, call: Call) -> None:
        """Now, and whenever it changes; a service that is not known may come to be (the protocol says so)."""
        rid = request_id(call.headers)
        async for request in call.messages():
            known = await _service_of(call, request, rid) in _KNOWN
            await call.begin(served(rid, ""))
            last = b""
            while True:
                now = self._message() if known else _UNKNOWN
                if now != last:
                    last = now
                    await call.write(now)
                await asyncio.sleep(_WATCH_S)

    def _message(self) -> bytes:
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if self._app.ready else response.NOT_SERVING
        return bytes(response(status=status).SerializeToString())


async def _service_of(call: Call, request: bytes, rid: str) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(request).service)
    except DecodeError:
        await fail(call, BadRequest("the request message cannot be parsed"), rid, "")


def health_methods(app: Core) -> dict[str, Method]:
    """By `/SERVICE/METHOD`."""
    health = _Health(app)
    prefix = "/grpc.health.v1.Health/"
    return {prefix + "Check": Method(unary=health.check), prefix + "Watch": Method(streaming=health.watch)}
