"""Builds every object of a worker, starts them in order, stops them in reverse.

Start-up: log, counters, snapshot, upstreams, pipeline, doors. Shutdown: stop accepting, drain the doors, drain
the shadows, close the upstreams, flush telemetry. Wiring happens here and nowhere else.
"""

from __future__ import annotations

import asyncio
import socket
from importlib.metadata import version
from pathlib import Path

import msgspec

from gateway import logs, telemetry
from gateway.admission import Admission
from gateway.control import build_litestar, build_metrics_app
from gateway.doors.grpc import GrpcDoor
from gateway.doors.http import HttpDoor
from gateway.doors.http_server import HttpServer
from gateway.metrics import Page, Registry
from gateway.observe import Observer, UpstreamEvents
from gateway.otlp import span_sink
from gateway.otlp_metrics import metrics_push
from gateway.pipeline import Pipeline
from gateway.routing import SharedPins
from gateway.routing.shadows import ShadowRunner
from gateway.routing.state import ShadowMeters
from gateway.settings import Anonymous, Settings
from gateway.snapshot import Keeper, Parts, Snapshot
from gateway.tracing import Tracing

VERSION = version("tidegate")

_log = logs.get("app")


class Place(msgspec.Struct, frozen=True):
    """Where one worker lives: what the supervisor decided for it."""

    config: Path
    slot: int
    run_dir: Path
    workers: int
    http: str
    grpc: str | None
    metrics: str | None


class Application:
    """Everything of one worker."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.registry = Registry(place.run_dir, place.slot)
        parts = Parts(pins=SharedPins(place.run_dir / "pins"), counters=UpstreamEvents(self.registry))
        self.keeper = Keeper(place.config, parts, self._swap)
        settings = self.snapshot.settings
        logs.configure(settings.log, worker=place.slot)
        self.admission = Admission(
            settings.limits,
            place.run_dir,
            place.slot,
            slots=place.workers,
            limited=lambda tenant, limit: self.registry.counter(telemetry.LIMITED).labels(tenant, limit).inc(),
        )
        self.sink = span_sink(settings.telemetry, self.registry, version=VERSION)
        self.push = metrics_push(settings.telemetry, self.registry, version=VERSION)
        self.tracing = Tracing(self.sink, settings.telemetry.traces.sample_ratio)
        self.observer = Observer(self.registry, self.tracing, access_log=settings.log.access)
        self.shadows = ShadowRunner(lambda route, shadow: ShadowMeters(self.registry, route, shadow))
        self.pipeline = Pipeline(self.admission, self.observer, self.shadows)
        self.page = Page(place.run_dir)
        self.http_door = HttpDoor(self)
        self._servers: list[HttpServer] = []
        self._grpc: GrpcDoor | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = False

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force; a request takes it once and keeps it."""
        return self.keeper.current

    @property
    def ready(self) -> bool:
        """Whether requests can be answered: not draining, and some upstream is ready."""
        return not self._draining and any(upstream.ready() for upstream in self.snapshot.upstreams.values())

    def reload_soon(self) -> None:
        """Read settings and policy again now."""
        self.keeper.reload_soon()

    async def start(self, http: socket.socket, metrics: socket.socket | None) -> None:
        """Open the doors."""
        snapshot = self.snapshot
        await snapshot.upstreams.start()
        self._announce(snapshot)
        self.registry.info(telemetry.BUILD_INFO, VERSION)
        self._tasks.append(asyncio.create_task(self.keeper.watch(), name="snapshot-keeper"))
        limits, drain = snapshot.settings.limits, snapshot.settings.drain
        self._servers.append(HttpServer(build_litestar(self), header_timeout=limits.header_timeout, drain=drain))
        if metrics is not None:
            self._servers.append(HttpServer(build_metrics_app(self), header_timeout=limits.header_timeout, drain=drain))
        for server, sock in zip(self._servers, (http, metrics), strict=False):
            assert sock is not None
            self._tasks.append(asyncio.create_task(server.run_on(sock), name="http-server"))
        while not all(server.started for server in self._servers):
            await asyncio.sleep(0.005)
        if self.place.grpc is not None:
            self._grpc = GrpcDoor(self)
            await self._grpc.start(self.place.grpc)

    async def stop(self) -> None:
        """Drain and close, in the reverse order of the start."""
        self._draining = True
        drain = self.snapshot.settings.drain
        for server in self._servers:
            server.should_exit = True
        closing = [task for task in self._tasks if task.get_name() == "http-server"]
        if self._grpc is not None:
            closing.append(asyncio.create_task(self._grpc.stop(drain)))
        if closing:
            await asyncio.wait(closing)
        for task in self._tasks:
            task.cancel()
        if self.admission.in_flight:
            _log.warning("cut %d requests that did not finish within %.0f s", self.admission.in_flight, drain)
        await self.shadows.drain(min(drain, 5.0))
        await self.snapshot.upstreams.close()
        for exporter in (self.sink, self.push):
            if exporter is not None:
                await asyncio.to_thread(exporter.shutdown)
        self.admission.close()
        self.registry.close()

    async def _swap(self, old: Snapshot, new: Snapshot) -> None:
        """Bring up what is new, and let go of what is gone once its requests have ended."""
        await new.upstreams.start()
        self.admission.reload(new.settings.limits)
        self._announce(new)
        retire = old.upstreams.close(drain=old.settings.drain, keep=new.upstreams)
        self._tasks.append(asyncio.create_task(retire, name="retired-upstreams"))

    def _announce(self, snapshot: Snapshot) -> None:
        """Tell counters and shadows which names there are now."""
        routes = snapshot.routes.routes
        passthrough = snapshot.routes.passthrough
        know = self.registry.know
        know("route", None if passthrough else routes)
        know("variant", {variant.name for route in routes.values() for variant in route.variants} | {"default"})
        know("tenant", tenants_of(snapshot.settings))
        self.registry.info(telemetry.SNAPSHOT_INFO, snapshot.hash)
        self.shadows.retain(shadow for route in routes.values() for shadow in route.shadows)


def tenants_of(settings: Settings) -> set[str]:
    """Every tenant that a caller can belong to."""
    identity = settings.identity
    if identity is None:
        return {Anonymous().tenant}
    tenants = {key.tenant for key in identity.api_keys}
    return tenants if identity.anonymous is None else tenants | {identity.anonymous.tenant}
