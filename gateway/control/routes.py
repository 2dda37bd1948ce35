"""`/gateway/v1/routes`: what routes there are, and what has happened on each since the gateway started."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Controller, Request, get
from litestar.params import FromPath

from gateway.control.access import authorised
from gateway.errors import NotFound
from gateway.headers import from_asgi
from gateway.routing.state import RouteState, route_state
from gateway.tls import certificate_of_scope


class RouteController(Controller):
    """Routes. Needs `read` on `route:NAME`."""

    path = "/gateway/v1/routes"
    tags = ("routes",)

    @get("/")
    async def names(self, request: Request[Any, Any, Any]) -> dict[str, list[str]]:
        """Names of the routes that the caller may read."""
        application = request.app.state.application
        snapshot = application.snapshot
        subject = snapshot.identifier.identify(from_asgi(request.scope["headers"]), certificate_of_scope(request.scope))
        routes = snapshot.routes.routes
        return {"routes": [name for name in routes if snapshot.may(subject, f"route:{name}", "read")]}

    @get("/{name:str}")
    async def state(self, request: Request[Any, Any, Any], name: FromPath[str]) -> RouteState:
        """One route: variants with their shares and counts, shadows with their differences."""
        snapshot = authorised(request, f"route:{name}", "read")
        route = snapshot.routes.routes.get(name)
        if route is None:
            raise NotFound(f"there is no route '{name}'")
        counts = await asyncio.to_thread(request.app.state.application.page.reader.collect)
        return route_state(route, counts)
