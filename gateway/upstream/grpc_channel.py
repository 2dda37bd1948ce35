"""One worker's gRPC channels to one model server, with raw bytes in and out.

Contract: made when it is first needed, inside of the event loop that serves (grpc.aio binds to it, and must
not cross a fork). Messages are not parsed here. Errors are `UpstreamAnswered` with the server's status and
text, or `Unreachable`, `BadGateway`, `DeadlineExceeded`. Unary calls are grpcio's; streams are too, or nghttp2's,
as `listen.grpc_engine` says.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import grpc

from gateway.errors import (
    BadGateway,
    BadRequest,
    DeadlineExceeded,
    TidegateError,
    Unreachable,
    Unsupported,
    UpstreamAnswered,
)
from gateway.upstream.events import Counters
from gateway.upstream.http_response import TOO_LATE
from gateway.upstream.stream_rpc import GrpcioStream, StreamRpc
from gateway.upstream.tls import GrpcTls
from gateway.wire.grpc import NO_EXTENSIONS

if TYPE_CHECKING:
    from gateway.upstream.fast_channel import FastChannel

Engine: TypeAlias = Literal["auto", "nghttp2", "grpcio"]
"""As `listen.grpc_engine`; the door says when nghttp2 cannot be used, and refuses to start where it was asked for."""

SERVICE = "/inference.GRPCInferenceService/"

OPTIONS = (
    # Doors have limited what came in; an answer has the size that the model gave it.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Pings find machines that are gone while calls wait. Triton answers more than two within 300 s of silence
    # (its `--grpc-http2-min-recv-ping-interval-without-data`) by closing the connection, hence 310 s. The
    # timeout also becomes the socket's TCP_USER_TIMEOUT, which finds them in 20 s when data is under way.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # A model server is addressed directly, whatever `http_proxy` says; so do the HTTP pools.
    ("grpc.enable_http_proxy", 0),
    # Channels to the same address do not share a connection: `_answered` looks at the state of this one.
    ("grpc.use_local_subchannel_pool", 1),
)

UNREACHABLE = "the model server cannot be reached"
_BROKEN = re.compile(
    r"Internal error from Core|(?:Failed )?Stream removed\b.*|recvmsg:.*|Socket closed|GOAWAY received.*", re.DOTALL
)
"""grpcio 1.85's own words for streams whose connection breaks (seen with servers that are killed), whatever of
`_BROKEN_CODES` comes with them. With UNAVAILABLE they may come while the channel is still READY, see `_answered`."""
_BROKEN_CODES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
_NOT_CONNECTED = "failed to connect to all addresses"
"""grpcio's words when a call never had a connection."""


_NAME = re.compile(r"[0-9a-z_.\-]+")


class GrpcChannel:
    """The channels to `address`; None: this server has none, and every call is `Unsupported`."""

    def __init__(
        self,
        address: str | None,
        *,
        name: str,
        counters: Counters,
        tls: GrpcTls | None = None,
        engine: Engine = "auto",
    ) -> None:
        self._address = address
        self._name = name
        self._tls = tls
        self._counters = counters
        self._channel: Any = None
        self._engine = engine
        self._streams: FastChannel | None = None
        self._unary: dict[str, Any] = {}
        self._closed = False

    def channel(self) -> Any:
        """The `grpc.aio.Channel`.

        Raises:
            Unsupported: the settings give this server no gRPC address.
            Unreachable: it was closed.
        """
        if self._channel is None:
            address = self._open_address()
            if self._tls is None:
                self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
            else:
                self._channel = self._tls.channel(address, OPTIONS)
            self._counters.on_event("channel", upstream=self._name)
        return self._channel

    def _open_address(self) -> str:
        if self._address is None:
            raise Unsupported("the model server has no gRPC address", detail=f"upstreams.{self._name}.grpc")
        if self._closed:
            raise Unreachable("the gateway is shutting down")
        return self._address

    def stream(self, method: str, metadata: Sequence[tuple[str, str]]) -> StreamRpc:
        """A call of `inference.GRPCInferenceService/METHOD` with a stream of messages each way.

        The metadata has passed `check_metadata`. What goes wrong later is told to the stream's reader.

        Raises:
            Unsupported: the settings give this server no gRPC address.
            Unreachable: it was closed.
        """
        if self._streams is None and self._engine != "grpcio":
            self._streams = self._fast()
        if self._streams is not None:
            return self._streams.open_stream(SERVICE + method, metadata)
        return GrpcioStream(self.channel().stream_stream(SERVICE + method)(metadata=tuple(metadata)), self.error_of)

    def _fast(self) -> FastChannel | None:
        """The connections on nghttp2; None: it is not there, and from now on grpcio carries streams."""
        address, tls = self._open_address(), self._tls
        try:
            if NO_EXTENSIONS:
                raise ImportError
            from gateway.upstream.fast_channel import FastChannel  # noqa: PLC0415 - the extension may not be built
            from gateway.wire._http2_c import load  # noqa: PLC0415 - likewise

            load()
        except (ImportError, OSError):
            self._engine = "grpcio"
            return None
        self._counters.on_event("channel", upstream=self._name)
        return FastChannel(
            address,
            tls=None if tls is None else tls.context,
            server_name=None if tls is None else tls.server_name,
        )

    def renew(self, tls: GrpcTls | None) -> None:
        """Other certificates: the next call makes a channel with them.

        Calls under way keep the old one, which closes when the last of them is over and nobody has it.
        """
        self._tls = tls
        self._channel = None
        self._unary.clear()
        streams, self._streams = self._streams, None
        if streams is not None:
            streams.retire()

    async def unary(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float,
        settle: float = 0.0,
    ) -> bytes:
        """One call of `inference.GRPCInferenceService/METHOD`; `timeout` in seconds.

        `settle`: a caller that is cancelled earlier than this many seconds after the start leaves the call alone
        until then; what has not ended by itself is cancelled then.

        Raises:
            UpstreamAnswered: the server's own status and words.
            Unreachable: no connection, or it broke before the answer.
            DeadlineExceeded: `timeout` is over.
            BadGateway: what answers does not speak gRPC.
            BadRequest: the metadata cannot be sent.
            Unsupported: no gRPC address.
        """
        call = self._unary.get(method)
        if call is None:
            call = self._unary[method] = self.channel().unary_unary(SERVICE + method)
        check_metadata(metadata)
        try:
            rpc = call(request, metadata=tuple(metadata), timeout=timeout)
            answer: bytes = await (_settled(rpc, settle) if settle else rpc)
        except grpc.aio.AioRpcError as error:
            raise self.error_of(error) from None
        except grpc.aio.UsageError as error:  # the channel was closed under it
            raise Unreachable("the gateway is shutting down", detail=str(error)) from None
        return answer

    def error_of(self, error: Any) -> TidegateError:
        """The error that an `AioRpcError` stands for."""
        code: grpc.StatusCode = error.code()
        text: str = error.details() or ""
        detail = f"{self._address}: {code.name}: {text}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(TOO_LATE, detail=detail)
        if code is grpc.StatusCode.UNAVAILABLE and not self._answered():
            return Unreachable(UNREACHABLE, detail=detail, sent=not text.startswith(_NOT_CONNECTED))
        if code in _BROKEN_CODES and _BROKEN.fullmatch(text):
            return Unreachable(UNREACHABLE, detail=detail)
        if text.startswith("Received http2 header with status"):
            return BadGateway("the model server's answer could not be understood", detail=detail)
        return UpstreamAnswered.from_grpc(text, code.name)

    def _answered(self) -> bool:
        """Whether an UNAVAILABLE came from the server: the status alone does not say who made it.

        Seen with grpcio 1.85 and Triton 2.51: the channel stays READY when the server answered UNAVAILABLE,
        is IDLE right after a connection broke and TRANSIENT_FAILURE when none can be made.
        """
        return bool(self.channel().get_state() is grpc.ChannelConnectivity.READY)

    async def close(self, grace: float = 0.0) -> None:
        """Let calls under way finish within `grace` seconds, then cut them."""
        self._closed = True
        channel, self._channel = self._channel, None
        streams, self._streams = self._streams, None
        self._unary.clear()
        closing = [] if channel is None else [channel.close(grace or None)]
        if streams is not None:
            closing.append(streams.close(grace))
        await asyncio.gather(*closing)


async def _settled(rpc: Any, settle: float) -> Any:
    """The call's answer; a cancelled caller cancels the call no earlier than `settle` seconds after its start."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    waiting = loop.create_task(_answer(rpc))
    try:
        await asyncio.wait((waiting,))
    except asyncio.CancelledError:
        left = began + settle - loop.time()
        # The timer holds the task until then. Either way its outcome is looked at: nobody else does.
        waiting.add_done_callback(_look)
        if left > 0:
            loop.call_later(left, waiting.cancel)
        else:
            waiting.cancel()
        raise
    return waiting.result()


async def _answer(rpc: Any) -> Any:
    return await rpc


def _look(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def check_metadata(metadata: Sequence[tuple[str, str]]) -> None:
    """Refuse what gRPC cannot carry, by name, before it breaks the call without saying what is wrong.

    Raises:
        BadRequest: a name or value with characters outside of gRPC's (gRPC over HTTP2, "Custom-Metadata").
    """
    for name, value in metadata:
        if _NAME.fullmatch(name) is None or not (value.isascii() and value.isprintable()):
            raise BadRequest(f"header {name.encode('ascii', 'backslashreplace').decode()!r} cannot travel over gRPC")
