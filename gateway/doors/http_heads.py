"""Request heads that have been read before.

Contract: plain values, no I/O. What a head means depends on its bytes alone, and a client on a kept-alive connection
sends the same head again and again; so what llhttp and the checks of `http_connection` made of one is kept by its
bytes. Finding it costs 0.5 us, reading it 15. Only heads of inference requests that were found good are kept. A head
holds a credential, which is why no other copy of it is made and nothing of it is ever logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.clients import FORWARDING
from gateway.errors import BadRequest
from gateway.headers import Headers, from_asgi, request_id
from gateway.operations import Address
from gateway.wire import compression
from gateway.wire.http import parse_header_length

MOST_HEADS: Final = 512
"""Heads that are kept, 1 MiB at most; beyond, all are forgotten. Clients that write an id into each head fill it
once in 512 requests, which costs them 0.3 us a request."""
LONGEST_HEAD: Final = 2048
"""Bytes of a head that is kept. Those of clients have 150 to 500."""

known_heads: Final[dict[bytes, RequestHead]] = {}
"""By their bytes without the final CR LF CR LF."""


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """The head of an inference request that is answered as a whole. Its `repr` shows no header."""

    address: Address
    headers: Headers
    """MUST NOT be changed: requests with the same head share it."""
    length: int
    """Of the body, in bytes."""
    forwarding: bool
    """Some header speaks for another client."""
    plain: bool
    """The body is not compressed and the answer must not be, and `json_length` holds."""
    json_length: int | None
    """Inference-Header-Content-Length; None: absent."""
    request_id: str
    """The caller's own; empty: it gets one."""

    def __repr__(self) -> str:
        return f"RequestHead({self.address!r})"


def head_of(
    address: Address, pairs: Sequence[tuple[bytes, bytes]], spelling: dict[str, str], length: int
) -> RequestHead:
    """The head of parsed lines; `spelling` as in `Headers`."""
    headers = from_asgi(pairs, spelling)
    plain = (
        not compression.response_coding(headers.get("accept-encoding"))
        and compression.request_coding(headers.get("content-encoding")) == ""
    )
    json_length = None
    try:
        json_length = parse_header_length(headers.get("inference-header-content-length"), length)
    except BadRequest:
        plain = False  # it is refused in its turn
    own = headers.get("x-request-id", "")
    return RequestHead(
        address,
        headers,
        length,
        not FORWARDING.isdisjoint(headers),
        plain,
        json_length,
        own if own and request_id(headers) == own else "",
    )


def remember(head: bytes, meaning: RequestHead) -> None:
    """Keep what a head means.

    `head`: the message up to its first empty line. Those with lenient line ends are not kept: where they end is for
    the parser to say.
    """
    if len(head) > LONGEST_HEAD or head.count(b"\n") != head.count(b"\r\n") or head.count(b"\r") != head.count(b"\n"):
        return
    if len(known_heads) >= MOST_HEADS:
        known_heads.clear()
    known_heads[head] = meaning
