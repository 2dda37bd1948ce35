"""Alerts of routes that declare `fairness.alert`: one worker of a machine looks for all.

Contract: the worker that holds the lock `RUN_DIR/fairness-alerts` looks every few seconds; when it dies another one
takes the lock. An alert begins when the counts of its window are surely below, and ends when they are at the bound
again: too few rows, or what may be chance, change nothing. Whether one is raised is kept beside the counts, so that a
restart neither ends nor repeats it. Both ends are recorded in the audit log before they count. One that is no longer
declared ends with its declaration.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway import logs, telemetry
from gateway.decisions import durable
from gateway.errors import Overloaded
from gateway.shards import take
from governance.fairness.alert import Verdict, judge

if TYPE_CHECKING:
    from gateway.decisions import Decisions
    from gateway.fairness.board import Watch
    from gateway.metrics import Registry
    from gateway.settings import FairnessAlert
    from gateway.snapshot import Snapshot
    from governance.fairness.alert import Side

EVERY_S = 10.0
LOOKS = 30 * 24 * 360
"""How often a month looks, at one every 10 s: the budget of one false alert."""

_log = logs.get("fairness")


class Alert(msgspec.Struct, frozen=True):
    """What a route's alert says now."""

    below: float
    minutes: int
    min_group: int
    raised: dt.datetime | None
    """Since when; null: it is not raised."""
    now: Verdict
    """Of the window that ends now."""


class _Kept(msgspec.Struct, frozen=True):
    """What is kept of an alert."""

    raised: dt.datetime | None


def alert_of(folder: Path, declared: FairnessAlert, sides: list[Side]) -> Alert:
    """The alert of a watch, from the counts of its window. Reads a file."""
    verdict = judge(sides, declared.below, declared.min_group, LOOKS)
    return Alert(declared.below, declared.minutes, declared.min_group, _raised(folder), verdict)


def _raised(folder: Path) -> dt.datetime | None:
    try:
        return msgspec.json.decode((folder / "alert").read_bytes(), type=_Kept).raised
    except (OSError, msgspec.DecodeError):
        return None


def _keep(folder: Path, raised: dt.datetime | None) -> None:
    aside = folder / "alert.new"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(_Kept(raised)))
    aside.replace(folder / "alert")


async def watch(run_dir: Path, registry: Registry, decisions: Decisions, snapshot: Callable[[], Snapshot]) -> None:
    """Until cancelled."""
    lock = os.open(run_dir / "fairness-alerts", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    shown: set[str] = set()
    ours = False
    try:
        while True:
            await asyncio.sleep(EVERY_S)
            current = snapshot()
            now = {route: one for route, one in current.fairness.items() if one.alerts}
            if not current.fairness and not shown:
                continue
            ours = ours or take(lock)
            if not ours:
                continue
            for route in shown - now.keys():
                registry.gauge(telemetry.FAIRNESS_ALERT).labels(route).set(nan)
            shown = set(now)
            for one in current.fairness.values():
                raised = await (_look if one.alerts else _withdraw)(current, decisions, one)
                if raised is not None:
                    registry.gauge(telemetry.FAIRNESS_ALERT).labels(one.route).set(float(raised))
    finally:
        os.close(lock)


async def _look(snapshot: Snapshot, decisions: Decisions, one: Watch) -> bool | None:
    """At one route, once: whether its alert is raised; None: that could not be said or recorded."""
    try:
        alert = await asyncio.to_thread(one.alert)
        assert alert is not None
        begins = alert.raised is None and alert.now.status == "below"
        ends = alert.raised is not None and alert.now.status == "above"
        if begins or ends:
            await durable(decisions.alert(snapshot, one.route, "begins" if begins else "ends", facts(alert)))
            await asyncio.to_thread(_keep, one.folder, dt.datetime.now(dt.UTC) if begins else None)
            fields = {"route": one.route, **facts(alert)}
            what = "is selected less often than another" if begins else "is no longer below the bound"
            (_log.warning if begins else _log.info)("a group %s", what, extra={"fields": fields})
    except (OSError, Overloaded) as error:  # the next look tries again
        _log.warning("an alert could not be looked at or recorded: %s", error, extra={"fields": {"route": one.route}})
    except Exception:  # noqa: BLE001 - a defect: likewise, and the other routes are looked at
        _log.exception("an alert could not be looked at", extra={"fields": {"route": one.route}})
    else:
        return begins or (alert.raised is not None and not ends)
    return None


async def _withdraw(snapshot: Snapshot, decisions: Decisions, one: Watch) -> None:
    """An alert that a route no longer declares is over; else it would be raised still when another is declared."""
    try:
        raised = await asyncio.to_thread(_raised, one.folder)
        if raised is not None:
            said = {"withdrawn": "true", "raised": raised.isoformat()}
            await durable(decisions.alert(snapshot, one.route, "ends", said))
            await asyncio.to_thread(_keep, one.folder, None)
            _log.info("an alert is no longer declared", extra={"fields": {"route": one.route, **said}})
    except (OSError, Overloaded) as error:  # the next look tries again
        _log.warning("an alert's end could not be recorded: %s", error, extra={"fields": {"route": one.route}})


def facts(alert: Alert) -> dict[str, str | int | None]:
    """For the log and the audit record: of how much, never of whom."""

    def text(value: float | None) -> str | None:
        return None if value is None else f"{value:.4f}"

    return {
        "below": text(alert.below),
        "minutes": alert.minutes,
        "min_group": alert.min_group,
        "ratio": text(alert.now.ratio),
        "low": text(alert.now.low),
        "high": text(alert.now.high),
        "raised": None if alert.raised is None else alert.raised.isoformat(),
    }
