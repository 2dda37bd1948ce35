"""`GET /metrics`: counters of all workers, merged, as Prometheus text or OpenMetrics."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, get
from litestar.response import Response

from gateway.control.access import authorised


@get("/metrics", include_in_schema=False)
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Open like the health pages, unless `metrics.credentials` asks for `read` on `server`."""
    application = request.app.state.application
    if application.snapshot.settings.metrics.credentials:
        authorised(request, "server", "read")
    content_type, body = await asyncio.to_thread(application.page.render, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})
