"""Holds the snapshot in force, and swaps it when its files change.

Contract: a bad edit never takes effect: the last good snapshot keeps serving and the log names file, line and reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from gateway import lastgood, logs
from gateway import plans as plan_files
from gateway import settings as settings_
from gateway.approvals import pulse as registry_pulse
from gateway.compiling import Parts, SnapshotError, compile_last_good, compile_snapshot
from gateway.identity import reading as key_files
from gateway.inforce import Refusal, refusal
from gateway.lastgood import LastGood
from gateway.policy_in_force import pulse
from gateway.settings import Settings
from gateway.settings.file import read
from gateway.settings.profiles import watched as watched_profiles
from gateway.snapshot import Snapshot
from gateway.tls import watched
from governance.monitor.profile import encode

_log = logs.get("snapshot")

# How often the files are looked at, and how long they must have stayed as they are before they are read, so
# that a file that is still being written is not. With compiling and a first look at new upstreams together
# within the 5 s that are promised.
_POLL_S = 0.5
_QUIET_S = 1.2


class Swap(Protocol):
    """What the application does around a swap."""

    async def prepare(self, new: Snapshot) -> None:
        """Start what is new, before it takes effect. MUST NOT fail."""

    def done(self, old: Snapshot, new: Snapshot) -> None:
        """It is in force: let go of what is gone."""

    def looked(self, outcome: str) -> None:
        """The files were read: `swapped`, `unchanged` or `refused`."""


class Keeper:
    """Holds the snapshot in force and swaps it when its files change."""

    def __init__(self, config: Path, run_dir: Path, good: LastGood, parts: Parts, swap: Swap) -> None:
        """Compile what the files say, or what was last in force when a broken edit lies there."""
        self._config = config
        self._run_dir = run_dir
        self._parts = parts
        self._swap = swap
        self._wanted = asyncio.Event()
        self._refused_policy: settings_.Policy | None = None
        self._refused_files: tuple[Path, ...] = ()
        self._fixed = good.settings
        self.refusal: Refusal | None = None
        """The last edit that did not hold."""
        began = time.time_ns()
        try:
            self.current = compile_snapshot(config, parts, fixed=self._fixed)
        except SnapshotError as error:
            self._refused(error, "not loaded")
            self.current = compile_last_good(good, parts)
            _log.warning("started with what was last in force", extra={"fields": {"snapshot": self.current.hash}})
        self._seen = self._settled(began)

    def reload_soon(self) -> None:
        """Read everything again without waiting for a change (SIGHUP)."""
        self._wanted.set()

    async def watch(self) -> None:
        """Look at the files until cancelled."""
        last, since = self._seen, 0.0
        while True:
            asked = await self._asked_within(_POLL_S)
            now = self._signature()
            if now != last:
                last, since = now, time.monotonic()
            if asked or (now != self._seen and time.monotonic() - since >= _QUIET_S):
                self._seen = now
                try:
                    await self.reload()
                except Exception:  # noqa: BLE001 - whatever it is, the next edit must be looked at
                    _log.exception("not reloaded: a defect", extra={"fields": {"snapshot": self.current.hash}})
                last = self._signature()

    async def reload(self) -> None:
        """Compile and swap; a failure is logged and the snapshot in force stays."""
        old = self.current
        began = time.time_ns()
        try:
            new = await asyncio.to_thread(compile_snapshot, self._config, self._parts, old, self._fixed)
        except SnapshotError as error:
            self._refused(error, "not reloaded")
            self._swap.looked("refused")
            self._seen = self._settled(began)
            return
        if self.refusal is not None:
            self.refusal = msgspec.structs.replace(self.refusal, standing=False)
        self._refused_policy, self._refused_files = None, ()
        if new.hash == old.hash:
            _log.info("reloaded: nothing has changed", extra={"fields": {"snapshot": old.hash}})
            self._swap.looked("unchanged")
        else:
            await self._swap.prepare(new)
            self.current = new
            self._swap.done(old, new)
            self._swap.looked("swapped")
            _log.info(
                "reloaded",
                extra={
                    "fields": {
                        "snapshot": new.hash,
                        "before": old.hash,
                        "policy": new.policy.hash,
                        "policy_before": old.policy.hash,
                    }
                },
            )
            self._keep(new)
        self._seen = self._settled(began)

    def _keep(self, snapshot: Snapshot) -> None:
        try:
            lastgood.keep(
                self._run_dir,
                snapshot.settings,
                snapshot.policy.hash,
                snapshot.tls,
                dict(snapshot.jwks),
                dict(snapshot.plans),
                _profiles(snapshot),
            )
        except OSError as error:
            _log.warning("state_dir: cannot keep the settings in force for workers to come: %s", error.strerror)

    def _refused(self, error: SnapshotError, what: str) -> None:
        fields: dict[str, str] = {} if what == "not loaded" else {"snapshot": self.current.hash}
        for finding in error.findings:
            if finding.severity == "error":
                _log.error("%s: %s", what, finding, extra={"fields": fields})
        self.refusal = refusal(self._config.parent, error.findings)
        # The remedy may be an edit of a file that only the refused settings name.
        refused = read(self._config).settings
        self._refused_policy = None if refused is None else refused.policy
        self._refused_files = () if refused is None else tuple(_named(refused))

    async def _asked_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            return False
        self._wanted.clear()
        return True

    def _signature(self) -> tuple[tuple[int, ...], ...]:
        """What changes when a file is written, replaced or renamed over."""
        files = [self._config]
        for policy in (self.current.settings.policy, self._refused_policy):
            if policy is not None:
                files += [file for file in (policy.file, policy.model, policy.tests) if file is not None]
        now = self.current.settings
        files += dict.fromkeys((*_named(now), *self._refused_files))
        return (*(_stat(file) for file in files), pulse(now), registry_pulse(now))

    def _settled(self, began: int) -> tuple[tuple[int, ...], ...]:
        """The signature of what was read from `began` (Unix ns) on; none when a file changed since."""
        now = self._signature()
        return now if all(stat[-1] < began for stat in now if stat) else ()


def _profiles(snapshot: Snapshot) -> dict[str, bytes]:
    """The profiles in force, by their files' paths."""
    return {
        str(route.monitor.profile): encode(snapshot.monitors[name].profile)
        for name, route in snapshot.settings.routes.items()
        if route.monitor is not None and name in snapshot.monitors
    }


def _named(settings: Settings) -> Iterator[Path]:
    """Files that the settings name, the policy's apart."""
    yield from watched(settings)
    yield from key_files.watched(settings)
    yield from plan_files.watched(settings)
    yield from watched_profiles(settings)


def _stat(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
