"""What is wrong with `upstreams`. Part of `check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.ports import join_address, split_address
from gateway.settings import Settings, Upstream
from gateway.settings.checker import Checker
from governance.documents.convert import Place, dotted

_DNS = "dns://"
_NEVER_UPSTREAM = frozenset({
    "authorization", "x-api-key", "proxy-authorization", "proxy-authenticate", "connection", "keep-alive",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length",
    "content-encoding", "expect",
})  # fmt: skip
"""Hop-by-hop headers (RFC 9110, 7.6.1), credentials, and what frames the upstream's own request."""


def upstreams(settings: Settings, check: Checker) -> None:
    """Each upstream by itself."""
    if not settings.upstreams:
        message = "`upstreams` names no server: add one, such as `triton: {http: 127.0.0.1:8000}`"
        check.error(("upstreams",), "no-upstreams", message)
    for name, upstream in settings.upstreams.items():
        _upstream(name, upstream, check)


def own_ports(settings: Settings, ports: Sequence[tuple[str, int, Place]], check: Checker) -> None:
    """No upstream is the gateway itself; `ports` are (host, port, place) that it listens on."""
    for name, upstream in settings.upstreams.items():
        for place, address in addresses(name, upstream):
            for host, port, other in ports:
                if split_address(address) == (host, port) and port:
                    message = f"`{dotted(place)}` is the gateway's own `{dotted(other)}`: it would call itself"
                    check.error(place, "same-port", message)


def _pairs(place: Place, upstream: Upstream) -> Iterator[tuple[Place, str | None, str | None]]:
    yield place, upstream.http, upstream.grpc
    for at, one in enumerate(upstream.replicas):
        yield (*place, "replicas", at), one.http, one.grpc


def addresses(name: str, upstream: Upstream) -> Iterator[tuple[Place, str]]:
    """Every address of an upstream, `dns://` taken off, and where it stands."""
    for place, http, grpc in _pairs(("upstreams", name), upstream):
        for kind, address in (("http", http), ("grpc", grpc)):
            if address is not None:
                yield (*place, kind), address.removeprefix(_DNS)


def _upstream(name: str, upstream: Upstream, check: Checker) -> None:
    place: Place = ("upstreams", name)
    check.name(name, place, key=True)
    if upstream.http is None and not upstream.replicas:
        message = f"`{dotted(place)}` has no address: write `http: HOST:PORT`, or `replicas` with several"
        check.error(place, "no-address", message, key=True)
    if upstream.replicas and (upstream.http is not None or upstream.grpc is not None):
        message = f"`{dotted(place)}` has `replicas` beside an address of its own: move it into the list"
        check.error((*place, "replicas"), "two-addresses", message, key=True)
    _unary(upstream, place, check)
    for here, address in addresses(name, upstream):
        if split_address(address)[1] == 0:
            check.error(here, "wrong-port", f"`{dotted(here)}`: port 0 is nowhere; write the server's port")
    for pair, http, grpc in _pairs(place, upstream):
        if grpc is not None and grpc == http:
            message = f"`{dotted((*pair, 'grpc'))}` is the HTTP address: Triton's gRPC port is another (8001)"
            check.error((*pair, "grpc"), "same-port", message)
        _same_name(pair, http, grpc, check)
    check.once([(one.http, (*place, "replicas", at, "http")) for at, one in enumerate(upstream.replicas)], "replica")
    if upstream.concurrency.min > upstream.concurrency.max:
        here = (*place, "concurrency", "min")
        check.error(here, "wrong-value", f"`{dotted(here)}` is more than `max` ({upstream.concurrency.max})")
    _forwarded(upstream, place, check)


def _same_name(pair: Place, http: str | None, grpc: str | None, check: Checker) -> None:
    """A `dns://` name stands for one replica an address, so both doors of it have the same name."""
    if http is None or grpc is None or not (http.startswith(_DNS) or grpc.startswith(_DNS)):
        return
    here = (*pair, "grpc")
    wanted = split_address(http.removeprefix(_DNS))[0]
    name, port = split_address(grpc.removeprefix(_DNS))
    beside = join_address(wanted, port)
    if not http.startswith(_DNS):
        message = f"`{dotted(here)}` is a `dns://` name, and `{dotted((*pair, 'http'))}` is one address: write the "
        check.error(here, "wrong-address", message + f"gRPC address beside it, such as `{beside}`")
    elif not grpc.startswith(_DNS) or name.lower() != wanted.lower():
        message = f"`{dotted(here)}` must be the name of `{dotted((*pair, 'http'))}` with the gRPC port, since each "
        check.error(here, "wrong-address", message + f"of its addresses is one server: `{_DNS}{beside}`")


def _unary(upstream: Upstream, place: Place, check: Checker) -> None:
    if upstream.unary == "grpc":
        for pair, _, grpc in _pairs(place, upstream):
            if grpc is None and (len(pair) > len(place) or not upstream.replicas):
                message = f"`{dotted((*place, 'unary'))}: grpc` needs `grpc` addresses: `{dotted(pair)}` has none"
                check.error((*place, "unary"), "no-grpc", message)


def _forwarded(upstream: Upstream, place: Place, check: Checker) -> None:
    names: list[tuple[str, Place]] = []
    for at, header in enumerate(upstream.forward_headers):
        spot: Place = (*place, "forward_headers", at)
        check.header(header, spot)
        names.append((header.lower(), spot))
        if header.lower() in _NEVER_UPSTREAM:
            message = f"`{header}` never travels upstream (hop-by-hop, framing or a credential): remove it"
            check.error(spot, "wrong-header", message)
    check.once(names, "header")
