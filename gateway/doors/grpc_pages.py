"""Everything of `GRPCInferenceService` that is not inference. The twin of `http_pages`, message by message.

Contract: as there. Messages are parsed once, names in them are changed where a route's name differs from the
model's, and they travel to the model server's gRPC address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from gateway.errors import BadRequest, NotFound, TidegateError, Unreachable
from gateway.headers import metadata_of, upstream_headers
from gateway.operations import OPERATIONS, Operation, check_load_parameters, check_repository_name
from gateway.pipeline import find_route

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.snapshot import Snapshot
    from gateway.upstream import Upstream
    from governance.types import Subject

_LOAD_TIMEOUT_S: Final = 600.0
_PAGE_TIMEOUT_S: Final = 10.0


class GrpcPage(msgspec.Struct):
    """One call of a page; the last three are set once the caller has been identified and allowed."""

    app: Core
    snapshot: Snapshot
    operation: Operation
    message: Any
    subject: Subject | None = None
    headers: Mapping[str, str] = {}
    request_id: str = ""

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

    async def ask(self, upstream: Upstream, message: Any = None, timeout: float = _PAGE_TIMEOUT_S) -> Any:
        """The same call to one model server; the parsed answer. Its errors are raised."""
        name = self.operation.grpc
        request = self.message if message is None else message
        answer = await upstream.unary(
            name, request.SerializeToString(), metadata=self.metadata_to(upstream), timeout=timeout
        )
        return getattr(service_pb2, name + "Response").FromString(answer)

    async def ask_every(self) -> list[Any]:
        """The same call to every model server.

        Raises:
            TidegateError: the first failure; when others had carried it out, the message says so.
        """
        upstreams = list(self.snapshot.upstreams.items())
        results = await asyncio.gather(*(self.ask(upstream) for _, upstream in upstreams), return_exceptions=True)
        done = [result for result in results if not isinstance(result, BaseException)]
        for (name, _), result in zip(upstreams, results, strict=True):
            if isinstance(result, TidegateError) and done:
                raise Unreachable(
                    f"{len(done)} of {len(upstreams)} model servers did it, '{name}' did not: {result.message}"
                )
            if isinstance(result, BaseException):
                raise result
        return done


async def server_live(_: GrpcPage) -> bytes:
    """This process answers."""
    return bytes(service_pb2.ServerLiveResponse(live=True).SerializeToString())


async def server_ready(page: GrpcPage) -> bytes:
    """A snapshot is in force and a model server answers."""
    return bytes(service_pb2.ServerReadyResponse(ready=page.app.ready).SerializeToString())


async def server_metadata(page: GrpcPage) -> bytes:
    """Of the first model server."""
    answer = await page.ask(next(iter(page.snapshot.upstreams.values())))
    return bytes(answer.SerializeToString())


async def model_ready(page: GrpcPage) -> bytes:
    """Whether the variant that speaks for the route is ready; a model that is not there is not, as Triton says."""
    try:
        return await model_page(page)
    except NotFound:
        return bytes(service_pb2.ModelReadyResponse(ready=False).SerializeToString())


async def model_page(page: GrpcPage) -> bytes:
    """Readiness, metadata or config of the variant that speaks for the route, under the route's name."""
    route = await find_route(page.snapshot, page.model, page.message.version)
    to = route.page(page.message.version)
    asked = type(page.message)(name=to.variant.model, version=to.version)
    answer = await page.ask(page.snapshot.upstreams[to.variant.upstream], asked)
    if page.operation.name == "model_metadata":
        answer.name = route.name
        versions = route.versions()
        if versions:
            answer.versions[:] = sorted(versions, key=lambda version: (len(version), version))
    elif page.operation.name == "model_config":
        answer.config.name = route.name
    return bytes(answer.SerializeToString())


async def model_stats(page: GrpcPage) -> bytes:
    """Of every variant of the route, under the route's name; of all models that may be read without a name."""
    if not page.message.name:
        return await _visible(page, "model_stats")
    route = await find_route(page.snapshot, page.model, page.message.version)
    targets = {
        (to.upstream, to.model, page.message.version or to.version): None
        for to in route.variants
        if not page.message.version or to.version in ("", page.message.version)
    }
    merged = service_pb2.ModelStatisticsResponse()
    for upstream, model, version in targets:
        asked = service_pb2.ModelStatisticsRequest(name=model, version=version)
        merged.MergeFrom(await page.ask(page.snapshot.upstreams[upstream], asked))
    for stats in merged.model_stats:
        stats.name = route.name
    return bytes(merged.SerializeToString())


async def index(page: GrpcPage) -> bytes:
    """Every model of every model server that the caller may read, under the servers' own names."""
    return await _visible(page, "models")


async def _visible(page: GrpcPage, field: str) -> bytes:
    assert page.subject is not None
    merged = getattr(service_pb2, page.operation.grpc + "Response")()
    seen: set[bytes] = set()
    for answer in await page.ask_every():
        for row in getattr(answer, field):
            key = row.SerializeToString(deterministic=True)
            if key not in seen and page.snapshot.may(page.subject, f"model:{row.name}", "read"):
                seen.add(key)
                getattr(merged, field).append(row)
    return bytes(merged.SerializeToString())


async def repository(page: GrpcPage) -> bytes:
    """Load or unload a model on every model server that has it, else on the first."""
    model = page.message.model_name
    check_repository_name(model)
    check_load_parameters(list(page.message.parameters))
    concerned = []
    for upstream in page.snapshot.upstreams.values():
        listing = await upstream.unary(
            "RepositoryIndex", b"", metadata=page.metadata_to(upstream), timeout=_PAGE_TIMEOUT_S
        )
        if any(row.name == model for row in service_pb2.RepositoryIndexResponse.FromString(listing).models):
            concerned.append(upstream)
    answer = None
    for upstream in concerned or list(page.snapshot.upstreams.values())[:1]:
        try:
            answer = await page.ask(upstream, timeout=_LOAD_TIMEOUT_S)
        finally:
            upstream.forget_model(model)
    assert answer is not None
    return bytes(answer.SerializeToString())


async def settings(page: GrpcPage) -> bytes:
    """Shared memory, trace and log settings of every model server; the first one's answer is shown."""
    return bytes((await page.ask_every())[0].SerializeToString())


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
    "system_shm_status": settings,
    "system_shm_register": settings,
    "system_shm_unregister": settings,
    "cuda_shm_status": settings,
    "cuda_shm_register": settings,
    "cuda_shm_unregister": settings,
    "trace_setting": settings,
    "log_settings": settings,
}
