"""One immutable snapshot of everything that decides, and the keeper that swaps it.

Contract: settings, policy and routes compile together, off to the side, or not at all. A bad edit never takes
effect: the last good snapshot keeps serving and the log names file, line and reason. Every request keeps the
snapshot that it began with. What cannot change while running (ports, workers, state directory, telemetry) is
refused as an edit, with the remedy.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from gateway import logs
from gateway.errors import Forbidden, SettingsError
from gateway.identity import Identifier
from gateway.operations import Operation
from gateway.routing import Pins, RouteTable
from gateway.settings import Settings
from gateway.settings_file import load_or_raise
from gateway.upstream import Counters, Upstreams
from governance.errors import PolicyError
from governance.policy import PolicySnapshot, request_of
from governance.types import Finding, Subject

_log = logs.get("snapshot")

# How often the files are looked at. A change must be seen the same twice before it is read, so that a file
# that is still being written is not; together well within the 5 s that are promised.
_POLL_S = 0.7

_FIXED = ("listen", "state_dir", "workers", "metrics", "telemetry", "log", "drain")
"""Settings that take effect at the next start."""


class SnapshotError(ValueError):
    """Settings or policy do not hold; `findings` say where."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = tuple(findings)


class Snapshot(msgspec.Struct, frozen=True):
    """What decides a request."""

    settings: Settings
    hash: str
    """SHA-256, in hex, of the settings as they were understood and the policy's bytes."""
    since: datetime.datetime
    identifier: Identifier
    policy: PolicySnapshot
    routes: RouteTable
    upstreams: Upstreams
    allowed_headers: Mapping[str, frozenset[str] | None]

    def authorise(self, subject: Subject, object_: str, action: str) -> int | None:
        """Line of the rule that allows it. Raises Forbidden."""
        sub, dom, obj, act = request_of(subject, object_, action)
        decision = self.policy.decide(sub, dom, obj, act, roles=subject.roles)
        if not decision.allow:
            raise Forbidden(f"the policy does not allow '{action}' on '{object_}'")
        return decision.line

    def may(self, subject: Subject, object_: str, action: str) -> bool:
        """Whether it is allowed."""
        sub, dom, obj, act = request_of(subject, object_, action)
        return self.policy.decide(sub, dom, obj, act, roles=subject.roles).allow

    def forwarded(self, upstream: str) -> frozenset[str] | None:
        """Names of the headers that may travel to an upstream; None: all that are no credentials."""
        return self.allowed_headers[upstream]

    def admit_page(self, operation: Operation, model: str, headers: Mapping[str, str]) -> Subject | None:
        """Steps 3 and 4 for what is not inference: who asks, and may they. None: the page is open.

        Raises:
            Unauthenticated, Forbidden.
        """
        if operation.needs == "nothing":
            return None
        subject = self.identifier.identify(headers)
        if operation.needs == "server":
            self.authorise(subject, "server", operation.action)
        elif operation.needs in ("model", "upstream_model"):
            self.authorise(subject, "model:" + model, operation.action)
        return subject


class Parts(msgspec.Struct, frozen=True):
    """What outlives a snapshot and is handed to each."""

    pins: Pins
    counters: Counters


def compile_snapshot(config: Path, parts: Parts, previous: Snapshot | None = None) -> Snapshot:
    """Read, check and compile everything that `config` names.

    Upstreams that are as they were are taken over from `previous`; the new ones are not started.

    Raises:
        SnapshotError: with every finding; the file names, lines and remedies are in it.
    """
    try:
        settings = load_or_raise(config)
        policy = policy_of(settings)
    except (SettingsError, PolicyError) as error:
        raise SnapshotError(error.findings) from None
    if previous is not None:
        changed = [name for name in _FIXED if getattr(settings, name) != getattr(previous.settings, name)]
        if changed:
            what = ", ".join(f"`{name}`" for name in changed)
            message = f"{what} cannot change while the gateway runs; restart it, or undo the edit"
            raise SnapshotError((Finding(str(config), 1, 1, "error", "fixed-setting", message),))
    identity = settings.identity
    understood = msgspec.json.encode(settings, order="deterministic", enc_hook=str)
    return Snapshot(
        settings=settings,
        hash=hashlib.sha256(understood + policy.hash.encode()).hexdigest(),
        since=datetime.datetime.now(datetime.UTC),
        identifier=Identifier(identity),
        policy=policy,
        routes=RouteTable.compile(settings, pins=parts.pins),
        upstreams=Upstreams(
            settings.upstreams,
            counters=parts.counters,
            previous=None if previous is None else previous.upstreams,
        ),
        allowed_headers={
            name: None if identity is None else frozenset(header.lower() for header in upstream.forward_headers)
            for name, upstream in settings.upstreams.items()
        },
    )


def policy_of(settings: Settings) -> PolicySnapshot:
    """The policy that the settings name, or the default one.

    Raises:
        PolicyError: with every finding of severity `error`.
    """
    if settings.policy is not None:
        return PolicySnapshot.load(settings.policy.file, settings.policy.tests)
    if settings.identity is not None:
        return PolicySnapshot.open_models()
    return PolicySnapshot.allow_all()


class Keeper:
    """Holds the snapshot in force and swaps it when its files change."""

    def __init__(self, config: Path, parts: Parts, on_swap: Callable[[Snapshot, Snapshot], Awaitable[None]]) -> None:
        """`on_swap(old, new)` starts what is new before the swap takes effect; it must not fail."""
        self._config = config
        self._parts = parts
        self._on_swap = on_swap
        self.current = compile_snapshot(config, parts)
        self._seen = self._signature()
        self._wanted = asyncio.Event()

    def reload_soon(self) -> None:
        """Read everything again without waiting for a change (SIGHUP)."""
        self._wanted.set()

    async def watch(self) -> None:
        """Look at the files until cancelled."""
        before = self._seen
        while True:
            asked = await self._asked_within(_POLL_S)
            now = self._signature()
            if asked or (now != self._seen and now == before):
                self._seen = now
                await self.reload()
            before = now

    async def reload(self) -> None:
        """Compile and swap; a failure is logged and the snapshot in force stays."""
        old = self.current
        try:
            new = await asyncio.to_thread(compile_snapshot, self._config, self._parts, old)
        except SnapshotError as error:
            for finding in error.findings:
                _log.error("not reloaded: %s", finding, extra={"fields": {"snapshot": old.hash}})
            return
        if new.hash == old.hash:
            _log.info("reloaded: nothing has changed", extra={"fields": {"snapshot": old.hash}})
            return
        await self._on_swap(old, new)
        self.current = new
        _log.info(
            "reloaded",
            extra={"fields": {"snapshot": new.hash, "before": old.hash, "policy": new.policy.hash}},
        )

    async def _asked_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._wanted.wait(), seconds)
        except TimeoutError:
            return False
        self._wanted.clear()
        return True

    def _signature(self) -> tuple[tuple[int, ...], ...]:
        """What changes when a file is written, replaced or renamed over."""
        policy = self.current.settings.policy
        files = [self._config]
        if policy is not None:
            files += [file for file in (policy.file, policy.tests) if file is not None]
        return tuple(_stat(file) for file in files)


def _stat(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
