"""Everything below `/v2` that is not inference, for the HTTP door.

Health, metadata, statistics, repository, shared memory, trace and log settings.

Contract: the caller has been identified and allowed before a page is asked for. Model pages speak of routes
and answer under the route's name; repository and settings speak of the model servers' own names and reach
every replica of every server concerned. Bodies pass through unless a name in them has to change or several replicas
answer: then theirs are merged (`gateway.upstream.merge`), and headers say whose are missing or differ.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

import msgspec

from gateway.doors.reply import JSON_TYPE, Reply
from gateway.errors import BadRequest, TidegateError, UpstreamAnswered
from gateway.headers import upstream_headers
from gateway.operations import Address, check_load_parameters, check_region_name, check_repository_name, gave_up_all
from gateway.pipeline import find_route
from gateway.upstream import fanout, merge
from gateway.upstream.answers import error_of
from gateway.upstream.desired import Kind, Wanted
from gateway.upstream.fanout import Target, Told
from gateway.upstream.targets import model_target
from gateway.wire.types import OWN_REGIONS

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.snapshot import Snapshot
    from gateway.upstream import Upstream
    from gateway.upstream.replica import Replica
    from governance.types import Subject

# Loading a large model takes minutes; Triton answers when it is done.
_LOAD_TIMEOUT_S: Final = 600.0
_PAGE_TIMEOUT_S: Final = 10.0
_INDEX: Final = "/v2/repository/index"


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
        to: Target,
        replica: Replica,
        method: str,
        target: str,
        body: bytes = b"",
        timeout: float = _PAGE_TIMEOUT_S,
    ) -> bytes:
        """One page of one replica; its errors are raised."""
        name = to.upstream.name
        headers = upstream_headers(self.headers, self.snapshot.forwarded(name), self.request_id)
        response = await replica.control(method, target, headers, body, timeout)
        if response.status != 200:
            error = error_of(response)
            if gave_up_all(error):
                return b""
            raise error
        return bytes(response.body)

    async def read(
        self, upstreams: Iterable[Upstream], method: str, target: str, body: bytes = b""
    ) -> tuple[list[Target], Told[bytes]]:
        """A page of all their replicas; raised when none answers."""
        asked = fanout.targets(upstreams)
        return asked, await fanout.read(
            asked,
            lambda to, replica: self.ask(
                to, replica, method, target, body, fanout.read_timeout(replica, _PAGE_TIMEOUT_S)
            ),
        )

    async def change(
        self,
        upstreams: Iterable[Upstream],
        target: str,
        wanted: Callable[[], Wanted],
        timeout: float = _PAGE_TIMEOUT_S,
    ) -> Told[bytes]:
        """POST this request's body to all their replicas; raised unless every one did it."""
        return await fanout.change(
            fanout.targets(upstreams),
            lambda to, replica: self.ask(
                to, replica, "POST", target, self.body, fanout.change_timeout(to, replica, timeout)
            ),
            desired=self.app.desired,
            wanted=wanted,
        )


def _reply(told: Told[Any], body: bytes) -> Reply:
    said = [(name.encode(), value.encode()) for name, value in told.said().items()]
    return Reply(200, [JSON_TYPE, *said], body)


def _decoded(told: Told[bytes], decode: Callable[[bytes], Any]) -> Told[Any]:
    other: Told[Any] = Told()
    other.done = {label: decode(answer) for label, answer in told.done.items()}
    other.failed = told.failed
    return other


def _agreed(told: Told[bytes], agreed: Callable[[Told[Any]], Any] = fanout.agreed) -> Reply:
    """The document that most replicas gave, as it came when it was one."""
    if len(told.done) == 1:
        return _reply(told, next(iter(told.done.values())))
    documents = _decoded(told, msgspec.json.decode)
    document = agreed(documents)
    return _reply(documents, msgspec.json.encode(document))


async def server_live(_: PageRequest) -> Reply:
    """This process answers. The body suits clients that read it (KServe) and those that do not (Triton)."""
    return Reply(200, [JSON_TYPE], b'{"live":true}')


async def server_ready(page: PageRequest) -> Reply:
    """A snapshot is in force and a model server answers."""
    if not page.app.ready:
        raise UpstreamAnswered("not ready", status=400)
    return Reply(200, [JSON_TYPE], b'{"ready":true}')


async def server_metadata(page: PageRequest) -> Reply:
    """Of the first upstream: clients look for its extensions."""
    _, told = await page.read([page.snapshot.upstreams.default], "GET", "/v2")
    return _agreed(told)


async def model_ready(page: PageRequest) -> Reply:
    """Whether the variant that speaks for the route is ready."""
    route = await find_route(page.snapshot, page.address.model, "")
    to = route.page(page.address.version)
    target = model_target(to.variant.model, to.version, "ready")
    asked = fanout.serving(page.snapshot.upstreams[to.variant.upstream])
    await fanout.read(asked, lambda on, replica: page.ask(on, replica, "GET", target))
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
    upstream = page.snapshot.upstreams[to.variant.upstream]
    try:
        _, told = await page.read([upstream], "GET", model_target(to.variant.model, to.version, name))
    except TidegateError as error:
        raise upstream.missing(to.variant.model, to.version, error) from error
    reply = _agreed(told, fanout.agreed if name else fanout.agreed_metadata)
    versions = route.versions()
    features = None if name else page.snapshot.features.get(route.name)
    columns = None if features is None else features.metadata()
    if to.variant.model == route.name and (name or versions is None) and columns is None:
        return reply
    document = msgspec.json.decode(reply.body)
    document["name"] = route.name
    if columns is not None:
        document["inputs"] = [
            {"name": column, "datatype": datatype, "shape": shape} for column, datatype, shape in columns
        ]
    if versions is not None and not name:
        document["versions"] = sorted(versions, key=lambda version: (len(version), version))
    reply.body = msgspec.json.encode(document)
    return reply


async def model_stats(page: PageRequest) -> Reply:
    """Of every variant of the route, under the route's name."""
    route = await find_route(page.snapshot, page.address.model, page.address.version)
    targets = {
        (to.upstream, model_target(to.model, page.address.version or to.version, "stats")): None
        for to in route.of_version(page.address.version)
    }
    merged: list[dict[str, Any]] = []
    whole: Told[Any] = Told()
    for upstream, target in targets:
        asked, told = await page.read([page.snapshot.upstreams[upstream]], "GET", target)
        merged += fanout.statistics_rows(asked, _decoded(told, _statistics))
        whole.failed |= told.failed
    for stats in merged:
        stats["name"] = route.name
    return _reply(whole, msgspec.json.encode({"model_stats": merged}))


def _statistics(body: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = msgspec.json.decode(body).get("model_stats", [])
    return rows


async def all_stats(page: PageRequest) -> Reply:
    """Of every model of every model server that the caller may read, under the servers' own names."""
    asked, told = await page.read(page.snapshot.upstreams.values(), "GET", "/v2/models/stats")
    rows = fanout.statistics_rows(asked, _decoded(told, _statistics))
    return _reply(told, msgspec.json.encode({"model_stats": _visible(page, rows)}))


async def index(page: PageRequest) -> Reply:
    """Every model of every model server that the caller may read, under the servers' own names."""
    if not isinstance(_document(page).get("ready", False), bool):
        raise BadRequest("Invalid value for 'ready': expected a boolean")
    asked, told = await page.read(page.snapshot.upstreams.values(), "POST", _INDEX, page.body)
    rows = fanout.index_rows(asked, _decoded(told, msgspec.json.decode))
    return _reply(told, msgspec.json.encode(_visible(page, rows)))


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
    """Load or unload a model on every replica of every model server that has it, else of the first."""
    model = page.address.model
    check_repository_name(model)
    parameters = _document(page).get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("Expected JSON object for keyword: 'parameters'")
    check_load_parameters(list(parameters))
    verb = page.address.operation.name
    everyone = list(page.snapshot.upstreams.values())
    asked, told = await page.read(everyone, "POST", _INDEX)
    concerned = fanout.having(everyone, asked, _decoded(told, msgspec.json.decode), model)
    for upstream in concerned:
        upstream.forget_model(model)
    try:
        await page.change(
            concerned,
            f"/v2/repository/models/{quote(model, safe='')}/{verb}",
            lambda: Wanted("model", model, verb, _document(page)),
            _LOAD_TIMEOUT_S,
        )
    finally:
        for upstream in concerned:
            upstream.forget_model(model)
    return Reply(200, [JSON_TYPE])


async def shared_memory(page: PageRequest) -> Reply:
    """Regions of every replica of every model server."""
    family, _, verb = page.address.operation.name.rpartition("_")
    check_region_name(_segment(page.target, "region"))
    everyone = page.snapshot.upstreams.values()
    if verb == "status":
        _, told = await page.read(everyone, "GET", page.target)
        if len(told.done) == 1 and OWN_REGIONS.encode() not in next(iter(told.done.values())):
            return _agreed(told)
        regions = _decoded(told, msgspec.json.decode)
        rows, differ = merge.merge_regions(regions.done)
        regions.differs += differ
        return _reply(regions, msgspec.json.encode(rows))
    kind: Kind = "system_shm" if family == "system_shm" else "cuda_shm"
    told = await page.change(
        everyone, page.target, lambda: Wanted(kind, _segment(page.target, "region"), verb, _sent(page))
    )
    return _reply(told, next(iter(told.done.values())))


async def settings(page: PageRequest) -> Reply:
    """Trace and log settings of every replica of every model server."""
    everyone = page.snapshot.upstreams.values()
    if page.method == "GET":
        _, told = await page.read(everyone, "GET", page.target)
    else:
        kind: Kind = "trace" if page.address.operation.name == "trace_setting" else "log"
        told = await page.change(everyone, page.target, lambda: Wanted(kind, page.address.model, "set", _sent(page)))
    return _agreed(told)


def _segment(target: str, after: str) -> str:
    """The path segment that follows another; empty when there is none."""
    segments: Sequence[str] = target.partition("?")[0].split("/")
    return unquote(segments[segments.index(after) + 1]) if after in segments[:-1] else ""


def _sent(page: PageRequest) -> dict[str, Any]:
    """The body; a body that is no object is refused by the model server, in its words, and asks for nothing."""
    try:
        return _document(page)
    except BadRequest:
        return {}


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
    "system_shm_status": shared_memory,
    "system_shm_register": shared_memory,
    "system_shm_unregister": shared_memory,
    "cuda_shm_status": shared_memory,
    "cuda_shm_register": shared_memory,
    "cuda_shm_unregister": shared_memory,
    "trace_setting": settings,
    "log_settings": settings,
}
