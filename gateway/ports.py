"""Listening sockets. The supervisor reserves ports and holds one socket for each worker's HTTP port.

Contract: HTTP sockets are bound by the supervisor, listened on by the worker that gets the descriptor, and stay
open with the supervisor: what waits in the queue of a worker that dies is served by another, and then by the next
one of its seat. All of a port are one SO_REUSEPORT group, in which the kernel spreads connections (socket(7)). gRPC's
library opens its port by itself, beside a reservation that is bound and never listens.
"""

from __future__ import annotations

import errno
import socket


class PortInUseError(OSError):
    """The address cannot be listened on; the text says what to do."""


_REMEDIES = {
    errno.EADDRINUSE: "stop what uses it (`ss -ltnp` shows it) or choose another port",
    errno.EACCES: "ports below 1024 are for root alone: choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose one that `ip addr` shows",
    errno.EAFNOSUPPORT: "this machine has no such address: choose one that `ip addr` shows",
}


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT` or `[V6]:PORT` as (host, port)."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """(host, port) as `HOST:PORT`, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def reserve(address: str, key: str) -> tuple[socket.socket, str]:
    """Bind without listening, so that the port is ours and workers may open it too.

    With SO_REUSEPORT alone a second gateway would silently take a share of the connections; so the port is
    first tried exclusively.

    Returns:
        The bound socket, to be kept open, and the address with the port filled in.

    Raises:
        PortInUseError: the address cannot be taken; `key` is the setting to change.
    """
    host, port = split_address(address)
    try:
        if port:
            with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                probe.listen(1)  # on Linux only listening tells a port that another listens on with REUSEPORT
        sock = socket.socket(_family(host), socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another address")
        raise PortInUseError(f"{key}: cannot listen on {address}: {error.strerror}; {remedy}") from error
    host, port, *_ = sock.getsockname()
    return sock, join_address(host, port)


def another(address: str) -> socket.socket:
    """One more bound socket of a reserved address, for another seat."""
    host, port = split_address(address)
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock


def listen(address: str) -> socket.socket:
    """A listening socket of this worker on a reserved address."""
    host, port = split_address(address)
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.setblocking(False)
    return sock
