"""Content codings of HTTP bodies: gzip and deflate (zlib's format), as Triton and tritonclient use them.

Contract: sans-IO. Decoding never holds more than the limit: a body that inflates further is refused while it
inflates. Inference-Header-Content-Length counts uncompressed bytes and is not touched by any of this.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from gateway.errors import BadRequest, TooLarge
from gateway.wire.types import Buffer

ACCEPT: Final = "gzip, deflate"
"""What the answer to an unknown Content-Encoding (501) lists in Accept-Encoding."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_WBITS: Final = {"gzip": _GZIP, "deflate": zlib.MAX_WBITS}
LEVEL: Final = 1
"""zlib's fastest: on float tensors level 6 takes five times as long for two per cent less."""


def request_coding(header: str | None) -> str | None:
    """The coding of a request body.

    Args:
        header: its Content-Encoding; None when absent.

    Returns:
        `gzip`, `deflate`, `` for none; None for what is not known, to be answered with 501 and `ACCEPT`.
    """
    if not header or header == "identity":
        return ""
    return header if header in _WBITS else None


def decode(body: Buffer, coding: str, limit: int) -> bytes:
    """The uncompressed body.

    Args:
        body: as it was sent.
        coding: `gzip` or `deflate`.
        limit: most bytes it may inflate to.

    Raises:
        TooLarge: it inflates beyond `limit`.
        BadRequest: not of that coding, cut off, or followed by other bytes.
    """
    inflater = zlib.decompressobj(_WBITS[coding])
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"failed to decompress the {coding} request body: {error}") from None
    if len(plain) > limit:
        raise TooLarge(f"the request body inflates beyond the limit of {limit} bytes")
    if not inflater.eof:
        raise BadRequest(f"failed to decompress the {coding} request body: it is cut off")
    if inflater.unused_data:
        # A second gzip member would be legal; nobody sends one, and thousands of empty ones cost time.
        raise BadRequest(f"failed to decompress the {coding} request body: bytes follow its end")
    return plain


def encode(parts: Iterable[Buffer], coding: str) -> bytes:
    """The parts of a body, compressed as one with `gzip` or `deflate`."""
    deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, _WBITS[coding])
    out = [deflater.compress(part) for part in parts]
    out.append(deflater.flush())
    return b"".join(out)


def response_coding(accept: str | None) -> str:
    """The coding of an answer, chosen from Accept-Encoding as Triton does.

    The greatest weight among `identity`, `deflate` and `gzip`; the first of equals; nothing else counts, `*`
    neither.

    Returns:
        `gzip`, `deflate`, or `` for none.
    """
    if not accept:
        return ""
    chosen, best = "identity", 0.0
    for entry in accept.split(","):
        name, _, weight_text = entry.strip().partition(";")
        weight = 1.0
        if weight_text:
            key, _, value = weight_text.strip().partition("=")
            try:
                weight = float(value) if key.strip().lower() == "q" else 1.0
            except ValueError:
                continue
        name = name.strip()
        if (name == "identity" or name in _WBITS) and weight > best:
            chosen, best = name, weight
    return "" if chosen == "identity" else chosen
