"""Reading a request's body within `limits`, and noticing that the client went away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from gateway.doors.http_connection import CONNECTION_KEY
from gateway.errors import Cancelled, RequestTimeout, TooLarge, UnsupportedEncoding
from gateway.settings import Limits
from gateway.wire import compression
from gateway.wire.types import Buffer

# Progress that a body must make within each `limits.body_timeout`.
_PROGRESS_BYTES: Final = 1024


async def read_body(receive: Any, headers: Mapping[str, str], limits: Limits, *, complete: bool = False) -> bytes:
    """The whole body as it was sent.

    `complete` says that all of it has arrived, so that no clock is needed (10 us, more than reading takes).

    Raises:
        TooLarge: it is, or says it will be, longer than `limits.body`.
        RequestTimeout: less than a KiB of it arrived within `limits.body_timeout`.
        Cancelled: the client went away.
    """
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limits.body:
        raise TooLarge(f"the body is larger than {limits.body} bytes")
    if complete:
        body: bytes = (await receive()).get("body", b"")
        if len(body) > limits.body:
            raise TooLarge(f"the body is larger than {limits.body} bytes")
        return body
    try:
        return await _read_on(receive, limits)
    except TimeoutError:
        raise RequestTimeout("the request body did not arrive in time") from None


async def _read_on(receive: Any, limits: Limits) -> bytes:
    """A body that is still on its way, against the clock."""
    chunks: list[bytes] = []
    total = 0
    since_progress = 0
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(limits.body_timeout) as clock:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Cancelled("the client went away")
            chunk = message.get("body", b"")
            total += len(chunk)
            if total > limits.body:
                raise TooLarge(f"the body is larger than {limits.body} bytes")
            if chunk:
                chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            since_progress += len(chunk)
            if since_progress >= _PROGRESS_BYTES:
                since_progress = 0
                clock.reschedule(loop.time() + limits.body_timeout)


def plain_body(headers: Mapping[str, str], body: Buffer, limit: int) -> Buffer:
    """The body without its `Content-Encoding`.

    Raises:
        TidegateError: unknown encoding (501), broken stream (400), beyond `limit` bytes (413).
    """
    coding = compression.request_coding(headers.get("content-encoding"))
    if coding is None:
        raise UnsupportedEncoding
    return compression.decode(body, coding, limit) if coding else body


class ClientWatch:
    """Cancels the task that serves a request when its client goes away.

    On our own server the connection calls back; on any other ASGI server a task waits for the disconnect
    message, which only works once the body has been read.
    """

    def __init__(self, scope: Any, receive: Any) -> None:
        self._connection = scope.get(CONNECTION_KEY)
        self._receive = receive
        # In CPython 3.11 `current_task` costs more than all the rest of this class.
        self._task = asyncio.current_task() if self._connection is None else self._connection.task
        self._watcher: asyncio.Task[None] | None = None
        self.gone = False
        if self._connection is not None:
            self._connection.on_lost = self._lost

    def whole_body_here(self, scope: Any) -> bool:
        """Whether the body has arrived already, as that of most requests has when the door sees them."""
        return self._connection is not None and bool(self._connection.has_whole_body(scope))

    def body_read(self) -> None:
        """The body is there: from now on `receive` only tells of a disconnect."""
        if self._connection is None:
            self._watcher = asyncio.create_task(self._wait())

    def done(self) -> None:
        """The answer is written."""
        if self._connection is not None:
            self._connection.on_lost = None
        if self._watcher is not None:
            self._watcher.cancel()

    def linger(self) -> None:
        """Keep reading a body that was refused for a while, so that the client comes to read the answer."""
        if self._connection is not None:
            self._connection.linger()

    def close_after_answer(self) -> None:
        """Let the connection go once the answer is written: what the client still sends is of no use."""
        if self._connection is not None:
            self._connection.cycle.keep_alive = False

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._lost()

    def _lost(self) -> None:
        self.gone = True
        if self._task is not None:
            self._task.cancel()
