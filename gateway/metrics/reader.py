"""Reads the metrics files of all workers and merges them. Knows nothing of formats.

Contract: works while workers write, start and die. A file that is not whole yet, or not ours, is skipped. The
values of dead workers count on in counters and histograms, and not in gauges.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from typing import TypeAlias

import msgspec

from gateway import telemetry
from gateway.metrics import layout, process
from gateway.telemetry import Metric


class Exemplar(msgspec.Struct, frozen=True):
    """A request that fell into a bucket, by its server span."""

    trace_id: str
    span_id: str
    value: float
    time: float
    """Unix time in seconds."""


class HistogramValue(msgspec.Struct):
    """A histogram: its sum, and for each bucket (bounds, then +Inf) its own count and latest trace."""

    sum: float
    counts: list[float]
    exemplars: list[Exemplar | None]


Value: TypeAlias = float | HistogramValue
Series: TypeAlias = dict[tuple[str, ...], Value]
Merged: TypeAlias = dict[str, Series]
"""Metric name to label values to value."""


class _Worker:
    """One worker's file, mapped once; its table is parsed as far as it grew."""

    def __init__(self, path: Path, fingerprint: int) -> None:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            self.identity = (status.st_dev, status.st_ino)
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(self.map)
        self._words = view.cast("Q")
        self._floats = view.cast("d")
        if self._words[layout.W_MAGIC] != layout.MAGIC or self._words[layout.W_FINGERPRINT] != fingerprint:
            raise ValueError("not the metrics file of this version")
        self._parsed = 0
        self._series: dict[int, layout.Record] = {}

    @property
    def pid(self) -> int | None:
        """The worker's process id; None when it is dead."""
        pid = self._words[layout.W_PID]
        if not pid or (process.start_ticks(pid) or 0) != self._words[layout.W_STARTED]:
            return None
        return pid

    @property
    def created_ns(self) -> int:
        """Unix time in nanoseconds at which the slot began to count."""
        return self._words[layout.W_CREATED]

    def series(self) -> Iterable[layout.Record]:
        """Every series that is published."""
        published = self._words[layout.W_PUBLISHED]
        while self._parsed < published:
            at = layout.HEADER + self._parsed
            (length,) = struct.unpack_from("<I", self.map, at)
            record = msgspec.json.decode(self.map[at + 4 : at + 4 + length], type=layout.Record)
            self._series[record.cell] = record
            self._parsed += 4 + length
        return self._series.values()

    def number(self, cell: int) -> float:
        return self._floats[(layout.HEADER + layout.TABLE) // 8 + cell]

    def histogram(self, cell: int, buckets: int) -> HistogramValue:
        at = (layout.HEADER + layout.TABLE) // 8 + cell
        cells = list(self._floats[at : at + 1 + buckets])
        version = at + 1 + buckets
        exemplars: list[Exemplar | None] = [None] * buckets
        before = self._words[version]
        # Odd: the writer is amid one (or died there); not worth waiting for. 0: there never was one.
        if before and before % 2 == 0:
            words = list(self._words[version + 1 : version + 1 + 5 * buckets])
            floats = list(self._floats[version + 1 : version + 1 + 5 * buckets])
            if self._words[version] == before:
                for i in range(buckets):
                    high, low, span = words[5 * i : 5 * i + 3]
                    seen, at_time = floats[5 * i + 3 : 5 * i + 5]
                    if at_time:
                        exemplars[i] = Exemplar(f"{high:016x}{low:016x}", f"{span:016x}", seen, at_time)
        return HistogramValue(cells[0], cells[1:], exemplars)


class Reader:
    """The merged metrics of a directory, or of one slot in it."""

    def __init__(
        self,
        directory: Path,
        metrics: Sequence[Metric] = telemetry.METRICS,
        *,
        slot: int | None = None,
    ) -> None:
        self._directory = directory
        self._pattern = "worker-*.metrics" if slot is None else layout.path(directory, slot).name
        self._fingerprint = layout.fingerprint(metrics)
        self._metrics = {metric.name: metric for metric in metrics}
        self._workers: dict[Path, _Worker] = {}
        self._lock = threading.Lock()

    def collect(self) -> Merged:
        """All series of all workers, merged by the kind of their metric. Any thread.

        Holds every declared metric, with an empty dict where nobody counted.
        """
        with self._lock:
            return self._collect()

    def _collect(self) -> Merged:
        merged: Merged = {name: {} for name in self._metrics}
        for worker in self._files().values():
            alive = worker.pid is not None
            for record in worker.series():
                metric = self._metrics[record.metric]
                if metric.kind == "histogram":
                    value: Value = worker.histogram(record.cell, len(metric.bounds) + 1)
                elif metric.kind == "counter" or alive:
                    value = worker.number(record.cell)
                    if isnan(value):
                        continue
                else:
                    continue
                series = merged[record.metric]
                old = series.get(record.values)
                series[record.values] = value if old is None else _merge(metric, old, value)
        return merged

    def processes(self) -> dict[str, process.ProcessStat]:
        """The workers that live, by slot."""
        with self._lock:
            files = self._files()
        found = {}
        for path, worker in files.items():
            pid = worker.pid
            stat = None if pid is None else process.read(pid)
            if stat is not None:
                found[path.stem.removeprefix("worker-")] = stat
        return found

    def created_ns(self) -> int:
        """Unix time in nanoseconds at which the oldest slot began to count; 0 when there is none."""
        with self._lock:
            return min((worker.created_ns for worker in self._files().values()), default=0)

    def _files(self) -> dict[Path, _Worker]:
        current: dict[Path, _Worker] = {}
        for path in sorted(self._directory.glob(self._pattern)):
            try:
                status = path.stat()
                known = self._workers.get(path)
                if known is None or known.identity != (status.st_dev, status.st_ino):
                    known = _Worker(path, self._fingerprint)
            except (OSError, ValueError):
                # Gone since the listing, empty, or of another version: nothing of it is ours to show.
                continue
            current[path] = known
        self._workers = current
        return current


def _merge(metric: Metric, a: Value, b: Value) -> Value:
    if isinstance(a, HistogramValue) and isinstance(b, HistogramValue):
        return HistogramValue(
            a.sum + b.sum,
            [x + y for x, y in zip(a.counts, b.counts, strict=True)],
            [_later(x, y) for x, y in zip(a.exemplars, b.exemplars, strict=True)],
        )
    assert isinstance(a, float)
    assert isinstance(b, float)
    if metric.kind == "min":
        return min(a, b)
    if metric.kind in {"max", "info"}:
        return max(a, b)
    return a + b


def _later(a: Exemplar | None, b: Exemplar | None) -> Exemplar | None:
    if a is None or b is None:
        return a or b
    return a if a.time >= b.time else b
