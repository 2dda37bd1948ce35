"""Which models are ready on a server, by its repository index.

Contract: one POST of Triton's model repository extension with `ready` set, which Triton answers from memory.
Servers without the extension (KServe's SDK) have no such list: `of` is None, and each model is asked about.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.upstream.answers import error_of
from gateway.upstream.http_response import Response

_NO_SUCH_PAGE = frozenset({404, 405, 501})


class _Request(msgspec.Struct, frozen=True):
    target: str
    headers: bytes
    body: bytes


READY_INDEX: Final = _Request("/v2/repository/index", b"content-type: application/json\r\n", b'{"ready":true}')
"""The request for it."""


class _Row(msgspec.Struct):
    name: str
    version: str = ""
    state: str = ""


_decoder = msgspec.json.Decoder(list[_Row])


class ReadyModels(msgspec.Struct, frozen=True):
    """The models that are ready."""

    listed: tuple[tuple[str, str], ...]
    """(model, version), in order."""
    _found: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, response: Response) -> ReadyModels | None:
        """From the answer; None: the server has no index, or one that cannot be read.

        Raises:
            UpstreamAnswered, BadGateway: it could not say now.
        """
        if response.status in _NO_SUCH_PAGE:
            return None
        if response.status != 200:
            raise error_of(response)
        try:
            rows = _decoder.decode(response.body)
        except msgspec.DecodeError:
            return None
        listed = sorted({(row.name, row.version) for row in rows if row.state == "READY"})
        return cls(tuple(listed), frozenset(listed) | {(name, "") for name, _ in listed})

    def has(self, model: str, version: str) -> bool:
        """Whether the model is ready in that version; "" in any."""
        return (model, version) in self._found
