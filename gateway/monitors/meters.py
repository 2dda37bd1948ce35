"""Reports of monitors as metrics, their alarms, their minutes for the store: one worker of a machine does it for all.

Contract: the worker that holds the lock `RUN_DIR/monitor-meters` looks at all monitors every few seconds; when it dies
another one takes the lock; what a thread is still at keeps it until it is done. As a worker ends it writes what was
counted since the last minute, if nobody else has the lock. Nothing here runs on the event loop but the setting of
gauges, and nothing is done without monitors. What has no value (too few rows, a column that is gone) is not shown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import nan
from pathlib import Path
from typing import ParamSpec, TypeVar

from gateway import logs, telemetry
from gateway.decisions import Written, durable
from gateway.errors import Overloaded
from gateway.metrics import Registry
from gateway.monitors.alarms import Event, look, told
from gateway.monitors.board import Monitor, MonitorReport
from gateway.monitors.past import History
from gateway.settings.routes import Alarms
from gateway.shards import take
from gateway.telemetry import Metric

MOST_COLUMNS = 100
"""Columns of a route that have series of their own, in the profile's order; the page has all of them."""
MOST_CONSTRAINTS = 100
"""Constraints of a route that have series of their own, likewise."""
EVERY_S = 5.0
TILE_S = 60
"""How often what was counted is remembered, and goes to the store; at whole minutes."""

_TURN_S, _TURNS = 0.1, 10

_log = logs.get("monitors")
_P = ParamSpec("_P")
_T = TypeVar("_T")
_Sample = tuple[Metric, tuple[str, ...], float]


async def watch(
    run_dir: Path,
    registry: Registry,
    monitors: Callable[[], Mapping[str, tuple[Monitor, Alarms | None]]],
    record: Callable[[Event], Written],
    history: History,
) -> None:
    """Until cancelled.

    Args:
        run_dir: where the lock is.
        registry: of this worker.
        monitors: those in force by route, with the settings of their alarms.
        record: of an alarm that began or ended.
        history: the store.
    """
    lock = os.open(run_dir / "monitor-meters", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    shown: set[tuple[Metric, tuple[str, ...]]] = set()
    said_of: set[str] = set()
    ours = False
    minute = 0
    feeding: asyncio.Future[None] | None = None
    try:
        while True:
            await asyncio.sleep(EVERY_S)
            now = monitors()
            if not now and not shown and not history.left.folders():
                continue
            ours = ours or take(lock)
            if not ours:
                continue
            keep = time.time() // TILE_S != minute
            try:
                samples, events = await asyncio.to_thread(_holding(lock, _looked), tuple(now.values()), keep=keep)
            except Exception:  # noqa: BLE001 - a defect, or a disk that is away: the next turn tries again
                _log.exception("monitors could not be read")
                continue
            if keep:
                minute = int(time.time() // TILE_S)
                if feeding is None or feeding.done():  # a store that is away takes its time, which is not the gauges'
                    work = asyncio.to_thread(_holding(lock, _feed), tuple(now.values()), history)
                    feeding = asyncio.ensure_future(work)
            said = {(metric, labels): value for metric, labels, value in samples}
            for metric, labels in shown | said.keys():
                registry.gauge(metric).labels(*labels).set(said.get((metric, labels), nan))
            shown = set(said)
            for event in events:
                if event.id not in said_of:
                    _say(event, registry)
                said_of.add(event.id)
                await _record(event, record, now[event.route][0], lock)
            said_of &= {event.id for event in events}  # what is told of no more has been recorded
    finally:
        os.close(lock)


async def _record(event: Event, record: Callable[[Event], Written], monitor: Monitor, lock: int) -> None:
    """Into the audit log, and only then the monitor knows that it is there; else the next turn tries again."""
    try:
        await durable(record(event))
        await asyncio.to_thread(_holding(lock, told), monitor, event)
    except (Overloaded, OSError) as error:
        _log.warning("an alarm is not recorded yet: %s", error, extra={"fields": {"route": event.route}})


def _holding(lock: int, work: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same, with the lock held until it is over, even when whoever waited for it has gone (flock(2))."""
    held = os.dup(lock)

    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return work(*args, **kwargs)
        finally:
            os.close(held)

    return run


def finish(run_dir: Path, monitors: Mapping[str, Monitor], history: History) -> None:
    """Write what was counted since the last minute, unless another worker is there to do it. Blocks."""
    if not monitors:
        return
    lock = os.open(run_dir / "monitor-meters", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(_TURNS):  # others may be ending as well
            if take(lock):
                _keep(monitors.values())
                _feed(tuple((monitor, None) for monitor in monitors.values()), history)
                return
            time.sleep(_TURN_S)
    finally:
        os.close(lock)


def _feed(monitors: tuple[tuple[Monitor, Alarms | None], ...], history: History) -> None:
    try:
        history.feed([monitor.past for monitor, _ in monitors])
    except Exception:  # noqa: BLE001 - a defect: the next minute tries again
        _log.exception("what was counted could not be written to the store")


def _say(event: Event, registry: Registry) -> None:
    """On the gateway's own log, and in metrics."""
    columns = [cause.column for cause in event.alarm.causes]
    fields = {"route": event.route, "began": event.alarm.began.isoformat(), "columns": columns}
    level = logging.WARNING if event.what == "began" else logging.INFO
    _log.log(level, "an alarm of drift %s: %s", event.what, ", ".join(columns[:5]), extra={"fields": fields})
    if event.what == "began":
        registry.counter(telemetry.DRIFT_ALARMS).labels(event.route).inc()


def _looked(monitors: tuple[tuple[Monitor, Alarms | None], ...], *, keep: bool) -> tuple[list[_Sample], list[Event]]:
    if keep:
        _keep([monitor for monitor, _ in monitors])
    samples: list[_Sample] = []
    events: list[Event] = []
    for monitor, alarms in monitors:
        # Each by itself: what one monitor's files are like must not lose another one's alarm, which is told once.
        try:
            if alarms is not None:
                looked = look(monitor, alarms, time.time_ns())
                events += looked.events
                samples.append((telemetry.DRIFT_ALARM, (monitor.route,), float(looked.report.active is not None)))
            samples += samples_of(monitor.report())
        except Exception:  # noqa: BLE001 - a defect, or a disk that is away: the next turn tries again
            _log.exception("a monitor could not be read", extra={"fields": {"route": monitor.route}})
    return samples, events


def _keep(monitors: Iterable[Monitor]) -> None:
    for monitor in monitors:
        try:
            monitor.keep(time.time_ns())
        except OSError as error:
            fields = {"route": monitor.route}
            _log.warning("a window's minute is not kept: %s", error.strerror or error, extra={"fields": fields})


def samples_of(report: MonitorReport) -> Iterator[_Sample]:
    """What a report is as metrics."""
    route, rows = report.route, report.rows["current"]
    yield telemetry.DRIFT_ROWS, (route,), float(rows)
    yield telemetry.DRIFT_UNSEEN, (route,), float(report.unseen)
    yield telemetry.DRIFT_HIDDEN, (route,), float(max(0, len(report.columns) - MOST_COLUMNS))
    for column in report.columns[:MOST_COLUMNS]:
        labels = (route, column.name)
        if rows:
            yield telemetry.DRIFT_MISSING, labels, column.missing_current / rows
        for metric, name in ((telemetry.DRIFT_PSI, "psi"), (telemetry.DRIFT_JS, "js")):
            value = column.statistics[name]
            if value is not None:
                yield metric, labels, value
    if report.quality is None:
        return
    for one in report.quality.constraints[:MOST_CONSTRAINTS]:
        of = (route, one.column, one.constraint)
        yield telemetry.QUALITY_REFUSED, of, float(one.refused)
        if one.broken is not None:
            yield telemetry.QUALITY_BROKEN, of, float(one.broken)
        if one.status != "insufficient":
            yield telemetry.QUALITY_VIOLATED, of, float(one.status == "violated")
