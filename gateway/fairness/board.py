"""The watches of one worker, and what all workers have counted.

Contract: a watch is of a route, its variants and what is declared. A reload that keeps them keeps counting; another
declaration, or a watch that was taken away and comes back, begins anew.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway import logs, telemetry
from gateway.fairness.reading import Reader, groups_of
from gateway.settings import Fairness, Settings
from gateway.shards import Shards
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
    variants: dict[str, OnlineReport]


class Watch:
    """One route's, in one worker."""

    __slots__ = (
        "_fairness",
        "_groups",
        "_index",
        "_reader",
        "_rows",
        "_shard",
        "_shards",
        "_uncounted",
        "_unknown",
        "_variants",
        "declared",
        "folder",
        "route",
    )

    def __init__(self, root: Path, registry: Registry, route: str, fairness: Fairness, variants: Sequence[str]) -> None:
        self.route = route
        self._rows = registry.counter(telemetry.FAIRNESS_ROWS)
        self._uncounted = registry.counter(telemetry.FAIRNESS_UNCOUNTED)
        self._fairness = fairness
        self._variants = tuple(variants)
        self._index = {name: at for at, name in enumerate(variants)}
        self.declared = hashlib.sha256(msgspec.json.encode((fairness, self._variants))).hexdigest()
        # A route's name may hold any character, a folder's not.
        self.folder = root / f"{hashlib.sha256(route.encode()).hexdigest()[:16]}-{self.declared[:16]}"
        self._groups = groups_of(fairness)
        self._unknown = self._groups - 1
        self._reader = Reader(fairness)
        size = groups.nbytes(len(self._variants), self._groups)
        self._shards = Shards(self.folder, _MAGIC, self.declared, size)
        self._shard = groups.Shard(self._shards.open(), len(self._variants), self._groups)

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
            minute, variant = int(time.time() // 60), self._index[x.variant.name]
            for group, number, selected in rows:
                self._shard.add(minute, variant, group, number, selected)
                self._rows.labels(self.route, "false" if group == self._unknown else "true").inc(number)
        except Exception:  # noqa: BLE001 - a defect there must not cost an answer
            _log.exception("not counted: a defect", extra={"fields": {"request_id": x.request_id}})

    def report(self, minutes: int | None = None) -> WatchReport:
        """Over all workers. Reads files: not for an event loop.

        Args:
            minutes: the last so many, with the one that runs; None: since counting began.
        """
        now = int(time.time() // 60)
        first = None if minutes is None else now - minutes + 1
        shards = list(self._shards.read())
        blocks = [block for _, block in shards]
        counts, calls, uncounted = groups.read(blocks, len(self._variants), self._groups, first, now)
        began = min((began for began, _ in shards), default=time.time_ns())
        since = dt.datetime.fromtimestamp(began / 1e9 if first is None else first * 60, dt.UTC)
        return WatchReport(
            route=self.route,
            since=since,
            minutes=minutes,
            attributes=[one.name for one in self._fairness.attributes],
            calls=calls,
            uncounted=uncounted,
            all=self._online(counts.sum(axis=0), uncounted),
            variants={name: self._online(counts[at], 0) for at, name in enumerate(self._variants)},
        )

    def _online(self, counts: Any, uncounted: int) -> OnlineReport:
        pairs = [(int(rows), int(selected)) for rows, selected in counts.tolist()]
        return online(
            [(one.name, one.values) for one in self._fairness.attributes],
            pairs,
            uncounted=uncounted,
            min_group=self._fairness.min_group,
        )


class Board:
    """All watches of this worker.

    Args:
        root: `STATE_DIR/fairness`.
        registry: this worker's metrics.
    """

    def __init__(self, root: Path, registry: Registry) -> None:
        self._root = root
        self._registry = registry
        self._watches: dict[tuple[str, Fairness, tuple[str, ...]], Watch] = {}

    def of(self, settings: Settings) -> dict[str, Watch]:
        """The watch of each route that has one: the one that there is, or a new one. Raises FairnessError."""
        found = {}
        for route, one in settings.routes.items():
            if one.fairness is None:
                continue
            variants = tuple(variant.name for variant in one.variants) or ("default",)
            key = (route, one.fairness, variants)
            if key not in self._watches:
                try:
                    self._watches[key] = Watch(self._root, self._registry, route, one.fairness, variants)
                except OSError as error:
                    raise FairnessError(route, error.strerror or str(error)) from error
            found[route] = self._watches[key]
        return found

    def retain(self, watches: Iterable[Watch]) -> None:
        """These are in force: let go of the others, and of what they counted."""
        kept = {watch.folder for watch in watches}
        self._watches = {key: watch for key, watch in self._watches.items() if watch.folder in kept}
        if not self._root.is_dir():
            return
        for folder in self._root.iterdir():
            if folder not in kept:
                # Another worker that has not yet heard of the change goes on in files without a name.
                shutil.rmtree(folder, ignore_errors=True)
