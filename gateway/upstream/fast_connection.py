"""One HTTP/2 connection to a model server: an asyncio protocol around `_grpc_client_c.ClientSession`.

Contract: turns the session's events into what its streams are told, and what those say into bytes. It is `ready` when
the server has said its settings, or an error is told in their place; from then on it takes streams while it has `room`.
After GOAWAY, or `retire`, it takes none and closes when those that it has are over. One clock: while streams wait and
nothing comes, a ping asks whether the server is still there.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from gateway import logs
from gateway.errors import BadGateway, TidegateError, Unreachable
from gateway.upstream._grpc_client_c import ClientSession
from gateway.upstream.fast_stream import FastStream
from gateway.upstream.http_response import GARBLED, UNREACHABLE
from gateway.wire._http2_c import (
    BAD_FRAME,
    CALL,
    CLOSED,
    HALF_CLOSED,
    MESSAGE,
    PINGED,
    PONGED,
    TOO_LARGE,
    ProtocolError,
)

_log = logs.get("upstream")

PING_AFTER_S: Final = 310.0
PING_WITHIN_S: Final = 20.0
"""As `grpc_channel.OPTIONS` has them, and for its reasons."""
_METADATA: Final = 64 * 1024
"""Bytes of an answer's header lists; as the HTTP pools' `MAX_HEAD`."""
_MOST_CHATTER: Final = 10_000
"""Frames without a call's work among them: more than any server sends, and a loop of them does not go on for ever."""


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        authority: the server as HTTP/2 names it: host and port.
        peer: for `detail` only.
        on_change: called when it has become ready, has room again, or has closed.
    """

    _transport: asyncio.Transport

    def __init__(self, authority: str, peer: str, on_change: Callable[[Connection], None], *, secure: bool) -> None:
        self.scheme = "https" if secure else "http"
        self.authority = authority
        self._peer = peer
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self.session = ClientSession(_METADATA)
        self.ready: asyncio.Future[None] = self._loop.create_future()
        """The server has said its settings; an exception is a TidegateError."""
        self.closed = False
        self.writers: set[FastStream] = set()
        """Streams that wait for room."""
        self._retired = False
        self._paused = False
        self._flushing = False
        self._full = False
        """The server allows no more streams."""
        self._garbled = ""
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._loop.time()
        self._asked: float | None = None

    @property
    def room(self) -> bool:
        """Whether it takes one more stream."""
        if self.closed or self._retired or self.session.leaving or not self.session.greeted:
            return False
        self._full = len(self.session.calls) >= self.session.most_calls
        return not self._full

    # --- the channel's side -----------------------------------------------------------------------------------

    def begin(self, stream: FastStream) -> None:
        """Open a stream."""
        try:
            stream.begin(self)
        except OverflowError:  # 2^30 streams were opened here
            self.retire()
            stream.over(Unreachable(UNREACHABLE, detail=f"{self._peer}: no stream numbers left", sent=False))
            return
        if self._timer is None:
            self._heard = self._loop.time()
            self._timer = self._loop.call_later(PING_AFTER_S, self._look)
        self.flush_soon()

    def retire(self) -> None:
        """Take no more streams, and close when those that there are have ended."""
        self._retired = True
        self._close_if_done()

    def abort(self) -> None:
        """Cut it; its streams end with an error."""
        if not self.closed:
            self._transport.abort()

    # --- asyncio's side ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our settings."""
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":  # RFC 9113, 3.2: what is spoken is agreed on
            self._garbled = "TLS without h2"
            self._transport.close()
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:  # finds a machine that is gone while data is under way
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(PING_WITHIN_S * 1000))
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Bytes of the server."""
        self._heard, self._asked = self._loop.time(), None
        self._flushing = True  # once, below, for all that is said to what came
        try:
            self._handle(self.session.receive(data))
        except ProtocolError as error:
            self._fault(str(error))
            return
        finally:
            self._flushing = False
        if self.session.chatter > _MOST_CHATTER:
            self._fault("too many frames for nothing")
            return
        self.flush()
        if self.session.greeted and not self.ready.done():
            self.ready.set_result(None)
            self._on_change(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its streams end."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        detail = f"{self._peer}: {self._garbled or exc or 'closed'}"
        if not self.ready.done():
            self.ready.set_exception(self._lost(detail, sent=False))
        for stream in self.session.lost():
            stream.over(self._lost(detail, sent=stream.opened))
            stream.sending()
        self._on_change(self)

    def _lost(self, detail: str, *, sent: bool) -> TidegateError:
        if self._garbled:
            return BadGateway(GARBLED, detail=detail)
        return Unreachable(UNREACHABLE, detail=detail, sent=sent)

    def pause_writing(self) -> None:
        """The server does not take what is sent; the rest stays in the session."""
        self._paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        self.flush()

    # --- out ---------------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send what there is to be sent, with what is said until the loop's next turn."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        """Send what there is to be sent."""
        if self.closed or self._paused or self._transport.is_closing():
            return
        session = self.session
        try:
            pieces = session.take()
        except ProtocolError as error:
            self._fault(str(error))
            return
        if isinstance(pieces, bytes):
            self._transport.write(pieces)
        elif pieces is not None:
            self._transport.writelines(pieces)
        if session.events:
            self._handle(session.late_events())
        if self.writers:
            for stream in tuple(self.writers):
                stream.sending()
        if session.over:
            if not session.leaving and not self._retired:  # nghttp2 has said what is wrong, in a GOAWAY
                self._garbled = "not HTTP/2"
            self._transport.close()

    def _fault(self, why: str) -> None:
        _log.debug("a gRPC connection to a model server ends: %s", why)
        self._garbled = why
        self._transport.abort()

    def _close_if_done(self) -> None:
        if self._retired and not self.session.calls and not self.closed:
            self.session.goaway()
            self.flush()
            self._transport.close()

    # --- in ----------------------------------------------------------------------------------------------------

    def _handle(self, events: list[tuple[int, Any, Any]]) -> None:
        for kind, stream, what in events:
            _HANDLERS[kind](self, stream, what)

    def _headed(self, stream: FastStream, _: None) -> None:
        stream.headed()

    def _message(self, stream: FastStream, what: tuple[bytes, bool]) -> None:
        stream.arrived(*what)

    def _half_closed(self, stream: FastStream, _: None) -> None:
        stream.finished_by_server()

    def _bad_message(self, stream: FastStream, _: int) -> None:
        stream.broken("no message of gRPC")

    def _closed(self, stream: FastStream, code: int) -> None:
        stream.closed(code)
        if self._full:
            self._on_change(self)
        self._close_if_done()

    def _nothing(self, *_: None) -> None:
        """Any byte of the server is a sign of life."""

    # --- the clock ---------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._timer = None
        if not self.session.calls:
            return
        now = self._loop.time()
        if self._asked is not None and now - self._asked >= PING_WITHIN_S:
            _log.debug("a gRPC connection to a model server ends: no answer to a ping")
            self._transport.abort()
            return
        silent = now - self._heard
        if silent < PING_AFTER_S:
            self._timer = self._loop.call_later(PING_AFTER_S - silent, self._look)
            return
        if self._asked is None:
            self._asked = now
            self.session.ping()
            self.flush()
        self._timer = self._loop.call_later(PING_WITHIN_S, self._look)


_HANDLERS: Final[dict[int, Callable[[Connection, Any, Any], None]]] = {
    CALL: Connection._headed,  # noqa: SLF001 - the table of this file
    MESSAGE: Connection._message,  # noqa: SLF001
    HALF_CLOSED: Connection._half_closed,  # noqa: SLF001
    CLOSED: Connection._closed,  # noqa: SLF001
    TOO_LARGE: Connection._bad_message,  # noqa: SLF001
    BAD_FRAME: Connection._bad_message,  # noqa: SLF001
    PINGED: Connection._nothing,  # noqa: SLF001
    PONGED: Connection._nothing,  # noqa: SLF001
}
"""By the kind of an event."""
