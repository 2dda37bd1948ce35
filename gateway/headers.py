"""Which headers travel on, and what the gateway reads from them. Pure functions, no I/O.

Header names are lower case throughout; gRPC metadata is treated alike. When a name comes several times, the
values are joined by a comma as RFC 9110 section 5.3 says.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from governance.types import Subject

# RFC 9110 section 7.6.1, and what frames a message: the gateway writes these itself on each hop.
HOP_BY_HOP: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "inference-header-content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # gRPC's own framing
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-timeout",
    }
)
CREDENTIALS: Final = frozenset({"authorization", "cookie", "x-api-key"})
# Written by the gateway itself for each request.
_OURS: Final = frozenset({"traceparent", "tracestate", "x-request-id", "x-tidegate-shadow", "x-tidegate-variant"})
_NOT_METADATA: Final = frozenset({"accept", "user-agent"})
_NEVER: Final = HOP_BY_HOP | CREDENTIALS | _OURS

_getrandbits = random.getrandbits

# Long enough for any id scheme in use (UUID, ULID, W3C), short enough for a log line.
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")


class Travelling(list[tuple[str, str]]):
    """Headers of the request to a model server, and the lines that say so on HTTP."""

    __slots__ = ("block",)

    block: bytes
    """`name: value` + CR LF each; absent: not made yet."""


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What the policy of one snapshot says of a request of a head: who asks, and the rule that lets them."""

    of: str | None = None
    """That snapshot's hash, the very object; None: nothing is known yet."""
    subject: Subject | None = None
    line: int | None = None


UNKNOWN: Final = Standing()


class Headers(dict[str, str]):
    """A request's headers by lower-case name, and how the client spelled the names.

    Names mean the same in any case, but Triton makes a parameter of a forwarded header under the name as
    written, and models read it by that.
    """

    __slots__ = ("kept", "kept_for", "spelling", "standing")

    def __init__(self, spelling: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__()
        self.kept: Travelling | None = None
        """Those that travel to upstreams which let `kept_for` through, for `upstream_headers`."""
        self.kept_for: frozenset[str] | None = None
        self.standing: Standing | None = None
        """None: these headers are one request's alone, so that nothing is kept."""
        self.spelling = spelling
        """Lower-case name to the name as sent, where the two differ."""

    def copied(self) -> Headers:
        """The same in an object of its own, which may be changed."""
        copy = Headers(self.spelling)
        copy.update(self)
        return copy


def from_asgi(pairs: Iterable[tuple[bytes, bytes]], spelling: Mapping[str, str] = MappingProxyType({})) -> Headers:
    """ASGI's byte pairs as a mapping; `spelling` as in `Headers`."""
    headers = Headers(spelling)
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def from_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> Headers:
    """GRPC metadata as a mapping; binary (`-bin`) values are left out, HTTP headers cannot carry them."""
    headers = Headers()
    for name, value in pairs:
        if isinstance(value, str):
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def metadata_of(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers that travel as gRPC metadata: names in lower case.

    Without those that only HTTP servers read (`accept`) or that grpcio writes itself (`user-agent`).
    """
    lower = ((name.lower(), value) for name, value in headers)
    return [(name, value) for name, value in lower if name not in _NOT_METADATA]


def request_id(headers: Mapping[str, str]) -> str:
    """The caller's `x-request-id` when it is 1 to 128 visible ASCII characters, else a new one."""
    given = headers.get("x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return new_request_id()


def new_request_id() -> str:
    """An id of the gateway's own: no secret, the system's generator costs ten times as much."""
    return _getrandbits(128).to_bytes(16, "big").hex()  # half of what formatting the number costs


def wants_events(headers: Mapping[str, str]) -> bool:
    """Whether the client asks for server-sent events."""
    accept = headers.get("accept", "").lower()
    # Hardly any request does; the exact look is for those that may.
    return "text/event-stream" in accept and any(
        part.split(";")[0].strip() == "text/event-stream" for part in accept.split(",")
    )


def upstream_headers(headers: Mapping[str, str], allowed: frozenset[str] | None, request_id: str) -> Travelling:
    """The headers of the request to the model server.

    The trace context is not among them: `traceparent` goes along only when the request is sampled, because
    Triton traces whatever carries one.

    Args:
        headers: the client's.
        allowed: with an identity section, the names that may travel (`forward_headers`); None: all may that
            are neither hop-by-hop nor credentials.
        request_id: the id of this request.
    """
    if not isinstance(headers, Headers):
        kept = Travelling(_kept(headers, allowed))
    elif headers.kept is not None and headers.kept_for is allowed:
        kept = headers.kept
    else:
        kept = headers.kept = Travelling(_kept(headers, allowed))
        headers.kept_for = allowed
    if allowed is not None and "x-request-id" not in allowed:
        return kept
    own = ("x-request-id", request_id)
    if kept:
        return Travelling([*kept, own])
    alone = Travelling((own,))
    # An id is visible ASCII: it needs no look.
    alone.block = b"x-request-id: %b\r\n" % request_id.encode()
    return alone


def _kept(headers: Mapping[str, str], allowed: frozenset[str] | None) -> list[tuple[str, str]]:
    """The client's headers that travel, spelled as it did."""
    # What a `connection` header lists is hop-by-hop as well.
    listed = headers.get("connection")
    never = _NEVER if listed is None else _NEVER | {name.strip().lower() for name in listed.split(",")}
    if allowed is None:
        kept = [(name, value) for name, value in headers.items() if name not in never]
    else:
        kept = [(name, headers[name]) for name in allowed if name in headers and name not in never]
    spelling = headers.spelling if isinstance(headers, Headers) else None
    return [(spelling.get(name, name), value) for name, value in kept] if spelling else kept
