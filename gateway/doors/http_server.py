"""The HTTP/1.1 server under the ASGI application: uvicorn with what it lacks for a front door.

Adds to uvicorn's httptools protocol: a time limit for request headers (`limits.header_timeout`), a call when
the client of a request in progress goes away (uvicorn only says so to someone who waits in `receive`), and
refusals in the shape of every other error. uvicorn's signal handling is off: the worker decides when to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

CONNECTION_KEY = "tidegate.connection"
"""Scope key of the connection, an object with `on_lost`."""
SPELLING_KEY = "tidegate.spelling"
"""Scope key of the header names as sent, by lower-case name, where the two differ."""

# As later versions of Triton have it: past it a chunked body costs more to take apart than to serve.
_MOST_CHUNKS = 65_536
# A body that was refused (413) is read on for this long, so that a client that sends first and reads later
# comes to read the answer instead of a reset (nginx's lingering_close does the same).
_LINGER_S = 10.0

# Names and values of one request's headers: Triton's HTTP server closes the connection somewhat beyond (and 16 KiB
# is what Node.js allows). What comes while they are too many is not kept.
_MOST_HEADER_BYTES = 15 * 1024
# Bytes from which copying a body behind its head costs more than a second system call.
_LARGE = 64 * 1024


class FrontDoorProtocol(HttpToolsProtocol):
    """One client connection."""

    header_timeout: ClassVar[float] = 10.0
    _header_timer: asyncio.TimerHandle | None = None
    _served: RequestResponseCycle | None = None
    task: asyncio.Task[None] | None = None
    """Serves the request in progress."""
    _close_after: object | None = None
    """The request whose answer was sent before its body had come, when the connection then ends."""
    on_lost: Callable[[], None] | None = None
    """Called when the connection ends before the request in progress was answered; set by the door, for
    one request at a time (later pipelined requests have not started then)."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request in progress that nobody waits for it any more."""
        self._stop_header_timer()
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
        if self._header_timer is None and not self._in_body():
            self._header_timer = self.loop.call_later(self.header_timeout, self._headers_late)
        super().data_received(data)

    def _in_body(self) -> bool:
        return self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """As uvicorn's, and remembers what is being served, so that it can be told of a client that leaves."""
        self._served = cycle
        self.task = self.loop.create_task(cycle.run_asgi(app))
        self.task.add_done_callback(self.tasks.discard)
        self.tasks.add(self.task)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the spelling that uvicorn throws away, and count."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MOST_HEADER_BYTES:
            return  # refused at their end
        if not name.islower():
            self._spelling[name.lower().decode("latin-1")] = name.decode("latin-1")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the clock and let the door find the connection in the scope."""
        self._stop_header_timer()
        if self._header_bytes > _MOST_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large", f"the headers exceed {_MOST_HEADER_BYTES} bytes")
        if self.transport.is_closing():
            return  # refused: what follows in the same segment is not served
        self.scope[SPELLING_KEY] = self._spelling  # type: ignore[literal-required]  # our own key
        self.scope[CONNECTION_KEY] = self  # type: ignore[literal-required]  # our own key
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        """A pipelined request that begins in the middle of a segment has a clock of its own."""
        super().on_message_begin()
        self._spelling: dict[str, str] = {}
        self._header_bytes = 0
        self._chunks = 0
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_timeout, self._headers_late)

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
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The rest of a refused body has been read: close, where the client asked for it."""
        if self.transport.is_closing():
            return
        super().on_message_complete()
        if self._close_after is not None and self._close_after is self.cycle:
            self.transport.close()

    def has_whole_body(self, scope: Any) -> bool:
        """Whether the request of this scope is the one being read and its body has ended."""
        cycle = self.cycle
        return cycle.scope is scope and not cycle.more_body and not cycle.disconnected

    def answer(self, scope: Any, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes | memoryview) -> bool:
        """Write a whole answer at once: one system call and one segment where two ASGI messages take two.

        Args:
            scope: of the request that it answers.
            status: one of those in `http.HTTPStatus`.
            headers: complete with content-length; names and values are the gateway's own or were validated.
            body: as is.

        Returns:
            False when ASGI's way must be taken: the connection is to be closed, its client reads slowly or is
            gone, another request is being served on it, or the body is large enough for a copy to cost more.
        """
        cycle = self._served
        if cycle is None or cycle.scope is not scope or cycle.response_started or cycle.disconnected:
            return False
        if not cycle.keep_alive or self.flow.write_paused or len(body) > _LARGE:
            return False
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", body)  # type: ignore[arg-type]  # join takes any buffer
        self.transport.write(b"".join(parts))
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

        def late() -> None:
            if self.cycle is cycle and cycle.more_body:
                self.transport.close()

        self.loop.call_later(_LINGER_S, late)

    def send_400_response(self, msg: str) -> None:
        """Framing that cannot be understood: 400 in the shape of every error, and the connection closes."""
        self._stop_header_timer()
        self._refuse(b"400 Bad Request", msg.rstrip("."))

    def _refuse(self, status: bytes, message: str) -> None:
        body = msgspec.json.encode({"error": message})
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        self.transport.close()


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers, on a socket that is given to it."""

    def __init__(self, app: Any, *, header_timeout: float) -> None:

        class Protocol(FrontDoorProtocol):
            """The class that holds this server's time limit."""

        self._protocol = Protocol
        self.header_timeout(header_timeout)
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,  # forwarded-for headers are trusted from nobody
                timeout_keep_alive=75,  # longer than clients and proxies keep theirs (60 s), so that they close first
                backlog=4096,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the worker."""
        yield

    def header_timeout(self, seconds: float) -> None:
        """Another time limit, for requests that begin from now on."""
        self._protocol.header_timeout = seconds

    def cut(self) -> None:
        """End the draining: connections of what is still in flight close, as if their clients had left."""
        self.force_exit = True
        for connection in tuple(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.close()

    async def run_on(self, sock: socket.socket) -> None:
        """Serve until `should_exit` is set, then drain for as long as `cut` is not called."""
        await self.serve(sockets=[sock])
