"""`/gateway/v1/fairness`: on whom routes decide what, by declared groups."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from litestar import Controller, Request, get, post
from litestar.params import FromPath, Parameter

from gateway.control.access import admitted, authorised
from gateway.decisions import durable
from gateway.errors import BadRequest, NotFound
from gateway.fairness.board import MOST_MINUTES, Watch, WatchReport
from gateway.fairness.joining import Joined, Told
from gateway.headers import from_asgi, request_id
from gateway.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.core import Core

MOST_IDS: Final = 10_000
"""Of one request."""
_MOST_BYTES: Final = 8 << 20


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    requests: Annotated[list[Told], msgspec.Meta(max_length=MOST_IDS)]


class FairnessController(Controller):
    """Selection rates of groups.

    To see them needs `export` on `route:NAME`: reading a route is not enough. To tell of people needs `join` on
    `fairness:NAME`, which lets nobody see anything.
    """

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
        return await asyncio.to_thread(_watch(snapshot, name).report, minutes)

    @post("/{name:str}/attributes", status_code=200, request_max_body_size=_MOST_BYTES)
    async def attributes(self, request: Request[Any, Any, Any], name: FromPath[str]) -> Joined:
        """Attributes of people whom decisions were about, by request id: `{"requests": [{"id", "values": {...}}]}`."""
        snapshot, who = admitted(request, f"fairness:{name}", "join")
        application: Core = request.app.state.application
        watch = _watch(snapshot, name)
        if not watch.joins:
            raise NotFound(f"route '{name}' declares no attribute as `joined`")
        try:
            body = msgspec.json.decode(await request.body(), type=_Body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"the body is not as this page takes it: {error}") from None
        application.decisions.admit()
        result = await asyncio.to_thread(watch.join, body.requests)
        watch.joined(result)
        facts = msgspec.structs.asdict(result)
        rid = request_id(from_asgi(request.scope["headers"]))
        await durable(application.decisions.joined(snapshot, rid, name, who, facts))
        return result


def _watch(snapshot: Snapshot, name: str) -> Watch:
    """Raises NotFound."""
    if name not in snapshot.routes.routes:
        raise NotFound(f"there is no route '{name}'")
    watch = snapshot.fairness.get(name)
    if watch is None:
        raise NotFound(f"route '{name}' declares no fairness")
    return watch
