"""`/gateway/v1/snapshot`: which settings and policy are in force, since when, and what was refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from litestar import Controller, Request, get

from gateway import inforce
from gateway.control.access import authorised
from gateway.inforce import InForce, Refusal


class SnapshotState(msgspec.Struct):
    """The snapshot in force on the worker that answered, and what all workers have."""

    hash: str
    policy: str
    """Hash of the policy."""
    since: dt.datetime
    routes: list[str]
    upstreams: list[str]
    agreed: bool
    """Whether every worker has this snapshot; for a moment after an edit some do not yet."""
    refused: Refusal | None
    """The latest edit that some worker refused; null: none since they started."""
    workers: list[InForce]


class SnapshotController(Controller):
    """The snapshot. Needs `read` on `server`."""

    path = "/gateway/v1/snapshot"
    tags = ("snapshot",)

    @get("/")
    async def state(self, request: Request[Any, Any, Any]) -> SnapshotState:
        """Hashes of settings and policy in force, since when, and the last refused edit."""
        snapshot = authorised(request, "server", "read")
        workers = inforce.told(request.app.state.application.run_dir)
        refusals = [worker.refused for worker in workers if worker.refused is not None]
        return SnapshotState(
            hash=snapshot.hash,
            policy=snapshot.policy.hash,
            since=snapshot.since,
            routes=list(snapshot.routes.routes),
            upstreams=list(snapshot.upstreams),
            agreed=all(worker.hash == snapshot.hash for worker in workers),
            refused=max(refusals, key=lambda refusal: refusal.at, default=None),
            workers=workers,
        )
