"""How many client connections each door holds, from Linux' `/proc/net/tcp` (proc(5)).

Read when the page is asked for, so that connections cost nothing as they come and go; and from the kernel, since
gRPC's library counts nothing that it would tell. Contract: counts connections that a process of this network
namespace has accepted and not closed, those that their client has closed and we have not (CLOSE_WAIT) included:
such a one is what a leak looks like. What waits in a port's queue, and what the kernel alone still winds up, has
no inode and is not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from gateway.ports import split_address

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = b"0A"
# sl, local address and port, remote ones, state, queues, timer, retransmits, uid, timeout, inode.
_ROW = rb"^ *\d+: ([0-9A-F]+):%04X [0-9A-F]+:[0-9A-F]{4} ([0-9A-F]{2}) \S+ \S+ \S+ +\d+ +\d+ (\d+)"


def connections(doors: Mapping[str, str], tables: tuple[Path, ...] = _TABLES) -> dict[str, int]:
    """Connections by door, for doors given as HOST:PORT; empty where the kernel has no such tables. Any thread."""
    texts = []
    for table in tables:
        try:
            texts.append(table.read_bytes())
        except OSError:
            continue  # without IPv6 there is no tcp6; other systems have neither
    if not texts:
        return {}
    return {door: sum(1 for text in texts for _ in _of(address, text)) for door, address in doors.items()}


def _of(address: str, text: bytes) -> Iterator[None]:
    host, port = split_address(address)
    wanted = _plain(host.partition("%")[0])
    for row in re.finditer(_ROW % port, text, re.MULTILINE):
        own, state, inode = row.groups()
        if state != _LISTEN and inode != b"0" and (wanted is None or _decoded(own) == wanted):
            yield


def _plain(host: str) -> str | None:
    """The address in one spelling; None: every address of this machine."""
    found = ip_address(host)
    return None if found.is_unspecified else str(found)


def _decoded(text: bytes) -> str:
    """An address as the kernel prints it: 32-bit words in the machine's order (little-endian on x86 and ARM)."""
    raw = bytes.fromhex(text.decode())
    packed = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    found = ip_address(packed)
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped  # gRPC's library listens on ::ffff:127.0.0.1 for 127.0.0.1
    return str(found)
