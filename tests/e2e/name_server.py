"""A DNS server on a socket (RFC 1035, A records over UDP), and a way to have a process ask it and no other.

glibc reads the address of its name server from /etc/resolv.conf alone, and always asks port 53: so the process gets a
mount namespace in which that file is another (util-linux's `unshare`; of a user namespace, where the tests do not run
as root), and the server an address of 127/8 of its own.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

ADDRESS = "127.53.0.1"
"""Not 127.0.0.53, where systemd-resolved listens."""
_A, _IN, _NAME_ERROR = 1, 1, 3


class NameServer:
    """Answers for the names in `addresses`; what is asked is counted by name."""

    def __init__(self, sock: socket.socket) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: dict[str, int] = {}
        self.silent = False
        """Nothing is answered: the server is away."""
        self._socket = sock

    def serve(self) -> None:
        """Until the socket is shut."""
        while True:
            try:
                query, client = self._socket.recvfrom(512)
            except OSError:
                return
            if query and not self.silent:
                self._socket.sendto(self._answer(query), client)
            elif not query:
                return

    def _answer(self, query: bytes) -> bytes:
        """Section 4.1: the header, the question as it came, and an answer for each address."""
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind = struct.unpack_from(">H", query, at + 1)[0]
        question, name = query[12 : at + 5], ".".join(labels)
        self.asked[name] = self.asked.get(name, 0) + 1
        found = self.addresses.get(name)
        records = [IPv4Address(each).packed for each in found or ()] if kind == _A else []
        flags = 0x8580 | (_NAME_ERROR if found is None else 0)  # an answer, authoritative; recursion as asked
        head = struct.pack(">2s5H", query[:2], flags, 1, len(records), 0, 0)
        # A pointer to the name in the question, type, class, 0 s to live, 4 bytes.
        rows = b"".join(struct.pack(">HHHIH4s", 0xC00C, _A, _IN, 0, 4, record) for record in records)
        return head + question + rows


@contextmanager
def name_server() -> Iterator[NameServer]:
    """Runs one; skips the test where port 53 may not be had."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((ADDRESS, 53))
        except OSError as error:
            pytest.skip(f"a name server needs {ADDRESS}:53: {error}")
        server = NameServer(sock)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", (ADDRESS, 53))
            thread.join(10)


def asking_it(folder: Path) -> tuple[str, ...]:
    """What a command is to be prefixed with so that it resolves names by that server; skips where that cannot be."""
    file = folder / "resolv.conf"
    file.write_text(f"nameserver {ADDRESS}\noptions timeout:1 attempts:1\n")
    apart = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--mount")
    prefix = (*apart, "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(file))
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mount namespace to be had: {error}")
    return prefix
