"""How the gRPC door's clients connect: in plain text, by gRPC's own TLS, or through the relay.

Contract: certificates are taken anew for every connection, so that a change needs no restart; whether clients
show one is fixed for a server's life (`client_certificates`), and another server takes over when it changes.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, Protocol

import grpc

from gateway.doors import grpc_listener
from gateway.doors.tls_relay import TlsRelay
from gateway.ports import listen
from gateway.tls import PeerCertificate, RollingContext, ServerFiles, certificate_of, server_context

_PEM = "x509_pem_cert"
_numbers = itertools.count(1)


class Transport(Protocol):
    """Ways for clients to reach a `grpc.aio` server."""

    async def bind(self, server: Any, address: str) -> None:
        """Open a reserved address, before the server starts. Raises RuntimeError when it cannot be."""

    async def accept(self) -> None:
        """The server has started."""

    def client(self, context: Any) -> tuple[str, PeerCertificate | None]:
        """Address and certificate of a call's client. Raises Cancelled when it has gone."""

    def renew(self, files: ServerFiles) -> None:
        """Certificates for the connections to come."""

    def stop_accepting(self) -> None:
        """Take no more connections; those that there are go on."""

    def connections(self) -> int:
        """Connections of clients now; an upper bound while another server of this process has the port too."""

    def close(self) -> None:
        """The server has stopped."""


class PlainText:
    """No TLS."""

    _address = ""
    _listeners: frozenset[int] = frozenset()
    """grpcio's own, found by looking: it does not tell."""

    async def bind(self, server: Any, address: str) -> None:
        """Open the address."""
        others = grpc_listener.listening(address)
        self._open(server, address)
        self._address = address
        self._listeners = frozenset(grpc_listener.listening(address) - others)

    def _open(self, server: Any, address: str) -> None:
        server.add_insecure_port(address)

    async def accept(self) -> None:
        """The server accepts by itself."""

    def client(self, context: Any) -> tuple[str, PeerCertificate | None]:
        """Nobody shows a certificate."""
        return context.peer(), None

    def renew(self, files: ServerFiles) -> None:
        """There is nothing to renew."""

    def stop_accepting(self) -> None:
        """The kernel gives this server no more of them."""
        listeners, self._listeners = set(self._listeners), frozenset()
        grpc_listener.let_go(listeners)

    def connections(self) -> int:
        """As the operating system knows them."""
        return grpc_listener.connected(self._address)

    def close(self) -> None:
        """Nothing is left."""


class NativeTls(PlainText):
    """gRPC's own TLS; clients show no certificate, or every one must."""

    def __init__(self, files: ServerFiles, *, required: bool) -> None:
        self._required = required
        self._current = self._given = _configuration(files, required=required)
        self._credentials = grpc.dynamic_ssl_server_credentials(self._given, self._fetch, required)

    def _open(self, server: Any, address: str) -> None:
        server.add_secure_port(address, self._credentials)

    def _fetch(self) -> Any:
        """What the next handshake uses; None: as before. gRPC asks for every connection, in threads of its own."""
        current = self._current
        if current is self._given:
            return None
        self._given = current
        return current

    def client(self, context: Any) -> tuple[str, PeerCertificate | None]:
        """The certificate is in the connection's authentication context."""
        if not self._required:
            return context.peer(), None
        shown = context.auth_context().get(_PEM)
        return context.peer(), certificate_of(shown[0]) if shown else None

    def renew(self, files: ServerFiles) -> None:
        """From the next handshake on."""
        self._current = _configuration(files, required=self._required)


class RelayedTls:
    """The relay's TLS, where clients may show a certificate."""

    def __init__(self, files: ServerFiles, run_dir: Path, handshake_timeout: float) -> None:
        self._context = RollingContext(server_context(files, "optional", alpn="h2"))
        # Short, since a Unix socket's path has 107 bytes at most; unique, since servers overlap when one takes over.
        self._relay = TlsRelay(self._context, run_dir / f"g{os.getpid()}.{next(_numbers)}")
        self._handshake_timeout = handshake_timeout
        self._address = ""

    async def bind(self, server: Any, address: str) -> None:
        """Open the server's Unix socket, the outer address later."""
        self._address = address
        self._relay.inner.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{self._relay.inner}")

    async def accept(self) -> None:
        """Open the outer address."""
        await self._relay.start(listen(self._address), self._handshake_timeout)

    def client(self, context: Any) -> tuple[str, PeerCertificate | None]:
        """As the relay knows it."""
        return self._relay.client(context.peer())

    def renew(self, files: ServerFiles) -> None:
        """From the next handshake on."""
        self._context.current = server_context(files, "optional", alpn="h2")

    def stop_accepting(self) -> None:
        """Close the outer address."""
        self._relay.stop_accepting()

    def connections(self) -> int:
        """As the operating system knows them."""
        return grpc_listener.connected(self._address)

    def close(self) -> None:
        """Cut what is left."""
        self._relay.close()


def _configuration(files: ServerFiles, *, required: bool) -> Any:
    # Without a demand for certificates the CAs would be read for nothing.
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.cert)], root_certificates=files.client_ca if required else None
    )
