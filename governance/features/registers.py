"""Registers used again once nothing reads them any more, so that a block of rows stays in the cache."""

from __future__ import annotations

from collections.abc import Sequence

from kernels.features import OF_TEXT, TO_TEXT, Input, Instruction


def allocated(inputs: Sequence[Input], code: Sequence[Instruction]) -> tuple[list[Input], list[Instruction], int, int]:
    """The same program with fewer registers.

    Args:
        inputs: in registers of their own.
        code: each instruction writes a register that no other writes.

    Returns:
        Inputs, instructions, and how many registers of each kind they need.
    """
    last: dict[tuple[bool, int], int] = {}
    for at, one in enumerate(code):
        for read in (one.a, one.b):
            if read >= 0:
                last[one.op in OF_TEXT, read] = at
    files = {False: _File(), True: _File()}
    moved = [column._replace(register=files[column.kind == "string"].take(column.register)) for column in inputs]
    for column in inputs:
        if (column.kind == "string", column.register) not in last:
            files[column.kind == "string"].give(column.register)
    done = []
    for at, one in enumerate(code):
        source, target = files[one.op in OF_TEXT], files[one.op in TO_TEXT]
        a = source.place.get(one.a, -1)
        b = source.place.get(one.b, -1)
        for read in {one.a, one.b}:
            if read >= 0 and last[one.op in OF_TEXT, read] == at:
                source.give(read)
        dst = target.take(one.dst) if one.dst >= 0 else -1
        if one.dst >= 0 and (one.op in TO_TEXT, one.dst) not in last:
            target.give(one.dst)
        done.append(one._replace(a=a, b=b, dst=dst))
    return moved, done, files[False].most, files[True].most


class _File:
    """One kind of registers."""

    def __init__(self) -> None:
        self.place: dict[int, int] = {}
        self.most = 0
        self._free: list[int] = []

    def take(self, register: int) -> int:
        """A place for what was that register."""
        if self._free:
            place = self._free.pop()
        else:
            place, self.most = self.most, self.most + 1
        self.place[register] = place
        return place

    def give(self, register: int) -> None:
        """Nothing reads it any more."""
        self._free.append(self.place[register])
