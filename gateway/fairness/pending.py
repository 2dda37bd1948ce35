"""Decisions on people of whom an attribute is told later, by request id: kept until it is, or until it is too late.

Contract: a ring of slots in a file of `gateway.shards`, one writer each; the oldest goes when a new one needs its slot,
so that memory and time are bounded. A slot holds a digest of the request id, what was decided on how many rows, and the
group as far as the request told it; neither an id nor anything of a person. Whoever holds the lock of the folder may
mark slots of any writer as told, each once: the mark is the slot's own serial number, so that it is never taken for one
of what a writer puts there meanwhile; a slot that is being written fails its checksum and is passed over.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

_HEAD = 64
_SERIAL = struct.Struct("=Q")
"""At the start of the block: how many slots were ever written."""
_SLOT = struct.Struct("=Q16sIHHII")
"""Serial number from 1, digest of the id, minute, variant, group as far as it is known, rows, selected ones."""
_CHECK = struct.Struct("=I")
_CHECK_AT = _SLOT.size
_TOLD_AT = 48
_WIDTH = 56
_FIELDS = np.dtype(
    {"names": ["serial", "key", "told"], "formats": ["u8", "u8", "u8"], "offsets": [0, 8, _TOLD_AT], "itemsize": _WIDTH}
)


def nbytes(slots: int) -> int:
    """Bytes of a block."""
    return _HEAD + slots * _WIDTH


def digest(request_id: str) -> bytes:
    """What stands for a request id."""
    return hashlib.sha256(request_id.encode()).digest()[:16]


class Decided(NamedTuple):
    """What one answer decided on rows of one group, as far as the request told it."""

    minute: int
    variant: int
    group: int
    rows: int
    selected: int


class Ring:
    """Where one worker keeps its own. For one thread."""

    __slots__ = ("_block", "_serial", "_slots")

    def __init__(self, block: memoryview) -> None:
        self._block = block
        self._slots = (block.nbytes - _HEAD) // _WIDTH
        (self._serial,) = _SERIAL.unpack_from(block, 0)

    def add(self, request_id: str, decided: Decided) -> None:
        """One more; the oldest may go."""
        at = _HEAD + self._serial % self._slots * _WIDTH
        self._serial += 1
        packed = _SLOT.pack(self._serial, digest(request_id), *decided)
        self._block[at : at + _WIDTH] = (packed + _CHECK.pack(zlib.crc32(packed))).ljust(_WIDTH, b"\0")
        _SERIAL.pack_into(self._block, 0, self._serial)


class Found(NamedTuple):
    """A decision that waits, and how to mark it."""

    key: bytes
    decided: Decided
    told: bool
    """It has been marked before."""
    block: memoryview
    at: int
    serial: int

    def tell(self) -> None:
        """Mark it. The caller holds the lock."""
        _SERIAL.pack_into(self.block, self.at + _TOLD_AT, self.serial)


def find(blocks: Iterable[memoryview], keys: Sequence[bytes]) -> Iterator[Found]:
    """What is kept of these ids, by their digests, in all rings. The caller holds the lock."""
    wanted = set(keys)
    heads = np.array([int.from_bytes(key[:8], sys.byteorder) for key in wanted], "u8")
    for block in blocks:
        slots: Any = np.frombuffer(block[_HEAD:], _FIELDS)
        for place in np.flatnonzero(np.isin(slots["key"], heads) & (slots["serial"] != 0)).tolist():
            at = _HEAD + place * _WIDTH
            slot = bytes(block[at : at + _WIDTH])
            serial, key, *decided = _SLOT.unpack_from(slot)
            (check,) = _CHECK.unpack_from(slot, _CHECK_AT)
            if key in wanted and check == zlib.crc32(slot[: _SLOT.size]):
                (told,) = _SERIAL.unpack_from(slot, _TOLD_AT)
                yield Found(key, Decided(*decided), told == serial, block, at, serial)
