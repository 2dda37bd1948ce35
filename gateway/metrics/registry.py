"""The registry that one worker writes.

Contract: a worker's slot is fixed; a worker that takes over a dead one's slot continues its values, so that
counters never go backwards. A second process on the same slot is refused (`MetricsError`) by a file lock. A
label set is resolved once (`Family.labels`) and counted through the handle it returns, which costs some 50 ns
and takes no lock. Label cardinality is bounded here and nowhere else: values of `route`, `variant`, `tenant`
and the like are known ones (`know`) or `other`, and each metric has at most `Metric.series` label sets.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from gateway import telemetry
from gateway.metrics import layout, process
from gateway.telemetry import OTHER, Metric
from kernels.counters import Atomics, Counter, Gauge, Histogram

H = TypeVar("H")
_log = logging.getLogger(__name__)

LONGEST_VALUE = 128
"""Characters of a label value; tensor names are the only ones that could be longer."""


class MetricsError(OSError):
    """The metrics file cannot be made, or another process writes it."""


class Family(Generic[H]):
    """One metric in this worker."""

    __slots__ = ("_handles", "_resolve", "metric")

    def __init__(self, metric: Metric, resolve: Callable[[Family[H], tuple[str, ...]], H]) -> None:
        self.metric = metric
        self._handles: dict[tuple[str, ...], H] = {}
        self._resolve = resolve

    def labels(self, *values: str) -> H:
        """The handle of these label values, in the order of the declaration. Keep it where it is used often.

        ValueError when there are more or fewer values than labels.
        """
        handle = self._handles.get(values)
        return self._resolve(self, values) if handle is None else handle

    def keep(self, values: tuple[str, ...], handle: H) -> None:
        """Remembers a handle (for the registry)."""
        self._handles[values] = handle

    def forget(self) -> None:
        """Forgets all handles (for the registry, when known label values change)."""
        self._handles.clear()


class Registry:
    """All metrics of one worker, in `DIRECTORY/worker-SLOT.metrics`."""

    def __init__(self, directory: Path, slot: int, metrics: Sequence[Metric] = telemetry.METRICS) -> None:
        self.slot = slot
        self.path = layout.path(directory, slot)
        self._metrics = {metric.name: metric for metric in metrics}
        self._lock = threading.Lock()
        self._known: dict[str, frozenset[str]] = {}
        self.generation = 0
        """Changes when handles must be resolved anew, because other label values are known."""
        self._descriptor, self._map = _open(self.path, metrics)
        self._words = Atomics(self._map)
        self._base = (layout.HEADER + layout.TABLE) // 8
        self._series: dict[tuple[str, tuple[str, ...]], int] = {}
        self._counts = dict.fromkeys(self._metrics, 0)
        self._info: dict[str, tuple[int, tuple[str, ...]]] = {}
        for record in self._records():
            self._index(record)
        self._families: dict[str, Family[Any]] = {}
        self._scratch = bytearray(8 * max(layout.size_of(metric) for metric in metrics))
        self._words.store(layout.W_STARTED, process.start_ticks(os.getpid()) or 0)
        self._words.store(layout.W_PID, os.getpid())
        self._reset_gauges()

    def counter(self, metric: Metric) -> Family[Counter]:
        """The family of a counter."""
        return self._family(metric, ("counter",), lambda cell: Counter(*self._place(cell)))

    def gauge(self, metric: Metric) -> Family[Gauge]:
        """The family of a gauge (kinds `gauge`, `max`, `min`). A series set to NaN is not shown any more."""

        def make(cell: int) -> Gauge:
            gauge = Gauge(*self._place(cell))
            if isnan(gauge.value()):
                gauge.set(0.0)
            return gauge

        return self._family(metric, ("gauge", "max", "min"), make)

    def histogram(self, metric: Metric) -> Family[Histogram]:
        """The family of a histogram."""
        return self._family(metric, ("histogram",), lambda cell: Histogram(*self._place(cell), metric.bounds))

    def info(self, metric: Metric, *values: str) -> None:
        """Sets the facts of an `info` metric; what it said before is gone."""
        if metric.kind != "info" or len(values) != len(metric.labels):
            raise ValueError(f"{metric.name} is no info metric of {len(values)} labels")
        values = tuple(_printable(value) for value in values)
        with self._lock:
            cell, old = self._info.get(metric.name, (-1, ()))
            if old != values:
                record = layout.Record(metric.name, values, self._allocate(1) if cell < 0 else cell)
                if not self._publish(record):
                    _log.warning("metrics file %s is full; %s stays as it was", self.path, metric.name)
                    return
                self._index(record)
                cell = record.cell
            Gauge(self._map, self._base + cell).set(1.0)

    def know(self, label: str, names: Iterable[str] | None) -> None:
        """Says which values a label may have from now on; others count as `other`. None: any.

        MUST be called on the thread that counts. Handles that were resolved before stay good, and so do
        series of names that are not known any more.
        """
        if names is None:
            self._known.pop(label, None)
        else:
            self._known[label] = frozenset((*names, OTHER, ""))
        self.generation += 1
        for family in self._families.values():
            family.forget()

    def created_ns(self) -> int:
        """Unix time in nanoseconds at which this slot began to count."""
        return self._words.load(layout.W_CREATED)

    def close(self) -> None:
        """Says that this worker is gone (its gauges count no more) and gives the slot back.

        Nothing may be counted through its handles any more.
        """
        if self._descriptor >= 0:
            self._words.store(layout.W_PID, 0)
            # Outright: the mapping holds a duplicate of the descriptor, and with it the lock.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def _family(self, metric: Metric, kinds: tuple[str, ...], make: Callable[[int], H]) -> Family[H]:
        if metric.kind not in kinds or self._metrics.get(metric.name) != metric:
            raise ValueError(f"{metric.name} is no declared {kinds[0]}")
        family: Family[H] | None = self._families.get(metric.name)
        if family is None:
            family = Family(metric, lambda family, values: self._resolve(family, values, make))
            self._families[metric.name] = family
        return family

    def _resolve(self, family: Family[H], values: tuple[str, ...], make: Callable[[int], H]) -> H:
        metric = family.metric
        if len(values) != len(metric.labels):
            raise ValueError(f"{metric.name} has {len(metric.labels)} labels, not {len(values)}")
        bounded = tuple(self._bound(label, value) for label, value in zip(metric.labels, values, strict=True))
        with self._lock:
            cell = self._series.get((metric.name, bounded))
            if cell is None and self._counts[metric.name] >= metric.series:
                bounded = (OTHER,) * len(values)
                cell = self._series.get((metric.name, bounded))
                self._folded(metric)
            if cell is None:
                record = layout.Record(metric.name, bounded, self._allocate(layout.size_of(metric)))
                if self._publish(record):
                    self._index(record)
                    cell = record.cell
        handle = make(-1 if cell is None else cell)
        # Unknown values are looked up anew each time: remembering them would let callers fill the memory.
        if bounded == values:
            family.keep(values, handle)
        return handle

    def _bound(self, label: str, value: str) -> str:
        known = self._known.get(label)
        if known is not None and value not in known:
            return OTHER
        return _printable(value)

    def _folded(self, metric: Metric) -> None:
        if telemetry.SERIES_FOLDED.name not in self._metrics or metric is telemetry.SERIES_FOLDED:
            return
        key = (telemetry.SERIES_FOLDED.name, (metric.name,))
        if key not in self._series:
            record = layout.Record(*key, self._allocate(1))
            if not self._publish(record):
                return
            self._index(record)
        Counter(self._map, self._base + self._series[key]).inc()

    def _place(self, cell: int) -> tuple[mmap.mmap | bytearray, int]:
        # A full file (never seen with the declared limits) must not end requests: count where nobody reads.
        return (self._scratch, 0) if cell < 0 else (self._map, self._base + cell)

    def _allocate(self, cells: int) -> int:
        first = self._words.load(layout.W_CELLS)
        if (self._base + first + cells) * 8 > len(self._map):
            return -1
        # Before the series is published: a crash in between leaves a gap, never two series on one cell.
        self._words.store(layout.W_CELLS, first + cells)
        return first

    def _publish(self, record: layout.Record) -> bool:
        text = msgspec.json.encode(record)
        published = self._words.load(layout.W_PUBLISHED)
        if record.cell < 0 or published + 4 + len(text) > layout.TABLE:
            return False
        at = layout.HEADER + published
        self._map[at : at + 4 + len(text)] = struct.pack("<I", len(text)) + text
        self._words.store(layout.W_PUBLISHED, published + 4 + len(text))
        return True

    def _records(self) -> Iterable[layout.Record]:
        table = self._map[layout.HEADER : layout.HEADER + self._words.load(layout.W_PUBLISHED)]
        at = 0
        while at < len(table):
            (length,) = struct.unpack_from("<I", table, at)
            yield msgspec.json.decode(table[at + 4 : at + 4 + length], type=layout.Record)
            at += 4 + length

    def _index(self, record: layout.Record) -> None:
        if self._metrics[record.metric].kind == "info":
            self._info[record.metric] = (record.cell, record.values)
        else:
            self._series[record.metric, record.values] = record.cell
            self._counts[record.metric] += 1

    def _reset_gauges(self) -> None:
        """A gauge says what is now; what a dead worker saw is over. NaN: nobody has said anything yet."""
        for (name, _), cell in self._series.items():
            if self._metrics[name].kind in {"gauge", "max", "min"}:
                Gauge(self._map, self._base + cell).set(nan)


def _printable(value: str) -> str:
    """A label value that is valid UTF-8 and no longer than it should be."""
    return value[:LONGEST_VALUE].encode("utf-8", "replace").decode("utf-8")


def _open(path: Path, metrics: Sequence[Metric]) -> tuple[int, mmap.mmap]:
    """The locked file of a slot, as it is or new; its descriptor holds the lock."""
    size = layout.HEADER + layout.TABLE + 8 * layout.capacity(metrics)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path)
        if os.fstat(descriptor).st_size != size or not _continues(descriptor, metrics):
            # Another version's file, or none. A new one takes its name: cutting the old one short would end
            # whoever still reads it.
            fresh = path.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            new = _locked(fresh)
            _fill(new, size, metrics)
            fresh.replace(path)
            os.close(descriptor)
            descriptor = new
        return descriptor, mmap.mmap(descriptor, size)
    except MetricsError:
        raise
    except OSError as error:
        raise MetricsError(f"{path}: cannot make the metrics file: {error.strerror}") from error


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise MetricsError(f"{path}: another process counts there; give each worker its own slot") from None
    return descriptor


def _header(metrics: Sequence[Metric]) -> bytes:
    return struct.pack("=QQ", layout.MAGIC, layout.fingerprint(metrics))


def _continues(descriptor: int, metrics: Sequence[Metric]) -> bool:
    return os.pread(descriptor, 16, 0) == _header(metrics)


def _fill(descriptor: int, size: int, metrics: Sequence[Metric]) -> None:
    os.posix_fallocate(descriptor, 0, size)
    os.pwrite(descriptor, struct.pack("=Q", time.time_ns()), 8 * layout.W_CREATED)
    os.pwrite(descriptor, _header(metrics), 0)
