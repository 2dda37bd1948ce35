"""Alarms of one machine: the windows of each monitor, what they have gathered, and what began and ended.

Contract: one process at a time looks (`meters`); all that it knows between two looks lies in the monitor's folder,
`STATE_DIR/monitors/ROUTE-PROFILE/alarms`, replaced in one step, so that whoever looks next goes on where the last one
left off, and the page of any worker reads it. What began or ended stays there until it is `told`: a process that is
killed in between leaves it to the next one, so that a record is written once or, rarely, twice with one id, and never
not. A file that cannot be read is set aside as `alarms.broken`. What is decided is `governance.monitor.alarms`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import zlib
from math import ceil
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from gateway import logs
from gateway.monitors.board import AlarmReport, AlarmsReport, Monitor
from gateway.settings.routes import Alarms
from governance.monitor import alarms, live
from governance.monitor.alarms import Rule, Standing
from governance.monitor.causes import causes
from governance.monitor.evidence import Evidence
from governance.monitor.scores import Layout, layout, window
from governance.monitor.thresholds import threshold
from kernels import drift

LEAST_ROWS = 100
"""Of a window: the smallest that thresholds are simulated for."""
PAST = 20
"""Alarms that are over, which the page shows."""
_FILE = "alarms"

_log = logs.get("monitors")


class Event(NamedTuple):
    """An alarm of a route began or ended."""

    route: str
    what: Literal["began", "ended"]
    alarm: AlarmReport

    @property
    def id(self) -> str:
        """The same however often it is told."""
        said = f"{self.route}\0{self.alarm.began.isoformat()}\0{self.what}"
        return hashlib.sha256(said.encode()).hexdigest()[:32]


class _Kept(msgspec.Struct):
    """What lies in the file."""

    settings: Alarms
    at_ns: int
    """When the last window ended."""
    block: bytes
    """What all workers had counted then, by zlib."""
    charts: list[list[float]]
    effects: list[list[float]]
    calm: int
    cool: int
    report: AlarmsReport
    untold: list[Event] = []
    """What began or ended and is not known to be in the audit log, oldest first."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Kept).decode


class Looked(NamedTuple):
    """What there is to say of a monitor's alarms."""

    report: AlarmsReport
    events: list[Event]
    """Of this look, and of those before what nobody has told of."""


def look(monitor: Monitor, settings: Alarms, now_ns: int) -> Looked:
    """A look at a monitor: nothing but its last report while its window goes on. Reads and writes files: OSError."""
    found = layout(monitor.profile)
    before = _read(monitor, 0 if found is None else len(found.names), aside=True)
    if before is not None and now_ns < before.at_ns:
        # The clock was put back. The window goes on, and its length counts from now.
        before.at_ns = now_ns
        _write(monitor, before)
    if before is not None and now_ns - before.at_ns < settings.every * 1e9 and before.settings == settings:
        return Looked(before.report, before.untold)
    _, block = monitor.merged()
    if found is None or before is None or before.settings != settings:
        return _begun(monitor, settings, now_ns, block, before, 0 if found is None else len(found.names))
    last = np.frombuffer(zlib.decompress(before.block), np.uint64)
    if len(last) != len(block) or last[drift.ROWS] > block[drift.ROWS]:  # somebody took files of counts away
        return _begun(monitor, settings, now_ns, block, before, len(found.names))
    rows = int(block[drift.ROWS] - last[drift.ROWS])
    if rows < LEAST_ROWS:
        return Looked(before.report, before.untold)
    return _judged(monitor, settings, now_ns, block, before, found, last)


def told(monitor: Monitor, event: Event) -> None:
    """It is in the audit log. One process at a time, as `look`. Raises OSError."""
    found = layout(monitor.profile)
    kept = _read(monitor, 0 if found is None else len(found.names), aside=False)
    if kept is not None and any(one.id == event.id for one in kept.untold):
        kept.untold = [one for one in kept.untold if one.id != event.id]
        _write(monitor, kept)


def _judged(
    monitor: Monitor,
    settings: Alarms,
    now_ns: int,
    block: live.Words,
    before: _Kept,
    found: Layout,
    last: live.Words,
) -> Looked:
    thresholds = monitor.profile.head.alarms
    assert thresholds is not None  # the settings are refused without
    columns = live.counted(monitor.profile)
    cells = live.cells_of(columns, drift.since(columns, block, last))
    rows = int(block[drift.ROWS] - last[drift.ROWS])
    # A column that no call has had since the profile took force is absent, and not missing from now on.
    there = [bool(each.sum()) for each in live.cells_of(columns, block)]
    now = window(found, cells, rows)
    h = threshold(thresholds, float(rows), 1 / (settings.budget * settings.every))
    rule = Rule(settings.effect, settings.clear, settings.cooldown)
    standing = Standing(
        Evidence(np.array(before.charts), np.array(before.effects)),
        np.asarray(before.report.active is not None),
        np.asarray(before.calm),
        np.asarray(before.cool),
    )
    turned = alarms.turn(found, standing, now, h, rule, np.array([there[at] for at in found.at]))
    report = before.report
    report.windows += 1
    report.last = _time(now_ns)
    report.evidence, report.threshold = round(float(turned.overall), 3), round(float(h), 3)
    events = [*before.untold]
    if turned.began:
        report.active = AlarmReport(
            began=_time(now_ns),
            ended=None,
            window_since=_time(before.at_ns),
            rows=rows,
            causes=causes(found, monitor.profile, turned.found, now, turned.logs, turned.named),
        )
        events.append(Event(monitor.route, "began", report.active))
    if turned.ended and report.active is not None:
        over = msgspec.structs.replace(report.active, ended=_time(now_ns))
        report.active, report.past = None, [over, *report.past][:PAST]
        events.append(Event(monitor.route, "ended", over))
    after = turned.standing
    _write(
        monitor,
        _Kept(
            settings,
            now_ns,
            zlib.compress(block.tobytes(), 1),
            after.evidence.charts.tolist(),
            after.evidence.effects.tolist(),
            int(after.calm),
            int(after.cool),
            report,
            events,
        ),
    )
    return Looked(report, events)


def _begun(
    monitor: Monitor, settings: Alarms, now_ns: int, block: live.Words, before: _Kept | None, columns: int
) -> Looked:
    """The first window begins; an alarm that was on under other settings is over."""
    past, events = ([], []) if before is None else (before.report.past, [*before.untold])
    if before is not None and before.report.active is not None:
        over = msgspec.structs.replace(before.report.active, ended=_time(now_ns))
        past = [over, *past][:PAST]
        events.append(Event(monitor.route, "ended", over))
    nothing = alarms.quiet(columns).evidence
    report = AlarmsReport(
        per_year=round(settings.budget * 365.25 * 86400, 6),
        every_s=ceil(settings.every),
        windows=0,
        last=None,
        evidence=None,
        threshold=None,
        active=None,
        past=past,
    )
    kept = _Kept(
        settings,
        now_ns,
        zlib.compress(block.tobytes(), 1),
        nothing.charts.tolist(),
        nothing.effects.tolist(),
        0,
        0,
        report,
        events,
    )
    _write(monitor, kept)
    return Looked(report, events)


def report_of(monitor: Monitor) -> AlarmsReport | None:
    """What the last look said; None: there was none yet. Reads a file."""
    found = layout(monitor.profile)
    kept = _read(monitor, 0 if found is None else len(found.names), aside=False)
    return None if kept is None else kept.report


def _read(monitor: Monitor, columns: int, *, aside: bool) -> _Kept | None:
    """What is kept; None: nothing, or what another version wrote, or a disk cut off. That is put `aside`, once."""
    path = monitor.folder / _FILE
    try:
        kept = _decode(path.read_bytes())
        zlib.decompress(kept.block)
        nothing = alarms.quiet(columns).evidence
        shapes = np.shape(kept.charts), np.shape(kept.effects)
        whole = not columns or shapes == (nothing.charts.shape, nothing.effects.shape)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, zlib.error, ValueError):  # ValueError: rows of different lengths
        whole = False
    if whole:
        return kept
    if aside:
        path.replace(path.with_name(f"{_FILE}.broken"))
        fields = {"route": monitor.route}
        _log.warning("what alarms had gathered cannot be read: set aside, begun anew", extra={"fields": fields})
    return None


def _write(monitor: Monitor, kept: _Kept) -> None:
    aside = monitor.folder / f"{_FILE}.new"
    aside.write_bytes(_encode(kept))
    aside.replace(monitor.folder / _FILE)


def _time(nanoseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(nanoseconds / 1e9, dt.UTC)
