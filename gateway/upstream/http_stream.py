"""A response that is read as it comes (server-sent events), with back-pressure and a way to leave.

Contract: the status and headers are there first; then `async for chunk in stream`. The connection stops
reading while more than `HIGH_WATER` bytes wait. A reader MUST end in one of three ways: read to the end,
`aclose()` (the connection is closed, the server sees it) or `detach()` (the rest is read and dropped in the
background, for servers that do not survive a closed stream). Leaving the `async with` block closes what was
not ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from gateway.errors import DeadlineExceeded, TooLarge, Unreachable
from gateway.upstream.events import Counters
from gateway.upstream.http_client import Connection, NotSent
from gateway.upstream.http_response import TOO_LATE, UNREACHABLE, HeaderPairs, find_header

HIGH_WATER = 256 * 1024
"""Bytes waiting for a slow reader at which reading stops (asyncio's streams: 2 x 64 KiB; uvloop reads 256
KiB)."""
LOW_WATER = 64 * 1024
"""Bytes waiting at which reading goes on."""
DRAIN_BYTES = 256 * 1024 * 1024
"""Most bytes that are read and dropped of a stream whose client left, over HTTP and gRPC alike."""
DRAIN_SECONDS = 300.0
"""Longest time for it: a minute-long generation ends by itself, one that never ends does not stay for
ever."""


class Stream:
    """One streamed response. `timeout`: seconds that the next chunk may take while somebody waits for it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        timeout: float,
        counters: Counters,
        upstream: str,
    ) -> None:
        self.status = 0
        self.headers: HeaderPairs = ()
        self._loop = loop
        self._connection = connection
        self._timeout = timeout
        self._counters = counters
        self._upstream = upstream
        self._chunks: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._detached = False
        self._to_drop = 0
        self._drain_timer: asyncio.TimerHandle | None = None

    def header(self, name: bytes) -> bytes | None:
        """The first value of the header with this lower-case name."""
        return find_header(self.headers, name)

    # -- the reader's side -----------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next chunk, as it came.

        Raises:
            Unreachable: the connection broke before the end.
            BadGateway: the framing was wrong.
            DeadlineExceeded: nothing came within `timeout`.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._wait()
        chunk = self._chunks.popleft()
        self._waiting_bytes -= len(chunk)
        if self._paused and self._waiting_bytes <= LOW_WATER:
            self._paused = False
            self._connection.resume()
        return chunk

    async def read(self, limit: int) -> bytes:
        """The rest as one `bytes` (of an error's page, for example); `limit` in bytes.

        Raises:
            TooLarge: more than `limit`; the stream is closed.
        """
        chunks: list[bytes] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if size > limit:
                await self.aclose()
                raise TooLarge(f"the model server's answer is larger than {limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    async def aclose(self) -> None:
        """Close the connection unless the response is whole."""
        if not self._ended and self._connection.abandon(self):
            self._counters.on_event("abandon", upstream=self._upstream)
        self._ended = True
        self._chunks.clear()

    def detach(self, *, limit: int = DRAIN_BYTES, seconds: float = DRAIN_SECONDS) -> None:
        """Read the rest to its end in the background and drop it: at most `limit` bytes and `seconds`."""
        self._chunks.clear()
        self._waiting_bytes = 0
        if self._ended or self._detached:
            return
        self._detached = True
        self._to_drop = limit
        self._counters.on_event("detach", upstream=self._upstream)
        self._drain_timer = self._loop.call_later(seconds, self._cut)
        if self._paused:
            self._paused = False
            self._connection.resume()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._detached:
            await self.aclose()

    async def _wait(self) -> None:
        self._waiter = waiter = self._loop.create_future()
        timer = self._loop.call_later(self._timeout, self._late)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _late(self) -> None:
        if self._connection.abandon(self):
            self.fail(DeadlineExceeded(TOO_LATE, detail="between two chunks of a stream"))

    # -- the connection's side -------------------------------------------------------------------------------

    def begin(self, status: int, headers: HeaderPairs) -> None:
        """The head is there."""
        self.status = status
        self.headers = headers

    def feed(self, data: bytes) -> None:
        """A chunk came."""
        if self._detached:
            self._to_drop -= len(data)
            if self._to_drop < 0:
                # Not from inside of the parser's callback, which runs on the connection that is closed here.
                self._loop.call_soon(self._cut)
            return
        self._chunks.append(data)
        self._waiting_bytes += len(data)
        if not self._paused and self._waiting_bytes > HIGH_WATER:
            self._paused = True
            self._connection.pause()
        self._wake()

    def end(self) -> None:
        """The response is whole; the connection is the pool's again."""
        self._ended = True
        if self._paused:  # the next request on this connection has to read
            self._paused = False
            self._connection.resume()
        self._drained("drained")
        self._wake()

    def fail(self, error: Exception) -> None:
        """The connection broke."""
        if isinstance(error, NotSent):  # after the head it never is; kept apart so that no signal gets out
            error = Unreachable(UNREACHABLE)
        self._error = error
        self._ended = self._detached
        self._drained("drained")
        self._wake()

    def _cut(self) -> None:
        if self._detached and not self._ended:
            self._ended = True
            self._connection.abandon(self)
            self._drained("drain_cut")

    def _drained(self, event: str) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
            self._counters.on_event(event, upstream=self._upstream)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
