"""One HTTP/1.1 connection to a model server: one request, one response, again and again.

Contract: an `asyncio.Protocol` around llhttp (httptools). A request is written at once; its
response sets one future. No task is made; the awaiting task is woken once. What goes wrong is a
`TidegateError`: `Unreachable` (closed before the whole response), `BadGateway` (not HTTP, or a head beyond
`MAX_HEAD`), `DeadlineExceeded`. After any of them the connection is closed; it is reused only after a whole,
clean response.

`NotSent` tells the pool that the server closed a kept-alive connection before a single byte of the request
had reached its machine, so that sending it again cannot run it twice.

What may be said to clients (`message`) never names the server; `detail` does.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import httptools

from gateway.driven import answer_of
from gateway.errors import BadGateway, DeadlineExceeded, TidegateError, Unreachable
from gateway.upstream.http_response import (
    BODYLESS,
    GARBLED,
    TOO_LATE,
    UNREACHABLE,
    Response,
    content_length,
    remember_head,
)
from gateway.upstream.line import Line
from gateway.wire.types import Buffer

if TYPE_CHECKING:
    from gateway.upstream.http_stream import Stream

MAX_HEAD = 64 * 1024
"""Most bytes of a response's status line and headers, interim responses included (nginx's proxy buffers take
4-8 KiB, Envoy's limit is 60 KiB); beyond: BadGateway."""

EXACT_BELOW = 1.0
"""Requests with less time (seconds) get a timer of their own; the others' deadlines are looked at by the pool
every `TICK`, because a timer per request costs as much as reading a small response."""

JOINED = 64 * 1024
"""Bytes of a request up to which copying it into one piece costs less than writing several."""

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_BYTES_ACKED = struct.Struct("=Q")
_BYTES_ACKED_AT = 120  # in struct tcp_info of linux/tcp.h
_CLOSE_WAIT = 8  # TCP_CLOSE_WAIT: the server has sent its FIN
_ESTABLISHED = 1  # TCP_ESTABLISHED of linux/tcp.h


class NotSent(Exception):
    """The kept-alive connection was closed before the server saw anything of the request."""


class Connection(Line, asyncio.Protocol):
    """One connection; the pool makes it, and gets it back through `on_idle` or loses it through `on_lost`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        peer: str,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        # Per connection
        self._loop = loop
        self._peer = peer  # for `detail` only
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport = None
        self._parser = httptools.HttpResponseParser(self)
        self.closed = False
        self._written = 0  # bytes of all requests
        self._eof = False  # the server has closed in order
        self._secure = False  # over TLS
        self._acked_before = -1  # over TLS: bytes that had arrived when the request was written
        self._untouched = False  # over TLS: none of the request had arrived when the server closed
        self.served = 0  # whole responses so far: above 0 the next request is on a reused connection
        self.idle_since = 0.0  # loop time; owned by the pool
        self.deadline = math.inf  # loop time; looked at by the pool
        # Per request: one of the two is set while somebody waits
        self._future = None
        self._stream = None
        self._timer = None
        self._sent = 0
        self._without_body = False
        # Per response
        self._seen = False  # a byte of it has come
        self._head_done = False
        self._head_bytes = 0
        self._first_head = b""  # of the first chunk
        self._status = 0
        self._collected: list[tuple[bytes, bytes]] = []
        self._headers = ()
        self._body: list[bytes] = []
        self._left = 0  # bytes of a large body still to come, which go around the parser
        self._until_close = False
        self._keep_alive = True
        self._complete = False
        self._surplus = False  # more came than was asked for: the framing cannot be trusted any more

    # -- the pool's side -------------------------------------------------------------------------------------

    def request(
        self, head: bytes, parts: Sequence[Buffer], size: int, timeout: float, *, without_body: bool
    ) -> asyncio.Future[Response]:
        """Write one request; the future gets the response.

        `size`: bytes of head and parts; `timeout`: seconds.
        """
        self._future = future = answer_of(self._loop)
        self._without_body = without_body
        self._write(head, parts, size, timeout)
        return future

    def stream(
        self, stream: Stream, head: bytes, parts: Sequence[Buffer], size: int, timeout: float
    ) -> asyncio.Future[None]:
        """Write one request; the future is done when `stream` has the response's head."""
        self._future = future = self._loop.create_future()
        self._stream = stream
        self._without_body = False
        self._write(head, parts, size, timeout)
        return future

    def _write(self, head: bytes, parts: Sequence[Buffer], size: int, timeout: float) -> None:
        transport = self._transport
        assert transport is not None
        self.begin(size)
        if timeout < EXACT_BELOW:
            self._timer = self._loop.call_later(timeout, self.late)
        else:
            self.deadline = self._loop.time() + timeout
        if not parts:
            transport.write(head)
        elif size <= JOINED:
            transport.write(b"".join((head, *parts)))
        else:
            transport.writelines([head, *parts])

    def _count_arrived(self) -> None:
        self._acked_before, self._untouched = self._acked()[1], False

    def abandon(self, waiter: asyncio.Future[Any] | Stream) -> bool:
        """Close at once because `waiter` waits no more; the server can then cancel the call.

        False when the response is whole already: the connection may serve somebody else by now.
        """
        if waiter is not self._future and waiter is not self._stream:
            return False
        self._future = self._stream = None
        self._abort()
        return True

    def close(self) -> None:
        """Close an idle connection."""
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def abort(self, error: TidegateError) -> None:
        """Close a busy connection; whoever waits gets `error`."""
        self._fail(error)

    def pause(self) -> None:
        """Back-pressure: read no further."""
        if self._transport is not None and not self.closed:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()

    def gone_while_idle(self) -> bool:
        """Whether the server has closed this idle connection, even if the loop has not read that yet."""
        if self.closed or self._transport is None:
            return True
        try:
            sock = self._transport.get_extra_info("socket")
            return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED)
        except (OSError, AttributeError):
            return False  # not Linux, not TCP: `NotSent` below covers it where it can

    # -- asyncio's side --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._secure = transport.get_extra_info("ssl_object") is not None

    def _whole(self, body: bytes) -> None:
        """As `_finish` for what nearly every response is: one segment with a known head, on a connection that stays."""
        self.deadline = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        future, self._future = self._future, None
        self.served += 1
        self._on_idle(self)
        if future is not None and not future.done():
            future.set_result(Response(self._status, self._headers, body))

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete or self._status == 101:  # nobody asked for another protocol
                self._fail(BadGateway(GARBLED, detail=f"{self._peer}: {error or 'upgrade'}"))
                return
            self._surplus = True  # the answer itself was whole
        if self._complete:
            if self._keep_alive and not self._surplus and not self._without_body:
                remember_head(self._first_head, self._status, self._headers)
            self._finish()
        elif not self._head_done:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._fail(BadGateway(GARBLED, detail=f"{self._peer}: response head beyond {MAX_HEAD} bytes"))
        elif self._stream is None and (length := content_length(self._headers)) is not None:
            self._parser = httptools.HttpResponseParser(self)  # this one is in the midst of the body
            self._begin_body(b"".join(self._body), length)

    def _begin_body(self, data: bytes, length: int) -> None:
        # A body of known length is kept as it comes, without the parser's copy of each piece.
        left = length - len(data)
        if left < 0:
            self._surplus = True
            data = data[:length]
        self._body = [data]
        if left > 0:
            self._left = left
        else:
            self._finish()

    def _take_rest(self, data: bytes) -> None:
        left = self._left
        if len(data) > left:
            self._surplus = True
            data = data[:left]
        self._body.append(data)
        self._left = left - len(data)
        if not self._left:
            self._finish()

    def eof_received(self) -> None:
        """The server sends no more: the end of a body without length, else of the connection."""
        self.closed = self._eof = True
        if self._secure:  # asyncio lets go of the socket before `connection_lost`
            state, acked = self._acked()
            self._untouched = state == _CLOSE_WAIT and acked == self._acked_before
        if self._until_close and self._head_done and not self._complete:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits, then the pool."""
        self.closed = True
        if self._future is not None or self._stream is not None:
            if self.served and not self._seen and self._nothing_arrived():
                self._settle(NotSent())
            else:
                self._settle(Unreachable(UNREACHABLE, detail=f"{self._peer}: {exc or 'closed'}"))
        self._transport = None
        self._on_lost(self)

    def _nothing_arrived(self) -> bool:
        """Whether the server closed before anything of the request had reached its machine.

        Its FIN acknowledges all that had: when that (`tcpi_bytes_acked` of TCP_INFO, Linux 4.1 and later,
        which counts the SYN too) is nothing of this request, the program cannot have read any of it. A reset
        without a FIN proves nothing: the request may have run, and its acknowledgement may have been delayed.
        """
        if not self._eof:
            return False
        if self._secure:
            # TLS adds bytes of its own, so what had arrived before the request is counted rather than computed.
            return self._untouched
        _, acked = self._acked()
        return acked >= 0 and acked - 1 <= self._written - self._sent

    def _acked(self) -> tuple[int, int]:
        """State of the connection (linux/tcp.h) and bytes that have arrived; (-1, -1) when not known."""
        assert self._transport is not None
        try:
            sock = self._transport.get_extra_info("socket")
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size + _BYTES_ACKED_AT)
            (acked,) = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)
        except (OSError, ValueError, AttributeError, struct.error):
            return -1, -1  # not known, so not sent again
        return info[0], int(acked)

    # -- llhttp's side ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A head starts: the first, one after an interim response, or one that nobody asked for."""
        if self._complete:
            self._surplus = True
        else:
            self._collected = []
            self._body = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; trailers are dropped, as RFC 9110 6.5.1 allows."""
        if not self._head_done:
            self._collected.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._head_done:
            return  # of a surplus message
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            return  # interim: its `on_message_complete` follows at once
        self._status = status
        self._headers = tuple(self._collected)
        self._head_done = True
        self._keep_alive = self._parser.should_keep_alive()
        if self._without_body:
            # llhttp cannot know that this answers HEAD: the head is the whole message.
            self._complete = True
            return
        if status not in BODYLESS:
            self._until_close = not any(name in _FRAMING for name, _ in self._headers)
        if self._stream is not None:
            self._stream.begin(status, self._headers)
            self._disarm()
            self._began()

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self._complete:
            self._surplus = True
        elif self._stream is not None:
            self._stream.feed(data)
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """The end of the message, or of an interim response."""
        if self._head_done:
            self._complete = True

    # -- ends ------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """A whole response: hand it over, and the connection to the pool or to its end.

        Only after the parser has seen all of the chunk: bytes behind the response must not be taken for the
        answer to the next request, so a connection that sent more than it was asked for is closed. Whoever waits is
        told last: it may go on at once, and send the next request here.
        """
        self._disarm()
        stream, self._stream = self._stream, None
        future, self._future = self._future, None
        response = None
        if stream is None:
            body = self._body
            response = Response(self._status, self._headers, body[0] if len(body) == 1 else b"".join(body))
        self._recycle()
        if stream is not None:
            stream.end()
        elif future is not None and not future.done():  # done: its task was cancelled and has not run yet
            future.set_result(response)

    def _recycle(self) -> None:
        """Give the connection back to the pool, or close it."""
        if self._surplus or self._until_close or not self._keep_alive or self.must_end():
            self._abort()
            return
        if self._without_body:
            self._parser = httptools.HttpResponseParser(self)
        self.served += 1
        self._on_idle(self)

    def late(self) -> None:
        """The answer's time is over."""
        self._fail(DeadlineExceeded(TOO_LATE, detail=self._peer))

    def _fail(self, error: TidegateError) -> None:
        self._settle(error)
        self._abort()

    def _settle(self, error: Exception) -> None:
        self._disarm()
        future, self._future = self._future, None
        stream, self._stream = self._stream, None
        if future is not None:
            if not future.done():
                future.set_exception(error)
        elif stream is not None:
            stream.fail(error)

    def _began(self) -> None:
        """The head of a stream is there."""
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(None)

    def _disarm(self) -> None:
        self.deadline = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _abort(self) -> None:
        self._disarm()
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
