"""`/gateway/v1/snapshot`: which settings and policy are in force, and since when."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from litestar import Controller, Request, get

from gateway.control.access import authorised


class SnapshotState(msgspec.Struct):
    """The snapshot in force on the worker that answered."""

    hash: str
    policy: str
    """Hash of the policy."""
    since: dt.datetime
    routes: list[str]
    upstreams: list[str]


class SnapshotController(Controller):
    """The snapshot. Needs `read` on `server`."""

    path = "/gateway/v1/snapshot"
    tags = ("snapshot",)

    @get("/")
    async def state(self, request: Request[Any, Any, Any]) -> SnapshotState:
        """Hashes of settings and policy in force, and since when."""
        snapshot = authorised(request, "server", "read")
        return SnapshotState(
            hash=snapshot.hash,
            policy=snapshot.policy.hash,
            since=snapshot.since,
            routes=list(snapshot.routes.routes),
            upstreams=list(snapshot.upstreams),
        )
