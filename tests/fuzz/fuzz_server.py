"""The HTTP server's reading of a connection, cut anywhere: the same requests and answers must come of the same bytes.

The protocol is the gateway's own class on a transport that keeps what is written; behind it stands an application
that reads bodies and answers as the door does. What is compared: each request as the application saw it, the status
of each answer in order, and whether the connection was closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
from collections.abc import Iterator
from typing import Any

from gateway.doors.http_body import ClientWatch, read_body
from gateway.doors.http_connection import CONNECTION_KEY, SPELLING_KEY
from gateway.doors.http_large import Inlet
from gateway.doors.http_server import HttpServer
from gateway.doors.reply import Reply, error_reply, send_reply
from gateway.errors import RequestTimeout, TidegateError, TooLarge
from gateway.headers import from_asgi
from gateway.settings import Limits

LIMITS = Limits(body=512)


class Wire(asyncio.Transport):
    """A client that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()
        self.closed = self.paused = False
        self.requests: list[tuple[Any, ...]] = []
        """What the application saw."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        assert not self.closed, "written behind the end"
        self.out += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


_SERVER: list[HttpServer] = []


def _server() -> HttpServer:
    """One for all connections: making it costs more than serving."""
    if not _SERVER:
        _SERVER.append(HttpServer(_app, LIMITS))
        _SERVER[0].config.load()
    return _SERVER[0]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """As the door: reads the body within the limits, answers, or says what is wrong."""
    watch = ClientWatch(scope, receive)
    headers = from_asgi(scope["headers"], scope[SPELLING_KEY])
    try:
        body = await read_body(receive, headers, LIMITS, complete=watch.whole_body_here(scope))
        names = ("method", "http_version", "raw_path", "query_string", "headers")
        scope[CONNECTION_KEY].transport.requests.append(
            (*(scope[name] for name in names), dict(headers.spelling), body)
        )
        reply = Reply(200, [], b"%d" % len(body))
    except TidegateError as error:
        reply = error_reply(error)
        if isinstance(error, TooLarge):
            watch.linger()
        elif isinstance(error, RequestTimeout):
            watch.close_after_answer()
    finally:
        watch.done()
    # The one that is answered is named by its method: HEAD has no body (RFC 9110, 9.3.2).
    reply.headers.append((b"x-method", scope["method"].encode()))
    await send_reply(scope, send, reply, {"x-request-id": "r"})


def read(inlet: Inlet, data: bytes) -> None:
    """What the event loop does with what it has read."""
    left = memoryview(data)
    while left:
        buffer = inlet.get_buffer(-1)
        count = min(len(buffer), len(left))
        buffer[:count] = left[:count]
        inlet.buffer_updated(count)
        left = left[count:]


class Connection:
    """One connection to the server, and what came of it."""

    def __init__(self) -> None:
        self.wire = Wire()
        server = _server()
        self._tasks = server.server_state.tasks
        self._inlet: Inlet = server.config.http_protocol_class(
            config=server.config, server_state=server.server_state, app_state={}
        )
        self._protocol = self._inlet._connection
        self._inlet.connection_made(self.wire)

    async def feed(self, data: bytes) -> None:
        """A segment, as soon as the server reads."""
        assert not self.wire.paused or self.wire.closed, "the client reads all, and nothing goes on"
        if not self.wire.closed and data:
            read(self._inlet, data)
        await _settle()

    async def end(self) -> tuple[Any, ...]:
        """The client goes; all that was seen."""
        await _settle()
        closed = self.wire.closed
        left = {self._protocol.task} & self._tasks
        self._inlet.connection_lost(None)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return self.wire.requests, answers(bytes(self.wire.out)), closed


async def _settle() -> None:
    """Until nothing can go on: no socket is there, and no clock runs out."""
    loop = _LOOP[0]
    await asyncio.sleep(0)
    while loop._ready:  # noqa: ASYNC110 - a loop sets no event when it is idle
        await asyncio.sleep(0)


def answers(out: bytes) -> list[bytes]:
    """The statuses, read as a client reads them; `100 Continue` depends on who is faster, and is left out."""
    found = []
    while out:
        head, ending, out = out.partition(b"\r\n\r\n")
        assert ending, "an answer that has no end"
        line, *fields = head.split(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), line
        status = line[9:12]
        if status == b"100":
            assert not fields
            continue
        assert status != b"500", "the application stumbled"
        pairs = {name.lower(): value for name, _, value in (one.partition(b": ") for one in fields)}
        assert len(pairs) == len(fields), "a header twice"
        size = 0 if pairs.get(b"x-method") == b"HEAD" else int(pairs[b"content-length"])
        assert len(out) >= size, "an answer shorter than it says"
        out = out[size:]
        found.append(status)
    return found


async def _both(whole: bytes, pieces: list[bytes]) -> None:
    one, other = Connection(), Connection()
    await one.feed(whole)
    for piece in pieces:
        await other.feed(piece)
    seen, cut = await one.end(), await other.end()
    # A body that is too long and cannot be read either: which of the two is found first is a matter of time.
    for result in (seen, cut):
        if result[1][-1:] == [b"413"] and result[2]:
            result[1][-1] = b"400"
    assert seen == cut, (whole, pieces, seen, cut)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """uvicorn warns of each request that it cannot read."""
    log = logging.getLogger("uvicorn.error")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


class _Nothing(selectors.SelectSelector):
    """Of a loop without sockets: a look at none costs a system call each turn."""

    def select(self, timeout: float | None = None) -> list[Any]:
        return []


_LOOP: list[asyncio.SelectorEventLoop] = []


def http_connection(data: bytes) -> None:
    """The first two bytes say where it is cut: at every byte when the first is 0, else at every so many."""
    if len(data) < 3:
        return
    first, step, whole = data[0], data[1], data[2:]
    step = 1 if first == 0 and len(whole) < 256 else max(step, 8)
    start = first % step
    pieces = [whole[:start], *(whole[at : at + step] for at in range(start, len(whole), step))]
    if not _LOOP:
        _LOOP.append(asyncio.SelectorEventLoop(_Nothing()))
    found: list[Any] = []
    loop = _LOOP[0]
    loop.set_exception_handler(lambda _, context: found.append(context))
    with _quiet():
        loop.run_until_complete(_both(whole, pieces))
    assert not found, found


def close() -> None:
    """Gives the loop back."""
    while _LOOP:
        _LOOP.pop().close()


TARGETS = {"http_connection": http_connection}

_A = b"POST /v2/models/m/infer?x=%20 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nX-Mixed: 1\r\n\r\nabcd"
_B = b"POST /v2 HTTP/1.1\r\nhost: b:80\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n1\r\nd\r\n0\r\nT: x\r\n\r\n"
_C = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
_D = b"HEAD /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
_E = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab"
_F = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 600\r\n\r\n" + bytes(600)
_G = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
_H = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
_BAD = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"


def seeds() -> dict[str, list[bytes]]:
    """Requests alone and behind each other, good and bad."""
    several = [
        _A,
        _B,
        _C,
        _D,
        _E,
        _F,
        _G,
        _H,
        _BAD,
        b"\x16\x03\x01",
        _C.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    ]
    joined = [first + second for first in several for second in several]
    return {"http_connection": [*(b"\0\1" + one for one in several), *(b"\3\x11" + one for one in joined)]}
