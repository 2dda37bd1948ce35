"""The watches of one worker, and what all workers have counted.

Contract: a watch is of a route, its variants and shadows with their versions, and what is declared of groups and
decisions. A reload that keeps them keeps counting, whatever it says of reports and alerts; others, or a watch that was
taken away and comes back, begin anew.
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from gateway import logs, telemetry
from gateway.fairness.alerts import Alert, alert_of
from gateway.fairness.joining import Joined, Joining, Told
from gateway.fairness.pending import Decided
from gateway.fairness.reading import Reader, groups_of, joined_groups
from gateway.settings import Fairness, FairnessJoin, Route, Settings
from gateway.shards import Shards
from governance.fairness.alert import Side
from governance.fairness.online import OnlineReport, online
from kernels import groups

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.metrics import Registry
    from gateway.wire.types import InferAnswer

_log = logs.get("fairness")
_MAGIC = b"TGGROUP1"
MOST_MINUTES = groups.MINUTES - 1
"""The longest window: the minute that is being counted may clear the oldest slot."""


class FairnessError(OSError):
    """A watch has no place to count; the text says why and what to do."""

    def __init__(self, route: str, why: str) -> None:
        super().__init__(f"state_dir: the fairness of route `{route}` cannot be counted there ({why}): make room")
        self.route = route


class Served(msgspec.Struct, frozen=True):
    """A variant, or a shadow."""

    name: str
    model: str
    version: str | None
    shadow: bool = False


class VersionReport(OnlineReport, frozen=True):
    """Of a variant or a shadow."""

    model: str
    version: str | None
    """Null: the model server's own choice, so that the counts are of no version in particular."""


class WatchReport(msgspec.Struct):
    """On whom a route decided what."""

    route: str
    since: dt.datetime
    """From when it counts; with `minutes`, the beginning of the window."""
    minutes: int | None
    """The window; None: since counting began."""
    attributes: list[str]
    calls: int
    """Calls that were counted, since counting began."""
    uncounted: int
    """Calls that were served since then and are in no row: no decision could be read from the answer."""
    all: OnlineReport
    variants: dict[str, VersionReport]
    shadows: dict[str, VersionReport]
    """What they would have decided, of the requests that they got a copy of; not in `all`."""
    alert: Alert | None
    """Of `fairness.alert`; null: none is declared."""


class Watch:
    """One route's, in one worker."""

    __slots__ = (
        "_fairness",
        "_groups",
        "_index",
        "_joining",
        "_joins",
        "_more",
        "_reader",
        "_rows",
        "_served",
        "_shard",
        "_shards",
        "_uncounted",
        "_unknown",
        "declared",
        "folder",
        "route",
    )

    def __init__(
        self, root: Path, registry: Registry, route: str, fairness: Fairness, served: Sequence[Served]
    ) -> None:
        self.route = route
        self._rows = registry.counter(telemetry.FAIRNESS_ROWS)
        self._uncounted = registry.counter(telemetry.FAIRNESS_UNCOUNTED)
        self._fairness = fairness
        self._served = tuple(served)
        """Variants, then shadows: the order of the counts."""
        self._index = {(one.name, one.shadow): at for at, one in enumerate(served)}
        counted = (fairness.attributes, fairness.decision, self._served)
        self.declared = hashlib.sha256(msgspec.json.encode(counted)).hexdigest()
        # A route's name may hold any character, a folder's not.
        self.folder = root / f"{hashlib.sha256(route.encode()).hexdigest()[:16]}-{self.declared[:16]}"
        self._groups = groups_of(fairness)
        self._unknown = self._groups - 1
        self._reader = Reader(fairness)
        size = groups.nbytes(len(self._served), self._groups)
        self._shards = Shards(self.folder, _MAGIC, self.declared, size)
        self._shard = groups.Shard(self._shards.open(), len(self._served), self._groups)
        self._joins = registry.counter(telemetry.FAIRNESS_JOINS)
        self._more = joined_groups(fairness)
        self._joining: Joining | None = None
        if self._more is not None:
            waiting = join_of(fairness).capacity
            self._joining = Joining(self.folder, self.declared, len(self._served), self._groups, waiting)

    def declares(self, fairness: Fairness) -> Watch:
        """The same counts under these rules for reports, alerts and what is told later. Raises OSError."""
        if fairness == self._fairness:
            return self
        found = copy.copy(self)
        found._fairness = fairness  # noqa: SLF001 - of its own kind
        if self._joining is not None:
            found._joining = self._joining.resized(join_of(fairness).capacity)  # noqa: SLF001 - likewise
        return found

    def tidy(self) -> None:
        """It is in force: let go of what it no longer needs."""
        if self._joining is not None:
            self._joining.tidy()

    @property
    def alerts(self) -> bool:
        """Whether it declares an alert."""
        return self._fairness.alert is not None

    def count(self, x: Exchange, answer: InferAnswer) -> None:
        """One answer that is given; on the event loop's thread alone. Never raises."""
        if x.call is None or x.variant is None:
            return
        try:
            rows = self._reader.rows(x.call, x.headers, answer)
            self._shard.called(rows is not None)
            if rows is None:
                self._uncounted.labels(self.route).inc()
                return
            for known, number in self._add(rows, self._index[x.variant.name, False], x.request_id):
                self._rows.labels(self.route, "true" if known else "false").inc(number)
        except Exception:  # noqa: BLE001 - a defect there must not cost an answer
            _log.exception("not counted: a defect", extra={"fields": {"request_id": x.request_id}})

    def shadowed(self, x: Exchange, shadow: str) -> Callable[[InferAnswer], None] | None:
        """What counts the answer of a shadow to a copy of this call; it never raises."""
        at, call, headers, request_id = self._index.get((shadow, True)), x.call, x.headers, x.request_id
        if at is None or call is None:
            return None

        def count(answer: InferAnswer) -> None:
            try:
                self._add(self._reader.rows(call, headers, answer) or (), at, request_id)
            except Exception:  # noqa: BLE001 - a defect there must not cost a comparison
                _log.exception("not counted: a defect", extra={"fields": {"request_id": request_id}})

        return count

    def _add(self, rows: Iterable[tuple[int, int, int]], at: int, request_id: str) -> list[tuple[bool, int]]:
        """Count rows of a variant or shadow; whether their group is known, and how many they are."""
        minute = int(time.time() // 60)
        found = []
        for group, number, selected in rows:
            known = group
            if self._joining is not None and group != self._unknown:
                known = self._unknown
                self._joining.wait(request_id, Decided(minute, at, group, number, selected))
            self._shard.add(minute, at, known, number, selected)
            found.append((known != self._unknown, number))
        return found

    @property
    def joins(self) -> bool:
        """Whether attributes are told later."""
        return self._joining is not None

    def join(self, told: Sequence[Told]) -> Joined:
        """People are told of, by request id. Blocks: not for an event loop. Raises OSError."""
        assert self._joining is not None
        assert self._more is not None
        return self._joining.join(told, self._more, int(time.time() // 60), join_of(self._fairness).minutes)

    def joined(self, result: Joined) -> None:
        """Show what became of ids; on the event loop's thread."""
        for name, number in msgspec.structs.asdict(result).items():
            self._joins.labels(self.route, name).inc(number)

    def report(self, minutes: int | None = None) -> WatchReport:
        """Over all workers. Reads files: not for an event loop.

        Args:
            minutes: the last so many, with the one that runs; None: since counting began.
        """
        now = int(time.time() // 60)
        first = None if minutes is None else now - minutes + 1
        began, counts, calls, uncounted = self._counted(first, now)
        since = dt.datetime.fromtimestamp(began / 1e9 if first is None else first * 60, dt.UTC)
        return WatchReport(
            route=self.route,
            since=since,
            minutes=minutes,
            attributes=[one.name for one in self._fairness.attributes],
            calls=calls,
            uncounted=uncounted,
            all=self._online(self._given(counts), uncounted),
            variants=self._versions(counts, shadows=False),
            shadows=self._versions(counts, shadows=True),
            alert=self.alert(),
        )

    def _given(self, counts: groups.Counts) -> groups.Counts:
        """Of what was answered: of all variants, and of no shadow."""
        given: groups.Counts = counts[: sum(not one.shadow for one in self._served)].sum(axis=0)
        return given

    def _versions(self, counts: groups.Counts, *, shadows: bool) -> dict[str, VersionReport]:
        found = {}
        for at, one in enumerate(self._served):
            if one.shadow is shadows:
                report = msgspec.structs.asdict(self._online(counts[at], 0))
                found[one.name] = VersionReport(**report, model=one.model, version=one.version)
        return found

    def alert(self) -> Alert | None:
        """What the alert says now, over all workers; None: none is declared. Reads files."""
        declared = self._fairness.alert
        if declared is None:
            return None
        now = int(time.time() // 60)
        counts = self._given(self._counted(now - declared.minutes + 1, now)[1])
        attributes = self._fairness.attributes
        names = [one.name for one in attributes]
        combinations = product(*(one.values for one in attributes))
        sides = [
            Side(dict(zip(names, values, strict=True)), int(rows), int(selected))
            for values, (rows, selected) in zip(combinations, counts[:-1], strict=True)
        ]
        return alert_of(self.folder, declared, sides)

    def _counted(self, first: int | None, last: int) -> tuple[int, groups.Counts, int, int]:
        """When the first worker began (Unix nanoseconds), counts, and calls counted and not, of all workers."""
        shards = list(self._shards.read())
        blocks = [block for _, block in shards]
        counts, calls, uncounted = groups.read(blocks, len(self._served), self._groups, first, last)
        if self._joining is not None:
            moved = self._joining.moved(first, last)
            counts += moved
            counts[:, -1] -= moved.sum(axis=1)
            # A row that is counted between the two readings.
            np.maximum(counts, 0, out=counts)
            np.minimum(counts[..., 1], counts[..., 0], out=counts[..., 1])
        return min((began for began, _ in shards), default=time.time_ns()), counts, calls, uncounted

    def _online(self, counts: Any, uncounted: int) -> OnlineReport:
        pairs = [(int(rows), int(selected)) for rows, selected in counts.tolist()]
        return online(
            [(one.name, one.values) for one in self._fairness.attributes],
            pairs,
            uncounted=uncounted,
            min_group=self._fairness.min_group,
        )


def join_of(fairness: Fairness) -> FairnessJoin:
    """What is declared of attributes that are told later."""
    return fairness.join or FairnessJoin()


def _served(name: str, route: Route) -> tuple[Served, ...]:
    """The variants of a route, then its shadows."""
    variants = [Served(one.name, one.model, one.version) for one in route.variants]
    shadows = [Served(one.name, one.model, one.version, shadow=True) for one in route.shadows]
    return (*(variants or [Served("default", name, None)]), *shadows)


class Board:
    """All watches of this worker.

    Args:
        root: `STATE_DIR/fairness`.
        registry: this worker's metrics.
    """

    def __init__(self, root: Path, registry: Registry) -> None:
        self._root = root
        self._registry = registry
        self._watches: dict[tuple[object, ...], Watch] = {}

    def of(self, settings: Settings) -> dict[str, Watch]:
        """The watch of each route that has one: the one that there is, or a new one. Raises FairnessError."""
        found = {}
        for route, one in settings.routes.items():
            if one.fairness is None:
                continue
            served = _served(route, one)
            key = (route, one.fairness.attributes, one.fairness.decision, served)
            try:
                if key not in self._watches:
                    self._watches[key] = Watch(self._root, self._registry, route, one.fairness, served)
                found[route] = self._watches[key] = self._watches[key].declares(one.fairness)
            except OSError as error:
                raise FairnessError(route, error.strerror or str(error)) from error
        return found

    def retain(self, watches: Iterable[Watch]) -> None:
        """These are in force: let go of the others, and of what they counted."""
        kept = set()
        for watch in watches:
            watch.tidy()
            kept.add(watch.folder)
        self._watches = {key: watch for key, watch in self._watches.items() if watch.folder in kept}
        if not self._root.is_dir():
            return
        for folder in self._root.iterdir():
            if folder not in kept:
                # Another worker that has not yet heard of the change goes on in files without a name.
                shutil.rmtree(folder, ignore_errors=True)
