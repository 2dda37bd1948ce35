"""The file `worker-N.metrics`: header, series table, cells.

    0       16 header words (uint64), see the constants below
    128     series table: records of a uint32 length and JSON `[metric name, [label values], first cell]`
    128 + TABLE  cells (8 bytes each), numbered from 0

The table only grows. A record is written whole before the length in the header says so, so that a reader
never sees half of one, and a writer that dies amid one leaves nothing. A later record with the same first
cell renames it (`info` metrics use one cell for all the values they ever had). The file has its full size on
disk from the start, because a full disk would end a process that writes into a hole (SIGBUS). Numbers are in
the machine's own byte order: the file never leaves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.telemetry import Metric
from kernels.counters import Histogram

MAGIC = int.from_bytes(b"TGMETRC1", "little")

# Header words.
W_MAGIC = 0
W_FINGERPRINT = 1
"""Of the declarations: a file of another version's metrics is not continued."""
W_PUBLISHED = 2
"""Bytes of the table that readers may read."""
W_CELLS = 3
"""Cells handed out."""
W_PID = 4
W_STARTED = 5
"""The process' start time in clock ticks since boot, so that a reused process id is not taken for it."""
W_CREATED = 6
"""Unix time in nanoseconds at which the slot began to count."""

HEADER = 128
TABLE = 4 * 1024 * 1024
"""Bytes; some 40,000 series or changes of an `info` metric."""


class Record(msgspec.Struct, array_like=True, frozen=True):
    """One series: which metric, which labels, where its cells begin."""

    metric: str
    values: tuple[str, ...]
    cell: int


def path(directory: Path, slot: int) -> Path:
    """The file of a worker's slot."""
    return directory / f"worker-{slot}.metrics"


def size_of(metric: Metric) -> int:
    """Cells that one series of the metric takes."""
    return Histogram.cells(len(metric.bounds)) if metric.kind == "histogram" else 1


def capacity(metrics: Sequence[Metric]) -> int:
    """Cells that all series of all metrics take at most; beside `series` each metric has one for `other`."""
    return sum(size_of(metric) * (metric.series + 1) for metric in metrics)


def fingerprint(metrics: Sequence[Metric]) -> int:
    """A number that differs when the declarations differ."""
    text = msgspec.json.encode([(m.name, m.kind, m.labels, m.bounds, m.series) for m in metrics])
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
