"""Heads of inference requests: found by their bytes, or read here when they are plain.

Contract: plain values, no I/O. What a head means depends on its bytes alone, and a client on a kept-alive connection
sends the same head again and again; so what was made of one is kept by its bytes: finding it costs 0.5 us. `read`
takes new ones apart where nothing about them is special, for 12 us; what it takes is a small part of what llhttp and
`http_connection` find good, and means the same to them (`tests/test_http_heads.py`). Everything else is theirs, for
50 us. A head holds a credential: nothing of it is ever logged.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

import msgspec

from gateway.clients import FORWARDING
from gateway.doors.http_connection import HOST
from gateway.errors import BadRequest, TidegateError
from gateway.headers import UNKNOWN, Headers, request_id, wants_events
from gateway.operations import Address, parse_path
from gateway.wire import compression
from gateway.wire.http import parse_header_length

MOST_HEADS: Final = 512
"""Heads of one generation, 1 MiB at most. Clients that write an id into each fill it; those that are asked for again
live on in the next one."""
LONGEST_HEAD: Final = 2048
"""Bytes of a head that is kept or read here. Those of clients have 150 to 500."""

known_heads: Final[dict[bytes, RequestHead]] = {}
"""By their bytes without the final CR LF CR LF."""
_older: Final[dict[bytes, RequestHead]] = {}

# Header names are tokens (RFC 9110, 5.6.2), values visible ASCII with blanks inside, and the path is as RFC 3986
# section 3.3 has it. No header may be empty, none folded, none end in a blank: those are for the parser.
_PLAIN: Final = re.compile(
    rb"POST (/v2/models/[A-Za-z0-9._~%!$&'()*+,;=:@/-]+/infer) HTTP/1\.1"
    rb"(?:\r\n[A-Za-z0-9!#$%&'*+.^_`|~-]+: *[!-~](?:[ -~]*[!-~])?)+"
)
# They say where a message ends, or that something else is wanted than an answer on a connection that stays.
_SPECIAL: Final = frozenset(
    {"connection", "expect", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_DIGITS: Final = re.compile(r"[0-9]{1,9}")


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


def head_of(address: Address, headers: Headers, length: int) -> RequestHead:
    """The head with these headers."""
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
    headers.standing = UNKNOWN
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
    if len(head) <= LONGEST_HEAD and head.count(b"\n") == head.count(b"\r\n") == head.count(b"\r"):
        _keep(head, meaning)


def _keep(head: bytes, meaning: RequestHead) -> None:
    if len(known_heads) >= MOST_HEADS:
        _older.clear()
        _older.update(known_heads)
        known_heads.clear()
    known_heads[head] = meaning


def read(head: bytes, size: int) -> RequestHead | None:
    """What a head means that is not among `known_heads`, and keep it; None: it is for the parser.

    Args:
        head: the message up to its first empty line.
        size: bytes that follow; a body of another length is for the parser, too.
    """
    meaning = _older.get(head)
    if meaning is None:
        if len(head) > LONGEST_HEAD or (match := _PLAIN.fullmatch(head)) is None:
            return None
        meaning = _read(match[1], head.decode("ascii").split("\r\n"), size)
        if meaning is None:
            return None
    elif meaning.length != size:
        return None
    _keep(head, meaning)
    return meaning


def _read(path: bytes, lines: list[str], size: int) -> RequestHead | None:
    headers = Headers()
    spelling: dict[str, str] = {}
    for line in islice(lines, 1, None):
        written, _, value = line.partition(":")
        name = written.lower()
        if name in headers:
            return None  # which of them holds is for the parser to say
        if name != written:
            spelling[name] = written
        headers[name] = value.lstrip(" ")
    length = headers.get("content-length", "")
    if not _SPECIAL.isdisjoint(headers) or not _DIGITS.fullmatch(length) or int(length) != size:
        return None
    if HOST.fullmatch(headers.get("host", "/").encode()) is None or wants_events(headers):
        return None
    try:
        address = parse_path("POST", path)
    except TidegateError:
        return None
    if address.operation.name != "infer":
        return None
    headers.spelling = spelling
    return head_of(address, headers, size)
