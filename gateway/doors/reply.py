"""An HTTP answer as a value, and the one shape of every error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.doors.http_connection import CONNECTION_KEY
from gateway.errors import CircuitOpen, MethodNotAllowed, ModelAway, Shed, TidegateError, UnsupportedEncoding
from gateway.wire.compression import ACCEPT
from gateway.wire.types import Buffer

JSON_TYPE: Final = (b"content-type", b"application/json")
"""Exactly this: KServe's client reads `error` only when nothing follows."""


class Reply(msgspec.Struct):
    """A complete HTTP answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: Buffer = b""
    more: list[Buffer] = []
    """What follows `body`: large tensors, which are sent from where they lie."""
    lines: bytes = b""
    """With it, `headers` is empty: the lines up to `content-length`, ready to be written."""


def error_reply(error: TidegateError) -> Reply:
    """`{"error": "..."}`, and the headers that the status asks for."""
    headers = [JSON_TYPE]
    if isinstance(error, Shed | CircuitOpen | ModelAway):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    elif isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    elif isinstance(error, UnsupportedEncoding):
        headers.append((b"accept-encoding", ACCEPT.encode()))
    elif error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Reply(error.status, headers, error_body(error))


def error_body(error: TidegateError) -> bytes:
    """`{"error": "..."}`."""
    return msgspec.json.encode({"error": error.message})


def served_headers(served: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers that say who served, those that are not empty."""
    return [(name.encode(), value.encode("latin-1")) for name, value in served.items() if value]


async def send_reply(scope: Any, send: Any, reply: Reply, served: Mapping[str, str]) -> None:
    """Write it, with the headers that say who served: at once on our own server, else by ASGI's two messages."""
    headers = reply.headers
    headers.append((b"content-length", b"%d" % (len(reply.body) + sum(map(len, reply.more)))))
    headers += served_headers(served)
    connection = scope.get(CONNECTION_KEY)
    if connection is not None and connection.answer(scope, reply.status, headers, reply.body, reply.more):
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"".join((reply.body, *reply.more))})
