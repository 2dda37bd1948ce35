"""The monitors of one worker, and what all workers have counted.

Contract: a monitor is of a route, a profile's hash and the outputs it watches. A reload that keeps them keeps counting;
another profile, or a monitor that was taken away and comes back, begins anew: the counts are "since the profile took
force".
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from gateway.errors import BadRequest
from gateway.monitors import tiles
from gateway.monitors.past import History, Past
from gateway.settings.routes import Quality as Declared
from gateway.shards import Shards
from governance.errors import StoreError
from governance.monitor import live
from governance.monitor.causes import Cause
from governance.monitor.live import LiveColumn
from governance.monitor.profile import Profile
from governance.monitor.quality import Quality, rules_of, words_of
from governance.monitor.quality import report as quality_of
from kernels import drift

_MAGIC = b"TGDRIFT1"
_RULES_MAGIC = b"TGRULES1"


class MonitorError(OSError):
    """A monitor has no place to count; the text says why and what to do."""

    def __init__(self, route: str, why: str) -> None:
        super().__init__(
            f"state_dir: the monitor of route `{route}` cannot count there ({why}): make room, or remove it"
        )
        self.route = route


class AlarmReport(msgspec.Struct, frozen=True):
    """One alarm."""

    began: dt.datetime
    """The end of the window that it began with."""
    ended: dt.datetime | None
    """Null: it is on."""
    window_since: dt.datetime
    """When that window began."""
    rows: int
    """Of that window."""
    causes: list[Cause]
    """The columns that stood out then, most evident first."""


class AlarmsReport(msgspec.Struct):
    """Alarms of a route."""

    per_year: float
    """False alarms that are put up with."""
    every_s: int
    """Length of a window in seconds."""
    windows: int
    """That were looked at."""
    last: dt.datetime | None
    """The end of the last one."""
    evidence: float | None
    """Of all columns together: natural logarithm."""
    threshold: float | None
    """At which an alarm begins, for a window of that many rows."""
    active: AlarmReport | None
    past: list[AlarmReport]
    """The last ones, newest first."""


class MonitorReport(msgspec.Struct):
    """What a route was asked, held against its profile."""

    route: str
    profile: str
    """Hash of the profile."""
    since: dt.datetime
    """When the profile took force, or the window begins."""
    window: str | None
    """The window that was asked for; null: all that was served."""
    of: Literal["machine", "store"]
    """Whose rows these are: this machine's, or, of windows, those of all gateways of one store. A window is of this
    machine while the store is away."""
    calls: int
    unseen: int
    """Calls that were served and are in no row: their tensors lie in shared memory, or do not fit the profile."""
    rows: dict[str, int]
    """Of the profile (`reference`), and served since then by all workers (`current`)."""
    columns: list[LiveColumn]
    alarms: AlarmsReport | None = None
    """Null: the route has none, or nobody has looked yet."""
    quality: Quality | None = None
    """What columns were declared to be, of all rows that this machine served since that took force. Null: nothing."""


def key_of(profile: Profile, outputs: tuple[str, ...]) -> str:
    """What counts belong to, in hex: with other outputs their columns would lack the rows before."""
    if not outputs:
        return profile.hash
    return hashlib.sha256("\0".join((profile.hash, *outputs)).encode()).hexdigest()


class Monitor:
    """One route's, in one worker."""

    __slots__ = (
        "_block",
        "_history",
        "_judge",
        "_rule_shards",
        "_rules",
        "_shards",
        "count",
        "declared",
        "folder",
        "key",
        "names",
        "outputs",
        "past",
        "profile",
        "route",
    )

    def __init__(
        self,
        root: Path,
        route: str,
        profile: Profile,
        outputs: tuple[str, ...],
        history: History,
        declared: Declared | None = None,
    ) -> None:
        self.route = route
        self.profile = profile
        self.names = frozenset(column.name for column in profile.columns)
        """Of the profile's columns."""
        self.outputs = outputs
        """Output tensors that are watched."""
        self.key = key_of(profile, outputs)
        # A route's name may hold any character, a folder's not.
        self.folder = root / f"{hashlib.sha256(route.encode()).hexdigest()[:16]}-{self.key[:16]}"
        columns = live.counted(profile)
        self._shards = Shards(self.folder, _MAGIC, self.key, drift.nbytes(columns))
        self._block = self._shards.open()
        self._history = history
        self.past = Past(self.folder, route, self.key, columns)
        self._hold_to(declared)

    def _hold_to(self, declared: Declared | None) -> None:
        """Count from now on, and hold columns to what they were declared to be. Raises OSError."""
        profile = self.profile
        self.declared = declared
        """Constraints; None: there are none."""
        columns = live.counted(profile)
        self._rules: dict[int, drift.Rule] = {}
        self._rule_shards: Shards | None = None
        block: memoryview | None = None
        if declared is not None:
            self._rules = rules_of(profile, declared.columns, schema=declared.schema, outputs=self.outputs)
        if self._rules:
            mark = hashlib.sha256(self.key.encode() + msgspec.msgpack.encode(sorted(self._rules.items()))).hexdigest()
            self._rule_shards = Shards(self.folder, _RULES_MAGIC, mark, drift.rule_nbytes(self._rules), "rules")
            block = self._rule_shards.open()
        tensors = drift.tensors_of([column.name for column in profile.columns], self.outputs)
        shard = drift.Shard(self._block, columns, *tensors, self._rules, block)
        self.count: Callable[[Sequence[drift.Tensor], Sequence[drift.Tensor]], int] = shard.count
        """Counts inputs and outputs of one call that was served; on the event loop's thread alone."""
        self._judge: Callable[[Sequence[drift.Tensor]], tuple[int, int, int] | None] = shard.judge

    @property
    def refuses(self) -> bool:
        """Whether calls have to be judged before they are served."""
        return self.declared is not None and self.declared.on_violation == "refuse" and bool(self._rules)

    def held_to(self, declared: Declared | None) -> Monitor:
        """This monitor with other constraints; it goes on with the same counts. Raises OSError."""
        other = copy.copy(self)
        other._hold_to(declared)  # noqa: SLF001 - its own class
        return other

    def judge(self, inputs: Sequence[drift.Tensor]) -> None:
        """Hold a call that is not served yet against constraints; on the event loop's thread alone.

        Raises:
            BadRequest: it breaks one; with row (from 1), column and constraint, and never the value.
        """
        found = self._judge(inputs)
        if found is None or self.declared is None:
            return
        at, row, rule = found
        if at < 0:
            name = inputs[row].name[:80]
            raise BadRequest(
                f"input '{name}': its values cannot be held against the constraints of this route: send them in the "
                "request, as many a row as the route has columns for them, and as many rows as other inputs"
            )
        column = self.profile.columns[at]
        why = words_of(rule, column, self.declared.columns.get(column.name))
        raise BadRequest(f"row {row + 1}: '{column.name}' {why}")

    def quality(self) -> Quality | None:
        """What was found, over all workers; None: nothing was declared. Reads files: not for an event loop."""
        if self.declared is None or self._rule_shards is None:
            return None
        blocks = [drift.snapshot(block) for _, block in self._rule_shards.read()]
        return quality_of(
            self.profile,
            self.declared.columns,
            self._rules,
            drift.merge_rules(self._rules, blocks),
            self.declared.on_violation,
        )

    def keep(self, now_ns: int) -> None:
        """Remember what all workers have counted by now, for windows. One process at a time. Raises OSError."""
        self.past.keep(now_ns, *self.merged())

    def report(self, window: str | None = None, now_ns: int | None = None) -> MonitorReport:
        """Over all workers. Reads files: not for an event loop. Raises OSError.

        Args:
            window: one of `tiles.WINDOWS`; None: since the profile took force.
            now_ns: Unix time in nanoseconds; None: now.
        """
        if window is None:
            return self._reported(None, "machine", *self.merged())
        start = (time.time_ns() if now_ns is None else now_ns) - tiles.WINDOWS[window] * 10**9
        try:
            found = self.past.window(self._history.plain, start, self.merged)
        except StoreError:  # `History` says so each minute
            return self._reported(window, "machine", *self._since(start))
        return self._reported(window, "store", found.since, found.block)

    def _since(self, start: int) -> tuple[int, live.Words]:
        """What this machine has counted since a time, from its journal alone."""
        began, block = self.merged()
        found = tiles.block_at(self.folder / "tiles", start)
        before = np.zeros(0, np.uint64) if found is None else np.frombuffer(found[1], np.uint64)
        # Else it is of another version, or somebody took files away.
        if found is not None and len(before) == len(block) and before[drift.ROWS] <= block[drift.ROWS]:
            return found[0], drift.since(live.counted(self.profile), block, before)
        return began, block

    def merged(self) -> tuple[int, live.Words]:
        """When the first worker began to count, and what all have."""
        columns = live.counted(self.profile)
        shards = [(began, drift.snapshot(block)) for began, block in self._shards.read()]
        return min((began for began, _ in shards), default=0), drift.merge(columns, [each for _, each in shards])

    def _reported(
        self, window: str | None, of: Literal["machine", "store"], began: int, block: live.Words
    ) -> MonitorReport:
        found = live.report(self.profile, block, self.outputs)
        return MonitorReport(
            route=self.route,
            profile=self.profile.hash,
            since=dt.datetime.fromtimestamp(began / 1e9, dt.UTC),
            window=window,
            of=of,
            calls=int(block[drift.CALLS]),
            unseen=int(block[drift.UNSEEN]),
            rows=found.rows,
            columns=found.columns,
            quality=self.quality(),
        )


class Board:
    """All monitors of this worker.

    Args:
        root: `STATE_DIR/monitors`.
        history: the store.
    """

    def __init__(self, root: Path, history: History) -> None:
        self._root = root
        self.history = history
        self._monitors: dict[tuple[str, str], Monitor] = {}

    def of(
        self,
        profiles: Mapping[str, Profile],
        outputs: Mapping[str, tuple[str, ...]] | None = None,
        declared: Mapping[str, Declared | None] | None = None,
    ) -> dict[str, Monitor]:
        """The monitor of each route with a profile: the one that there is, or a new one. Raises MonitorError.

        Args:
            profiles: by route.
            outputs: output tensors that are watched, by route.
            declared: constraints on columns, by route.
        """
        found = {}
        for route, profile in profiles.items():
            watched = (outputs or {}).get(route, ())
            constraints = (declared or {}).get(route)
            key = (route, key_of(profile, watched))
            there = self._monitors.get(key)
            try:
                if there is None:
                    self._monitors[key] = Monitor(self._root, route, profile, watched, self.history, constraints)
                elif there.declared != constraints:
                    self._monitors[key] = there.held_to(constraints)
            except OSError as error:
                raise MonitorError(route, error.strerror or str(error)) from error
            found[route] = self._monitors[key]
        return found

    def retain(self, monitors: Iterable[Monitor]) -> None:
        """These are in force: let go of the others, and of what they counted but for what the store has to get."""
        kept = {(monitor.route, monitor.key): monitor for monitor in monitors}
        self._monitors = kept
        if not self._root.is_dir():
            return
        folders = {monitor.folder for monitor in kept.values()}
        for folder in self._root.iterdir():
            if folder not in folders:
                self.history.left.take(folder)
