"""`/audit/...`: the audit log, as C2SP tlog-tiles has logs served.

Contract: `checkpoint`, `tile/L/N[.p/W]` and `tile/entries/N[.p/W]` are the bytes of the log's files, read in a thread,
and only what the published checkpoint speaks of: what lies beyond its size was never signed and may still change,
and everything below never does. Entries that were pruned are 410, with what states it. Everyone who may read the
log may have all of it; what is in it is no secret among them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from litestar import Controller, Request, get, post
from litestar.params import FromPath
from litestar.response import Response
from msgspec.structs import asdict

from gateway import logs
from gateway.control.access import authorised
from gateway.decisions import durable
from gateway.errors import Gone, NotFound
from gateway.headers import from_asgi, request_id
from gateway.wire import compression
from governance.audit.files import ASIDE
from governance.audit.layout import Layout
from governance.audit.pruned import read_pruned
from governance.audit.show import read_checkpoint
from governance.audit.tiles import WIDTH, bundle, parse_path
from governance.audit.treefiles import TreeFiles
from governance.audit.witness import MOST_BYTES
from governance.errors import AuditInputError

if TYPE_CHECKING:
    from gateway.core import Core

_log = logs.get("audit")

_FOREVER: Final = "private, max-age=31536000, immutable"
"""Of what cannot change. `private`: whether a caller may read it is no business of a cache that others share."""
_SECONDS: Final = "private, max-age=2"
_NOTE: Final = "text/plain; charset=utf-8"
_OCTETS: Final = "application/octet-stream"


class AuditController(Controller):
    """The audit log. Needs `read` on `audit`."""

    path = "/audit"
    include_in_schema = False  # C2SP's texts describe it

    @get("/checkpoint")
    async def checkpoint(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """What the log says of itself now: a signed note (C2SP tlog-checkpoint)."""
        layout = _layout(request)
        try:
            note = await asyncio.to_thread(_checkpoint, layout)
        except OSError:
            raise NotFound("there is no checkpoint") from None
        return Response(note, headers={"content-type": _NOTE, "cache-control": _SECONDS})

    @get("/tile/{tile:path}")
    async def tile(self, request: Request[Any, Any, Any], tile: FromPath[str]) -> Response[bytes]:
        """Hashes of the tree, `L/N[.p/W]`, or entries, `entries/N[.p/W]`."""
        log = _layout(request).log
        coding = compression.response_coding(request.headers.get("accept-encoding"))
        headers = {"content-type": _OCTETS, "cache-control": _FOREVER}
        content, packed = await asyncio.to_thread(_content, log, "tile" + str(tile), coding)
        if packed:
            headers["content-encoding"] = coding
        if tile.startswith("/entries/"):
            headers["vary"] = "accept-encoding"
        return Response(content, headers=headers)

    @get("/witnessed/{key_id:str}")
    async def witnessed(self, request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[bytes]:
        """The latest checkpoint that a witness has cosigned, by the key ID of the witness, in hexadecimal."""
        layout = _layout(request)
        try:
            note = await asyncio.to_thread(layout.witnessed(bytes.fromhex(key_id)).read_bytes)
        except (OSError, ValueError):
            raise NotFound("no such witness has cosigned a checkpoint") from None
        return Response(note, headers={"content-type": _NOTE, "cache-control": _SECONDS})

    @post("/witness/add-checkpoint", status_code=200, request_max_body_size=MOST_BYTES)
    async def add_checkpoint(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """Cosign another log's checkpoint (C2SP tlog-witness). Open: the signature on it is what counts."""
        application: Core = request.app.state.application
        if application.witness is None:
            raise NotFound("this gateway is no witness")
        body = await request.body()
        answer = await asyncio.to_thread(application.witness.add_checkpoint, body)
        if answer.suspicion is not None:
            rid = request_id(from_asgi(request.scope["headers"]))
            kept = application.decisions.suspected(application.snapshot, rid, answer.status, answer.suspicion)
            report = _log.critical if answer.suspicion.proved else _log.error
            report("a log does not continue what was seen of it", extra={"fields": asdict(answer.suspicion)})
            await durable(kept)
        return Response(answer.body, status_code=answer.status, headers={"content-type": answer.content_type})


def _layout(request: Request[Any, Any, Any]) -> Layout:
    settings = authorised(request, "audit", "read").settings
    if settings.audit.mode == "off":
        raise NotFound("there is no audit log: `audit.mode` is `off`")
    return Layout(settings.state_dir)


def _checkpoint(layout: Layout) -> bytes:
    """The published checkpoint, with the cosignatures that it has by now. Raises OSError."""
    note = whole = layout.checkpoint.read_bytes()
    for path in sorted((layout.log / "witnessed").glob("*")):
        cosigned = path.read_bytes()
        if cosigned.startswith(note) and not path.name.endswith(ASIDE):
            whole += cosigned[len(note) :]
    return whole


def _content(log: Path, path: str, coding: str) -> tuple[bytes, bool]:
    """A tile, or a bundle, which is packed where the client takes that. Raises NotFound, Gone."""
    try:
        level, index, width = parse_path(path)
        size = read_checkpoint(log).size
        if index * WIDTH + width > size >> (8 * (level or 0)):
            raise NotFound("the log has no such tile yet")
        if level is None and (pruned := read_pruned(log, size)) is not None and (index + 1) * WIDTH <= pruned.before:
            raise Gone(str(pruned))
        files = TreeFiles(log, size)
        if level is not None:
            return files.tile(level, index, width), False
        entries = bundle(files.bundle(index, width))
    except (AuditInputError, OSError, ValueError):
        raise NotFound("the log has no such tile") from None
    return (compression.encode([entries], coding), True) if coding else (entries, False)
