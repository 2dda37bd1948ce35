"""Everything of `GRPCInferenceService` that is not inference. The twin of `http_pages`, message by message.

Contract: as there. Messages are parsed once, names in them are changed where a route's name differs from the
model's, and they travel to the replicas' gRPC addresses. Several answers become plain documents in the form of the
HTTP pages (`grpc_documents`), are merged by the same rules, and become a message again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from gateway.doors import grpc_documents as documents
from gateway.errors import BadRequest, ModelAway, NotFound, TidegateError, UpstreamAnswered
from gateway.headers import metadata_of, upstream_headers
from gateway.operations import (
    OPERATIONS,
    Operation,
    check_load_parameters,
    check_region_name,
    check_repository_name,
    gave_up_all,
)
from gateway.pipeline import find_route
from gateway.upstream import fanout, merge
from gateway.upstream.fanout import Target, Told

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.snapshot import Snapshot
    from gateway.upstream import Upstream
    from gateway.upstream.desired import Wanted
    from gateway.upstream.replica import Replica
    from governance.types import Subject

_LOAD_TIMEOUT_S: Final = 600.0
_PAGE_TIMEOUT_S: Final = 10.0


class GrpcPage(msgspec.Struct):
    """One call of a page; subject, headers and id are set once the caller has been identified and allowed."""

    app: Core
    snapshot: Snapshot
    operation: Operation
    message: Any
    subject: Subject | None = None
    headers: Mapping[str, str] = {}
    request_id: str = ""
    said: dict[str, str] = {}
    """Metadata of the answer: whose answers it lacks or are others."""

    @classmethod
    def parse(cls, app: Core, snapshot: Snapshot, operation: Operation, request: bytes) -> GrpcPage:
        """Read the message. Raises BadRequest."""
        try:
            message = getattr(service_pb2, operation.grpc + "Request").FromString(request)
        except DecodeError:
            raise BadRequest("the request message cannot be parsed") from None
        if operation.grpc == "ModelStatistics":
            operation = OPERATIONS["model_stats" if message.name else "all_stats"]
        return cls(app, snapshot, operation, message)

    @property
    def model(self) -> str:
        """The model that it is about, empty when about none."""
        return getattr(self.message, "model_name", "") or getattr(self.message, "name", "")

    def metadata_to(self, upstream: Upstream) -> list[tuple[str, str]]:
        """What of the caller's metadata travels to one model server."""
        return metadata_of(upstream_headers(self.headers, self.snapshot.forwarded(upstream.name), self.request_id))

    async def ask(self, to: Target, replica: Replica, message: Any, timeout: float) -> Any:
        """One call to one replica; the parsed answer. Its errors are raised."""
        name = type(message).__name__.removesuffix("Request")
        kind = getattr(service_pb2, name + "Response")
        try:
            answer = await replica.unary(
                name, message.SerializeToString(), metadata=self.metadata_to(to.upstream), timeout=timeout
            )
        except UpstreamAnswered as error:
            if gave_up_all(error):
                return kind()
            raise
        return kind.FromString(answer)

    async def read(self, upstreams: Iterable[Upstream], message: Any = None) -> tuple[list[Target], Told[Any]]:
        """The same call to all their replicas; raised when none answers."""
        asked = fanout.targets(upstreams)
        request = self.message if message is None else message
        told = await fanout.read(
            asked,
            lambda to, replica: self.ask(to, replica, request, fanout.read_timeout(replica, _PAGE_TIMEOUT_S)),
        )
        self.tell(told)
        return asked, told

    async def change(
        self, upstreams: Iterable[Upstream], wanted: Callable[[], Wanted], timeout: float = _PAGE_TIMEOUT_S
    ) -> Told[Any]:
        """This call to all their replicas; raised unless every one did it."""
        return await fanout.change(
            fanout.targets(upstreams),
            lambda to, replica: self.ask(to, replica, self.message, fanout.change_timeout(to, replica, timeout)),
            desired=self.app.desired,
            wanted=wanted,
        )

    def tell(self, told: Told[Any]) -> None:
        """Say in the answer's metadata whose answers are missing or differ."""
        for name, value in told.said().items():
            before = self.said.get(name)
            self.said[name] = f"{before}, {value}" if before else value

    def agreed(self, told: Told[Any]) -> Any:
        """The message that most replicas gave."""
        answers = list(told.done.values())
        if len(answers) == 1:
            return answers[0]
        texts: Told[bytes] = Told()
        texts.done = {label: one.SerializeToString(deterministic=True) for label, one in told.done.items()}
        chosen = fanout.agreed_bytes(texts)
        self.tell(texts)
        return type(answers[0]).FromString(chosen)


async def server_live(_: GrpcPage) -> bytes:
    """This process answers."""
    return bytes(service_pb2.ServerLiveResponse(live=True).SerializeToString())


async def server_ready(page: GrpcPage) -> bytes:
    """A snapshot is in force and a model server answers."""
    return bytes(service_pb2.ServerReadyResponse(ready=page.app.ready).SerializeToString())


async def server_metadata(page: GrpcPage) -> bytes:
    """Of the first upstream."""
    _, told = await page.read([page.snapshot.upstreams.default])
    return bytes(page.agreed(told).SerializeToString())


async def model_ready(page: GrpcPage) -> bytes:
    """Whether the variant that speaks for the route is ready; a model that is not there is not, as Triton says."""
    try:
        route = await find_route(page.snapshot, page.model, page.message.version)
        to = route.page(page.message.version)
        message = service_pb2.ModelReadyRequest(name=to.variant.model, version=to.version)
        told = await fanout.read(
            fanout.serving(page.snapshot.upstreams[to.variant.upstream]),
            lambda on, replica: page.ask(on, replica, message, _PAGE_TIMEOUT_S),
        )
    except (NotFound, ModelAway):
        return bytes(service_pb2.ModelReadyResponse(ready=False).SerializeToString())
    ready = any(answer.ready for answer in told.done.values())
    return bytes(service_pb2.ModelReadyResponse(ready=ready).SerializeToString())


async def model_page(page: GrpcPage) -> bytes:
    """Metadata or config of the variant that speaks for the route, under the route's name."""
    route = await find_route(page.snapshot, page.model, page.message.version)
    to = route.page(page.message.version)
    asked = type(page.message)(name=to.variant.model, version=to.version)
    upstream = page.snapshot.upstreams[to.variant.upstream]
    try:
        _, told = await page.read([upstream], asked)
    except TidegateError as error:
        raise upstream.missing(to.variant.model, to.version, error) from error
    if page.operation.name == "model_metadata":
        served = {version for one in told.done.values() for version in one.versions}
        if len(told.done) > 1:
            for one in told.done.values():
                del one.versions[:]
        answer = page.agreed(told)
        answer.name = route.name
        versions = route.versions()
        if versions is None and len(told.done) > 1:
            versions = tuple(served)
        if versions is not None:
            answer.versions[:] = sorted(versions, key=lambda version: (len(version), version))
        features = page.snapshot.features.get(route.name)
        columns = None if features is None else features.metadata()
        if columns is not None:
            del answer.inputs[:]
            for column, datatype, shape in columns:
                answer.inputs.add(name=column, datatype=datatype, shape=shape)
        return bytes(answer.SerializeToString())
    answer = page.agreed(told)
    answer.config.name = route.name
    return bytes(answer.SerializeToString())


async def model_stats(page: GrpcPage) -> bytes:
    """Of every variant of the route, under the route's name; of all models that may be read without a name."""
    everyone = page.snapshot.upstreams.values()
    if not page.message.name:
        asked, told = await page.read(everyone)
        rows = fanout.statistics_rows(asked, documents.plain(told, "model_stats"))
        return documents.message(service_pb2.ModelStatisticsResponse, "model_stats", _visible(page, rows))
    route = await find_route(page.snapshot, page.model, page.message.version)
    targets = {
        (to.upstream, to.model, page.message.version or to.version): None
        for to in route.of_version(page.message.version)
    }
    merged: list[merge.Row] = []
    for upstream, model, version in targets:
        message = service_pb2.ModelStatisticsRequest(name=model, version=version)
        asked, told = await page.read([page.snapshot.upstreams[upstream]], message)
        merged += fanout.statistics_rows(asked, documents.plain(told, "model_stats"))
    for stats in merged:
        stats["name"] = route.name
    return documents.message(service_pb2.ModelStatisticsResponse, "model_stats", merged)


async def index(page: GrpcPage) -> bytes:
    """Every model of every model server that the caller may read, under the servers' own names."""
    asked, told = await page.read(page.snapshot.upstreams.values())
    rows = fanout.index_rows(asked, documents.plain(told, "models"))
    return documents.message(service_pb2.RepositoryIndexResponse, "models", _visible(page, rows))


def _visible(page: GrpcPage, rows: list[merge.Row]) -> list[merge.Row]:
    assert page.subject is not None
    return [row for row in rows if page.snapshot.may(page.subject, f"model:{row['name']}", "read")]


async def repository(page: GrpcPage) -> bytes:
    """Load or unload a model on every replica of every model server that has it, else of the first."""
    model = page.message.model_name
    check_repository_name(model)
    check_load_parameters(list(page.message.parameters))
    everyone = list(page.snapshot.upstreams.values())
    asked, told = await page.read(everyone, service_pb2.RepositoryIndexRequest())
    page.said.clear()  # of the question, not of the answer
    concerned = fanout.having(everyone, asked, documents.plain(told, "models"), model)
    try:
        done = await page.change(concerned, lambda: documents.model_wanted(page.message), _LOAD_TIMEOUT_S)
    finally:
        for upstream in concerned:
            upstream.forget_model(model)
    return bytes(next(iter(done.done.values())).SerializeToString())


async def shared_memory(page: GrpcPage) -> bytes:
    """Regions of every replica of every model server."""
    check_region_name(page.message.name)
    everyone = page.snapshot.upstreams.values()
    if page.operation.name.endswith("_status"):
        _, told = await page.read(everyone)
        regions = {label: documents.regions(answer) for label, answer in told.done.items()}
        rows, differ = merge.merge_regions(regions)
        page.tell(_differing(differ))
        return documents.regions_message(type(next(iter(told.done.values()))), rows)
    told = await page.change(everyone, lambda: documents.region_wanted(page.operation.name, page.message))
    return bytes(next(iter(told.done.values())).SerializeToString())


async def settings(page: GrpcPage) -> bytes:
    """Trace and log settings of every replica of every model server."""
    everyone = page.snapshot.upstreams.values()
    if page.message.settings:
        told = await page.change(everyone, lambda: documents.settings_wanted(page.operation.name, page.message))
    else:
        _, told = await page.read(everyone)
    return bytes(page.agreed(told).SerializeToString())


def _differing(labels: list[str]) -> Told[Any]:
    told: Told[Any] = Told()
    told.differs += labels
    return told


PAGES: Final[Mapping[str, Callable[[GrpcPage], Awaitable[bytes]]]] = {
    "server_live": server_live,
    "server_ready": server_ready,
    "server_metadata": server_metadata,
    "model_ready": model_ready,
    "model_metadata": model_page,
    "model_config": model_page,
    "model_stats": model_stats,
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
