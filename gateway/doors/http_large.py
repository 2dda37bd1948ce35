"""Bytes of a client connection on their way in: large bodies are read straight into the memory in which they stay.

Contract: the event loop reads into what `Inlet` gives it. That is one small buffer, whose content goes to the
connection's parser, or, once a request's head says that it brings a body of `LARGE` bytes or more, a `LargeBody`'s own
memory, until it is whole. Nothing of that passes through the parser, which has no more to say between the head and
the end of a message of known length (RFC 9112, section 6.3), and only what came in one read with the head is copied
after the kernel's own copy. All other messages take the parser's way; so do bodies behind a request that is still
being served (pipelining).
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, ClassVar, Final

import httptools
import numpy as np

from gateway.doors.http_connection import LARGE, FrontDoorProtocol
from gateway.errors import Cancelled, RequestTimeout

# The only place that chooses between the C twin and its specification in Python.
if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from gateway.doors._reading_py import Reading
else:
    from gateway.doors._reading_c import Reading

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from gateway.upstream.shm_ring import Ring

PROGRESS: Final = 1024
"""Bytes that a body must bring within each `limits.body_timeout`."""
_NOTHING: Final = memoryview(b"")
_SPLIT: Final = 16 * 1024
"""Bytes of a read from which it is looked at where its head ends."""
_ALIGN: Final = 64
"""Bytes of a cache line: models that compute in place want tensors that begin at one."""
_END: Final = b"\r\n\r\n"


class LargeBody:
    """The body of one request, while it arrives.

    Args:
        connection: of the request that it reads now.
        buffer: as long as the body.
    """

    def __init__(self, connection: LargeBodyProtocol, buffer: memoryview) -> None:
        self._connection = connection
        self.cycle: RequestResponseCycle = connection.cycle
        """The request."""
        self._buffer = buffer
        self.left = buffer
        """What has yet to come."""
        self._unrewarded = 0  # bytes since the clock was last set
        self._loop = connection.loop
        self._seconds = connection.limits.body_timeout
        self._over = self._loop.time() + self._seconds
        self._clock = self._loop.call_later(self._seconds, self._look)
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    async def read(self) -> memoryview:
        """The whole body.

        Raises:
            RequestTimeout: less than a KiB of it arrived within `limits.body_timeout`.
            Cancelled: the client went away.
        """
        if self._error is None and len(self.left):
            if self.cycle.waiting_for_100_continue:
                self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.cycle.waiting_for_100_continue = False
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        # Not kept here: the connection may be idle for long, and the memory is others' when the request has ended.
        buffer, self._buffer, self.left = self._buffer, _NOTHING, _NOTHING
        return buffer

    def fill(self, data: memoryview) -> int:
        """Take what has been read already; how many bytes of it were the body's."""
        count = min(len(data), len(self.left))
        self.left[:count] = data[:count]
        self.came(count)
        return count

    def came(self, count: int) -> None:
        """So many bytes have come into `left`."""
        self.left = self.left[count:]
        self._unrewarded += count
        if not len(self.left):
            self.end(None)
            self._connection.body_whole()
        elif self._unrewarded >= PROGRESS:
            self._unrewarded = 0
            self._over = self._loop.time() + self._seconds

    def end(self, error: Exception | None) -> None:
        """It is whole, or will never be."""
        self._error = self._error or error
        self._clock.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look(self) -> None:
        """The clock has run: over, or set again meanwhile."""
        if self._loop.time() < self._over:
            self._clock = self._loop.call_at(self._over, self._look)
        else:
            self.end(RequestTimeout("the request body did not arrive in time"))


class LargeBodyProtocol(FrontDoorProtocol):
    """A client connection that reads large bodies past the parser."""

    memory: ClassVar[Ring | None] = None
    """Shared with model servers: where they go while it has room."""
    arriving: LargeBody | None = None
    """Takes what is read now."""
    _large: LargeBody | None = None

    def data_received(self, data: bytes) -> None:
        """Look at the end of a head whether a large body follows."""
        if self._in_trailers or (len(data) < _SPLIT and data[-4:] != _END):
            super().data_received(data)
            return
        end = data.find(_END) + len(_END)
        if end < len(_END):
            super().data_received(data)
            return
        before = self.cycle
        super().data_received(data[:end])
        if self.cycle is not before and (length := self._length_of_large()):
            self._large = self.arriving = LargeBody(self, self._room(length))
            end += self._large.fill(memoryview(data)[end:])
        if end < len(data):
            super().data_received(data[end:])

    def large_body(self, scope: Any) -> LargeBody | None:
        """The body of the request of this scope, when it comes this way."""
        large = self._large
        return large if large is not None and large.cycle.scope is scope else None

    def body_whole(self) -> None:
        """The parser reads on behind the body."""
        self.arriving = None
        # The old one is in the midst of a message.
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """What has not come will not come."""
        if self.arriving is not None:
            self.arriving.end(Cancelled("the client went away"))
            self.arriving = None
        self._large = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The next request is another one; the one before it may not have begun to be served yet."""
        if self._large is not None and self._large.cycle.response_complete:
            self._large = None
        super().on_message_begin()

    def _length_of_large(self) -> int:
        """Bytes of the body whose head has just ended, if it is to be read here; else 0."""
        cycle = self.cycle
        if (
            not cycle.more_body
            or cycle.body  # that was no end of a head
            or cycle is not self._served
            or self._chunked
            or self._refusal
            or self.transport.is_closing()
        ):
            return 0
        scope = cycle.scope
        if scope["method"] != "POST" or not scope["path"].startswith("/v2/") or not scope["path"].endswith("/infer"):
            return 0
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = int(value)  # the parser has checked that it is a number, and the only one
                return length if LARGE <= length <= self.limits.body else 0
        return 0

    def _room(self, length: int) -> memoryview:
        """So many bytes, placed so that the tensors begin at a cache line if the head says where they do."""
        head = 0
        for name, value in self.cycle.scope["headers"]:
            if name == b"inference-header-content-length" and value.isdigit():
                head = int(value[:10])
        pad = -head % _ALIGN
        shared = None if self.memory is None else self.memory.lease(length + pad)
        # Not filled, unlike a bytearray, which would cost as much as a copy.
        buffer = np.empty(length + pad, np.uint8).data if shared is None else shared
        return buffer[pad:]


class Inlet(Reading, asyncio.BufferedProtocol):
    """What the event loop sees of a connection."""

    _connection: LargeBodyProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It begins."""
        self._connection.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._connection.resume_writing()

    def eof_received(self) -> None:
        """The client sends no more."""
        self._connection.eof_received()
