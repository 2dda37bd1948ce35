"""JSON heads of requests and answers that have been read before: the twin in C, or its specification.

The only place that chooses; `TIDEGATE_NO_EXTENSIONS=1` takes the specification, `_by_heart_py.py`, which says what this
is about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.wire._by_heart_py import LONGEST_HEAD, MOST_HEADS
from gateway.wire.grpc import NO_EXTENSIONS

if TYPE_CHECKING or NO_EXTENSIONS:
    from gateway.wire._by_heart_py import KnownRequest, decode_request, decode_response, encode_request, written
else:
    from gateway.wire._by_heart_c import KnownRequest, decode_request, decode_response, encode_request, written

__all__ = [
    "LONGEST_HEAD",
    "MOST_HEADS",
    "KnownRequest",
    "decode_request",
    "decode_response",
    "encode_request",
    "written",
]
