"""One model server (a replica of an upstream): what it can, whether it answers, and inference through it.

Contract: `infer` takes a call whose inputs are raw (`wire.validate.check`) and sends it in the form this
server takes: OIP's binary extension where it has it, else plain JSON. What the server answers with an error
is `UpstreamAnswered`, in its words and with its status. Nothing here knows routes, callers or policy.

`start` must be called in the event loop that serves; `close` ends everything that `start` and calls began.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from gateway import logs, settings
from gateway.errors import BadGateway, DeadlineExceeded, TidegateError, Unreachable, Unsupported, UpstreamAnswered
from gateway.upstream import transport
from gateway.upstream.answers import error_of
from gateway.upstream.attempts import CallPlan
from gateway.upstream.ejection import Outlier
from gateway.upstream.events import Counters, Silent
from gateway.upstream.grpc_channel import GrpcChannel
from gateway.upstream.grpc_stream import ModelStream
from gateway.upstream.health import Health
from gateway.upstream.http_head import header_block, split_address
from gateway.upstream.http_response import TOO_LATE, Response
from gateway.upstream.http_stream import Stream
from gateway.upstream.index import READY_INDEX, ReadyModels
from gateway.upstream.lives import Lives, MemoryLives, life_key
from gateway.upstream.pool import NOT_REACHED, Headers, Pool
from gateway.upstream.served import Served
from gateway.upstream.signatures import Signatures
from gateway.upstream.targets import model_target
from gateway.upstream.tls import UpstreamTls
from gateway.wire import http as codec
from gateway.wire.types import Buffer, InferAnswer, InferCall
from gateway.wire.validate import ModelSignature

LEARN_TIMEOUT = 5.0
"""Longest time for the server's metadata."""

_OTHER_STREAMS = "mlserver"
"""Its `ModelStreamInfer` answers `ModelInferResponse`: read as Triton's, the model's name would be an
error."""
_BINARY = "binary_tensor_data"
_CANCEL_UNSAFE_UP_TO = (2, 51)
"""Triton up to this version can end with signal 11 when a stream is closed while its model still sends."""
_JSON = b"content-type: application/json\r\n"
_TRITON = "triton"
_GRPC_PAUSE = 5.0  # seconds


State: TypeAlias = Literal["down", "checking", "warming", "ready", "ejected", "draining"]
"""What a replica is for people; see `docs/fleet.md`."""
Restore: TypeAlias = Callable[["Replica"], Awaitable[None]]
"""Brings a replica that came back to the state that was asked for; raises TidegateError when it cannot."""

_log = logs.get("upstream")


class Capabilities(msgspec.Struct, frozen=True):
    """What a server says of itself (`GET /v2`), and what follows from it and the settings."""

    name: str
    version: str
    extensions: frozenset[str]
    binary: bool
    """Tensors travel in OIP's binary extension."""
    drain_streams: bool
    """A stream whose client left is read to its end; else it is cancelled."""


class Replica:
    """One model server.

    Args:
        name: of its upstream, a key in the settings.
        http: its HTTP address, `HOST:PORT`; it is known by it.
        grpc: its gRPC address; None: it has none.
        config: of its upstream.
        counters: where events go.
        tls: certificates of its upstream; None: plain text.
        host: the host as the settings name it, which its certificate must have; absent: that of `http`.
        number: its place among the replicas, for people and metrics.
        lives: where the lives of replicas are agreed on.
    """

    def __init__(
        self,
        name: str,
        http: str,
        grpc: str | None,
        config: settings.Upstream,
        *,
        counters: Counters | None = None,
        tls: UpstreamTls | None = None,
        host: str | None = None,
        number: int = 0,
        lives: Lives | None = None,
    ) -> None:
        self.name = name
        self.address = http
        self.number = number
        self.label = f"{name}[{number}]"
        """Its name in logs and messages, which must not carry addresses."""
        self.settings = config
        self.grpc_address = grpc
        self._counters = counters or Silent()
        server_host, port = split_address(http)
        self._host = host
        self._pool = Pool(
            server_host,
            port,
            connections=config.connections,
            name=name,
            counters=self._counters,
            tls=None if tls is None else tls.context,
            server_name=None if tls is None else tls.server_name or host,
        )
        # Its own connection: under load the probe must not queue behind the calls whose server it looks
        # after.
        self._probe_pool = Pool(
            server_host,
            port,
            connections=1,
            name=name,
            tls=None if tls is None else tls.context,
            server_name=None if tls is None else tls.server_name or host,
        )
        self._signatures = Signatures(self._pool, on_change=self._changed)
        self._grpc = GrpcChannel(
            grpc, name=name, counters=self._counters, tls=None if tls is None else tls.grpc_for(host)
        )
        self._capabilities: Capabilities | None = None
        self._health = Health(config.health.unhealthy_after, config.health.healthy_after)
        self._lives = lives or MemoryLives()
        self.life_key = life_key(name, http)
        self._seen_well = 0  # Unix ns
        self._probes_seen = 0  # connections that the probe had opened when it was last well
        self._index: ReadyModels | None = None
        self._watching: asyncio.Task[None] | None = None
        self._learning: asyncio.Task[Capabilities] | None = None
        self._look_now = asyncio.Event()
        self.in_flight = 0
        """Calls under way; kept by whoever sends them."""
        self.came_at = 0.0
        self.warm_at = 0.0
        self.usable = False
        """It is up and not being removed: the common case that `Upstream.pick` looks at."""
        self.draining = False
        self.outlier = Outlier()
        """What passive health remembers of it."""
        self.traffic: dict[str, Served] = {}
        """What calls find of each model, by its name on this server."""
        self._grpc_again_at = 0.0  # loop time until which unary calls of `auto` keep to HTTP
        self.listeners: list[Callable[[], None]] = []
        """Called when it came up or fell, or when the models that it is known to have are others."""
        self.restore: Restore | None = None
        """What it is brought to before it gets traffic; set by its upstream."""
        self.wanted: Callable[[], Sequence[tuple[str, str]]] = tuple
        """(model, version) that callers ask the upstream for."""
        self.siblings: Callable[[], bool] = bool
        """Whether other replicas serve: then it warms up, and its models are looked at."""

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Look once whether it answers, then regularly. Never fails: a server may come later."""
        if self._watching is None:
            # Its life must have begun before anyone saw it well: a fall is told from one that another worker saw
            # by that order.
            self._lives.current(self.life_key)
            await self._look()
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self, drain: float = 0.0) -> None:
        """Let calls under way finish within `drain` seconds, then end them."""
        tasks = [task for task in (self._watching, self._learning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._signatures.close()
        await asyncio.gather(self._pool.close(drain), self._probe_pool.close(), self._grpc.close(drain))
        self.listeners.clear()

    def drain(self) -> None:
        """It is to be removed: no new calls."""
        self.draining = True
        self._settle()

    def reconfigure(self, config: settings.Upstream) -> None:
        """Other settings of its upstream, its connections apart."""
        self.settings = config
        self._health.unhealthy_after = config.health.unhealthy_after
        self._health.healthy_after = config.health.healthy_after
        self.traffic.clear()

    def renew(self, tls: UpstreamTls) -> None:
        """Other certificates, for the connections to come."""
        self._pool.renew(tls.context)
        self._probe_pool.renew(tls.context)
        self._grpc.renew(tls.grpc_for(self._host))

    def ready(self) -> bool:
        """Whether it answered as ready, or at least as live, when it was last asked (a second or so ago)."""
        return self._health.phase == "up"

    @property
    def state(self) -> State:
        """What it is now."""
        if self.draining:
            return "draining"
        phase = self._health.phase
        if phase != "up":
            return phase
        if self.outlier.out:
            return "ejected"
        return "warming" if self.warm_at > time.monotonic() else "ready"

    @property
    def life(self) -> int:
        """Changes whenever some worker sees it fall: what it held in memory is lost then."""
        return self._lives.current(self.life_key)

    @property
    def capabilities(self) -> Capabilities | None:
        """What it said of itself; None until it answered once."""
        return self._capabilities

    @property
    def drain_streams(self) -> bool:
        """Whether a stream whose client left must be read to its end; so for servers not yet known."""
        known = self._capabilities
        return self.settings.drain_streams != "never" if known is None else known.drain_streams

    def heard(self, error: TidegateError, model: str = "") -> None:
        """What a failed call says of the server. Whoever talks to it MUST tell its errors."""
        if isinstance(error, Unreachable):
            if not error.sent and self._health.refused():
                self._fell()
            self._look_now.set()
        elif model and isinstance(error, UpstreamAnswered) and error.status == 404:
            self._signatures.invalidate(model)

    # -- metadata --------------------------------------------------------------------------------------------

    def known_signature(self, model: str, version: str = "") -> ModelSignature | None:
        """What is known of a model without asking; None: nothing yet."""
        return self._signatures.peek(model, version)

    async def signature(self, model: str, version: str = "") -> ModelSignature:
        """What a model takes and gives. Raises NotFound and the errors of `Signatures.get`."""
        return await self._signatures.get(model, version)

    async def fresh_signature(self, model: str, version: str = "") -> ModelSignature:
        """The same, asked anew; the same object as before when nothing has changed."""
        return await self._signatures.fresh(model, version)

    def forget_model(self, model: str) -> None:
        """It was loaded, unloaded or replaced."""
        self._signatures.invalidate(model)

    def has(self, model: str, version: str) -> bool:
        """Whether it is known to have the model version; no also means not known."""
        return self._signatures.knows(model, version)

    @property
    def models(self) -> tuple[tuple[str, str], ...]:
        """(model, version) that it has, as far as is known; "" is its own choice of version."""
        if self._index is not None:
            return self._index.listed
        return self._signatures.known

    # -- calls -----------------------------------------------------------------------------------------------

    async def infer(
        self,
        call: InferCall,
        *,
        model: str,
        version: str = "",
        headers: Sequence[tuple[str, str]] = (),
        timeout: float,
        tell: bool = False,
    ) -> InferAnswer:
        """One inference over HTTP.

        Outputs are views of the response, or JSON text from servers without the binary extension.

        Args:
            call: its inputs hold `data` or `shm`.
            model: the model's name on this server.
            version: "" is the server's own choice.
            headers: what else travels; neither framing nor content type.
            timeout: seconds for everything.
            tell: a Triton is told what is left of it, as the request's `timeout` (microseconds).

        Raises:
            UpstreamAnswered: the server's own error.
            Unreachable, BadGateway, DeadlineExceeded: no answer.
            BadRequest: a header cannot be sent, or FP16/BF16 for a server that takes JSON only.
        """
        known = self._capabilities
        if known is None:
            known, timeout = await self._learn_within(timeout)
        binary = known.binary
        left = int(timeout * 1e6) if tell and known.name == _TRITON else 0
        header_length, parts = codec.encode_request(call, want_binary=binary, binary_input=binary, timeout=left)
        block = header_block(headers)
        if header_length is None:
            block += _JSON
        else:
            block += (
                b"inference-header-content-length: %d\r\ncontent-type: application/octet-stream\r\n" % header_length
            )
        target = model_target(model, version, "infer")
        try:
            response = await self._pool.request("POST", target, block, parts, timeout=timeout)
        except Unreachable as error:
            self.heard(error)
            raise
        if response.status != 200:
            refusal = error_of(response)
            self.heard(refusal, model)
            raise refusal
        return codec.decode_response(response.body, _header_length(response))

    def served(self, model: str) -> Served:
        """What calls find of a model; made by its first call."""
        served = self.traffic.get(model)
        if served is None:
            served = self.traffic[model] = Served(self.settings)
        return served

    async def send(
        self,
        call: InferCall,
        served: Served,
        *,
        model: str,
        version: str,
        headers: Sequence[tuple[str, str]],
        timeout: float,
        plan: CallPlan,
    ) -> InferAnswer:
        """One inference over HTTP or gRPC, as `upstreams.NAME.unary` and what is known of the model say.

        Errors are those of `infer`.
        """
        if not served.quickness.quick and timeout >= transport.LEAST_TIME and self._over_grpc(call, headers):
            plan.transport = "grpc"
            known = self._capabilities
            try:
                return await transport.infer(
                    self._grpc,
                    call,
                    model=model,
                    version=version,
                    headers=headers,
                    timeout=timeout,
                    tell=plan.heeds_timeout and known is not None and known.name == _TRITON,
                )
            except Unreachable as error:
                if error.sent or self.settings.unary == "grpc":
                    self.heard(error)
                    raise
                # Nothing listens at its gRPC address, or not yet: HTTP may do, and for the next moments too.
                self._grpc_again_at = asyncio.get_running_loop().time() + _GRPC_PAUSE
            except UpstreamAnswered as error:
                self.heard(error, model)
                raise
            plan.transport = "http"
        return await self.infer(
            call, model=model, version=version, headers=headers, timeout=timeout, tell=plan.heeds_timeout
        )

    def _over_grpc(self, call: InferCall, headers: Sequence[tuple[str, str]]) -> bool:
        """Whether a call of a model that is not known to be quick goes over gRPC."""
        if self.grpc_address is None or self.settings.unary == "http":
            return False
        known = self._capabilities
        if self.settings.unary == "auto" and (
            known is None
            or known.name != _TRITON
            or self._grpc_again_at > asyncio.get_running_loop().time()
            or self.settings.binary == "never"
        ):
            return False
        return transport.same_over_grpc(call, headers)

    async def control(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: Buffer = b"",
        timeout: float = LEARN_TIMEOUT,
    ) -> Response:
        """Any other page, passed through: the response as it came, whatever its status."""
        block = headers if isinstance(headers, bytes) else header_block(headers)
        parts = (body,) if body else ()
        try:
            return await self._pool.request(method, target, block + _JSON if body else block, parts, timeout=timeout)
        except Unreachable as error:
            self.heard(error)
            raise

    async def stream_generate(
        self,
        body: Buffer,
        *,
        model: str,
        version: str = "",
        headers: Sequence[tuple[str, str]] = (),
        timeout: float,
        page: str = "generate_stream",
    ) -> Stream:
        """Triton's generate extension as it comes (server-sent events).

        `timeout`: seconds for the head and between two chunks. The status is checked here: what is not 200 is
        raised. The caller MUST end the stream, by `leave` when its client goes early.

        Raises:
            UpstreamAnswered: the server's own error, with its status.
            Unreachable, BadGateway, DeadlineExceeded: no answer.
        """
        target = model_target(model, version, page)
        try:
            stream = await self._pool.stream("POST", target, header_block(headers) + _JSON, (body,), timeout=timeout)
            if stream.status != 200:
                async with stream:
                    page_body = await stream.read(_ERROR_PAGE)
                raise error_of(Response(stream.status, stream.headers, page_body))
        except TidegateError as error:
            self.heard(error, model)
            raise
        return stream

    async def leave(self, stream: Stream) -> None:
        """The client of a stream went early: read on in the background, or close, as this server needs it."""
        if self.drain_streams:
            stream.detach()
        else:
            await stream.aclose()

    @property
    def has_grpc(self) -> bool:
        """Whether it has a gRPC address."""
        return self.grpc_address is not None

    async def unary(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float,
    ) -> bytes:
        """One gRPC call of `inference.GRPCInferenceService`, bytes in and out; see `GrpcChannel.unary`."""
        try:
            return await self._grpc.unary(method, request, metadata=metadata, timeout=timeout)
        except Unreachable as error:
            self.heard(error)
            raise

    def open_stream(self, *, metadata: Sequence[tuple[str, str]] = ()) -> ModelStream:
        """A `ModelStreamInfer` stream; the connection is made by its first call.

        Raises:
            Unsupported: the settings give this server no gRPC address, or its streams are not Triton's.
            BadRequest: the metadata cannot be sent.
        """
        if self.grpc_address is None:
            raise Unsupported("streams need the model server's gRPC address", detail=f"upstreams.{self.name}.grpc")
        if self._capabilities is not None and self._capabilities.name == _OTHER_STREAMS:
            raise Unsupported("this model server's streams differ from Triton's on the wire")
        return ModelStream(
            self._grpc,
            metadata=metadata,
            drain=lambda: self.drain_streams,
            counters=self._counters,
            upstream=self.name,
        )

    # -- what it is ------------------------------------------------------------------------------------------

    async def _learn_within(self, timeout: float) -> tuple[Capabilities, float]:
        """What it can, and what is left of a call's time; see `infer`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(timeout):
                known = await self._learn()
        except TimeoutError:
            raise DeadlineExceeded(TOO_LATE, detail=f"{self.address}: GET /v2") from None
        return known, max(timeout - (loop.time() - began), 0.0)

    async def _learn(self) -> Capabilities:
        if self._learning is None:
            self._learning = asyncio.get_running_loop().create_task(self._ask_capabilities())
            self._learning.add_done_callback(self._learned)
        return await asyncio.shield(self._learning)

    def _learned(self, task: asyncio.Task[Capabilities]) -> None:
        self._learning = None
        if not task.cancelled() and task.exception() is None:
            self._capabilities = task.result()

    async def _ask_capabilities(self) -> Capabilities:
        response = await self._probe_pool.request("GET", "/v2", b"", timeout=LEARN_TIMEOUT)
        if response.status != 200:
            raise error_of(response)
        try:
            page = msgspec.json.decode(response.body, type=_ServerPage)
        except msgspec.DecodeError as error:
            raise BadGateway(NOT_REACHED, detail=f"GET /v2: {error}") from None
        wanted, drains = self.settings.binary, self.settings.drain_streams
        return Capabilities(
            name=page.name,
            version=page.version,
            extensions=frozenset(page.extensions),
            binary=_BINARY in page.extensions if wanted == "auto" else wanted == "always",
            drain_streams=_must_drain(page) if drains == "auto" else drains == "always",
        )

    # -- looking at it ---------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            try:
                # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes in the same turn.
                async with asyncio.timeout(self.settings.health.interval):
                    await self._look_now.wait()
                # After a broken connection look soon, but not once for each of a thousand.
                await asyncio.sleep(min(_SOON, self.settings.health.interval))
            except TimeoutError:
                pass
            self._look_now.clear()
            try:
                await self._look()
            except Exception:  # noqa: BLE001 - whatever it is, the next look must be taken
                _log.exception("a defect", extra={"fields": {"upstream": self.name, "replica": self.label}})

    async def _look(self) -> None:
        """One look, and the check when one is due by it."""
        try:
            well = await self._answers()
        except TidegateError as error:
            well = False
            if isinstance(error, Unreachable) and not error.sent and self._health.refused():
                self._fell()
        if not well:
            self._counters.on_event("probe_failed", upstream=self.name)
            if self._health.bad():
                self._fell()
            return
        if self._health.phase == "up" and self._began_anew():
            self._health.refused()
            self._fell()
        due = self._health.good()
        if due:
            whole = await self._check()
            if self._health.checked(whole=whole):
                self._came()
        elif self._health.phase == "up":
            self._well()
            if self.siblings():
                await self._look_at_models()

    async def _answers(self) -> bool:
        timeout = self.settings.health.timeout
        response = await self._probe_pool.request("GET", "/v2/health/ready", b"", timeout=timeout)
        if response.status != 200:
            # Triton is "not ready" while any one model is loaded or unloaded, and serves all the others.
            response = await self._probe_pool.request("GET", "/v2/health/live", b"", timeout=timeout)
        return response.status == 200

    def _began_anew(self) -> bool:
        """Whether the server was started again between two looks.

        The probe keeps one connection. Triton closes none that is idle, so that a new one means a new process;
        other servers may.
        """
        known = self._capabilities
        return known is not None and known.name == "triton" and self._probe_pool.connects != self._probes_seen

    def _well(self) -> None:
        self._seen_well = time.time_ns()
        self._probes_seen = self._probe_pool.connects

    async def _check(self) -> bool:
        """What it is, what it must be brought to, and what it has; whether all of it could be done."""
        known = self._capabilities is not None
        try:
            await self._learn()  # it may be another version now
            if self.restore is not None:
                await self.restore(self)
            if known or self.siblings():
                self._signatures.invalidate_all()
                await self._look_at_models()
                # Warm before it gets weight: connections, and what its models take.
                await asyncio.gather(*(self._known_again(*each) for each in self.wanted()))
        except TidegateError as error:
            fields = {"upstream": self.name, "replica": self.label}
            _log.warning("%s answers, but its check failed: %s", self.label, error.message, extra={"fields": fields})
            return False
        return True

    async def _known_again(self, model: str, version: str) -> None:
        if self._index is None or self._index.has(model, version):
            try:
                await self._signatures.get(model, version)
            except TidegateError as error:
                if isinstance(error, Unreachable):
                    raise
                # It does not have it, or not yet: it is up for the others.

    async def _look_at_models(self) -> None:
        """Which models are ready there; forget those that are gone, ask about those that callers want."""
        timeout = self.settings.health.timeout
        try:
            response = await self._probe_pool.request(
                "POST", READY_INDEX.target, READY_INDEX.headers, (READY_INDEX.body,), timeout=timeout
            )
            self._index = ReadyModels.of(response)
        except Unreachable:
            raise
        except TidegateError:
            return  # what was known stays; the next look is soon
        index = self._index
        if index is not None:
            for model, version in self._signatures.known:
                if not index.has(model, version):
                    self._signatures.invalidate(model)
        for model, version in self.wanted():
            if (index is None or index.has(model, version)) and self._signatures.is_due(model, version):
                self._signatures.ask(model, version)

    def _came(self) -> None:
        now = time.monotonic()
        self._well()
        self.came_at = now
        self.warm_at = now + self.settings.health.warmup if self.siblings() else 0.0
        self.outlier.until = min(self.outlier.until, now)
        for breaker in [served.breaker for served in self.traffic.values()]:
            breaker.recovered(now)
        self._counters.on_event("replica_up", upstream=self.name, replica=str(self.number))
        _log.info("%s is up", self.label, extra={"fields": {"upstream": self.name, "replica": self.label}})
        self._settle()

    def _fell(self) -> None:
        self._lives.fell(self.life_key, self._seen_well)
        self._counters.on_event("replica_down", upstream=self.name, replica=str(self.number))
        _log.warning("%s is down", self.label, extra={"fields": {"upstream": self.name, "replica": self.label}})
        self._settle()

    def _settle(self) -> None:
        self.usable = self._health.phase == "up" and not self.draining
        self._changed()

    def _changed(self) -> None:
        for listener in tuple(self.listeners):
            listener()


class _ServerPage(msgspec.Struct):
    name: str = ""
    version: str = ""
    extensions: list[str] = []


_SOON = 0.05  # seconds
_ERROR_PAGE = 1024 * 1024  # bytes; Triton's error texts are a few hundred


def _must_drain(page: _ServerPage) -> bool:
    if page.name != "triton":
        return False
    major, _, rest = page.version.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdigit() and minor.isdigit()):
        return True
    return (int(major), int(minor)) <= _CANCEL_UNSAFE_UP_TO


def _header_length(response: Response) -> int | None:
    text = response.header(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isdigit():
        raise BadGateway("the model server's answer could not be understood", detail=f"IHCL {text!r}")
    return int(text)
