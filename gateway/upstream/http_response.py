"""A response as callers see it, and the heads that have been read before.

Contract: plain values, no I/O. Header names are lower case; `headers` is shared between responses and immutable.
"""

from __future__ import annotations

from typing import Final

from gateway.upstream._line_py import MAX_KNOWN_HEAD, HeaderPairs
from gateway.upstream.line import ResponseHead, known_heads

UNREACHABLE: Final = "the model server closed the connection before it answered"
GARBLED: Final = "the model server's answer could not be understood"
TOO_LATE: Final = "the model server did not answer in time"

BODYLESS: Final = frozenset({204, 304})
"""Statuses whose message ends at the empty line (RFC 9112 6.3)."""

MAX_KNOWN_HEADS: Final = 512
_DIGITS: Final = 10


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
    json_length = find_header(headers, b"inference-header-content-length")
    # What is no number is told to whoever reads the answer (`answers.header_length_of`).
    stands = json_length is not None and json_length.isdigit() and len(json_length) < _DIGITS
    known_heads[head] = ResponseHead(head, status, headers, length, int(json_length or 0) if stands else -1)


__all__ = [
    "BODYLESS",
    "GARBLED",
    "MAX_KNOWN_HEAD",
    "MAX_KNOWN_HEADS",
    "TOO_LATE",
    "UNREACHABLE",
    "HeaderPairs",
    "Response",
    "ResponseHead",
    "content_length",
    "find_header",
    "known_heads",
    "remember_head",
]
