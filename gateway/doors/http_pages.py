"""Everything below `/v2` that is not inference, for the HTTP door.

Health, metadata, statistics, repository, shared memory, trace and log settings.

Contract: the caller has been identified and allowed before a page is asked for. Model pages speak of routes
and answer under the route's name; repository and settings speak of the model servers' own names and reach
every server concerned. Bodies pass through unless a name in them has to change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from gateway.doors.reply import JSON_TYPE, Reply
from gateway.errors import BadRequest, TidegateError, Unreachable, UpstreamAnswered
from gateway.headers import upstream_headers
from gateway.operations import Address, check_load_parameters, check_repository_name
from gateway.pipeline import find_route
from gateway.upstream.answers import error_of
from gateway.upstream.targets import model_target

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.snapshot import Snapshot
    from gateway.upstream import Upstream
    from governance.types import Subject

# Loading a large model takes minutes; Triton answers when it is done.
_LOAD_TIMEOUT_S: Final = 600.0
_PAGE_TIMEOUT_S: Final = 10.0


class PageRequest(msgspec.Struct):
    """One request for a page, after identification and policy."""

    app: Core
    snapshot: Snapshot
    subject: Subject | None
    address: Address
    method: str
    target: str
    """Path and query as sent."""
    body: bytes
    headers: Mapping[str, str]
    """The client's."""
    request_id: str

    async def ask(
        self,
        upstream: Upstream,
        method: str,
        target: str,
        body: bytes = b"",
        timeout: float = _PAGE_TIMEOUT_S,
    ) -> Reply:
        """One page of one model server; its errors are raised."""
        headers = upstream_headers(self.headers, self.snapshot.forwarded(upstream.name), self.request_id)
        response = await upstream.control(method, target, headers, body, timeout)
        if response.status != 200:
            raise error_of(response)
        return Reply(200, [JSON_TYPE], bytes(response.body))


async def server_live(_: PageRequest) -> Reply:
    """This process answers. The body suits clients that read it (KServe) and those that do not (Triton)."""
    return Reply(200, [JSON_TYPE], b'{"live":true}')


async def server_ready(page: PageRequest) -> Reply:
    """A snapshot is in force and a model server answers."""
    if not page.app.ready:
        raise UpstreamAnswered("not ready", status=400)
    return Reply(200, [JSON_TYPE], b'{"ready":true}')


async def server_metadata(page: PageRequest) -> Reply:
    """Of the first model server: clients look for its extensions."""
    return await page.ask(next(iter(page.snapshot.upstreams.values())), "GET", "/v2")


async def model_ready(page: PageRequest) -> Reply:
    """Whether the variant that speaks for the route is ready."""
    route = await find_route(page.snapshot, page.address.model, "")
    to = route.page(page.address.version)
    await page.ask(
        page.snapshot.upstreams[to.variant.upstream],
        "GET",
        model_target(to.variant.model, to.version, "ready"),
    )
    return Reply(200, [JSON_TYPE], b'{"ready":true}')


async def model_metadata(page: PageRequest) -> Reply:
    """Of the variant that speaks for the route, under the route's name."""
    return await _model_page(page, "")


async def model_config(page: PageRequest) -> Reply:
    """Of the variant that speaks for the route, under the route's name."""
    return await _model_page(page, "config")


async def _model_page(page: PageRequest, name: str) -> Reply:
    route = await find_route(page.snapshot, page.address.model, page.address.version)
    to = route.page(page.address.version)
    reply = await page.ask(
        page.snapshot.upstreams[to.variant.upstream], "GET", model_target(to.variant.model, to.version, name)
    )
    versions = route.versions()
    if to.variant.model == route.name and (name or not versions):
        return reply
    document = msgspec.json.decode(reply.body)
    document["name"] = route.name
    if versions and not name:
        document["versions"] = sorted(versions, key=lambda version: (len(version), version))
    reply.body = msgspec.json.encode(document)
    return reply


async def model_stats(page: PageRequest) -> Reply:
    """Of every variant of the route, under the route's name."""
    route = await find_route(page.snapshot, page.address.model, page.address.version)
    targets = {
        (to.upstream, model_target(to.model, page.address.version or to.version, "stats")): None
        for to in route.variants
        if not page.address.version or to.version in ("", page.address.version)
    }
    merged: list[dict[str, Any]] = []
    for upstream, target in targets:
        reply = await page.ask(page.snapshot.upstreams[upstream], "GET", target)
        merged += msgspec.json.decode(reply.body).get("model_stats", [])
    for stats in merged:
        stats["name"] = route.name
    return Reply(200, [JSON_TYPE], msgspec.json.encode({"model_stats": merged}))


async def all_stats(page: PageRequest) -> Reply:
    """Of every model of every model server that the caller may read, under the servers' own names."""
    merged: list[dict[str, Any]] = []
    for reply in await _every(page, "GET", "/v2/models/stats"):
        merged += msgspec.json.decode(reply.body).get("model_stats", [])
    return Reply(200, [JSON_TYPE], msgspec.json.encode({"model_stats": _visible(page, merged)}))


async def index(page: PageRequest) -> Reply:
    """Every model of every model server that the caller may read, under the servers' own names."""
    if not isinstance(_document(page).get("ready", False), bool):
        raise BadRequest("Invalid value for 'ready': expected a boolean")
    merged: list[dict[str, Any]] = []
    for reply in await _every(page, "POST", "/v2/repository/index", page.body):
        merged += [row for row in msgspec.json.decode(reply.body) if row not in merged]
    return Reply(200, [JSON_TYPE], msgspec.json.encode(_visible(page, merged)))


def _document(page: PageRequest) -> dict[str, Any]:
    """The body's JSON object, empty when there is no body."""
    if not page.body:
        return {}
    try:
        return msgspec.json.decode(page.body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadRequest(f"failed to parse the request JSON buffer: {error}") from None


def _visible(page: PageRequest, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert page.subject is not None
    return [row for row in rows if page.snapshot.may(page.subject, f"model:{row['name']}", "read")]


async def repository(page: PageRequest) -> Reply:
    """Load or unload a model on every model server that has it, else on the first."""
    model = page.address.model
    check_repository_name(model)
    parameters = _document(page).get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("Expected JSON object for keyword: 'parameters'")
    check_load_parameters(list(parameters))
    concerned = []
    for upstream in page.snapshot.upstreams.values():
        listed = await page.ask(upstream, "POST", "/v2/repository/index")
        if any(row["name"] == model for row in msgspec.json.decode(listed.body)):
            concerned.append(upstream)
    for upstream in concerned or list(page.snapshot.upstreams.values())[:1]:
        upstream.forget_model(model)
        target = f"/v2/repository/models/{quote(model, safe='')}/{page.address.operation.name}"
        await page.ask(upstream, "POST", target, page.body, _LOAD_TIMEOUT_S)
        upstream.forget_model(model)
    return Reply(200, [JSON_TYPE])


async def settings(page: PageRequest) -> Reply:
    """Shared memory, trace and log settings of every model server; the first one's answer is shown."""
    replies = await _every(page, page.method, page.target, page.body)
    return replies[0]


async def _every(page: PageRequest, method: str, target: str, body: bytes = b"") -> list[Reply]:
    """The same request to every model server.

    Raises:
        TidegateError: the first failure; when others had carried it out, the message says so.
    """
    upstreams = list(page.snapshot.upstreams.items())
    results = await asyncio.gather(
        *(page.ask(upstream, method, target, body) for _, upstream in upstreams), return_exceptions=True
    )
    replies = [result for result in results if isinstance(result, Reply)]
    for (name, _), result in zip(upstreams, results, strict=True):
        if isinstance(result, TidegateError):
            if replies:
                raise Unreachable(
                    f"{len(replies)} of {len(upstreams)} model servers did it, '{name}' did not: {result.message}"
                )
            raise result
        if isinstance(result, BaseException):
            raise result
    return replies


PAGES: Final[Mapping[str, Callable[[PageRequest], Awaitable[Reply]]]] = {
    "server_live": server_live,
    "server_ready": server_ready,
    "server_metadata": server_metadata,
    "model_ready": model_ready,
    "model_metadata": model_metadata,
    "model_config": model_config,
    "model_stats": model_stats,
    "all_stats": all_stats,
    "index": index,
    "load": repository,
    "unload": repository,
    "system_shm_status": settings,
    "system_shm_register": settings,
    "system_shm_unregister": settings,
    "cuda_shm_status": settings,
    "cuda_shm_register": settings,
    "cuda_shm_unregister": settings,
    "trace_setting": settings,
    "log_settings": settings,
}
