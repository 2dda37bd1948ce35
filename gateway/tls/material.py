"""Every certificate and key that the settings name, as one immutable value.

Contract: what is in it was judged and belongs together, whatever is written to the files meanwhile. Two reads
of the same bytes are equal and have the same `digest`. Nothing of it is in a `repr`.
"""

from __future__ import annotations

import hashlib

import msgspec


class _Files(msgspec.Struct, frozen=True):
    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


class ServerFiles(_Files, frozen=True):
    """PEM of `listen.tls`."""

    cert: bytes
    key: bytes
    client_ca: bytes | None = None


class ClientFiles(_Files, frozen=True):
    """PEM of `upstreams.NAME.tls`; `ca` None: the system's."""

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None
    server_name: str | None = None


class Material(msgspec.Struct, frozen=True):
    """What was read of all files."""

    listen: ServerFiles | None = None
    upstreams: dict[str, ClientFiles] = {}
    """By upstream; those without `tls` are not in it."""

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of all of it; empty when there is no TLS anywhere."""
        if self.listen is None and not self.upstreams:
            return ""
        return hashlib.sha256(msgspec.msgpack.encode(self, order="deterministic")).hexdigest()
