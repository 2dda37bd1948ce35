"""What every request does with its HTTP connection.

Contract: `Line` is the part of a `Connection` that every request goes through, `Shelf` that of a `Pool`. This is the
specification of `_line_c.pyx`, which does the same without a frame of the interpreter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from gateway.upstream.http_client import Connection
    from gateway.upstream.http_stream import Stream

HeaderPairs: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""(lower-case name, value) in the order they came."""

MAX_KNOWN_HEAD: Final = 512
"""Bytes; Triton's heads have 80 to 150."""
_FAILED: Final = 500
"""uvicorn (KServe's SDK, MLServer) closes without a word after a failure of its application: the next request
on the connection may reach a program that no longer reads."""


class ResponseHead:
    """A response's head that was read before."""

    __slots__ = ("head", "headers", "json_length", "length", "status")

    def __init__(self, head: bytes, status: int, headers: HeaderPairs, length: int, json_length: int) -> None:
        self.head = head
        """Without the empty line behind it."""
        self.status = status
        self.headers = headers
        self.length = length
        """Bytes of the body."""
        self.json_length = json_length
        """Bytes of the body before its binary tensors; -1: it does not say."""


known_heads: dict[bytes, ResponseHead] = {}
"""Heads (without the final CR LF CR LF) that llhttp has parsed. A head's meaning depends on its bytes alone and a model
answers like requests with like heads, so most are found here; reading one costs 0.4 us instead of 4 us. Servers that
send the time in each head fill it slowly, and it is emptied when full."""


class Line:
    """The usual part of a connection."""

    _loop: asyncio.AbstractEventLoop
    _transport: asyncio.Transport | None
    _on_idle: Any
    _future: asyncio.Future[Any] | None
    _stream: Stream | None
    _timer: asyncio.TimerHandle | None
    _first_head: bytes
    _headers: HeaderPairs
    closed: bool
    _secure: bool
    _without_body: bool
    _seen: bool
    _head_done: bool
    _until_close: bool
    _keep_alive: bool
    _complete: bool
    _status: int
    served: int
    _written: int
    _sent: int
    _head_bytes: int
    _left: int
    idle_since: float
    deadline: float

    def begin(self, size: int) -> None:
        """A request of so many bytes is about to be written."""
        self._seen = self._head_done = self._complete = self._until_close = False
        self._head_bytes = self._left = 0
        self._sent = size
        if self._secure:
            self._count_arrived()
        self._written += size

    def data_received(self, data: bytes) -> None:
        """Take a usual response; all others are the parser's."""
        if self._future is None and self._stream is None:
            # Nobody asked for it (such as a 408 for an idle connection): no answer to what comes next.
            self._abort()
            return
        if self._left:
            self._take_rest(data)
            return
        if not self._seen:
            self._seen = True
            end = data.find(b"\r\n\r\n", 0, MAX_KNOWN_HEAD)
            self._first_head = head = data[:end] if end > 0 else b""
            known = known_heads.get(head)
            if known is not None and self._stream is None and not self._without_body:
                self._status, self._headers = known.status, known.headers
                self._head_done = self._keep_alive = True
                body = data[end + 4 :]
                if len(body) == known.length and not self.must_end():
                    self._whole(body)
                else:
                    self._begin_body(body, known.length)
                return
        self._parse(data)

    def must_end(self) -> bool:
        """Whether the connection cannot be used again, however clean the response was."""
        transport = self._transport
        assert transport is not None
        return (
            self.closed
            or self._status == _FAILED
            or transport.get_write_buffer_size() > 0  # answered before it had read the whole request
        )

    # -- what a connection does besides ----------------------------------------------------------------------

    def _abort(self) -> None:
        raise NotImplementedError

    def _count_arrived(self) -> None:
        raise NotImplementedError

    def _take_rest(self, data: bytes) -> None:
        raise NotImplementedError

    def _begin_body(self, data: bytes, length: int) -> None:
        raise NotImplementedError

    def _whole(self, body: bytes) -> None:
        raise NotImplementedError

    def _parse(self, data: bytes) -> None:
        raise NotImplementedError


class Shelf:
    """The free connections of a pool."""

    _loop: asyncio.AbstractEventLoop | None
    _idle: list[Connection]
    """A stack, the latest used last."""
    _waiters: deque[asyncio.Future[Any]]
    """A waiter is given a connection, or None: a place, to open one itself."""
    _reaper: asyncio.TimerHandle | None
    _ticker: asyncio.TimerHandle | None
    _closing: bool
    probe_after: float
    """Seconds after which an idle connection is asked whether it still stands before it is used."""

    def pop_idle(self, now: float) -> Connection | None:
        """The one that was used last and still stands; None: there is none."""
        idle = self._idle
        while idle:
            line = idle.pop()
            if line.closed:
                continue
            if now - line.idle_since > self.probe_after and line.gone_while_idle():
                line.close()
                continue
            return line
        return None

    def on_idle(self, line: Connection) -> None:
        """A whole response: the connection is the longest waiter's, else free."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(line)
                return
        if self._closing:
            line.close()
            return
        loop = self._loop
        assert loop is not None
        line.idle_since = loop.time()
        self._idle.append(line)
        if self._reaper is None:
            self._reap_later()

    def _reap_later(self) -> None:
        raise NotImplementedError
