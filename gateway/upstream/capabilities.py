"""What a model server says of itself (`GET /v2`), and what follows from it and the settings.

Contract: pure; `of` takes the page, whoever looks after the server fetches it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway import settings
from gateway.errors import BadGateway
from gateway.upstream.pool import NOT_REACHED

TRITON: Final = "triton"
"""What a Triton calls itself."""

_BINARY: Final = "binary_tensor_data"
_CANCEL_UNSAFE_UP_TO: Final = (2, 51)
"""Triton up to this version can end with signal 11 when a stream is closed while its model still sends."""


class Capabilities(msgspec.Struct, frozen=True):
    """What a server is, and how the gateway talks to it therefore."""

    name: str
    version: str
    extensions: frozenset[str]
    binary: bool
    """Tensors travel in OIP's binary extension."""
    drain_streams: bool
    """A stream whose client left is read to its end; else it is cancelled."""


class _ServerPage(msgspec.Struct):
    name: str = ""
    version: str = ""
    extensions: list[str] = []


def capabilities_of(body: bytes, config: settings.Upstream) -> Capabilities:
    """What the page and the settings say together.

    Raises:
        BadGateway: it is no such page.
    """
    try:
        page = msgspec.json.decode(body, type=_ServerPage)
    except msgspec.DecodeError as error:
        raise BadGateway(NOT_REACHED, detail=f"GET /v2: {error}") from None
    return Capabilities(
        name=page.name,
        version=page.version,
        extensions=frozenset(page.extensions),
        binary=_BINARY in page.extensions if config.binary == "auto" else config.binary == "always",
        drain_streams=_must_drain(page) if config.drain_streams == "auto" else config.drain_streams == "always",
    )


def _must_drain(page: _ServerPage) -> bool:
    if page.name != TRITON:
        return False
    major, _, rest = page.version.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdigit() and minor.isdigit()):
        return True
    return (int(major), int(minor)) <= _CANCEL_UNSAFE_UP_TO
