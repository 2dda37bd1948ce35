from typing import Self, final

from _typeshed import ReadableBuffer, WriteableBuffer

BINS: int
NAN: int
MISSING: int
COUNTS: int
CLIPPED: int
SUM: int
SQUARES_LOW: int
SQUARES_HIGH: int
HIGHEST: int
LOWEST: int
MOMENTS: int
DATATYPES: tuple[str, ...]

def nbytes(features: int) -> int: ...

@final
class Shard:
    def __new__(
        cls, buffer: WriteableBuffer, edges: ReadableBuffer, centre: ReadableBuffer, scale: ReadableBuffer
    ) -> Self: ...
    @property
    def features(self) -> int: ...
    @property
    def active(self) -> int: ...
    def swap(self) -> int: ...
    def half(self, which: int) -> bytes: ...
    def clear(self, which: int) -> None: ...
    def update(self, first: int, width: int, datatype: str, values: ReadableBuffer) -> int: ...
    def missing(self, feature: int, count: int = 1) -> None: ...
