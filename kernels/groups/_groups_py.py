"""The specification of `kernels.groups`: decisions of groups of people, by variant and minute.

A block is 8-byte unsigned cells in the machine's byte order:

    0          calls that were counted
    1          calls that were served and could not be counted
    8 ...      since the block began: for each variant, for each group, `selected` and `rows`
    then       `MINUTES` slots: the minute that the slot is of (0: none), and the same cells of that minute

`selected` stands before `rows` and is written after it, so that a reader who copies upwards never sees more selected
than there are rows. A minute's slot is `minute % MINUTES`; whatever was in it is of another day and is cleared first.
"""

from __future__ import annotations

from typing import Any

MINUTES = 1440
"""Slots: a day."""
HEAD = 8
"""Cells before the first count: a cache line."""


def cells(variants: int, groups: int) -> int:
    """Cells of a block."""
    return HEAD + 2 * variants * groups + MINUTES * (1 + 2 * variants * groups)


class Shard:
    """Where one process counts. For one thread.

    Args:
        buffer: a block of `cells(variants, groups)` cells, writable; kept for as long as the object lives.
        variants: how many there are.
        groups: how many there are, with that of unknown people.

    Raises:
        ValueError: the buffer is too small, or there is no variant or no group.
    """

    def __init__(self, buffer: Any, variants: int, groups: int) -> None:
        if variants < 1 or groups < 1:
            raise ValueError("at least one variant and one group")
        view = memoryview(buffer).cast("B")
        size = cells(variants, groups)
        if view.readonly or view.nbytes < 8 * size:
            raise ValueError(f"needs a writable buffer of {8 * size} bytes")
        self._cells = view[: 8 * size].cast("Q")
        self._variants = variants
        self._groups = groups

    def add(self, minute: int, variant: int, group: int, rows: int, selected: int) -> None:
        """Rows of one group, of which some were selected.

        Raises:
            ValueError: there is no such variant, group or minute, or more were selected than there are rows.
        """
        width = 2 * self._variants * self._groups
        if not 0 <= variant < self._variants or not 0 <= group < self._groups:
            raise ValueError("no such variant or group")
        if minute < 1 or not 0 <= selected <= rows:
            raise ValueError("no such minute, or more selected than there are rows")
        found = self._cells
        slot = HEAD + width + (minute % MINUTES) * (1 + width)
        if found[slot] != minute:
            found[slot] = 0
            for at in range(slot + 1, slot + 1 + width):
                found[at] = 0
            found[slot] = minute
        at = 2 * (variant * self._groups + group)
        for start in (HEAD, slot + 1):
            found[start + at + 1] += rows
            found[start + at] += selected

    def called(self, counted: bool) -> None:
        """One call more that was counted, or could not be."""
        self._cells[0 if counted else 1] += 1
