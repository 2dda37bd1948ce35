"""A model server's error pages, as the errors of the gateway.

Contract: what the server said stays what the client reads, status and words alike (`UpstreamAnswered`); what
cannot be read as an OIP error (`{"error": "..."}`, whatever the content type: Triton 2.51 sends some as
text/plain) is `BadGateway`, and its text goes to `detail` only.
"""

from __future__ import annotations

import msgspec

from gateway.errors import BadGateway, UpstreamAnswered, UpstreamError
from gateway.upstream.http_response import Response


class _ErrorBody(msgspec.Struct):
    error: str


_decoder = msgspec.json.Decoder(_ErrorBody)
_SHOWN = 200  # characters of an unreadable page that go into the log


def error_of(response: Response) -> UpstreamError:
    """The error that a response with a status other than 200 stands for."""
    return error_from(response.status, response.body)


def error_from(status: int, body: bytes) -> UpstreamError:
    """The same from status and body."""
    if status >= 400:
        try:
            # Of a stream that failed at once the page is a server-sent event.
            return UpstreamAnswered(_decoder.decode(body.removeprefix(b"data: ")).error, status=status)
        except msgspec.DecodeError:
            pass  # a proxy's page, a framework's own shape, nothing at all
    shown = body[:_SHOWN].decode("utf-8", "replace")
    return BadGateway("the model server's answer could not be understood", detail=f"HTTP {status}: {shown}")
