"""The HTTP/2 connections of one worker to one model server, for streams on nghttp2.

Contract: a stream goes to the first connection that has room for it; the next is made when there is none, while others
wait for the server to allow more streams on those that there are. What cannot be connected is told at once to all that
wait; the next stream tries again. All belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Final

from gateway.errors import TidegateError, Unreachable
from gateway.upstream.fast_connection import Connection
from gateway.upstream.fast_stream import FastStream
from gateway.upstream.http_head import host_header, split_address

UNREACHABLE: Final = "the model server cannot be reached"
CONNECT_SECONDS: Final = 5.0
"""As the HTTP pools': until the server has said its settings."""
_LOOK_S: Final = 0.05


class FastChannel:
    """Connections to `address`.

    Args:
        address: `HOST:PORT`.
        tls: a context that offers h2; None: plain text.
        server_name: the name that its certificate must have; None: the host of the address.
    """

    def __init__(self, address: str, *, tls: ssl.SSLContext | None, server_name: str | None) -> None:
        self._host, self._port = split_address(address)
        self._authority = host_header(self._host if server_name is None else server_name, self._port)
        self._peer = address
        self._tls = tls
        self._server_name = server_name
        self._connections: list[Connection] = []
        self._waiting: deque[FastStream] = deque()
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    def open_stream(self, path: str, metadata: Sequence[tuple[str, str]]) -> FastStream:
        """Begin a call of `path` (`/SERVICE/METHOD`); a connection is made where there is none with room."""
        stream = FastStream()
        stream.path, stream.metadata = path, list(metadata)
        if self._closed:
            stream.over(Unreachable(UNREACHABLE, detail=f"{self._peer}: the channel was closed", sent=False))
            return stream
        self._waiting.append(stream)
        self._serve()
        return stream

    def _serve(self) -> None:
        """Give those that wait the connections that there are; make one more for the rest."""
        while self._waiting:
            if self._waiting[0].ended:  # cancelled meanwhile
                self._waiting.popleft()
                continue
            connection = next((one for one in self._connections if one.room), None)
            if connection is None:
                break
            connection.begin(self._waiting.popleft())
        if self._waiting and self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        error: TidegateError | None = None
        connection: Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._authority, self._peer, self._changed, secure=self._tls is not None),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name if self._tls is not None else None,
                )
                await connection.ready
        except TidegateError as told:
            error = told
        except (OSError, UnicodeError) as cause:  # TimeoutError among them; UnicodeError: no host name for IDNA
            late = f"no connection in {CONNECT_SECONDS} s"
            error = Unreachable(UNREACHABLE, detail=f"{self._peer}: {str(cause) or late}", sent=False)
        finally:
            self._connecting = None
            if connection is not None and error is not None:
                connection.abort()
        if error is None and connection is not None and not self._closed:
            self._connections.append(connection)
            self._serve()
            return
        waiting, self._waiting = self._waiting, deque()
        for stream in waiting:
            stream.over(error or Unreachable(UNREACHABLE, detail=f"{self._peer}: closed", sent=False))
        if connection is not None:
            connection.retire()

    def _changed(self, connection: Connection) -> None:
        """A connection has room again, or has closed."""
        if connection.closed and connection in self._connections:
            self._connections.remove(connection)
        if self._waiting and self._connecting is None:
            self._serve()

    def retire(self) -> None:
        """No more streams; those that there are go on. Never waits."""
        self._closed = True
        for connection in tuple(self._connections):
            connection.retire()

    async def close(self, grace: float) -> None:
        """Let streams finish within `grace` seconds, then cut them."""
        self.retire()
        loop = asyncio.get_running_loop()
        over = loop.time() + grace
        while self._connections and loop.time() < over:  # noqa: ASYNC110 - looked at, as the doors do
            await asyncio.sleep(_LOOK_S)
        connecting = self._connecting
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait((connecting,))
        waiting, self._waiting = self._waiting, deque()
        for stream in waiting:
            stream.over(Unreachable(UNREACHABLE, detail=f"{self._peer}: closed", sent=False))
        for connection in tuple(self._connections):
            connection.abort()
