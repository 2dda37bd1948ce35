"""The gRPC door on nghttp2: HTTP/2 in C, everything else as `grpc_service` has it.

Contract: as `grpc.GrpcDoor`, for less than half of its CPU time a call. Limits follow a reload at once. Connections are
let go by two GOAWAY frames with a ping between them (RFC 9113, 6.8), so that no call is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from gateway.doors import grpc_service as service
from gateway.doors.fast_grpc_connection import Connection
from gateway.doors.grpc_listener import waiting
from gateway.ports import listen
from gateway.tls import ClientCertificates, RollingContext, ServerFiles, server_context
from gateway.wire._http2_c import load

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.settings import Limits

__all__ = ["FastGrpcDoor", "load"]

# As the HTTP door's.
_BACKLOG: Final = 4096
# For the client's half of the end of a TLS connection (RFC 8446, 6.1): it may be gone.
_TLS_GOODBYE_S: Final = 5.0
_LOOK_S: Final = 0.1
# Longest wait for the port's queue to be empty.
_EMPTY_S: Final = 0.05


class FastGrpcDoor:
    """The gRPC server of one worker.

    Args:
        app: the worker.
        files: of TLS; None: plain text.
        clients: whether clients show certificates.
    """

    def __init__(self, app: Core, files: ServerFiles | None, clients: ClientCertificates) -> None:
        load()
        self._app = app
        self._clients = clients
        self._tls = None if files is None else RollingContext(server_context(files, clients, alpn="h2"))
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._leaving = False
        self._empty = asyncio.Event()
        self.methods = service.methods(app)

    @property
    def limits(self) -> Limits:
        """Those in force."""
        return self._app.snapshot.settings.limits

    @property
    def age(self) -> float:
        """Seconds until a connection is asked to go; 0: never."""
        return self._app.snapshot.settings.listen.grpc_connection_age

    def follow(self, limits: Limits) -> bool:
        """Take other limits over."""
        for connection in self._connections:
            connection.session.most_message = limits.body + service.MESSAGE_SLACK
        return True

    def renew(self, files: ServerFiles) -> None:
        """Certificates for the connections to come."""
        if self._tls is not None:
            self._tls.current = server_context(files, self._clients, alpn="h2")

    async def start(self, address: str) -> None:
        """Accept calls on a reserved address."""
        loop = asyncio.get_running_loop()
        if self._tls is None:
            self._server = await loop.create_server(lambda: Connection(self), sock=listen(address), backlog=_BACKLOG)
            return
        self._server = await loop.create_server(
            lambda: Connection(self),
            sock=listen(address),
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=self.limits.header_timeout,
            ssl_shutdown_timeout=_TLS_GOODBYE_S,
        )

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more."""
        if len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        self._empty.clear()
        if self._leaving:
            # It was in the port's queue when another server took it over.
            asyncio.get_running_loop().call_soon(connection.farewell)
        return True

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    async def _stop_accepting(self) -> None:
        self._leaving = True
        server, self._server = self._server, None
        if server is None:
            return
        # What the kernel has given to this socket is lost with it: take it in first, which turns of the loop do.
        over = asyncio.get_running_loop().time() + _EMPTY_S
        while any(map(waiting, server.sockets)) and asyncio.get_running_loop().time() < over:  # noqa: ASYNC110
            await asyncio.sleep(0)
        server.close()

    async def relieved(self) -> None:
        """Another server has the port: take no more connections, and return when those that there are have gone.

        Returns as well when only streams are left.
        """
        await self._stop_accepting()
        for connection in tuple(self._connections):
            connection.farewell()
        while not all(c.streams_only for c in self._connections):  # noqa: ASYNC110 - looked at, as the HTTP door's
            await asyncio.sleep(_LOOK_S)

    async def stop(self, drain: float) -> None:
        """Ask the clients to go, let calls in progress finish for `drain` seconds, then cut them."""
        await self._stop_accepting()
        if not self._connections:
            return
        for connection in tuple(self._connections):
            connection.farewell()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await self._empty.wait()
        for connection in tuple(self._connections):
            connection.cut()
