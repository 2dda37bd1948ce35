"""The replicas behind the addresses of the settings: written out, or all addresses of a DNS name.

Contract: `expand` is pure. A `dns://HOST:PORT` stands for every address that HOST has, asked for again every
`RESOLVE_SECONDS`; the gRPC address of the same upstream takes the port beside each. A name that cannot be
resolved keeps the addresses that it had: a name server that is away must not take the model servers away.
The resolver is the system's (`getaddrinfo`, in a thread), so `/etc/hosts`, search domains and its caches hold.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence

import msgspec

from gateway import settings
from gateway.upstream.http_head import host_header, split_address

RESOLVE_SECONDS = 5.0
"""Between two look-ups (Envoy's `dns_refresh_rate` is 5 s)."""
RESOLVE_TIMEOUT = 5.0
"""A look-up that takes longer has failed; its thread ends by itself."""
MOST_ADDRESSES = 256
"""Of one name; the rest, in the order of their text, is left out."""

_DNS = "dns://"


class Target(msgspec.Struct, frozen=True):
    """Where one replica is."""

    http: str
    """`HOST:PORT`; a replica is known by it."""
    grpc: str | None
    host: str
    """The host as the settings name it: what a certificate is held against."""


def targets_of(config: settings.Upstream) -> tuple[settings.ReplicaAddress, ...]:
    """The addresses as the settings write them."""
    return config.replicas or (settings.ReplicaAddress(http=config.http or "", grpc=config.grpc),)


def names_of(config: settings.Upstream) -> tuple[str, ...]:
    """The DNS names to look up, each once."""
    found = [
        split_address(address.removeprefix(_DNS))[0]
        for one in targets_of(config)
        for address in (one.http, one.grpc)
        if address is not None and address.startswith(_DNS)
    ]
    return tuple(dict.fromkeys(found))


def expand(config: settings.Upstream, known: Mapping[str, Sequence[str]]) -> tuple[Target, ...]:
    """One target for each replica, in the order of the settings, each HTTP address once.

    Args:
        config: of the upstream.
        known: addresses (without ports) by DNS name; a name that is missing has none yet.
    """
    found: dict[str, Target] = {}
    for one in targets_of(config):
        host = split_address(one.http.removeprefix(_DNS))[0]
        if not one.http.startswith(_DNS):
            found.setdefault(one.http, Target(one.http, one.grpc, host))
            continue
        for address in known.get(host, ()):
            http = _at(one.http, address)
            grpc = _at(one.grpc, address) if one.grpc is not None and one.grpc.startswith(_DNS) else one.grpc
            found.setdefault(http, Target(http, grpc, host))
    return tuple(found.values())


def _at(target: str, address: str) -> str:
    return host_header(address, split_address(target.removeprefix(_DNS))[1])


async def resolve(host: str) -> tuple[str, ...]:
    """The addresses of a name, sorted, each once.

    Raises:
        OSError: it cannot be resolved (`socket.gaierror`), or not in time (`TimeoutError`).
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(RESOLVE_TIMEOUT):
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(sorted({str(address[0]) for *_, address in found})[:MOST_ADDRESSES])
