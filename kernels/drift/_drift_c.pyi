from collections.abc import Mapping, Sequence
from typing import Self, final

from _typeshed import ReadableBuffer, WriteableBuffer

from kernels.drift._plan import Column
from kernels.drift._rules import Rule
from kernels.drift._values_py import Tensor

def snapshot(buffer: ReadableBuffer) -> bytes: ...

@final
class Shard:
    def __new__(
        cls,
        buffer: WriteableBuffer,
        columns: Sequence[Column],
        tensors: Mapping[str, Sequence[int]],
        outputs: Mapping[str, Sequence[int]] | None = None,
        rules: Mapping[int, Rule] | None = None,
        broken: WriteableBuffer | None = None,
    ) -> Self: ...
    def count(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor] = ()) -> int: ...
    def judge(self, inputs: Sequence[Tensor]) -> tuple[int, int, int] | None: ...
