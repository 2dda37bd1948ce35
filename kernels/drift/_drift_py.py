"""The specification of the drift shard, in Python: what `_drift_c` does, cell for cell and exception for exception.

A shard is two halves in one buffer, of which one is written (`active`); `swap` turns to the other, so that a reader
has the first for itself until the next swap. A half is, for d features,

    uint32 counts[d][COUNTS]      bins 0..BINS-1, then NaN, then missing; the rest stays 0
    uint64 moments[d][MOMENTS]    see below

in the machine's byte order. A value v of feature f is taken as float32 (through float64 where it is wider). Its bin is
the number of edges below it, so that bin i is (e[i-1], e[i]]: `np.searchsorted(edges, v, side="left")`. Infinities are
in the outer bins. With k = round half to even of (v - centre[f]) * scale[f], in float64:

    CLIPPED         how many had |k| > 2^31 - 1, infinities among them; those are in no sum
    SUM             sum of k, two's complement
    SQUARES_LOW     sum of k * k, its lower 64 bits
    SQUARES_HIGH    and its upper ones
    HIGHEST         of all finite v: the largest key(v) + 1; 0: none
    LOWEST          of all finite v: the largest 2^32 - key(v); 0: none

where key orders float32 as unsigned numbers: the bits, all inverted where the sign is set, else the sign inverted.
"""

from __future__ import annotations

import ctypes
import struct
from math import isfinite, isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

BINS = 32
NAN = 32
"""Index of the count of NaN."""
MISSING = 33
"""Index of the count of values that were not there."""
COUNTS = 40
CLIPPED, SUM, SQUARES_LOW, SQUARES_HIGH, HIGHEST, LOWEST = range(6)
MOMENTS = 6
DATATYPES = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
)
"""Those of the Open Inference Protocol that are numbers."""

_HEADER = 64  # a cache line for the number of swaps
_LARGEST = 2.0**31 - 1
_WORD = 2**64 - 1
_FORMATS = dict(zip(DATATYPES, "?BHIQbhiqefdH", strict=True))


def nbytes(features: int) -> int:
    """Bytes of a shard's buffer. ValueError unless `features` is 1 to 2^20."""
    if not 1 <= features <= 2**20:
        raise ValueError("a shard has 1 to 1048576 features")
    return _HEADER + 2 * _half(features)


def _half(features: int) -> int:
    return features * (COUNTS * 4 + MOMENTS * 8)


def _bytes(buffer: ReadableBuffer) -> memoryview:
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view.cast("B") if view.nbytes else memoryview(b"")  # zeros in a shape cannot be cast


class Shard:
    """Counts of `features` features in a buffer that the caller owns. One writer, in one thread at a time.

    Args:
        buffer: writable, of `nbytes(features)` bytes; zeros, or what an earlier shard left there.
        edges: float32 [features][BINS], each row ascending, padded with +inf; at least one +inf.
        centre: float64 [features], finite; the reference's mean.
        scale: float64 [features], finite and above 0; a power of two keeps (v - centre) * scale exact.

    Raises:
        ValueError: a size does not fit, or a row is not as said.
    """

    __slots__ = ("_buffer", "_centre", "_edges", "_features", "_scale")

    def __init__(
        self, buffer: WriteableBuffer, edges: ReadableBuffer, centre: ReadableBuffer, scale: ReadableBuffer
    ) -> None:
        view = memoryview(buffer)
        if view.readonly:
            raise BufferError("Object is not writable.")
        self._buffer = _bytes(view)
        features, rest = divmod(memoryview(scale).nbytes, 8)
        if rest or self._buffer.nbytes != nbytes(features):
            raise ValueError("the buffer has another number of features than the scale")
        if memoryview(centre).nbytes != 8 * features or memoryview(edges).nbytes != 4 * BINS * features:
            raise ValueError("edges, centre and scale are of different numbers of features")
        flat = struct.unpack(f"={BINS * features}f", _bytes(edges))
        self._edges = [flat[at : at + BINS] for at in range(0, len(flat), BINS)]
        self._centre = struct.unpack(f"={features}d", _bytes(centre))
        self._scale = struct.unpack(f"={features}d", _bytes(scale))
        self._features = features
        for row in self._edges:
            if row[-1] != float("inf") or any(not a <= b for a, b in zip(row, row[1:], strict=False)):
                raise ValueError("edges do not ascend to infinity")
        if not all(map(isfinite, self._centre)) or not all(isfinite(s) and s > 0 for s in self._scale):
            raise ValueError("a centre is not finite, or a scale not above 0")

    @property
    def features(self) -> int:
        """How many there are."""
        return self._features

    @property
    def active(self) -> int:
        """The half that is written: 0 or 1."""
        return int(struct.unpack_from("=Q", self._buffer)[0]) & 1

    def swap(self) -> int:
        """Write to the other half from now on; returns the one that was written. The other MUST have been cleared."""
        epoch = int(struct.unpack_from("=Q", self._buffer)[0])
        struct.pack_into("=Q", self._buffer, 0, (epoch + 1) & _WORD)
        return epoch & 1

    def half(self, which: int) -> bytes:
        """A copy of one. ValueError unless `which` is 0 or 1."""
        start = self._start(which)
        return bytes(self._buffer[start : start + _half(self._features)])

    def clear(self, which: int) -> None:
        """Zero one."""
        start, size = self._start(which), _half(self._features)
        self._buffer[start : start + size] = bytes(size)

    def update(self, first: int, width: int, datatype: str, values: ReadableBuffer) -> int:
        """Count rows of `width` values each, of the features from `first` on.

        Args:
            first: 0 to features - 1.
            width: values of a row; first + width <= features.
            datatype: one of DATATYPES.
            values: rows one after the other, in the machine's byte order; unaligned is fine.

        Returns:
            Rows.

        Raises:
            ValueError: unknown datatype, features out of range, or no whole number of rows.
        """
        code = _FORMATS.get(datatype)
        if code is None:
            raise ValueError(f"{datatype} is no number")
        if first < 0 or width < 1 or first + width > self._features:
            raise ValueError("features out of range")
        data = _bytes(values)
        each = struct.calcsize("=" + code)
        if data.nbytes % (each * width):
            raise ValueError("no whole number of rows")
        found = struct.unpack(f"={data.nbytes // each}{code}", data)
        if datatype == "BF16":
            found = tuple(struct.unpack("=f", struct.pack("=I", bits << 16))[0] for bits in found)
        for at, value in enumerate(found):
            self._count(first + at % width, _float32(float(value)))
        return len(found) // width

    def missing(self, feature: int, count: int = 1) -> None:
        """`count` values of a feature were not there. ValueError: out of range, or below 0."""
        if not 0 <= feature < self._features:
            raise ValueError("features out of range")
        if not 0 <= count < 2**32:
            raise ValueError("count out of range")
        self._add_count(feature, MISSING, count)

    def _start(self, which: int) -> int:
        if which not in (0, 1):
            raise ValueError("a shard has the halves 0 and 1")
        return _HEADER + which * _half(self._features)

    def _add_count(self, feature: int, slot: int, count: int) -> None:
        at = self._start(self.active) + (feature * COUNTS + slot) * 4
        (before,) = struct.unpack_from("=I", self._buffer, at)
        struct.pack_into("=I", self._buffer, at, (before + count) & 0xFFFFFFFF)

    def _count(self, feature: int, value: float) -> None:
        if isnan(value):
            self._add_count(feature, NAN, 1)
            return
        self._add_count(feature, sum(edge < value for edge in self._edges[feature]), 1)
        at = self._start(self.active) + self._features * COUNTS * 4 + feature * MOMENTS * 8
        cells = list(struct.unpack_from(f"={MOMENTS}Q", self._buffer, at))
        scaled = (value - self._centre[feature]) * self._scale[feature]
        k = round(scaled) if abs(scaled) <= _LARGEST + 0.5 else None
        if k is None or abs(k) > _LARGEST:
            cells[CLIPPED] += 1
        else:
            cells[SUM] = (cells[SUM] + k) & _WORD
            squares = cells[SQUARES_LOW] + (cells[SQUARES_HIGH] << 64) + k * k
            cells[SQUARES_LOW], cells[SQUARES_HIGH] = squares & _WORD, (squares >> 64) & _WORD
        if isfinite(value):
            key = _key(value)
            cells[HIGHEST] = max(cells[HIGHEST], key + 1)
            cells[LOWEST] = max(cells[LOWEST], 2**32 - key)
        struct.pack_into(f"={MOMENTS}Q", self._buffer, at, *cells)


def _float32(value: float) -> float:
    """Rounded to the nearest; beyond the largest it is infinite, as a cast in C."""
    return float(ctypes.c_float(value).value)


def _key(value: float) -> int:
    (bits,) = struct.unpack("=I", struct.pack("=f", value + 0.0))  # -0.0 is 0.0
    return int(bits ^ (0xFFFFFFFF if bits >> 31 else 0x80000000))
