"""Who the client is behind the proxies: `listen.trusted_proxies`, `x-forwarded-for` and `forwarded` (RFC 7239).

Contract: pure. A peer that is no trusted proxy is the client, whatever its headers say. Behind trusted ones the
client is the right-most address in the list that is none of them: what stands left of it anybody may have
written. What is malformed ends the list there. `forwarded` counts only where there is no `x-forwarded-for`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, TypeAlias

FORWARDING: Final = frozenset(
    {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip"}
)
"""Headers that speak for another; from whoever is no trusted proxy they are dropped where there are identities."""
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_FOR: Final = re.compile(r'(?:^|;)\s*for\s*=\s*(?:"([^"]*)"|([^;"\s]+))', re.IGNORECASE)
_MOST_HOPS: Final = 64


@lru_cache(maxsize=16)
def _networks(proxies: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(proxy) for proxy in proxies)


def _parse(text: str) -> _Address | None:
    """An address as proxies and gRPC write it: with or without port, brackets, scheme (`ipv4:`)."""
    text = text.strip().removeprefix("ipv4:").removeprefix("ipv6:").replace("%5B", "[").replace("%5D", "]")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket sees IPv4 peers as mapped addresses.
    return getattr(found, "ipv4_mapped", None) or found


def _trusted(address: _Address, proxies: tuple[str, ...]) -> bool:
    return any(address in network for network in _networks(proxies) if network.version == address.version)


def trusted(peer: str, proxies: tuple[str, ...]) -> bool:
    """Whether the peer may speak for others."""
    address = _parse(peer) if proxies else None
    return address is not None and _trusted(address, proxies)


def client_address(peer: str, headers: Mapping[str, str], proxies: tuple[str, ...]) -> str:
    """The client's address without its port; the peer as it is where it is no address (empty, a Unix socket).

    Args:
        peer: the other end of the connection.
        headers: names in lower case.
        proxies: networks whose word is taken.
    """
    found = _parse(peer)
    if found is None:
        return peer
    if not proxies or not _trusted(found, proxies):
        return str(found)
    listed = headers.get("x-forwarded-for")
    if listed is not None:
        hops: list[str | None] = [*listed.split(",")]
    else:
        matches = [_FOR.search(element) for element in headers.get("forwarded", "").split(",")]
        hops = [None if match is None else match[1] or match[2] for match in matches]
    for hop in reversed(hops[-_MOST_HOPS:]):
        address = None if hop is None else _parse(hop)
        if address is None:
            break
        found = address
        if not _trusted(address, proxies):
            break
    return str(found)


def drop_untrusted(headers: dict[str, str], peer: str, proxies: tuple[str, ...]) -> None:
    """Takes the forwarding headers away from who may not speak for others."""
    if not FORWARDING.isdisjoint(headers) and not trusted(peer, proxies):
        for name in FORWARDING:
            headers.pop(name, None)
