"""The HTTP/1.1 server under the ASGI application: uvicorn on a socket that is given to it, without its signals.

The worker decides when to stop. What a connection may do is said in `http_connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn

from gateway.doors.http_large import Inlet, LargeBodyProtocol
from gateway.settings import Limits
from gateway.upstream.shm_ring import Ring

# For the client's half of the end of a TLS connection (RFC 8446, 6.1): it may be gone.
_TLS_GOODBYE_S = 5.0


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers, on a socket that is given to it.

    Args:
        app: the ASGI application.
        limits: those of connections; the handshake of TLS has the time of a request's headers.
        tls: None: plain text.
        ring: where large bodies go; None: into the worker's own memory.
        protocol: of connections, another way to `app` for some requests.
    """

    def __init__(
        self,
        app: Any,
        limits: Limits,
        *,
        tls: ssl.SSLContext | None = None,
        ring: Ring | None = None,
        protocol: type[LargeBodyProtocol] = LargeBodyProtocol,
    ) -> None:
        self._tls = tls
        self._handshake_timeout = limits.header_timeout

        class Protocol(protocol):  # type: ignore[misc, valid-type]  # a class that is not known before
            """The class that holds this server's limits."""

        Protocol.memory = ring
        self._protocol = Protocol
        self.limits(limits)
        super().__init__(
            uvicorn.Config(
                app,
                http=lambda **given: Inlet(Protocol(**given)),  # type: ignore[arg-type]  # called like a class
                ws="none",
                loop="none",
                interface="asgi3",  # else uvicorn takes a plain function that returns a coroutine for ASGI 2
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,  # forwarded-for headers are trusted from nobody
                backlog=4096,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the worker."""
        yield

    def limits(self, limits: Limits) -> None:
        """Other limits, for what begins from now on."""
        self._protocol.limits = limits

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which has no time limit for handshakes of its own."""
        await self.lifespan.startup()
        self.servers = []
        for sock in sockets or ():
            await self.serve_also(sock)
        self.started = True

    async def serve_also(self, sock: socket.socket) -> asyncio.Server:
        """Accept connections at this socket, which is the server's from now on."""
        over_tls: dict[str, Any] = {}
        if self._tls is not None:
            over_tls = {
                "ssl": self._tls,
                "ssl_handshake_timeout": self._handshake_timeout,
                "ssl_shutdown_timeout": _TLS_GOODBYE_S,
            }

        def connection() -> asyncio.Protocol:
            return self.config.http_protocol_class(  # type: ignore[call-arg]  # any protocol's, to a type checker
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        loop = asyncio.get_running_loop()
        server = await loop.create_server(connection, sock=sock, backlog=self.config.backlog, **over_tls)
        self.servers.append(server)
        return server

    def relieve(self) -> None:
        """Take no more connections, and let go of each with its next answer; idle ones may still ask once.

        A connection that was closed while idle would lose the request that is on its way (RFC 9112, section 9.6;
        nginx's keepalive_min_timeout is there for the same).
        """
        self._protocol.relieved = True
        for server in self.servers:
            server.close()
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_started:
                cycle.keep_alive = False

    @property
    def idle(self) -> bool:
        """Whether no client is connected."""
        return not self.server_state.connections

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
