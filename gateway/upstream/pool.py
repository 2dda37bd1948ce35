"""The HTTP connections of one worker to one model server.

Contract: all calls come from one event loop, the one of the first call. A free connection is taken last in,
first out, so that the pool is no larger than the load needs; when all are busy, callers wait first in, first
out. Everything a caller waits for (a free connection, connecting, the answer) counts against its one timeout.
However a caller ends, its place in the pool goes to the next.

A request is sent again only when the server had closed the kept-alive connection in order and not one byte of
the request had reached its machine by then, so that it cannot have run; then once, on a fresh connection.
Anything else that breaks is the caller's to judge (`Unreachable`).
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias, cast

from gateway.errors import DeadlineExceeded, Overloaded, TidegateError, Unreachable
from gateway.upstream.events import Counters, Silent
from gateway.upstream.http_client import Connection, NotSent
from gateway.upstream.http_head import header_block, host_header, request_line
from gateway.upstream.http_response import TOO_LATE, Response
from gateway.upstream.http_stream import Stream
from gateway.upstream.line import Shelf
from gateway.upstream.plan import Begun
from gateway.wire.types import Buffer

IDLE_SECONDS = 60.0
"""An idle connection is closed after this long (nginx's `keepalive_timeout` for upstreams is 60 s too)."""
WAITING_PER_CONNECTION = 8
"""Callers that may wait, for each connection of the pool: with 256 of them 2,048, some seconds' work for a model
that answers in milliseconds. Beyond it waiting only holds memory and ends in a timeout, so the answer is 503."""
CONNECT_SECONDS = 5.0
"""Longest time to connect, within the caller's timeout: a machine that is gone drops packets silently."""
TICK = 0.1
"""Seconds between two looks at the deadlines of requests with `EXACT_BELOW` or more."""
PROBE_AFTER = 0.05
"""Seconds after which an idle connection is asked whether it still stands before it is used. It costs 1 us;
under load connections are idle for less and pay nothing."""

NOT_REACHED = "the model server cannot be reached"
CLOSING = "the gateway is shutting down"

Headers: TypeAlias = Sequence[tuple[str, str]] | bytes
"""Pairs, or the lines that `header_block` made of them once."""


class Pool(Shelf):
    """At most `connections` connections to `host:port`; `name` is the label of its events."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connections: int,
        name: str = "",
        counters: Counters | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._limit = connections
        self._name = name
        self._counters = counters or Silent()
        self.tls = tls
        """Of the connections to come; None: plain text."""
        self._server_name = server_name or host.strip("[]")
        self._peer = host_header(host, port)
        # A gateway calls few distinct paths: the line and the host header of each are made once.
        self._start_lines = lru_cache(maxsize=1024)(self._start)
        self._loop = None
        self._connections: set[Connection] = set()
        self._idle = []
        self._places = 0  # taken of `_limit`: connections, and those being opened
        self._waiters = deque()
        self._reaper = None
        self._ticker = None
        self.probe_after = PROBE_AFTER
        self._closing = False
        self.connects = 0
        """Connections opened so far."""
        self.on_gone: Callable[[], None] | None = None
        """Called when the server has closed a connection that was idle; set by whoever wants to know."""
        self._drained: asyncio.Future[None] | None = None

    @property
    def open(self) -> int:
        """Connections that are open or being opened."""
        return self._places

    @property
    def idle(self) -> int:
        """Connections that are free."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Callers that wait for a connection."""
        return sum(not waiter.done() for waiter in self._waiters)

    async def request(
        self,
        method: str,
        target: str,
        headers: Headers,
        parts: Sequence[Buffer] = (),
        *,
        timeout: float,
        begun: Begun | None = None,
    ) -> Response:
        """One request and its whole response; `parts` are the body, `timeout` is in seconds.

        Framing headers (`host`, `content-length`) are made here and MUST NOT be in `headers`. `begun`: it was written
        already, and headers and parts are not looked at.

        Raises:
            BadRequest: a header or the target cannot be written safely.
            Unreachable: no connection, or it broke before the whole response.
            BadGateway: what came is no HTTP response.
            DeadlineExceeded: `timeout` is over.
            Overloaded: too many wait for a connection already.
        """
        loop = self._loop or self._bind()
        future: asyncio.Future[Response] | None = None
        if begun is None:
            head, size = self._head(method, target, headers, parts)
            began = loop.time()
            connection = self.pop_idle(began) if self._idle else None
            if connection is None:
                connection = await self._acquire(loop, began + timeout)
                timeout = _left(loop, began + timeout)
        else:
            head, size, began = begun.request, len(begun.request), begun.sent_at
            connection, future, begun.future = begun.connection, begun.future, None
        while True:
            if future is None:
                future = connection.request(head, parts, size, timeout, without_body=method == "HEAD")
            try:
                return await future
            except NotSent:
                connection = await self._again(loop, began + timeout)
                timeout = _left(loop, began + timeout)
            except asyncio.CancelledError:
                if connection.abandon(future):
                    self._counters.on_event("abandon", upstream=self._name)
                raise
            finally:
                future = None  # it holds the error, whose traceback holds this frame, and all would hold the tensors

    async def stream(
        self,
        method: str,
        target: str,
        headers: Headers,
        parts: Sequence[Buffer] = (),
        *,
        timeout: float,
    ) -> Stream:
        """One request; returns when the head of the response is there.

        `timeout` (seconds) holds for the head and then for each next chunk while it is waited for. The caller
        MUST end the stream (see `http_stream`). Errors are those of `request`.
        """
        loop = self._loop or self._bind()
        head, size = self._head(method, target, headers, parts)
        began = loop.time()
        connection = self.pop_idle(began)
        if connection is None:
            connection = await self._acquire(loop, began + timeout)
        while True:
            stream = Stream(loop, connection, timeout, self._counters, self._name)
            future = connection.stream(stream, head, parts, size, _left(loop, began + timeout))
            try:
                await future
            except NotSent:
                connection = await self._again(loop, began + timeout)
            except asyncio.CancelledError:
                if connection.abandon(stream):
                    self._counters.on_event("abandon", upstream=self._name)
                raise
            else:
                return stream
            finally:
                del future  # as in `request`

    def renew(self, tls: ssl.SSLContext | None) -> None:
        """Other certificates, for connections to come; idle ones are closed, those in use go on."""
        self.tls = tls
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def close(self, drain: float = 0.0) -> None:
        """Refuse new calls, let those under way finish within `drain` seconds, then cut them."""
        self._closing = True
        loop = self._loop or self._bind()
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        if drain > 0:
            await self._emptied(loop, drain)
        error = Unreachable(CLOSING)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        for connection in tuple(self._connections):
            connection.abort(error)
        await self._emptied(loop, 1.0)  # sockets close in the loop's next turns
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    # -- a request's connection ------------------------------------------------------------------------------

    def _head(self, method: str, target: str, headers: Headers, parts: Sequence[Buffer]) -> tuple[bytes, int]:
        """The request's head, and the bytes of the whole request."""
        if self._closing:
            raise Unreachable(CLOSING, sent=False)
        if self._ticker is None:
            self._tick()
        block = headers if type(headers) is bytes else header_block(cast("Sequence[tuple[str, str]]", headers))
        size = 0
        for part in parts:
            size += len(part) if type(part) is bytes else part.nbytes  # type: ignore[union-attr]  # a view
        if not size and method in _BODYLESS_METHODS:
            head = b"".join((self._start_lines(method, target), block, b"\r\n"))
        else:
            head = b"".join((self._start_lines(method, target), block, b"content-length: %d\r\n\r\n" % size))
        return head, len(head) + size

    def _start(self, method: str, target: str) -> bytes:
        return request_line(method, target) + header_block([("host", self._peer)])

    async def _acquire(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Connection:
        while True:
            if self._places < self._limit:
                self._places += 1
                return await self._connect(loop, deadline)
            if len(self._waiters) >= self._limit * WAITING_PER_CONNECTION:
                raise Overloaded("the model server is busy", retry_after=1.0, detail=f"{self._peer}: queue is full")
            waiter: asyncio.Future[Connection | None] = loop.create_future()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout_at(deadline):
                    connection = await waiter
            except BaseException as error:  # cancelled or late: what was given in the same moment goes on
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._give_back(waiter.result())
                if isinstance(error, TimeoutError):
                    raise DeadlineExceeded(TOO_LATE, detail=f"{self._peer}: no free connection in time") from None
                raise
            finally:
                del waiter  # as in `request`
            if connection is None:
                return await self._connect(loop, deadline)
            if not connection.closed:
                return connection
            # It was closed between being given and now, and its place went to the next: queue again.

    async def _again(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Connection:
        """A fresh connection after `NotSent`: other idle ones are probably as dead."""
        self._counters.on_event("resend", upstream=self._name)
        while self._idle and self._places >= self._limit:
            self._idle.pop(0).abort(Unreachable(NOT_REACHED))
            await asyncio.sleep(0)
        return await self._acquire(loop, deadline)

    async def _connect(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Connection:
        """Open one in a place that is already taken; gives the place on when it fails."""
        error: TidegateError
        began = loop.time()
        tls = self.tls
        try:
            async with asyncio.timeout_at(min(deadline, began + CONNECT_SECONDS)):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._peer, self.on_idle, self._on_lost),
                    self._host,
                    self._port,
                    ssl=tls,
                    server_hostname=None if tls is None else self._server_name,
                )
        except TimeoutError as cause:
            if isinstance(cause, OSError) and cause.errno is not None:  # ETIMEDOUT of the kernel
                error = Unreachable(NOT_REACHED, detail=f"{self._peer}: {cause}", sent=False)
            elif loop.time() >= deadline:
                error = DeadlineExceeded(TOO_LATE, detail=f"{self._peer}: not connected in time")
            else:
                late = f"{self._peer}: no connection in {CONNECT_SECONDS} s"
                error = Unreachable(NOT_REACHED, detail=late, sent=False)
        except (OSError, UnicodeError) as cause:  # UnicodeError: a host name that IDNA cannot encode
            error = Unreachable(NOT_REACHED, detail=f"{self._peer}: {cause}", sent=False)
        except asyncio.CancelledError:
            self._give_back(None)
            raise
        else:
            if connection.closed:  # accepted and closed at once
                self._give_back(None)
                raise Unreachable(NOT_REACHED, detail=f"{self._peer}: closed at once", sent=False)
            self._connections.add(connection)
            self.connects += 1
            self._counters.on_event("connect", upstream=self._name)
            return connection
        self._give_back(None)
        self._counters.on_event("connect_failed", upstream=self._name)
        raise error

    # -- connections' ends -----------------------------------------------------------------------------------

    def _give_back(self, connection: Connection | None) -> None:
        if connection is None:
            self._places -= 1
            self._give_place()
        elif not connection.closed:
            self.on_idle(connection)

    def _give_place(self) -> None:
        """A place is free: it is the longest waiter's."""
        while self._waiters and self._places < self._limit:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._places += 1
                waiter.set_result(None)
        if not self._places and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _reap_later(self) -> None:
        loop = self._loop
        assert loop is not None
        self._reaper = loop.call_later(IDLE_SECONDS, self._reap)

    def _on_lost(self, connection: Connection) -> None:
        if connection not in self._connections:
            return  # lost while it was being opened: `_connect` sees to its place
        self._connections.remove(connection)
        if connection in self._idle:  # those that are closed here are taken out first
            self._idle.remove(connection)
            if self.on_gone is not None:
                self.on_gone()
        self._places -= 1
        self._give_place()

    def _reap(self) -> None:
        """Close what has been idle too long; the stack's bottom is the oldest."""
        loop = self._loop
        assert loop is not None
        self._reaper = None
        limit = loop.time() - IDLE_SECONDS
        while self._idle and self._idle[0].idle_since <= limit:
            self._idle.pop(0).close()
        if self._idle:
            self._reaper = loop.call_at(self._idle[0].idle_since + IDLE_SECONDS, self._reap)

    def _tick(self) -> None:
        """Look at the deadlines; again while a request is under way."""
        loop = self._loop
        assert loop is not None
        now = loop.time()
        under_way = False
        for connection in tuple(self._connections):
            if connection.deadline <= now:
                connection.late()
            elif connection.deadline != math.inf:
                under_way = True
        idle = not under_way and self._ticker is not None
        self._ticker = None if idle else loop.call_later(TICK, self._tick)

    async def _emptied(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._places:
            self._drained = loop.create_future()
            await asyncio.wait([self._drained], timeout=seconds)

    def _bind(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop


_BODYLESS_METHODS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


def _left(loop: asyncio.AbstractEventLoop, deadline: float) -> float:
    return max(deadline - loop.time(), 0.0)
