"""One model server (a replica of an upstream): inference through it, and what is known of it.

Contract: `infer` takes a call whose inputs are raw (`wire.validate.check`) and sends it in the form this
server takes: OIP's binary extension where it has it, else plain JSON. What the server answers with an error
is `UpstreamAnswered`, in its words and with its status. `watch.py` looks after it. Nothing here knows routes,
callers or policy.

`start` must be called in the event loop that serves; `close` ends everything that `start` and calls began.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeAlias

from gateway import settings
from gateway.errors import CircuitOpen, TidegateError, Unreachable, Unsupported, UpstreamAnswered, UpstreamError
from gateway.upstream.answers import error_of, header_length_of
from gateway.upstream.capabilities import TRITON, Capabilities
from gateway.upstream.counts import Counted
from gateway.upstream.ejection import Outlier
from gateway.upstream.events import Counters, Silent
from gateway.upstream.grpc_channel import Engine, GrpcChannel
from gateway.upstream.grpc_stream import ModelStream
from gateway.upstream.http_head import header_block, split_address
from gateway.upstream.http_response import Response
from gateway.upstream.http_stream import Stream
from gateway.upstream.lives import Lives, MemoryLives, life_key
from gateway.upstream.plan import Begun
from gateway.upstream.pool import Headers, Pool
from gateway.upstream.served import Traffic
from gateway.upstream.shm_calls import FROM, SharedCalls
from gateway.upstream.shm_ring import PREFIX, Ring
from gateway.upstream.signatures import Signatures
from gateway.upstream.targets import model_target
from gateway.upstream.tls import UpstreamTls
from gateway.upstream.watch import LEARN_TIMEOUT, Watch
from gateway.wire import by_heart
from gateway.wire.types import Buffer, InferAnswer, InferCall

_OTHER_STREAMS = "mlserver"
"""Its `ModelStreamInfer` answers `ModelInferResponse`: read as Triton's, the model's name would be an error."""
_JSON = b"content-type: application/json\r\n"
_BINARY = b"inference-header-content-length: %d\r\ncontent-type: application/octet-stream\r\n"
_UNKNOWN_MODEL = "Request for unknown model:"
"""Triton's words (core, src/model_repository_manager/model_repository_manager.cc), followed by the model's name."""
_ERROR_PAGE = 1024 * 1024  # bytes; Triton's error texts are a few hundred


State: TypeAlias = Literal["down", "checking", "warming", "ready", "ejected", "draining"]
"""What a replica is for people; see `docs/fleet.md`."""
Restore: TypeAlias = Callable[["Replica"], Awaitable[None]]
"""Brings a replica that came back to the state that was asked for; raises TidegateError when it cannot."""


class Replica(Counted):
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
        ring: memory that a server on this machine may share; None: none.
        engine: what carries gRPC streams.
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
        ring: Ring | None = None,
        engine: Engine = "auto",
    ) -> None:
        self.name = name
        self.address = http
        self.number = number
        self.label = f"{name}[{number}]"
        """Its name in logs and messages, which must not carry addresses."""
        self.settings = config
        self.grpc_address = grpc
        self._counters = counters or Silent()
        self._host = host
        self._tls = tls
        self._pool = self._pool_of(config.connections, self._counters)
        self._probe_pool = self._pool_of(1, None)
        self.signatures = Signatures(self._pool, on_change=self._changed)
        """What is known of its models."""
        self.grpc_channel = GrpcChannel(
            grpc, name=name, counters=self._counters, tls=None if tls is None else tls.grpc_for(host), engine=engine
        )
        self.grpc_again_at = 0.0
        """Loop time until which unary calls of `unary: auto` keep to HTTP."""
        self._lives = lives or MemoryLives()
        self.life_key = life_key(name, http)
        self.in_flight = 0
        """Calls under way; kept by whoever sends them."""
        self.came_at = 0.0
        self.warm_at = 0.0
        """When its warm-up began and ends (monotonic); see `choose.Loaded`."""
        self.usable = False
        """It is up and not being removed: the common case that `Upstream.pick` looks at."""
        self.draining = False
        self.outlier = Outlier()
        """What passive health remembers of it."""
        self.traffic = Traffic(config, self._circuit)
        """What calls find of each model, by its name on this server."""
        self.listeners: list[Callable[[], None]] = []
        """Called when it came up or fell, or when the models that it is known to have are others."""
        self.restore: Restore | None = None
        """What it is brought to before it gets traffic; set by its upstream."""
        self.wanted: Callable[[], Sequence[tuple[str, str]]] = tuple
        """(model, version) that callers ask the upstream for."""
        self.siblings: Callable[[], bool] = bool
        """Whether other replicas serve: then it warms up, and its models are looked at."""
        shares = ring is not None and config.shared_memory == "auto"
        self._shared = SharedCalls(ring, self, name, self._counters) if ring is not None and shares else None
        self._watch = Watch(self, self._probe_pool, self.signatures, self._lives, self._counters)

    def _pool_of(self, connections: int, counters: Counters | None) -> Pool:
        host, port = split_address(self.address)
        tls = self._tls
        return Pool(
            host,
            port,
            connections=connections,
            name=self.name,
            counters=counters,
            tls=None if tls is None else tls.context,
            server_name=None if tls is None else tls.server_name or self._host,
        )

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Look once whether it answers, then regularly. Never fails: a server may come later."""
        await self._watch.start()

    async def close(self, drain: float = 0.0) -> None:
        """Let calls under way finish within `drain` seconds, then end them."""
        await self._watch.close()
        await self.signatures.close()
        if self._shared is not None:
            await self._shared.close(drain)
        await asyncio.gather(self._pool.close(drain), self.grpc_channel.close(drain))
        self.listeners.clear()

    def drain(self) -> None:
        """It is to be removed: no new calls."""
        self.draining = True
        self.traffic.forget(self.settings)
        self.settle()

    def reconfigure(self, config: settings.Upstream) -> None:
        """Other settings of its upstream, its connections apart."""
        self.settings = config
        self._watch.reconfigure()
        self.traffic.forget(config)

    def renew(self, tls: UpstreamTls) -> None:
        """Other certificates, for the connections to come."""
        self._tls = tls
        self._pool.renew(tls.context)
        self._probe_pool.renew(tls.context)
        self.grpc_channel.renew(tls.grpc_for(self._host))

    def rose(self) -> None:
        """It was looked at and is up."""
        now = time.monotonic()
        self.came_at = now
        self.warm_at = now + self.settings.health.warmup if self.siblings() else 0.0
        self.outlier.until = min(self.outlier.until, now)
        self.traffic.recovered(now)
        if self._shared is not None:
            self._shared.region.begin()
        self.settle()

    async def restored(self) -> None:
        """Bring it to what was asked for. Raises TidegateError when that cannot be done now."""
        if self.restore is not None:
            await self.restore(self)

    def _circuit(self, model: str, event: str) -> None:
        self._counters.on_event(event, upstream=self.name, replica=str(self.number), model=model)

    def settle(self) -> None:
        """It rose, fell, or is to be removed: whether it gets calls from now on."""
        self.usable = self._watch.phase == "up" and not self.draining
        self._changed()

    def _changed(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    def ready(self) -> bool:
        """Whether it answered as ready, or at least as live, when it was last asked (a second or so ago)."""
        return self._watch.phase == "up"

    @property
    def state(self) -> State:
        """What it is now."""
        if self.draining:
            return "draining"
        phase = self._watch.phase
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
        return self._watch.capabilities

    @property
    def drain_streams(self) -> bool:
        """Whether a stream whose client left must be read to its end; so for servers not yet known."""
        known = self._watch.capabilities
        return self.settings.drain_streams != "never" if known is None else known.drain_streams

    def heard(self, error: TidegateError, model: str = "") -> None:
        """What a failed call says of the server. Whoever talks to it MUST tell its errors."""
        if isinstance(error, CircuitOpen):
            return  # the gateway's own word: the server was not asked
        if isinstance(error, Unreachable):
            if not error.sent:
                self._watch.refused()
            self._watch.look_soon()
        elif model and self.lacks(model, error):
            self.signatures.invalidate(model)

    def lacks(self, model: str, error: TidegateError) -> bool:
        """Whether an answer to a call says that the server does not have the model, or not that version of it.

        Triton has words for that; a model's own NOT_FOUND, of what it looked up, has others, and is the answer.
        """
        if not isinstance(error, UpstreamAnswered) or error.status != 404:
            return False
        known = self._watch.capabilities
        return known is None or known.name != TRITON or error.message.startswith(f"{_UNKNOWN_MODEL} '{model}'")

    # -- metadata --------------------------------------------------------------------------------------------

    def forget_model(self, model: str) -> None:
        """It was loaded, unloaded or replaced."""
        self.signatures.invalidate(model)

    def has(self, model: str, version: str) -> bool:
        """Whether it is known to have the model version; no also means not known."""
        return self.signatures.knows(model, version)

    def lists(self, model: str, version: str) -> bool:
        """Whether its index has the model version as ready, though what it takes may not be known yet."""
        return self._watch.lists(model, version)

    @property
    def models(self) -> tuple[tuple[str, str], ...]:
        """(model, version) that it has, as far as is known; "" is its own choice of version."""
        return self._watch.models

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
        again: bool = False,
        begun: Begun | None = None,
    ) -> InferAnswer:
        """One inference over HTTP, its large tensors by shared memory where the server is on this machine.

        Outputs are views of the response or of that memory, or JSON text from servers without the binary extension.

        Args:
            call: its inputs hold `data` or `shm`.
            model: the model's name on this server.
            version: "" is the server's own choice.
            headers: what else travels; neither framing nor content type.
            timeout: seconds for everything.
            tell: a Triton is told what is left of it, as the request's `timeout` (microseconds).
            again: it may run twice.
            begun: it was sent already, without shared memory.

        Raises:
            UpstreamAnswered: the server's own error.
            Unreachable, BadGateway, DeadlineExceeded: no answer.
            BadRequest: a header cannot be sent, or FP16/BF16 for a server that takes JSON only.
        """
        server = self._watch.capabilities
        if server is None:
            server, timeout = await self._watch.learn_within(timeout)
        binary = server.binary
        left = int(timeout * 1e6) if tell and server.name == TRITON else 0
        block = header_block(headers)
        target = model_target(model, version, "infer")
        shared = self._shared
        if shared is None or begun is not None or not shared.carries(call, model, version):
            head, parts = _formed(call, block, left, binary=binary) if begun is None else (b"", [])
            try:
                response = await self._pool.request("POST", target, head, parts, timeout=timeout, begun=begun)
            except Unreachable as error:
                self.heard(error)
                raise
            answer = self._answer(response, model)
            if shared is not None and len(response.body) >= FROM:
                shared.saw(model, version, answer)
            return answer

        async def send(call: InferCall, timeout: float) -> InferAnswer:
            head, parts = _formed(call, block, left, binary=binary)
            try:
                response = await self._pool.request("POST", target, head, parts, timeout=timeout)
            except Unreachable as error:
                self.heard(error)
                raise
            return self._answer(response, model)

        signature = self.signatures.peek(model, version)
        return await shared.infer(
            call, send, signature=signature, model=model, version=version, timeout=timeout, again=again
        )

    def _answer(self, response: Response, model: str) -> InferAnswer:
        """What a response to a call says; its status need not be 200."""
        if response.status != 200:
            raise self._refused(response, model)
        return by_heart.decode_response(response.body, header_length_of(response))

    def _refused(self, response: Response, model: str) -> UpstreamError:
        """The server's error. Not a local of whoever raises it: the two would hold one another, and the tensors."""
        refusal = error_of(response)
        if PREFIX not in refusal.message:  # else it is about shared memory, and none of the caller's business
            self.heard(refusal, model)
        return refusal

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
            return await self.grpc_channel.unary(method, request, metadata=metadata, timeout=timeout)
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
        known = self._watch.capabilities
        if known is not None and known.name == _OTHER_STREAMS:
            raise Unsupported("this model server's streams differ from Triton's on the wire")
        return ModelStream(
            self.grpc_channel,
            metadata=metadata,
            drain=lambda: self.drain_streams,
            counters=self._counters,
            upstream=self.name,
        )


def _formed(call: InferCall, block: bytes, left: int, *, binary: bool) -> tuple[bytes, list[Buffer]]:
    """Header lines and body of a call in the server's form."""
    header_length, parts = by_heart.encode_request(call, want_binary=binary, binary_input=binary, timeout=left)
    if header_length is None:
        return block + _JSON, parts
    return block + _BINARY % header_length, parts
