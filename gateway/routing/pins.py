"""Where a sequence's variant is remembered.

Contract: a sequence keeps its state in one model instance, so all its calls must reach the same variant, also
when the split changes under it. Its first call's variant is pinned under a 64-bit key. Pins are shared by the
workers of a machine and survive reloads. One that was lost (evicted, restarted) costs nothing while the split
stands, because the draw of a sequence is a hash.
"""

from __future__ import annotations

import mmap
import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from kernels import counters

MOST_PINS = 65_536
"""Open sequences that are remembered: 2^16, 1.5 MiB of shared memory, is beyond the slots of a Triton's
sequence batchers. A power of two, as the table wants."""


class Pins(Protocol):
    """64-bit keys (1 to 2^64 - 2) to 64-bit values (not 0).

    Implementations MUST be safe under concurrent use by the processes that share them, and MAY forget the
    pins that were not used for longest.
    """

    def get(self, key: int) -> int:
        """The key's value, which counts as a use; 0 when there is none."""

    def put(self, key: int, value: int) -> int:
        """Keep `value` unless the key has one; the value that holds now, 0 when there was no room."""

    def drop(self, key: int) -> object:
        """Forget the key."""


class MemoryPins:
    """Pins of one process."""

    def __init__(self, most: int = MOST_PINS) -> None:
        self._most = most
        self._pins: OrderedDict[int, int] = OrderedDict()

    def get(self, key: int) -> int:
        """The value, which counts as a use; 0 when there is none."""
        value = self._pins.get(key, 0)
        if value:
            self._pins.move_to_end(key)
        return value

    def put(self, key: int, value: int) -> int:
        """Keep unless there is one; the pin that was unused for longest makes room."""
        held = self.get(key)
        if held:
            return held
        self._pins[key] = value
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)
        return value

    def drop(self, key: int) -> None:
        """Forget the key."""
        self._pins.pop(key, None)

    def __len__(self) -> int:
        return len(self._pins)


class SharedPins:
    """Pins of all workers of a machine, in one file that each maps; the first that opens it makes it.

    Args:
        path: in the run directory that the workers share. It lives as long as the gateway: a file of an
            earlier run may be removed or kept.
        most: places; a power of two, the same for all.
    """

    def __init__(self, path: Path, most: int = MOST_PINS) -> None:
        size = counters.Pins.cells(most) * 8
        with path.open("a+b") as file:
            # Written, not only extended: a full disk must fail here, not end a worker later (SIGBUS).
            missing = size - file.seek(0, 2)
            if missing > 0:
                file.write(bytes(missing))
                file.flush()
            # Two workers that extend at once leave a longer file of zeros; its head is the table.
            self._map = mmap.mmap(file.fileno(), size)
        # Stamped with wall-clock time, which goes on when a kept file outlives a reboot.
        self._table = counters.Pins(self._map, 0, most)

    def get(self, key: int) -> int:
        """The value, which counts as a use; 0 when there is none."""
        return self._table.get(key, time.time_ns())

    def put(self, key: int, value: int) -> int:
        """Keep unless there is one."""
        return self._table.put(key, value, time.time_ns())

    def drop(self, key: int) -> None:
        """Forget the key."""
        self._table.drop(key)
