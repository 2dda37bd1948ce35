"""One client connection of the HTTP/1.1 server: uvicorn's protocol with what it lacks for a front door.

Adds to uvicorn's httptools protocol: time limits for request headers (`limits.header_timeout`), for clients that
do not read (`send_timeout`) and for connections without a request (`idle_timeout`), a limit on connections, a call
when the client of a request in progress goes away (uvicorn only says so to someone who waits in `receive`), and
refusals in the shape of every other error. Framing that two servers could read differently is refused
(RFC 9112 section 11.2), and answers come in the order of the requests, refusals too; docs/hostile-wire.md has the
table.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.doors.sending import SendClock
from gateway.headers import request_id
from gateway.settings import Limits
from gateway.tls import PeerCertificate, certificate_of
from gateway.wire.types import Buffer

CONNECTION_KEY = "tidegate.connection"
"""Scope key of the connection, an object with `on_lost`."""
SPELLING_KEY = "tidegate.spelling"
"""Scope key of the header names as sent, by lower-case name, where the two differ."""

# As later versions of Triton have it: past it a chunked body costs more to take apart than to serve.
_MOST_CHUNKS = 65_536
# A body that was refused (413) is read on for this long, or `limits.body_timeout` where that is shorter, so that a
# client that sends first and reads later comes to read the answer instead of a reset (as nginx's lingering_close).
_LINGER_S = 10.0

# Names and values of one request's headers: Triton's HTTP server closes the connection somewhat beyond (and 16 KiB
# is what Node.js allows). What comes while they are too many is not kept.
_MOST_HEADER_BYTES = 15 * 1024
# Bytes of a chunked message that are no body: sizes, extensions, trailers. As many chunks as there may be, each with
# a size line of 16 bytes; nobody uses extensions.
_MOST_FRAMING_BYTES = _MOST_CHUNKS * 16
# Headers that say where a message ends or whom it is for, and so get a look of their own.
_WATCHED: Final = frozenset({b"host", b"transfer-encoding", b"content-length", b"expect"})
# RFC 3986 section 3.2: a registered name or address with a port; no user, no list, no path.
HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+;=-]*)(?::[0-9]*)?")
LARGE: Final = 64 * 1024
"""Bytes from which copying a body behind its head costs more than handing the pieces over, and changing the
transport's protocol for a request's body, 30 us, less than its copies."""


class FrontDoorProtocol(HttpToolsProtocol):
    """One client connection."""

    limits: ClassVar[Limits] = Limits()
    """Those in force; another snapshot's after a reload."""
    _header_timer: asyncio.TimerHandle | None = None
    _send_clock: SendClock | None = None
    _in_trailers = False
    """The head of the message is complete and its end has not come: header lines are trailers now."""
    _chunked = False
    _head_received = 0
    """Bytes of the segments since the one in which the head began."""
    _head_began = False
    """A head began in the segment that is being read."""
    _framing = 0
    """Bytes of a chunked message that came and were no body."""
    _last_host = b"localhost"
    """The last value that was found good: the next request of a connection has the same."""
    _served: RequestResponseCycle | None = None
    task: asyncio.Task[None] | None = None
    """Serves the request in progress."""
    _close_after: object | None = None
    """The request whose answer was sent before its body had come, when the connection then ends."""
    _read_on: object | None = None
    """The request that was answered before its body had come, and has a clock for the rest of it."""
    _refusal = b""
    """The answer to what could not be read, which waits for those of the requests before it."""
    relieved: ClassVar[bool] = False
    """Another process takes the new connections: each answer says `connection: close`."""
    certificate: PeerCertificate | None = None
    """The client's, verified in the handshake; None: it showed none."""
    on_lost: Callable[[], None] | None = None
    """Called when the connection ends before the request in progress was answered; set by the door, for
    one request at a time (later pipelined requests have not started then)."""

    def connection_made(self, transport: Any) -> None:
        """Read the client's certificate, start the clock of those that never say a word, refuse one too many."""
        super().connection_made(transport)
        self.timeout_keep_alive = self.limits.idle_timeout  # type: ignore[assignment]  # a duration like any other
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if len(self.connections) > self.limits.connections:
            self._refuse(b"503 Service Unavailable", "too many connections", b"retry-after: 1\r\n")
            return
        handshake = transport.get_extra_info("ssl_object")
        if handshake is not None and (encoded := handshake.getpeercert(binary_form=True)) is not None:
            self.certificate = certificate_of(encoded)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request in progress that nobody waits for it any more."""
        self._stop_header_timer()
        self._stop_send_clock()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if self._served is not None:
            # uvicorn tells the request that is being read; with pipelining the one being served is another.
            self._served.disconnected = True
            self._served.message_event.set()
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Start the clock at the first byte; the parser's callbacks stop it at the end of the headers.

        The clock starts before parsing so that a request whose start line never ends is cut as well.
        """
        if self._refusal:
            return  # nothing is read behind it
        if self._header_timer is None and not self._in_trailers and not self._in_body():
            self._header_timer = self.loop.call_later(self.limits.header_timeout, self._headers_late)
        self._head_began = False
        if self._chunked:
            self._framing += len(data)
            super().data_received(data)
            if self._framing > _MOST_FRAMING_BYTES and not self.transport.is_closing():
                self.send_400_response("the chunked body has more framing than content")
        else:
            super().data_received(data)
        if self._in_trailers and self._read_on is not self.cycle and not self._in_body():
            # Answered without its body, which nobody reads against a clock; and uvicorn stopped the one of idleness.
            self._end_reading()
        elif self._header_timer is not None and not self._head_began and not self.transport.is_closing():
            # A segment that is all head. The parser keeps a name or a value until it ends: one that never does is
            # not seen by `on_header`.
            self._head_received += len(data)
            if self._head_received > _MOST_HEADER_BYTES and not self._in_trailers:
                self._too_large()

    def pause_writing(self) -> None:
        """The client reads too slowly: from now on it must take so much at a time."""
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        """It does again; a connection that only waits for its end goes on being watched."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_send_clock()

    def _watch_sending(self) -> None:
        self._stop_send_clock()
        self._send_clock = SendClock(self.transport, lambda: self.limits.send_timeout)

    def _stop_send_clock(self) -> None:
        if self._send_clock is not None:
            self._send_clock.stop()
            self._send_clock = None

    def _close(self) -> None:
        """Close, after what waits to be sent has been taken: a close alone would wait for ever."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch_sending()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came within `limits.idle_timeout`."""
        if not self.transport.is_closing():
            self._close()

    def _in_body(self) -> bool:
        return self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """As uvicorn's, and remembers what is being served, so that it can be told of a client that leaves."""
        self._served = cycle
        self.task = self.loop.create_task(cycle.run_asgi(app))
        self.task.add_done_callback(self.tasks.discard)
        self.tasks.add(self.task)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the spelling that uvicorn throws away, count, and look at what frames the message."""
        if self._in_trailers:
            return  # they came after the head was judged: none of them may act as if it had been in it
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MOST_HEADER_BYTES:
            return  # refused at their end
        lower = name.lower()
        if lower != name:
            self._spelling[lower.decode("latin-1")] = name.decode("latin-1")
        if lower in _WATCHED:
            self._on_watched(lower, value)
        self.headers.append((lower, value))

    def _on_watched(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
            if value != self._last_host:
                if HOST.fullmatch(value) is None:
                    self._fault = "the Host header is not a host"
                    return
                self._last_host = value
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        else:
            self._has_body = True
            if name == b"transfer-encoding":
                self._chunked = True
                self._framing = 0
                if value.lower() != b"chunked":  # other codings, lists of them, and what is only like the word
                    self._fault = "Transfer-Encoding must be chunked"

    def _fault_of_head(self) -> str:
        """What is wrong with the framing or the address of this request; empty: nothing."""
        if self._fault:
            return self._fault
        version = self.parser.get_http_version()
        if version == "1.1":
            if self._hosts != 1:
                return "a request needs one Host header"
        elif self._hosts > 1:
            return "a request needs one Host header"
        elif version == "1.0":
            if self._chunked:
                return "HTTP/1.0 has no Transfer-Encoding"
        else:
            return "HTTP/1.1 is spoken here"
        # The parser takes no body of a request that asks to change protocols, but the proxy before us may send one.
        if self.parser.should_upgrade() and self._has_body:
            return "a request that asks for another protocol must not have a body"
        return ""

    def on_headers_complete(self) -> None:
        """Stop the clock and judge the head."""
        self._stop_header_timer()
        self._in_trailers = True
        if self._header_bytes > _MOST_HEADER_BYTES:
            self._too_large()
        elif not self.transport.is_closing():
            fault = self._fault_of_head()
            if fault:
                self.send_400_response(fault)
        if self._refusal or self.transport.is_closing():
            return  # refused: what follows in the same segment is not served
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        """The head was found good: uvicorn begins the request, and the door finds the connection in its scope."""
        self.scope[SPELLING_KEY] = self._spelling  # type: ignore[literal-required]  # our own key
        self.scope[CONNECTION_KEY] = self  # type: ignore[literal-required]  # our own key
        super().on_headers_complete()
        if self.relieved or self.parser.should_upgrade():
            # The other protocol is not spoken, and the parser reads nothing after its request.
            self.cycle.keep_alive = False

    def on_message_begin(self) -> None:
        """A pipelined request that begins in the middle of a segment has a clock of its own."""
        super().on_message_begin()
        self._spelling: dict[str, str] = {}
        self._header_bytes = self._hosts = self._chunks = self._head_received = 0
        self._head_began = True
        self._fault = ""
        self._in_trailers = self._chunked = self._has_body = False
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.limits.header_timeout, self._headers_late)

    def on_chunk_header(self) -> None:
        """Count the chunks of a body; raising makes the parser stop, which is answered with 400."""
        self._chunks += 1
        if self._chunks > _MOST_CHUNKS + 1:  # the last one is empty
            raise ValueError(f"a body of more than {_MOST_CHUNKS} chunks")

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_late(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self._refuse(b"408 Request Timeout", "the request headers did not arrive in time")

    def on_body(self, body: bytes) -> None:
        """Of a refused request nothing is kept."""
        if self._chunked:
            self._framing -= len(body)
        if not self._refusal and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The rest of a refused body has been read: close, where the client asked for it."""
        self._in_trailers = False
        if self._refusal or self.transport.is_closing():
            return
        self._chunked = False
        super().on_message_complete()
        if self._close_after is not None and self._close_after is self.cycle:
            self.transport.close()

    def has_whole_body(self, scope: Any) -> bool:
        """Whether the request of this scope is the one being read and its body has ended."""
        cycle = self.cycle
        return cycle.scope is scope and not cycle.more_body and not cycle.disconnected

    def answer(
        self,
        scope: Any,
        status: int,
        headers: Sequence[tuple[bytes, bytes]],
        body: Buffer,
        more: Sequence[Buffer] = (),
    ) -> bool:
        """Write a whole answer at once: one system call and one segment where two ASGI messages take two.

        Args:
            scope: of the request that it answers.
            status: one of those in `http.HTTPStatus`.
            headers: complete with content-length; names and values are the gateway's own or were validated.
            body: as is.
            more: what follows it; read until it has been sent.

        Returns:
            False when ASGI's way must be taken: the connection is to be closed, its client reads slowly or is
            gone, another request is being served on it, or the answer has no body (HEAD).
        """
        cycle = self._served
        if cycle is None or cycle.scope is not scope or cycle.response_started or cycle.disconnected:
            return False
        if not cycle.keep_alive or self.flow.write_paused or scope["method"] == "HEAD":
            return False
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n")
        if more or len(body) >= LARGE:
            self.transport.writelines((b"".join(parts), body, *more))
        else:
            self.transport.write(b"".join((*parts, body)))
        # What uvicorn's `send` leaves behind after the last message.
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True

    def linger(self) -> None:
        """Read on for a while and throw away, then close; unless the message ends before.

        MUST be called before the answer starts: uvicorn closes at its end when the client asked for that, and
        a close with unread bytes resets the connection under the answer.
        """
        cycle = self.cycle
        if not cycle.keep_alive and cycle.more_body:
            cycle.keep_alive = True
            self._close_after = cycle
        self._end_reading()

    def _end_reading(self) -> None:
        """The rest of this message has to come within the time for lingering."""
        cycle = self._read_on = self.cycle

        def late() -> None:
            if self.cycle is cycle and self._in_trailers:
                self.transport.close()

        self.loop.call_later(min(_LINGER_S, self.limits.body_timeout), late)

    def send_400_response(self, msg: str) -> None:
        """Framing that cannot be understood: 400 in the shape of every error, and the connection closes."""
        self._stop_header_timer()
        self._refuse(b"400 Bad Request", msg.rstrip("."))

    def _too_large(self) -> None:
        self._stop_header_timer()
        self._refuse(b"431 Request Header Fields Too Large", f"the headers exceed {_MOST_HEADER_BYTES} bytes")

    def _refuse(self, status: bytes, message: str, extra: bytes = b"") -> None:
        if self._refusal or self.transport.is_closing():
            return
        body = msgspec.json.encode({"error": message})
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers or ()}
        self._refusal = (
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n"
            b"x-request-id: %b\r\n%b\r\n%b" % (status, len(body), request_id(sent).encode(), extra, body)
        )
        before = self._served
        if self.cycle is not None and self.cycle.scope is self.scope and self.cycle.more_body:
            # It is the body of this one that cannot be read.
            if self.cycle is before:
                self._refused()
                return
            self.pipeline.popleft()
        if self.pipeline:
            before = self.pipeline[0][0]
        if before is None or before.response_complete:
            self._refused()
        else:
            # Answers come in the order of the requests (RFC 9112, section 9.3.2): a client would take this one for
            # that of the first which has none yet.
            before.on_response = self._refused

    def _refused(self) -> None:
        """Write the refusal and close; an answer that has begun is only cut."""
        if self.transport.is_closing():
            return
        refused = self.cycle is not None and self.cycle.scope is self.scope and self.cycle.more_body
        if not (refused and self.cycle.response_started):
            self.transport.write(self._refusal)
        self._close()
