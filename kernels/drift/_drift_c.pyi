from collections.abc import Mapping, Sequence
from typing import Self, final

from _typeshed import ReadableBuffer, WriteableBuffer

from kernels.drift._drift_py import Tensor
from kernels.drift._plan import Column

def snapshot(buffer: ReadableBuffer) -> bytes: ...

@final
class Shard:
    def __new__(
        cls,
        buffer: WriteableBuffer,
        columns: Sequence[Column],
        tensors: Mapping[str, Sequence[int]],
        outputs: Mapping[str, Sequence[int]] | None = None,
    ) -> Self: ...
    def count(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor] = ()) -> int: ...
