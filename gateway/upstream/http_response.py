"""A response as callers see it, and the heads that have been read before.

Contract: plain values, no I/O. Header names are lower case; `headers` is shared between responses and immutable.
"""

from __future__ import annotations

from typing import Final, TypeAlias

UNREACHABLE: Final = "the model server closed the connection before it answered"
GARBLED: Final = "the model server's answer could not be understood"
TOO_LATE: Final = "the model server did not answer in time"

HeaderPairs: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""(lower-case name, value) in the order they came."""

BODYLESS: Final = frozenset({204, 304})
"""Statuses whose message ends at the empty line (RFC 9112 6.3)."""

MAX_KNOWN_HEADS: Final = 512
MAX_KNOWN_HEAD: Final = 512
"""Bytes; Triton's heads have 80 to 150."""
known_heads: dict[bytes, tuple[int, HeaderPairs, int]] = {}
"""Heads (without the final CR LF CR LF) that llhttp has parsed: status, headers, content length. A head's meaning
depends on its bytes alone and a model answers like requests with like heads, so most are found here; reading one
costs 0.4 us instead of 4 us. Servers that send the time in each head fill it slowly, and it is emptied when full."""


class Response:
    """One whole response; `body` is one `bytes`."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: HeaderPairs, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: bytes) -> bytes | None:
        """The first value of the header with this lower-case name."""
        return find_header(self.headers, name)


def find_header(headers: HeaderPairs, name: bytes) -> bytes | None:
    """The first value of the header with this lower-case name."""
    for key, value in headers:
        if key == name:
            return value
    return None


def content_length(headers: HeaderPairs) -> int | None:
    """The body's length where it is given and decides; llhttp has checked that it is one number."""
    if find_header(headers, b"transfer-encoding") is not None:
        return None
    value = find_header(headers, b"content-length")
    return None if value is None else int(value)


def remember_head(head: bytes, status: int, headers: HeaderPairs) -> None:
    """Keep what llhttp made of the head of a whole, clean, kept-alive response that has a body of known length.

    `head`: the first bytes of the response up to the first empty line; "" when it is too long or came in pieces.
    Those of an interim response, which stand before another status, and of lenient line ends are not kept.
    """
    length = content_length(headers)
    if (
        length is None
        or not head
        or status in BODYLESS
        or head[9:12] != b"%d" % status
        or head.count(b"\n") != head.count(b"\r\n")
    ):
        return
    if len(known_heads) >= MAX_KNOWN_HEADS:
        known_heads.clear()
    known_heads[head] = (status, headers, length)
