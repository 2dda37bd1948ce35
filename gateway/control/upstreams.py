"""`/gateway/v1/upstreams`: the model servers, as this worker sees them."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Controller, Request, get

from gateway.control.access import authorised


class UpstreamState(msgspec.Struct):
    """One model server."""

    name: str
    ready: bool
    server: str
    """What it says it is; empty until it has answered once."""
    version: str
    binary: bool | None
    """Whether tensors travel to it in OIP's binary extension; None until it has answered once."""


class UpstreamController(Controller):
    """Model servers. Needs `read` on `server`."""

    path = "/gateway/v1/upstreams"
    tags = ("upstreams",)

    @get("/")
    async def states(self, request: Request[Any, Any, Any]) -> list[UpstreamState]:
        """Readiness and kind of each."""
        snapshot = authorised(request, "server", "read")
        return [
            UpstreamState(
                name=name,
                ready=upstream.ready(),
                server="" if upstream.capabilities is None else upstream.capabilities.name,
                version="" if upstream.capabilities is None else upstream.capabilities.version,
                binary=None if upstream.capabilities is None else upstream.capabilities.binary,
            )
            for name, upstream in snapshot.upstreams.items()
        ]
