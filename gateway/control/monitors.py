"""`/gateway/v1/monitors`: what routes are asked, held against the profiles that their models were made with."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from litestar import Controller, Request, get
from litestar.params import FromPath, Parameter

from gateway.control.access import authorised
from gateway.errors import BadRequest, NotFound
from gateway.headers import from_asgi
from gateway.monitors import Monitor, MonitorReport
from gateway.monitors.alarms import report_of
from gateway.monitors.tiles import WINDOWS
from gateway.tls import certificate_of_scope


class MonitorController(Controller):
    """Monitors. Needs `read` on `route:NAME`."""

    path = "/gateway/v1/monitors"
    tags = ("monitors",)

    @get("/")
    async def names(self, request: Request[Any, Any, Any]) -> dict[str, list[str]]:
        """Routes with a monitor that the caller may read."""
        snapshot = request.app.state.application.snapshot
        subject = snapshot.identifier.identify(from_asgi(request.scope["headers"]), certificate_of_scope(request.scope))
        return {"monitors": [name for name in snapshot.monitors if snapshot.may(subject, f"route:{name}", "read")]}

    @get("/{name:str}")
    async def state(
        self,
        request: Request[Any, Any, Any],
        name: FromPath[str],
        window: Annotated[str | None, Parameter(description=f"{', '.join(WINDOWS)}; absent: all")] = None,
    ) -> MonitorReport:
        """One route: the rows and columns of a drift report, of its profile and all rows served since it took force."""
        snapshot = authorised(request, f"route:{name}", "read")
        if name not in snapshot.routes.routes:
            raise NotFound(f"there is no route '{name}'")
        monitor = snapshot.monitors.get(name)
        if monitor is None:
            raise NotFound(f"route '{name}' has no monitor")
        if request.query_params.keys() - {"window"} or (window is not None and window not in WINDOWS):
            raise BadRequest(f"the page takes `window` alone, one of {', '.join(WINDOWS)}")
        settings = snapshot.settings.routes[name].monitor
        alarmed = settings is not None and settings.alarms is not None
        return await asyncio.to_thread(_report, monitor, window, alarmed=alarmed)


def _report(monitor: Monitor, window: str | None, *, alarmed: bool) -> MonitorReport:
    found = monitor.report(window)
    if alarmed:
        found.alarms = report_of(monitor)
    return found
