"""A model server's error pages, as the errors of the gateway.

Contract: what the server said stays what the client reads, status and words alike (`UpstreamAnswered`); what
cannot be read as an OIP error (`{"error": "..."}`, whatever the content type: Triton 2.51 sends some as
text/plain) is `BadGateway`, and its text goes to `detail` only. MLServer and KServe's SDK leave refusals of a
request's form to FastAPI, with status 422 and `{"detail": ...}`: those words are the server's too.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from gateway.errors import BadGateway, UpstreamAnswered, UpstreamError
from gateway.upstream.http_response import HeaderPairs, Response, find_header


class _ErrorBody(msgspec.Struct):
    error: str


class _Complaint(msgspec.Struct):
    msg: str
    loc: list[str | int] = []


class _RefusedForm(msgspec.Struct):
    detail: str | list[_Complaint]


_decoder = msgspec.json.Decoder(_ErrorBody)
_form_decoder = msgspec.json.Decoder(_RefusedForm)
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
    if status == 422:
        try:
            return UpstreamAnswered(_said(_form_decoder.decode(body).detail), status=status)
        except msgspec.DecodeError:
            pass
    shown = body[:_SHOWN].decode("utf-8", "replace")
    return BadGateway("the model server's answer could not be understood", detail=f"HTTP {status}: {shown}")


def header_length_of(response: Response) -> int | None:
    """The length of the answer's JSON head before its tensors (`Inference-Header-Content-Length`); None: JSON only.

    Raises:
        BadGateway: it is no number.
    """
    return _header_length(response.headers)


# Heads that were read before share their headers.
@lru_cache(maxsize=1024)
def _header_length(headers: HeaderPairs) -> int | None:
    text = find_header(headers, b"inference-header-content-length")
    if text is None:
        return None
    if not text.isdigit():
        raise BadGateway("the model server's answer could not be understood", detail=f"IHCL {text!r}")
    return int(text)


def _said(detail: str | list[_Complaint]) -> str:
    if isinstance(detail, str):
        return detail
    # What is wrong and where; FastAPI repeats the whole input beside it.
    return "; ".join(f"{'.'.join(map(str, complaint.loc))}: {complaint.msg}" for complaint in detail)
