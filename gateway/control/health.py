"""Liveness and readiness for whoever restarts and routes: open, tiny, without the model servers' names."""

from __future__ import annotations

from litestar import get
from litestar.datastructures import State
from litestar.response import Response


@get("/healthz", include_in_schema=False)
async def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@get("/readyz", include_in_schema=False)
async def readyz(state: State) -> Response[dict[str, str]]:
    """Requests can be answered: a snapshot is in force, an upstream is ready, and nothing is draining."""
    ready = state.application.ready
    return Response({"status": "ready" if ready else "not ready"}, status_code=200 if ready else 503)
