"""JSON with the tensor data cut out: what the two halves of `wire.http` share.

Contract: sans-IO. `data` arrays may be large and hold NaN and Infinity, which no strict JSON reader takes;
so they are found by the scanner, replaced by their number for the reader of the envelope, and kept as text.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.wire.types import Buffer, Param, SharedMemory

MAX_DEPTH: Final = 100
"""Containers within each other, and levels of a `data` array: Triton's limit of later versions (2.51 has
none)."""
BINARY: Final = "application/octet-stream"
JSON: Final = "application/json"
"""Exactly so: KServe's client compares the whole content type."""


class OutTensor(msgspec.Struct, gc=False, omit_defaults=True):
    """A tensor on its way out, input or output."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Param] | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


encode = msgspec.json.Encoder().encode


def cut(text: Buffer, spans: list[tuple[int, int]]) -> bytes:
    """The JSON text with each span replaced by its number."""
    view = memoryview(text)
    parts: list[Buffer] = []
    last = 0
    for number, (start, end) in enumerate(spans):
        parts += (view[last:start], b"%d" % number)
        last = end
    parts.append(view[last:])
    return b"".join(parts)


def put_shared_memory(parameters: dict[str, Param], shm: SharedMemory) -> None:
    """Add the parameters that say where a tensor lies."""
    parameters["shared_memory_region"] = shm.region
    parameters["shared_memory_byte_size"] = shm.byte_size
    if shm.offset:
        parameters["shared_memory_offset"] = shm.offset
