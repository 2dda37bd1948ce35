"""The certificates of one upstream as its connections need them.

Contract: made once for each set of files; immutable. The name that the server's certificate must have is
`server_name`, else the host of each address as the settings write it: for `dns://NAME:PORT` NAME, whatever
addresses it has.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

import grpc

from gateway.tls import ClientFiles, client_context


class UpstreamTls:
    """Contexts and credentials from `upstreams.NAME.tls`.

    Raises:
        ssl.SSLError: OpenSSL does not take the files (they were tried before).
    """

    def __init__(self, files: ClientFiles) -> None:
        self.files = files
        self.context = client_context(files)
        """For HTTP."""
        self.server_name = files.server_name
        roots = files.ca
        if roots is None:
            # grpcio would take a list of its own; `ca` absent means the system's on both ways.
            system = self.context.get_ca_certs(binary_form=True)
            roots = "".join(map(ssl.DER_cert_to_PEM_cert, system)).encode() or None
        credentials = grpc.ssl_channel_credentials(roots, files.key, files.cert)

        self.grpc = GrpcTls(credentials, client_context(files, alpn="h2"), files.server_name)
        """For gRPC."""

    def grpc_for(self, host: str | None) -> GrpcTls:
        """For a replica whose certificate must have the name `host` unless `server_name` says another."""
        return self.grpc if host is None or self.server_name is not None else self.grpc.named(host)


class GrpcTls:
    """Makes secure channels: grpcio's from credentials, those on nghttp2 from a context that offers h2."""

    def __init__(self, credentials: Any, context: ssl.SSLContext, server_name: str | None) -> None:
        self._credentials = credentials
        self.context = context
        self.server_name = server_name
        """None: the host of the address."""

    def named(self, server_name: str) -> GrpcTls:
        """The same credentials for another name."""
        return GrpcTls(self._credentials, self.context, server_name)

    def channel(self, address: str, options: Sequence[tuple[str, Any]]) -> Any:
        """A `grpc.aio.Channel` whose server must have the name."""
        more = () if self.server_name is None else (("grpc.ssl_target_name_override", self.server_name),)
        return grpc.aio.secure_channel(address, self._credentials, options=(*options, *more))
