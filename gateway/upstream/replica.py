"""One model server (a replica of an upstream): what it can, whether it answers, and inference through it.

Contract: `infer` takes a call whose inputs are raw (`wire.validate.check`) and sends it in the form this
server takes: OIP's binary extension where it has it, else plain JSON. What the server answers with an error
is `UpstreamAnswered`, in its words and with its status. Nothing here knows routes, callers or policy.

`start` must be called in the event loop that serves; `close` ends everything that `start` and calls began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from gateway import settings
from gateway.errors import BadGateway, TidegateError, Unsupported
from gateway.upstream.answers import error_of
from gateway.upstream.events import Counters, Silent
from gateway.upstream.grpc_channel import GrpcChannel
from gateway.upstream.grpc_stream import ModelStream
from gateway.upstream.http_head import header_block, split_address
from gateway.upstream.http_response import Response
from gateway.upstream.http_stream import Stream
from gateway.upstream.pool import NOT_REACHED, Headers, Pool
from gateway.upstream.signatures import Signatures
from gateway.upstream.targets import model_target
from gateway.wire import http as codec
from gateway.wire.types import Buffer, InferAnswer, InferCall
from gateway.wire.validate import ModelSignature

PROBE_SECONDS = 1.0
"""Between two looks at the readiness page (Kubernetes' and Envoy's usual order of magnitude)."""
PROBE_TIMEOUT = 2.0
"""A readiness page that takes longer counts as not ready."""
LEARN_TIMEOUT = 5.0
"""Longest time for the server's metadata."""

_OTHER_STREAMS = "mlserver"
"""Its `ModelStreamInfer` answers `ModelInferResponse`: read as Triton's, the model's name would be an
error."""
_BINARY = "binary_tensor_data"
_CANCEL_UNSAFE_UP_TO = (2, 51)
"""Triton up to this version can end with signal 11 when a stream is closed while its model still sends."""
_JSON = b"content-type: application/json\r\n"


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
    """

    def __init__(
        self, name: str, http: str, grpc: str | None, config: settings.Upstream, *, counters: Counters | None = None
    ) -> None:
        self.name = name
        self.address = http
        self.settings = config
        self._grpc_address = grpc
        self._counters = counters or Silent()
        host, port = split_address(http)
        self._pool = Pool(host, port, connections=config.connections, name=name, counters=self._counters)
        # Its own connection: under load the probe must not queue behind the calls whose server it looks
        # after.
        self._probe_pool = Pool(host, port, connections=1, name=name)
        self._signatures = Signatures(self._pool)
        self._grpc = GrpcChannel(grpc, name=name, counters=self._counters)
        self._capabilities: Capabilities | None = None
        self._ready = False
        self._probing: asyncio.Task[None] | None = None
        self._learning: asyncio.Task[Capabilities] | None = None

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Look once whether it answers, then every second. Never fails: a server may come later."""
        if self._probing is None:
            await self._probe()
            self._probing = asyncio.get_running_loop().create_task(self._probe_forever())

    async def close(self, drain: float = 0.0) -> None:
        """Let calls under way finish within `drain` seconds, then end them."""
        tasks = [task for task in (self._probing, self._learning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._signatures.close()
        await asyncio.gather(self._pool.close(drain), self._probe_pool.close(), self._grpc.close(drain))

    def ready(self) -> bool:
        """Whether it answered as ready, or at least as live, when it was last asked (a second or so ago)."""
        return self._ready

    @property
    def capabilities(self) -> Capabilities | None:
        """What it said of itself; None until it answered once."""
        return self._capabilities

    @property
    def drain_streams(self) -> bool:
        """Whether a stream whose client left must be read to its end; so for servers not yet known."""
        known = self._capabilities
        return self.settings.drain_streams != "never" if known is None else known.drain_streams

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

    # -- calls -----------------------------------------------------------------------------------------------

    async def infer(
        self,
        call: InferCall,
        *,
        model: str,
        version: str = "",
        headers: Sequence[tuple[str, str]] = (),
        timeout: float,
    ) -> InferAnswer:
        """One inference over HTTP.

        Outputs are views of the response, or JSON text from servers without the binary extension.

        Args:
            call: its inputs hold `data` or `shm`.
            model: the model's name on this server.
            version: "" is the server's own choice.
            headers: what else travels; neither framing nor content type.
            timeout: seconds for everything.

        Raises:
            UpstreamAnswered: the server's own error.
            Unreachable, BadGateway, DeadlineExceeded: no answer.
            BadRequest: a header cannot be sent, or FP16/BF16 for a server that takes JSON only.
        """
        known = self._capabilities or await self._learn()
        binary = known.binary
        header_length, parts = codec.encode_request(call, want_binary=binary, binary_input=binary)
        block = header_block(headers)
        if header_length is None:
            block += _JSON
        else:
            block += (
                b"inference-header-content-length: %d\r\ncontent-type: application/octet-stream\r\n" % header_length
            )
        target = model_target(model, version, "infer")
        response = await self._pool.request("POST", target, block, parts, timeout=timeout)
        if response.status != 200:
            raise error_of(response)
        return codec.decode_response(response.body, _header_length(response))

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
        return await self._pool.request(method, target, block + _JSON if body else block, parts, timeout=timeout)

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
        stream = await self._pool.stream("POST", target, header_block(headers) + _JSON, (body,), timeout=timeout)
        if stream.status != 200:
            async with stream:
                page_body = await stream.read(_ERROR_PAGE)
            raise error_of(Response(stream.status, stream.headers, page_body))
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
        return self._grpc_address is not None

    async def unary(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float,
    ) -> bytes:
        """One gRPC call of `inference.GRPCInferenceService`, bytes in and out; see `GrpcChannel.unary`."""
        return await self._grpc.unary(method, request, metadata=metadata, timeout=timeout)

    def open_stream(self, *, metadata: Sequence[tuple[str, str]] = ()) -> ModelStream:
        """A `ModelStreamInfer` stream; the connection is made by its first call.

        Raises:
            Unsupported: the settings give this server no gRPC address, or its streams are not Triton's.
            BadRequest: the metadata cannot be sent.
        """
        if self._grpc_address is None:
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

    async def _probe_forever(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._probe()

    async def _probe(self) -> None:
        try:
            response = await self._probe_pool.request("GET", "/v2/health/ready", b"", timeout=PROBE_TIMEOUT)
            if response.status != 200:
                # Triton is "not ready" while any one model is loaded or unloaded, and serves all the others.
                response = await self._probe_pool.request("GET", "/v2/health/live", b"", timeout=PROBE_TIMEOUT)
            ready = response.status == 200
            if ready and not self._ready:
                # First contact, or back again: it may be another version now.
                await self._learn()
        except TidegateError:
            ready = False
        if not ready:
            self._counters.on_event("probe_failed", upstream=self.name)
        if ready != self._ready:
            self._ready = ready
            self._counters.on_event("up" if ready else "down", upstream=self.name)


class _ServerPage(msgspec.Struct):
    name: str = ""
    version: str = ""
    extensions: list[str] = []


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
