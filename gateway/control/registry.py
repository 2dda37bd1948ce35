"""`/gateway/v1/registry`: which versions may serve, as this gateway knows it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Controller, Request, get
from litestar.params import FromPath

from gateway.approvals import Approvals, read_view
from gateway.control.access import authorised
from gateway.errors import NotFound
from gateway.headers import from_asgi
from gateway.snapshot import Snapshot
from gateway.tls import certificate_of_scope
from governance.registry.machine import State
from governance.registry.view import Known


class VersionState(msgspec.Struct, frozen=True):
    """One version."""

    model: str
    version: str
    state: State
    serves: bool
    """Whether it may answer now, if the registry is enforced."""
    live: bool
    """Whether it serves where a route names no version."""
    expires: float | None
    """End of its approval, Unix time; null: without end, or not approved."""
    deprecated: float | None
    sunset: float | None


class RegistryController(Controller):
    """Model versions. Needs `read` on `registry:MODEL`."""

    path = "/gateway/v1/registry"
    tags = ("registry",)

    @get("/")
    async def versions(self, request: Request[Any, Any, Any]) -> dict[str, list[VersionState]]:
        """Every version of the models that the caller may read."""
        snapshot = request.app.state.application.snapshot
        subject = snapshot.identifier.identify(from_asgi(request.scope["headers"]), certificate_of_scope(request.scope))
        found = await _versions(snapshot)
        return {"versions": [one for one in found if snapshot.may(subject, f"registry:{one.model}", "read")]}

    @get("/{model:str}")
    async def of_model(self, request: Request[Any, Any, Any], model: FromPath[str]) -> dict[str, list[VersionState]]:
        """The versions of one model."""
        snapshot = authorised(request, f"registry:{model}", "read")
        found = [one for one in await _versions(snapshot) if one.model == model]
        if not found:
            raise NotFound(f"there is no version of '{model}' in the registry")
        return {"versions": found}


async def _versions(snapshot: Snapshot) -> list[VersionState]:
    settings = snapshot.settings
    if settings.registry is None:
        raise NotFound("this gateway has no registry")
    approvals = snapshot.approvals
    if approvals is None:
        approvals = Approvals(await asyncio.to_thread(read_view, settings), "warn")
    return [_state(one, approvals) for one in approvals.view.versions]


def _state(one: Known, approvals: Approvals) -> VersionState:
    return VersionState(
        one.model,
        one.version,
        one.state,
        not approvals.why_not(one.model, one.version),
        approvals.live(one.model) == one.version,
        one.expires,
        one.deprecated,
        one.sunset,
    )
