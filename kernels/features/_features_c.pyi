from collections.abc import Sequence
from typing import Any, Self, final

from _typeshed import ReadableBuffer

from kernels.features._program import Input, Instruction, Tensor

@final
class Program:
    inputs: tuple[Input, ...]
    tensors: tuple[Tensor, ...]
    def __new__(
        cls, inputs: Sequence[Input], tensors: Sequence[Tensor], code: Sequence[Instruction], numbers: int, texts: int
    ) -> Self: ...
    def rows(
        self, rows: Sequence[Any], positions: Sequence[int] | None = None, *, empty_is_missing: bool = True
    ) -> list[bytes]: ...
    def columns(self, count: int, columns: Sequence[tuple[str, ReadableBuffer] | None]) -> list[bytes]: ...
