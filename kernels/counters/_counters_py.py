"""The specification of the cells, in Python.

What `_counters_c` does in C, value for value and exception for exception. Reads and writes of one cell are
whole, but read-modify-write is NOT atomic: single process, single writing thread. See `kernels.counters`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import isnan
from operator import index as as_int
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

SHARED = False
"""Whether several processes may write the same atomic cells."""

CELL = 8
_MASK = (1 << 64) - 1
_DAY_SHIFT = 48
_DAY_BYTES = (1 << _DAY_SHIFT) - 1
_DAYS = (1 << 16) - 1
_BUSY = _MASK
_WINDOW = 16
"""Places that a key may lie in. 16 x 24 bytes are 6 cache lines, read in order."""
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 / golden ratio: Knuth's multiplicative hash spreads keys that are not spread already."""
_PIN_CELLS = 3


def _bytes(buffer: Buffer) -> memoryview:
    view = memoryview(buffer)
    if view.readonly:
        raise BufferError("Object is not writable.")
    if view.nbytes % CELL:
        raise ValueError("buffer is no whole number of 8-byte cells")
    return view.cast("B")


def _floats(buffer: Buffer) -> memoryview[float]:
    return _bytes(buffer).cast("d")


def _words(buffer: Buffer) -> memoryview[int]:
    return _bytes(buffer).cast("Q")


def _check(view: memoryview[float] | memoryview[int], first: int, count: int) -> None:
    first, count = _signed(first), _signed(count)
    if first < 0 or count < 1 or first + count > len(view):
        raise IndexError("cell index out of range")


class Counter:
    """One float64 cell that only grows. One writer; anyone may read."""

    __slots__ = ("_cells", "_index")

    def __init__(self, buffer: Buffer, index: int) -> None:
        self._cells = _floats(buffer)
        _check(self._cells, index, 1)
        self._index = index

    def inc(self, amount: float = 1.0) -> None:
        """Adds `amount`. ValueError when it is negative or NaN."""
        if not amount >= 0.0:
            raise ValueError("counters only grow")
        self._cells[self._index] += amount

    def value(self) -> float:
        """What the cell holds."""
        return float(self._cells[self._index])


class Gauge:
    """One float64 cell that goes up and down. One writer; anyone may read."""

    __slots__ = ("_cells", "_index")

    def __init__(self, buffer: Buffer, index: int) -> None:
        self._cells = _floats(buffer)
        _check(self._cells, index, 1)
        self._index = index

    def set(self, value: float) -> None:
        """Writes `value`."""
        self._cells[self._index] = value

    def add(self, amount: float) -> None:
        """Adds `amount`, which may be negative."""
        self._cells[self._index] += amount

    def raise_to(self, value: float) -> None:
        """Writes `value` when it is larger than what is there; NaN is ignored."""
        self._cells[self._index] = max(self._cells[self._index], value)

    def value(self) -> float:
        """What the cell holds."""
        return float(self._cells[self._index])


class Histogram:
    """A histogram of fixed, ascending upper bounds (inclusive, as Prometheus' `le`); +Inf is implied.

    Cells from `first`: sum, then one count for each of the len(bounds) + 1 buckets (not cumulative), then an
    exemplar area: a version that is odd while a write is under way, then five cells a bucket: the trace id's
    high and low half and the span id (unsigned integers), the value, the Unix time in seconds (float64; 0:
    none yet).
    One writer; a reader may see a count before its sum, never half a cell.
    """

    __slots__ = ("_bounds", "_cells", "_first", "_words")

    def __init__(self, buffer: Buffer, first: int, bounds: Sequence[float]) -> None:
        self._cells = _floats(buffer)
        self._words = _words(buffer)
        self._bounds = [float(b) for b in bounds]
        if not self._bounds or any(isnan(b) for b in self._bounds):
            raise ValueError("bounds must be numbers")
        if any(a >= b for a, b in zip(self._bounds, self._bounds[1:], strict=False)):
            raise ValueError("bounds must ascend")
        _check(self._cells, first, self.cells(len(self._bounds)))
        self._first = first

    @staticmethod
    def cells(bounds: int) -> int:
        """Cells that a histogram of so many bounds takes."""
        return 2 + (bounds + 1) * 6

    def observe(self, value: float) -> None:
        """Counts `value`; a NaN counts into +Inf, as in Prometheus' own clients."""
        bucket = len(self._bounds) if isnan(value) else bisect_left(self._bounds, value)
        self._cells[self._first + 1 + bucket] += 1.0
        self._cells[self._first] += value

    def exemplar(self, value: float, trace_high: int, trace_low: int, span: int, time: float) -> None:
        """Keeps the span as the latest example of the bucket of `value`; does not count it."""
        bucket = len(self._bounds) if isnan(value) else bisect_left(self._bounds, value)
        version = self._first + 2 + len(self._bounds)
        at = version + 1 + 5 * bucket
        self._words[version] = (self._words[version] | 1) & _MASK
        self._words[at] = trace_high
        self._words[at + 1] = trace_low
        self._words[at + 2] = span
        self._cells[at + 3] = value
        self._cells[at + 4] = time
        self._words[version] = (self._words[version] + 1) & _MASK


class Tally:
    """What a request of one outcome counts in, each in its own cells.

    Args:
        requests: one more.
        duration: how long it took.
        upstream: how much of that upstream; None: it went nowhere.
        overhead: the rest; None likewise.
    """

    __slots__ = ("_overhead", "_requests", "_upstream", "duration")

    def __init__(
        self,
        requests: Counter,
        duration: Histogram,
        upstream: Histogram | None = None,
        overhead: Histogram | None = None,
    ) -> None:
        self._requests = requests
        self.duration = duration
        self._upstream = upstream
        self._overhead = overhead

    def count(self, seconds: float, upstream_seconds: float) -> None:
        """One request that took so long, of which so much upstream."""
        self._requests.inc()
        self.duration.observe(seconds)
        if self._upstream is not None:
            self._upstream.observe(upstream_seconds)
        if self._overhead is not None:
            self._overhead.observe(seconds - upstream_seconds)


class Atomics:
    """Unsigned 64-bit cells that several processes change at once (sequentially consistent)."""

    __slots__ = ("_cells",)

    def __init__(self, buffer: Buffer) -> None:
        self._cells = _words(buffer)

    def __len__(self) -> int:
        return len(self._cells)

    def load(self, index: int) -> int:
        """The cell's value."""
        _check(self._cells, index, 1)
        return int(self._cells[index])

    def store(self, index: int, value: int) -> None:
        """Writes the cell."""
        value = _word(value)
        _check(self._cells, index, 1)
        self._cells[index] = value

    def add(self, index: int, delta: int) -> int:
        """Adds `delta` (signed; wraps at 2^64) and returns the new value."""
        delta = _signed(delta)
        _check(self._cells, index, 1)
        self._cells[index] = (self._cells[index] + delta) & _MASK
        return int(self._cells[index])

    def compare_exchange(self, index: int, expected: int, desired: int) -> bool:
        """Writes `desired` when the cell holds `expected`; whether it did."""
        expected, desired = _word(expected), _word(desired)
        _check(self._cells, index, 1)
        if self._cells[index] != expected:
            return False
        self._cells[index] = desired
        return True

    def gcra_take(self, index: int, now_ns: int, emission_ns: int, burst_ns: int) -> int:
        """Takes one token of a rate limit held as one theoretical arrival time (GCRA, ITU-T I.371).

        `emission_ns` is the time between two tokens, `burst_ns` the emission time times the requests that may
        come at once. Returns 0 when admitted, else the nanoseconds until a token is there; nothing is taken
        then. A time further ahead than `burst_ns` (the limit was made smaller, or the machine's clock began
        anew) counts as `burst_ns` ahead, so that nobody waits longer than one emission for it.
        """
        now_ns, emission_ns, burst_ns = _word(now_ns), _word(emission_ns), _word(burst_ns)
        _check(self._cells, index, 1)
        if now_ns + burst_ns + emission_ns > _MASK:
            raise OverflowError("times do not fit 64 bits")
        full = now_ns + burst_ns
        tat = min(max(int(self._cells[index]), now_ns), full)
        if tat + emission_ns > full:
            return tat + emission_ns - full
        self._cells[index] = tat + emission_ns
        return 0

    def enter(self, first: int, count: int, own: int, limit: int) -> bool:
        """One more in cell `first + own`, unless the sum of the `count` cells is `limit` already.

        Never more than `limit` at any time; callers that meet at the limit may both be turned away.
        """
        own, limit = _signed(own), _word(limit)
        _check(self._cells, first, count)
        if not 0 <= own < count:
            raise IndexError("cell index out of range")
        if self.total(first, count) >= limit:
            return False
        self._cells[first + own] = (self._cells[first + own] + 1) & _MASK
        return True

    def total(self, first: int, count: int) -> int:
        """The sum of `count` cells, modulo 2^64."""
        _check(self._cells, first, count)
        return int(sum(self._cells[first : first + count])) & _MASK

    def day_take(self, index: int, day: int, nbytes: int, limit: int) -> int:
        """Adds to a counter of bytes that starts at 0 each day; its new value, or -1 when beyond `limit`.

        One cell: the day (since 1970) in the upper 16 bits, bytes below, which stop at 2^48 - 1. An earlier
        `day` than the cell's (the clock was set back) counts as the cell's day. Nothing is added on -1.
        """
        day, nbytes, limit = _signed(day), _word(nbytes), _word(limit)
        _check(self._cells, index, 1)
        if not 0 <= day <= _DAYS:
            raise ValueError("day out of range")
        old = int(self._cells[index])
        used = old & _DAY_BYTES if (old >> _DAY_SHIFT) >= day else 0
        day = max(day, old >> _DAY_SHIFT)
        new = min(used + nbytes, _DAY_BYTES)
        if new > limit:
            return -1
        self._cells[index] = day << _DAY_SHIFT | new
        return new


class Pins:
    """A table of 64-bit keys to 64-bit values of fixed size, which forgets what was used longest ago.

    Three cells an entry from `first`: key, value, stamp. A key lies in one of 16 places; when all are taken,
    the one with the oldest stamp goes. Keys are 1 to 2^64 - 2, values 1 to 2^64 - 1: 0 says "none". A process
    that dies amid a write leaves at most one place unusable.
    """

    __slots__ = ("_capacity", "_cells", "_first", "_shift")

    def __init__(self, buffer: Buffer, first: int, capacity: int) -> None:
        self._cells = _words(buffer)
        if capacity < _WINDOW or capacity & (capacity - 1):
            raise ValueError("capacity must be a power of two, at least 16")
        _check(self._cells, first, self.cells(capacity))
        self._first = first
        self._capacity = capacity
        self._shift = 64 - (capacity.bit_length() - 1)

    @staticmethod
    def cells(capacity: int) -> int:
        """Cells that a table of so many entries takes."""
        return capacity * _PIN_CELLS

    def _places(self, key: int) -> list[int]:
        if not 0 < key < _BUSY:
            raise ValueError("key must be 1 to 2^64 - 2")
        start = (key * _GOLDEN & _MASK) >> self._shift
        mask = self._capacity - 1
        return [self._first + ((start + i) & mask) * _PIN_CELLS for i in range(_WINDOW)]

    def get(self, key: int, stamp: int) -> int:
        """The key's value, which counts as used at `stamp`; 0 when there is none."""
        key, stamp = _word(key), _word(stamp)
        for at in self._places(key):
            if self._cells[at] == key:
                self._cells[at + 2] = stamp
                return int(self._cells[at + 1])
        return 0

    def put(self, key: int, value: int, stamp: int) -> int:
        """Keeps `value` unless the key has one; the value that holds now, or 0 when no place could be had."""
        key, value, stamp = _word(key), _word(value), _word(stamp)
        if value == 0:
            raise ValueError("value must not be 0")
        places = self._places(key)
        held = self.get(key, stamp)
        if held:
            return held
        free = next((at for at in places if self._cells[at] == 0), None)
        if free is None:
            free = min(places, key=lambda at: int(self._cells[at + 2]))
        self._cells[free] = key
        self._cells[free + 1] = value
        self._cells[free + 2] = stamp
        return value

    def drop(self, key: int) -> bool:
        """Forgets the key; whether it was there."""
        found = False
        for at in self._places(_word(key)):
            if self._cells[at] == key:
                self._cells[at] = 0
                found = True
        return found


def _word(value: int) -> int:
    value = as_int(value)
    if not 0 <= value <= _MASK:
        raise OverflowError("value does not fit an unsigned 64-bit cell")
    return value


def _signed(value: int) -> int:
    value = as_int(value)
    if not -(1 << 63) <= value < 1 << 63:
        raise OverflowError("value does not fit a signed 64-bit integer")
    return value
