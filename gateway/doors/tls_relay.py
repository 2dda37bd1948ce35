"""TLS in front of the gRPC door where a client certificate is optional.

grpcio's server either demands a client certificate or does not ask for one: its Python API has nothing between.
So here OpenSSL ends TLS, and each connection goes on, byte for byte, to the gRPC server's Unix socket in the run
directory (mode 0700: nobody else reaches it). The connection's own end of that socket has a name, which gRPC
gives back as the peer of every call: that is how a call finds its client's address and certificate. Nothing
travels in headers, so nothing can be forged there.

Contract: bytes are passed on as they come; a side that reads slowly stops the other. Costs one more copy of
every byte than gRPC's own TLS, and is used for nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
from pathlib import Path
from typing import cast

from gateway.errors import Cancelled
from gateway.tls.peer import PeerCertificate, certificate_of

_numbers = itertools.count(1)
_PEER = "unix-abstract:"


class TlsRelay:
    """Listens for TLS on one socket and passes connections on to `inner`, a Unix socket's path."""

    def __init__(self, context: ssl.SSLContext, inner: Path) -> None:
        self._context = context
        self.inner = inner
        self._server: asyncio.Server | None = None
        self.clients: dict[str, tuple[str, PeerCertificate | None]] = {}
        """By the name of the connection's inner end."""
        self.open: set[_Outer] = set()

    async def start(self, sock: socket.socket, handshake_timeout: float) -> None:
        """Accept connections; a handshake that takes longer (seconds) is cut."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Outer(self), sock=sock, ssl=self._context, ssl_handshake_timeout=handshake_timeout
        )

    def client(self, peer: str) -> tuple[str, PeerCertificate | None]:
        """Address and certificate of the client of a call, by gRPC's word for its peer.

        Raises:
            Cancelled: its connection has ended.
        """
        found = self.clients.get(peer)
        if found is None:
            raise Cancelled("the client went away")
        return found

    def stop_accepting(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        """Cut what is left."""
        self.stop_accepting()
        for connection in tuple(self.open):
            connection.close()
        self.inner.unlink(missing_ok=True)


class _Side(asyncio.Protocol):
    """One end; what comes is written to the other."""

    transport: asyncio.Transport | None = None
    other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        other = self.other
        if other is not None and other.transport is not None and not other.transport.is_closing():
            other.transport.pause_reading()

    def resume_writing(self) -> None:
        other = self.other
        if other is not None and other.transport is not None and not other.transport.is_closing():
            other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None
        if self.other is not None:
            self.other.close()

    def close(self) -> None:
        """Close once what was written has been sent."""
        if self.transport is not None:
            self.transport.close()


class _Inner(_Side):
    """The gRPC server's end."""


class _Outer(_Side):
    """The client's end; exists once the handshake is done."""

    def __init__(self, relay: TlsRelay) -> None:
        self._relay = relay
        self._name = ""
        self._early: list[bytes] = []
        self._joining: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        encoded = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        host, port, *_ = transport.get_extra_info("peername")
        # Unique on this machine: abstract names are shared by all processes.
        name = f"tidegate/{os.getpid()}/{next(_numbers)}"
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.setblocking(False)
            inner.bind(b"\0" + name.encode())
            # A Unix socket connects at once or not at all (its backlog is full).
            inner.connect(str(self._relay.inner))
        except OSError:
            inner.close()
            cast("asyncio.Transport", transport).abort()
            return
        family = "ipv6" if ":" in host else "ipv4"
        address = f"{family}:[{host}]:{port}" if family == "ipv6" else f"{family}:{host}:{port}"
        self._name = _PEER + name
        self._relay.clients[self._name] = (address, None if encoded is None else certificate_of(encoded))
        self._relay.open.add(self)
        self._joining = asyncio.get_running_loop().create_task(self._join(inner))

    async def _join(self, sock: socket.socket) -> None:
        side = _Inner()
        side.other = self
        await asyncio.get_running_loop().create_unix_connection(lambda: side, sock=sock)
        self.other = side
        if self.transport is None:
            side.close()
            return
        early, self._early = self._early, []
        for data in early:
            super().data_received(data)

    def data_received(self, data: bytes) -> None:
        """Keep what comes in the turn of the loop before the other end is there."""
        if self.other is None:
            self._early.append(data)
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._relay.clients.pop(self._name, None)
        self._relay.open.discard(self)
