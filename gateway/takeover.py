"""How a gateway takes over from the one that runs: a Unix socket in `state_dir`, descriptors passed over it.

Contract: the newcomer connects; the incumbent answers with one JSON document (`Handover`) and, as SCM_RIGHTS
(unix(7)), the lock of `state_dir` and every bound socket, and goes on serving. The newcomer starts workers of its
own on them, in slots that are free. One byte from it, once all of them are ready, is the moment: from then on the
incumbent relieves its workers and leaves. When the newcomer ends before, the incumbent goes on as if nothing had
happened; when the incumbent ends before, the newcomer has all that it needs. A lock taken with flock(2) belongs to
the open file, so that it is held for as long as either of them lives, and by nobody else in between.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

SOCKET = "control.sock"
COMMIT = b"\x01"
_MOST_FDS = 253
"""Linux passes no more at once (SCM_MAX_FD)."""
_PATIENCE_S = 10.0


class TakeoverError(OSError):
    """The gateway that runs cannot be taken over; it goes on. The text says why and what to do."""


class _EndedError(OSError):
    """The incumbent ended before it had said a word."""


class Handover(msgspec.Struct):
    """What the incumbent says."""

    refused: str = ""
    """Why not; empty: it hands over."""
    workers: int = 0
    wanted: dict[str, str | None] = {}
    """Addresses as its settings have them, by `http`, `grpc` and `metrics`."""
    addresses: dict[str, str] = {}
    """As they are, with the ports filled in."""
    busy: list[int] = []
    """Slots of its workers."""


class Taken(msgspec.Struct):
    """What the newcomer got."""

    said: Handover
    link: socket.socket
    """To the incumbent; ends when it does."""
    lock: int
    seats: dict[str, list[socket.socket]]
    """Bound sockets by `http` and `metrics`, one a worker."""
    reserved: list[socket.socket]


@contextlib.contextmanager
def _address(state_dir: Path) -> Iterator[str]:
    # By way of the folder's descriptor: a Unix socket's path has 107 bytes at most.
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


def listen(state_dir: Path) -> socket.socket:
    """The incumbent's socket; whoever holds the lock of `state_dir` may open it. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        (state_dir / SOCKET).unlink(missing_ok=True)
        with _address(state_dir) as address:
            before = os.umask(0o177)
            try:
                sock.bind(address)
            finally:
                os.umask(before)
        sock.listen(1)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def same_user(link: socket.socket) -> bool:
    """Whether the other end runs as this user, or as root."""
    _, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (0, os.geteuid())


def give(link: socket.socket, said: Handover, descriptors: Sequence[int]) -> None:
    """Answer a newcomer. Raises OSError."""
    text = msgspec.json.encode(said)
    link.sendmsg(
        [struct.pack("=I", len(text)) + text],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else [],
    )


def take(state_dir: Path, workers: int, wanted: Mapping[str, str | None]) -> Taken | None:
    """Ask the gateway that runs on this `state_dir`; None when there is none, or it ends before it answers.

    Raises:
        TakeoverError: it does not hand over, or what it has is not what these settings want.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(_PATIENCE_S)
    try:
        with _address(state_dir) as address:
            link.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        link.close()
        return None
    try:
        said, descriptors = _receive(link)
        problem = _mismatch(said, workers, wanted)
        if problem:
            raise TakeoverError(f"takeover: {problem}")
    except _EndedError:
        link.close()
        return None
    except (OSError, msgspec.DecodeError, struct.error) as error:
        link.close()
        if isinstance(error, TakeoverError):
            raise
        raise TakeoverError(f"takeover: the gateway that runs did not hand over ({error}); it goes on") from None
    lock, *rest = descriptors
    sockets = [socket.socket(fileno=descriptor) for descriptor in rest]
    seats: dict[str, list[socket.socket]] = {}
    for name in ("http", "metrics"):
        if name in said.addresses:
            seats[name], sockets = sockets[:workers], sockets[workers:]
    return Taken(said, link, lock, seats, sockets)


def _receive(link: socket.socket) -> tuple[Handover, list[int]]:
    try:
        data, descriptors, _, _ = socket.recv_fds(link, 1 << 16, _MOST_FDS)
    except ConnectionResetError as error:
        raise _EndedError from error
    if not data:
        raise _EndedError
    (length,) = struct.unpack_from("=I", data)
    while len(data) < 4 + length:
        more = link.recv(1 << 16)
        if not more:
            raise ConnectionResetError("it ended")
        data += more
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return msgspec.json.decode(data[4 : 4 + length], type=Handover), descriptors


def _mismatch(said: Handover, workers: int, wanted: Mapping[str, str | None]) -> str:
    if said.refused:
        return f"the gateway that runs refuses: {said.refused}; try again later"
    if said.workers != workers:
        return f"`workers` is {said.workers} in the gateway that runs and {workers} here; stop that one, then start"
    for name, address in wanted.items():
        if said.wanted.get(name) != address:
            key = "metrics.listen" if name == "metrics" else f"listen.{name}"
            return f"`{key}` differs from that of the gateway that runs; stop that one, then start"
    return ""
