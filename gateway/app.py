"""Builds every object of a worker, starts them in order, stops them in reverse.

Start-up: log, counters, snapshot, upstreams, pipeline, doors. Shutdown: stop accepting, drain the doors, drain
the shadows, close the upstreams, flush telemetry. Wiring happens here and nowhere else.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from gateway import inforce, lastgood, logs, telemetry
from gateway.admission import Admission
from gateway.admission.brownout import Brownout
from gateway.admission.concurrency import Gates, SharedRates
from gateway.auditing import cosigning, decision_log, witness
from gateway.compiling import Parts
from gateway.decisions import Decisions
from gateway.doors.fast_http import protocol_of
from gateway.doors.grpc_engine import Door, open_door
from gateway.doors.http import HttpDoor, front
from gateway.doors.http_large import LargeBodyProtocol
from gateway.doors.http_server import HttpServer
from gateway.doors.watch_pages import WatchPages
from gateway.edits import took_force
from gateway.fairness import Board as FairnessBoard
from gateway.fairness import alerts
from gateway.identity import Sources
from gateway.identity.reading import urls
from gateway.inforce import InForce
from gateway.keeper import Keeper
from gateway.memory import give_back_freed_memory
from gateway.metrics import Page, Registry
from gateway.monitors import Board as MonitorBoard
from gateway.monitors import History, meters
from gateway.observe import GateMeters, Observer, UpstreamEvents
from gateway.otlp import span_sink
from gateway.otlp_metrics import metrics_push
from gateway.pipeline import Pipeline
from gateway.ports import join_address
from gateway.routing import SharedPins
from gateway.routing.shadows import ShadowRunner
from gateway.routing.state import ShadowMeters
from gateway.settings import Anonymous, Settings
from gateway.snapshot import Snapshot
from gateway.tls import RollingContext, client_certificates, server_context
from gateway.tracing import Tracing
from gateway.upstream import Upstreams
from gateway.upstream.lives import SharedLives
from gateway.upstream.restore import Desired
from gateway.upstream.shm_ring import Ring

VERSION = version("tidegate")

# Copies for shadows that are under way when the answers are done; the supervisor's patience is longer.
_SHADOWS_S = 2.0
# For cancelled requests to end and their sockets to close: a few turns of the loop.
_LAST_TURNS_S = 0.5
# How often a snapshot that was replaced is looked at, and the connections of a worker that was relieved.
_LOOK_S = 0.25
# How often the tasks are counted, which takes 0.3 ms with a thousand of them.
_TASKS_S = 1.0
# A relieved worker's idle HTTP connections may still ask once for this long (nginx's keepalive_min_timeout).
_IDLE_S = 5.0

_log = logs.get("app")


class Place(msgspec.Struct, frozen=True):
    """Where one worker lives: what the supervisor decided for it."""

    config: Path
    slot: int
    run_dir: Path
    slots: int
    """Of the shared tables: more than workers, since a worker and the one that relieves it live side by side."""
    grpc: str | None


class Application:
    """Everything of one worker."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.version = VERSION
        good = lastgood.load(place.run_dir)
        logs.configure(good.settings.log, worker=place.slot)
        self.registry = Registry(place.run_dir, place.slot)
        self.keys = Sources()
        self.ring = _ring(good.settings)
        self.monitors = MonitorBoard(
            good.settings.state_dir / "monitors", History(good.settings.store.url, good.settings.state_dir)
        )
        self.fairness = FairnessBoard(good.settings.state_dir / "fairness", self.registry)
        parts = Parts(
            pins=SharedPins(place.run_dir / "pins"),
            counters=UpstreamEvents(self.registry),
            replica_pins=SharedPins(place.run_dir / "replica-pins"),
            lives=SharedLives(place.run_dir / "lives"),
            ring=self.ring,
            keys=self.keys,
            monitors=self.monitors,
            fairness=self.fairness,
        )
        self.desired = Desired(place.run_dir / "desired", parts.counters)
        self.keeper = Keeper(place.config, place.run_dir, good, parts, self)
        self._tell()
        settings = self.snapshot.settings
        self.admission = Admission(
            settings.limits,
            place.run_dir,
            place.slot,
            slots=place.slots,
            limited=lambda tenant, limit: self.registry.counter(telemetry.LIMITED).labels(tenant, limit).inc(),
            away=lambda decision: self.registry.counter(telemetry.LIMITS_AWAY).labels(decision).inc(),
            backend=lambda here: self.registry.gauge(telemetry.LIMITS_BACKEND_UP).labels().set(float(here)),
        )
        self.sink = span_sink(settings.telemetry, self.registry, version=VERSION)
        self.push = metrics_push(settings.telemetry, self.registry, version=VERSION)
        self.tracing = Tracing(self.sink, settings.telemetry.traces.sample_ratio)
        self.observer = Observer(self.registry, self.tracing, access_log=settings.log.access)
        self.shadows = ShadowRunner(lambda route, shadow: ShadowMeters(self.registry, route, shadow))
        meters = GateMeters(self.registry)
        self.rates = SharedRates(place.run_dir, place.slot, place.slots)
        self.gates = Gates(settings.upstreams, meters, self.rates)
        self.brownout = Brownout(self.gates, self.tracing, meters)
        self.audit = decision_log(settings)
        self.cosigning = cosigning(settings)
        self.witness = witness(settings)
        self.decisions = Decisions(self.audit, strict=settings.audit.mode == "strict")
        self.pipeline = Pipeline(self.admission, self.gates, self.observer, self.shadows, self.decisions)
        self.page = Page(place.run_dir)
        self._servers: list[HttpServer] = []
        self._grpc: Door | None = None
        self._tls: RollingContext | None = None
        """Of every HTTP port; gRPC has its own."""
        self._serving: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving_now = False
        """Every door is open and none drains."""
        self._hurried = asyncio.Event()
        self._covered: dict[int, list[asyncio.Server]] = {}
        """Listeners of seats that have no worker."""
        self._covering = asyncio.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force; a request takes it once and keeps it."""
        return self.keeper.current

    @property
    def run_dir(self) -> Path:
        """What the workers share."""
        return self.place.run_dir

    @property
    def ready(self) -> bool:
        """Whether requests can be answered: every door is open, none drains, and some upstream is ready."""
        return self._serving_now and any(upstream.ready() for upstream in self.snapshot.upstreams.values())

    def reload_soon(self) -> None:
        """Read settings and policy again now."""
        self.keeper.reload_soon()

    async def start(self, http: socket.socket, metrics: socket.socket | None) -> None:
        """Open the doors. Raises OSError when one cannot be opened."""
        snapshot = self.snapshot
        snapshot.upstreams.restore_with(self.desired.restore)
        await self.admission.begin()
        await asyncio.gather(snapshot.upstreams.start(), self.keys.start(urls(snapshot.settings)))
        self._announce(snapshot)
        self._in_force(snapshot)
        self.monitors.retain(snapshot.monitors.values())
        self.fairness.retain(snapshot.fairness.values())
        self.cosigning.start()
        self.registry.info(telemetry.BUILD_INFO, VERSION)
        for outcome in ("swapped", "unchanged", "refused"):
            self.registry.counter(telemetry.RELOADS).labels(outcome)
        self._background(self.keeper.watch())
        self._background(self.brownout.watch())
        self._background(self._count_tasks())
        self._background(give_back_freed_memory(self.ring))
        self._background(
            meters.watch(
                self.place.run_dir,
                self.registry,
                lambda: self.snapshot.alarmed,
                lambda event: self.decisions.alarmed(self.snapshot, event),
                self.monitors.history,
            )
        )
        self._background(alerts.watch(self.place.run_dir, self.registry, self.decisions, lambda: self.snapshot))
        limits = snapshot.settings.limits
        if snapshot.tls.listen is not None:
            self._tls = RollingContext(_http_tls(snapshot))
        door = HttpDoor(self)
        protocols: tuple[type[LargeBodyProtocol], ...] = (protocol_of(self), LargeBodyProtocol)
        here = snapshot.settings.metrics.enabled and metrics is None
        rest = _ControlPages(self, door)
        apps: list[Any] = [front(door, WatchPages(self, health=True, metrics=here, rest=rest))]
        if metrics is not None:
            apps.append(WatchPages(self, health=False, metrics=True, rest=None))
        self._servers += [
            HttpServer(app, limits, tls=self._tls, ring=self.ring, protocol=protocol)
            for app, protocol in zip(apps, protocols, strict=False)
        ]
        self.page.doors = self._addresses(http, metrics)  # before the first page is asked for
        for server, sock in zip(self._servers, (http, metrics), strict=False):
            assert sock is not None
            self._serving.append(asyncio.create_task(server.run_on(sock), name="http-server"))
        while not all(server.started for server in self._servers):
            for task in self._serving:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)
        if self.place.grpc is not None:
            self._grpc = await self._open_grpc(snapshot, self.place.grpc)
        # What was made by now lives about as long as the process: the collector need not look at it.
        gc.freeze()
        self._serving_now = True

    async def cover(self, seat: int, sockets: list[socket.socket]) -> None:
        """Answer at the sockets of another seat too, whose worker has died: `http`, then `metrics`."""
        async with self._covering:
            self._covered[seat] = [
                await server.serve_also(sock) for server, sock in zip(self._servers, sockets, strict=True)
            ]

    async def uncover(self, seat: int) -> None:
        """It has a worker again."""
        async with self._covering:
            for listener in self._covered.pop(seat, ()):
                listener.close()

    async def relieved(self) -> None:
        """Another worker has the ports: take no more connections and let go of those that there are, losing no call.

        Returns when they have gone, or when only such are left as are idle or hold a stream; `stop` ends those.
        """
        for server in self._servers:
            server.relieve()
        grpc = None if self._grpc is None else asyncio.create_task(self._grpc.relieved())
        loop = asyncio.get_running_loop()
        over = loop.time() + _IDLE_S
        while loop.time() < over and not all(s.idle for s in self._servers):  # noqa: ASYNC110 - uvicorn sets no event
            await asyncio.sleep(_LOOK_S)
        if grpc is not None:
            try:
                await grpc
            finally:
                grpc.cancel()

    async def stop(self) -> None:
        """Drain and close, in the reverse order of the start."""
        self._serving_now = False
        drain = self.snapshot.settings.drain
        over = asyncio.get_running_loop().time() + drain
        for server in self._servers:
            server.should_exit = True
        closing = list(self._serving)
        if self._grpc is not None:
            closing.append(asyncio.create_task(self._grpc.stop(drain)))
        closed: asyncio.Future[Any] = asyncio.gather(*closing, return_exceptions=True)
        hurried: asyncio.Future[Any] = asyncio.ensure_future(self._hurried.wait())
        await asyncio.wait({closed, hurried}, timeout=drain, return_when=asyncio.FIRST_COMPLETED)
        cut = 0 if closed.done() else self.admission.in_flight
        if not closed.done():
            for server in self._servers:
                server.cut()
            if self._grpc is not None:
                await self._grpc.stop(0)
            await asyncio.wait({closed}, timeout=_LAST_TURNS_S)
        hurried.cancel()
        if cut:
            _log.warning(
                "cut requests that had not finished %s",
                "when told to hurry" if self._hurried.is_set() else f"within {drain:g} s",
                extra={"fields": {"cut": cut}},
            )
        for task in self._tasks:
            task.cancel()
        left = max(_LAST_TURNS_S, over - asyncio.get_running_loop().time())
        await self.shadows.drain(0 if self._hurried.is_set() else min(left, _SHADOWS_S))
        await self.snapshot.upstreams.close()
        await asyncio.to_thread(meters.finish, self.place.run_dir, self.snapshot.monitors, self.monitors.history)
        for exporter in (self.sink, self.push):
            if exporter is not None:
                await asyncio.to_thread(exporter.shutdown)
        self.keys.retain(set())
        await self.admission.settled()
        self._close_tables()
        await asyncio.to_thread(self.cosigning.close)
        await asyncio.to_thread(self.audit.close)
        inforce.withdraw(self.place.run_dir, self.place.slot)
        self.registry.close()

    def _close_tables(self) -> None:
        """What other processes see of this one's memory."""
        self.admission.close()
        self.rates.close()
        if self.ring is not None:
            self.ring.close()

    def hurry(self) -> None:
        """Cut what is still in flight: the second signal."""
        self._hurried.set()

    async def prepare(self, new: Snapshot) -> None:
        """Look at the model servers that are new, so that readiness does not blink at the swap."""
        new.upstreams.restore_with(self.desired.restore)
        await asyncio.gather(new.upstreams.start(), self.keys.start(urls(new.settings)))

    def looked(self, outcome: str) -> None:
        """The files were read again."""
        self.registry.counter(telemetry.RELOADS).labels(outcome).inc()
        self._tell()

    def _tell(self) -> None:
        """What is in force here, to all workers."""
        now = self.snapshot
        self.registry.gauge(telemetry.SNAPSHOT_SINCE).labels().set(now.since.timestamp())
        said = InForce(self.place.slot, now.hash, now.policy.hash, now.since, self.keeper.refusal)
        try:
            inforce.tell(self.place.run_dir, said)
        except OSError as error:
            _log.warning("state_dir: cannot say which snapshot is in force: %s", error.strerror)

    def done(self, old: Snapshot, new: Snapshot) -> None:
        """The new snapshot is in force: limits and names follow; what is gone is closed once unused."""
        self.admission.reload(new.settings.limits)
        self.gates.reload(new.settings.upstreams)
        self.keys.retain(urls(new.settings))
        new.upstreams.renew_tls(new.tls.upstreams)
        self._announce(new)
        self.monitors.retain(new.monitors.values())
        self._in_force(new)
        self.fairness.retain(new.fairness.values())
        limits = new.settings.limits
        for server in self._servers:
            server.limits(limits)
        if self._tls is not None:
            self._tls.current = _http_tls(new)
        if self._grpc is not None:
            same = client_certificates(old.settings) == client_certificates(new.settings)
            if not self._grpc.follow(limits) or not same:
                self._background(self._renew_grpc(self._grpc, new))
            elif new.tls.listen is not None:
                self._grpc.renew(new.tls.listen)
        self._background(_retire(weakref.ref(old), old.upstreams, keep=new.upstreams, drain=old.settings.drain))

    async def _open_grpc(self, snapshot: Snapshot, address: str) -> Door:
        door = open_door(self, snapshot, self.place.run_dir)
        await door.start(address)
        return door

    async def _renew_grpc(self, old: Door, snapshot: Snapshot) -> None:
        """What is fixed for a server's life has changed: another one takes over the port."""
        assert self.place.grpc is not None
        self._grpc = await self._open_grpc(snapshot, self.place.grpc)
        await old.relieved()
        await old.stop(snapshot.settings.drain)

    def _addresses(self, http: socket.socket, metrics: socket.socket | None) -> dict[str, str]:
        """Of the doors."""
        bound = {"http": http, "metrics": metrics}
        found = {door: join_address(*sock.getsockname()[:2]) for door, sock in bound.items() if sock is not None}
        return found if self.place.grpc is None else {**found, "grpc": self.place.grpc}

    async def _count_tasks(self) -> None:
        """Say how many tasks there are, and how much shared memory: what is never let go of shows as growth.

        And how many decisions are in no record.
        """
        memory = self.registry.gauge(telemetry.SHARED_MEMORY)
        dropped = self.registry.counter(telemetry.AUDIT_DROPPED).labels()
        told = 0
        gauge = self.registry.gauge(telemetry.WORKER_TASKS).labels(str(self.place.slot))
        while True:
            gauge.set(float(len(asyncio.all_tasks())))
            told, before = self.audit.dropped, told
            dropped.inc(float(told - before))
            if self.ring is not None:
                memory.labels("allocated").set(float(self.ring.allocated))
                memory.labels("leased").set(float(self.ring.leased))
            await asyncio.sleep(_TASKS_S)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _in_force(self, snapshot: Snapshot) -> None:
        """Record it, and have webhooks told."""
        self.decisions.in_force(self.place.run_dir, snapshot)
        self._background(asyncio.to_thread(took_force, snapshot.settings, snapshot.policy.hash))

    def _announce(self, snapshot: Snapshot) -> None:
        """Tell counters and shadows which names there are now."""
        routes = snapshot.routes.routes
        passthrough = snapshot.routes.passthrough
        know = self.registry.know
        know("route", None if passthrough else routes)
        know("variant", {variant.name for route in routes.values() for variant in route.variants} | {"default"})
        know("tenant", tenants_of(snapshot.settings))
        self.registry.info(telemetry.SNAPSHOT_INFO, snapshot.hash)
        # Rare events start at 0, so that a rate sees the first one.
        for name in snapshot.upstreams:
            self.registry.counter(telemetry.RETRIES).labels(name)
        for route in routes.values():
            for variant in route.variants:
                self.registry.counter(telemetry.FALLBACKS).labels(route.name, variant.name)
        self.shadows.retain(shadow for route in routes.values() for shadow in route.shadows)


def _ring(settings: Settings) -> Ring | None:
    """Memory to share with model servers; None: there is none."""
    try:
        return Ring(settings.shared_memory) if settings.shared_memory else None
    except OSError as error:
        _log.info("shared memory cannot be used: %s", error.strerror)
        return None


class _ControlPages:
    """The ASGI application of the control pages, built when the first of them is asked for.

    Importing Litestar is a fifth of a start's CPU, and memory that stays; inference, health and metrics
    do not need it. It is done in a thread, and whoever asks meanwhile waits.
    """

    def __init__(self, application: Application, door: HttpDoor) -> None:
        self._application = application
        self._door = door
        self._building: asyncio.Task[Any] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if self._building is None:
            self._building = asyncio.create_task(self._build())
        # Whoever is cancelled must not end it for the others.
        app = await asyncio.shield(self._building)
        await app(scope, receive, send)

    async def _build(self) -> Any:
        app = await asyncio.to_thread(self._litestar)
        # What was imported lives as long as the process: the collector need not look at it.
        gc.freeze()
        return app

    def _litestar(self) -> Any:
        from gateway.control import build_litestar  # noqa: PLC0415  see above

        return build_litestar(self._application, self._door)


def _http_tls(snapshot: Snapshot) -> ssl.SSLContext:
    assert snapshot.tls.listen is not None
    return server_context(snapshot.tls.listen, client_certificates(snapshot.settings), alpn="http/1.1")


async def _retire(snapshot: weakref.ref[Snapshot], upstreams: Upstreams, *, keep: Upstreams, drain: float) -> None:
    """Close upstreams that are gone, once no request holds their snapshot, at the latest after `drain` seconds.

    A request that began before the swap may still be reading its body: it is yet to call them.
    """
    loop = asyncio.get_running_loop()
    over = loop.time() + drain
    while snapshot() is not None and loop.time() < over:  # noqa: ASYNC110 - the collector sets no event
        await asyncio.sleep(_LOOK_S)
    await upstreams.close(max(over - loop.time(), _LAST_TURNS_S), keep=keep)


def tenants_of(settings: Settings) -> set[str] | None:
    """Every tenant that a caller can belong to; None: tokens say which, so that any may come."""
    identity = settings.identity
    if identity is None:
        return {Anonymous().tenant}
    if identity.jwt:
        return None
    tenants = {key.tenant for key in identity.api_keys}
    if identity.mtls is not None:
        tenants.add(identity.mtls.tenant)
    return tenants if identity.anonymous is None else tenants | {identity.anonymous.tenant}
