"""`/gateway/v1/fairness`: on whom routes decide what, by declared groups."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from litestar import Controller, Request, get
from litestar.params import FromPath, Parameter

from gateway.control.access import authorised
from gateway.errors import NotFound
from gateway.fairness.board import MOST_MINUTES, WatchReport


class FairnessController(Controller):
    """Selection rates of groups. Needs `export` on `route:NAME`: reading a route is not enough."""

    path = "/gateway/v1/fairness"
    tags = ("fairness",)

    @get("/{name:str}")
    async def state(
        self,
        request: Request[Any, Any, Any],
        name: FromPath[str],
        minutes: Annotated[int | None, Parameter(ge=1, le=MOST_MINUTES)] = None,
    ) -> WatchReport:
        """One route, over all workers: as `tidegate fairness report`, with what the unknown leave open."""
        snapshot = authorised(request, f"route:{name}", "export")
        if name not in snapshot.routes.routes:
            raise NotFound(f"there is no route '{name}'")
        watch = snapshot.fairness.get(name)
        if watch is None:
            raise NotFound(f"route '{name}' declares no fairness")
        return await asyncio.to_thread(watch.report, minutes)
