"""Which engine carries gRPC: `listen.grpc_engine`.

Contract: `auto` is nghttp2. Where that cannot be used grpcio takes its place, and the log says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gateway import logs
from gateway.doors.grpc import GrpcDoor
from gateway.doors.grpc_tls import NativeTls, RelayedTls, Transport
from gateway.errors import TidegateError
from gateway.tls import client_certificates
from gateway.wire.grpc import NO_EXTENSIONS

if TYPE_CHECKING:
    from gateway.core import Core
    from gateway.settings import Limits
    from gateway.snapshot import Snapshot
    from gateway.tls import ServerFiles

_log = logs.get("grpc")

_REMEDY = (
    "install it (Debian and Ubuntu: libnghttp2-14, Fedora: libnghttp2, Alpine: nghttp2-libs), "
    "or write `grpc_engine: auto`"
)


class Door(Protocol):
    """The gRPC server of a worker."""

    def follow(self, limits: Limits) -> bool:
        """Take other limits over; False: another server has to, for them to hold."""

    def renew(self, files: ServerFiles) -> None:
        """Certificates for the connections to come."""

    async def start(self, address: str) -> None:
        """Accept calls on a reserved address."""

    async def relieved(self) -> None:
        """Another server has the port: return when the clients have gone, or only streams are left."""

    async def stop(self, drain: float) -> None:
        """Refuse new calls, let those in progress finish for `drain` seconds, then cut them."""


class EngineError(TidegateError):
    """The engine that the settings ask for is not there."""


def open_door(app: Core, snapshot: Snapshot, run_dir: Path) -> Door:
    """The door that the settings ask for, not started. Raises EngineError."""
    asked = snapshot.settings.listen.grpc_engine
    files, clients = snapshot.tls.listen, client_certificates(snapshot.settings)
    if asked != "grpcio":
        try:
            if NO_EXTENSIONS:
                raise ImportError("TIDEGATE_NO_EXTENSIONS is set")
            from gateway.doors.fast_grpc import FastGrpcDoor  # noqa: PLC0415 - the extension may not be built

            return FastGrpcDoor(app, files, clients)
        except (ImportError, OSError) as error:
            if asked == "nghttp2":
                raise EngineError(f"listen.grpc_engine: nghttp2 cannot be used: {error}; {_REMEDY}") from None
            _log.info("gRPC is carried by grpcio, since nghttp2 cannot be used: %s", error)
    limits = snapshot.settings.limits
    transport: Transport | None = None
    if files is not None and clients == "optional":
        transport = RelayedTls(files, run_dir, limits.header_timeout)
    elif files is not None:
        transport = NativeTls(files, required=clients == "required")
    return GrpcDoor(app, limits, transport)
