"""Lets a `grpc.aio` server take no more connections while it goes on serving those it has.

grpcio can only stop as a whole: it closes its port, tells its connections to go (GOAWAY), and cancels every call
that arrives before they have heard. So a server that another one relieves first loses its port alone (this file),
then its connections one by one as they come of age (gRFC A9, `grpc.max_connection_age_ms`: the GOAWAY of that age
is followed by no cancelled call), and is stopped when nobody is left. grpcio opens its port by itself and has no
call for this; so the descriptor is found by what it is, a listening socket of the address, and another socket is
put in its place (dup2), upon which the kernel forgets the port of this one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from gateway.ports import split_address

_FDS = Path("/proc/self/fd")
_UNACKED = 24
"""Offset of `tcpi_unacked` in `struct tcp_info`: for a listening socket the connections that wait for accept(2)."""
_EMPTY_S = 0.05
"""Longest wait for grpcio to have accepted what waits; it does so within microseconds unless the machine is busy."""


def listening(address: str) -> set[int]:
    """Descriptors of this process that listen on the address."""
    return {fd for fd, listens, mine, _ in _sockets(address) if listens and mine}


def connected(address: str) -> int:
    """Connections of this process whose own end is the address."""
    return sum(1 for _, listens, mine, peer in _sockets(address) if mine and peer and not listens)


def let_go(fds: set[int]) -> None:
    """Give the port up at these descriptors. What the kernel gave to others of the port is theirs already."""
    if not fds:
        return
    # It listens and never has anything to accept: grpcio may still ask.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as nothing:
        nothing.setblocking(False)
        nothing.bind("")  # an abstract address that the kernel picks (unix(7), autobind)
        nothing.listen(1)
        for fd in fds:
            with _borrowed(fd) as listener:
                until = time.monotonic() + _EMPTY_S
                while waiting(listener) and time.monotonic() < until:
                    time.sleep(0.0005)
            os.dup2(nothing.fileno(), fd, inheritable=False)


def _is_any(host: str) -> bool:
    return ip_address(host.partition("%")[0]).is_unspecified


def waiting(listener: socket.socket) -> int:
    """Connections that wait for accept(2)."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (waiting,) = struct.unpack_from("=I", info, _UNACKED)
    return int(waiting)


def _sockets(address: str) -> Iterator[tuple[int, bool, bool, bool]]:
    """(descriptor, listens, is at the address, has a peer) of every TCP socket of this process."""
    host, port = split_address(address)
    for entry in list(_FDS.iterdir()):
        fd = int(entry.name)
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with _borrowed(fd) as sock:
                if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
                    continue
                own, *rest = sock.getsockname()
                peer = True
                try:
                    sock.getpeername()
                except OSError:
                    peer = False
                # grpcio listens on ::ffff:127.0.0.1 for 127.0.0.1, and on :: for all addresses.
                own = own.removeprefix("::ffff:")
                mine = rest[0] == port and (own == host or _is_any(own) or _is_any(host))
                yield fd, bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)), mine, peer
        except OSError:
            continue  # closed since the listing


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket object over a descriptor that stays another's."""
    sock = socket.socket(fileno=os.dup(fd))
    try:
        yield sock
    finally:
        sock.close()
