"""One immutable snapshot of everything that decides, and the keeper that swaps it.

Contract: settings, policy and routes compile together, off to the side, or not at all. A bad edit never takes
effect: the last good snapshot keeps serving and the log names file, line and reason. Every request keeps the
snapshot that it began with. What cannot change while running (ports, workers, state directory, telemetry) is
refused as an edit, with the remedy.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from gateway import lastgood, logs
from gateway import plans as plan_files
from gateway import settings as settings_
from gateway.approvals import Approvals, load_approvals
from gateway.approvals import pulse as registry_pulse
from gateway.errors import Forbidden
from gateway.fairness import Board as FairnessBoard
from gateway.fairness import FairnessError, Watch
from gateway.identity import Identifier, KeysNeeded, Sources
from gateway.identity import reading as key_files
from gateway.identity.jwks import parse as parse_keys
from gateway.identity.jwt import Tokens
from gateway.identity.sources import KeySource
from gateway.inforce import Refusal, refusal
from gateway.lastgood import LastGood
from gateway.monitors import Board as MonitorBoard
from gateway.monitors import Monitor, MonitorError
from gateway.operations import Operation
from gateway.policy_in_force import policy_of, pulse
from gateway.routing import Pins, RouteTable
from gateway.settings import Settings
from gateway.settings.file import read
from gateway.settings.profiles import read_profiles
from gateway.settings.profiles import watched as watched_profiles
from gateway.tls import Material, PeerCertificate, Problem, read_material, watched
from gateway.transform import RouteFeatures
from gateway.upstream import Counters, Upstreams
from gateway.upstream.lives import Lives
from gateway.upstream.shm_ring import Ring
from governance.documents.convert import Place, Places, dotted
from governance.errors import PolicyError
from governance.monitor.profile import Profile, decode, encode
from governance.policy import GATEWAY_FIELDS, PolicySnapshot, request_of
from governance.registry.view import View
from governance.registry.view import encode as encode_view
from governance.types import Finding, Subject

_log = logs.get("snapshot")

# How often the files are looked at, and how long they must have stayed as they are before they are read, so
# that a file that is still being written is not. With compiling and a first look at new upstreams together
# within the 5 s that are promised.
_POLL_S = 0.5
_QUIET_S = 1.2

_MOST_ALLOWED = 8192
"""Decisions that are kept. A policy with wildcards allows whatever name a caller makes up, so there must be a bound."""

_FIXED = ("listen", "state_dir", "workers", "shared_memory", "audit", "store", "metrics", "telemetry", "log", "drain")
"""Settings that take effect at the next start."""


class SnapshotError(ValueError):
    """Settings or policy do not hold; `findings` say where."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = tuple(findings)


class Admitted(msgspec.Struct, frozen=True):
    """Who may have a page."""

    subject: Subject | None = None
    """None: the page is open, and nobody was asked who they are."""
    asked: bool = False
    """Whether the policy was asked; it has allowed it then."""
    line: int | None = None
    """Of the rule that allowed it."""


class Snapshot(msgspec.Struct, frozen=True, weakref=True):
    """What decides a request."""

    settings: Settings
    hash: str
    """SHA-256, in hex, of the settings as they were understood, the policy's bytes, certificates and keys, plans,
    profiles, and what the registry says."""
    since: dt.datetime
    identifier: Identifier
    policy: PolicySnapshot
    routes: RouteTable
    upstreams: Upstreams
    allowed_headers: Mapping[str, frozenset[str] | None]
    tls: Material
    """Certificates and keys, as they were read with the settings."""
    jwks: Mapping[str, bytes] = {}
    """Key set files of tokens' issuers, as they were read with the settings."""
    features: Mapping[str, RouteFeatures] = {}
    """What makes tensors of raw columns, by the name of the route that has a feature plan."""
    plans: Mapping[str, bytes] = {}
    """Feature plans, as they were read with the settings."""
    monitors: Mapping[str, Monitor] = {}
    """By route; routes without one are not in it."""
    approvals: Approvals | None = None
    """Which versions may serve; None: all."""
    fairness: Mapping[str, Watch] = {}
    """By route; routes without one are not in it."""
    _allowed: dict[tuple[Subject, str], int | None] = msgspec.field(default_factory=dict)
    """Lines of the rules that allowed `infer`, by subject and model: what never changes for this snapshot."""

    def authorise(self, subject: Subject, object_: str, action: str) -> int | None:
        """Line of the rule that allows it. Raises Forbidden."""
        sub, dom, obj, act = request_of(subject, object_, action)
        decision = self.policy.decide(sub, dom, obj, act, roles=subject.roles)
        if not decision.allow:
            raise Forbidden(f"the policy does not allow '{action}' on '{object_}'", subject, decision.line)
        return decision.line

    def authorise_infer(self, subject: Subject, model: str) -> int | None:
        """As `authorise` for `infer` on a model, by heart where it was allowed before."""
        allowed = self._allowed
        key = (subject, model)
        if key in allowed:
            return allowed[key]
        line = self.authorise(subject, "model:" + model, "infer")
        if len(allowed) >= _MOST_ALLOWED:
            allowed.clear()
        allowed[key] = line
        return line

    def may(self, subject: Subject, object_: str, action: str) -> bool:
        """Whether it is allowed."""
        sub, dom, obj, act = request_of(subject, object_, action)
        return self.policy.decide(sub, dom, obj, act, roles=subject.roles).allow

    def forwarded(self, upstream: str) -> frozenset[str] | None:
        """Names of the headers that may travel to an upstream; None: all that are no credentials."""
        return self.allowed_headers[upstream]

    def admit_page(
        self,
        operation: Operation,
        model: str,
        headers: Mapping[str, str],
        certificate: PeerCertificate | None = None,
    ) -> Admitted:
        """Steps 3 and 4 for what is not inference: who asks, and may they.

        Raises:
            Unauthenticated, Forbidden.
        """
        if operation.needs == "nothing":
            return Admitted()
        subject = self.identifier.identify(headers, certificate)
        object_ = operation.object_of(model)
        if object_ is None:
            return Admitted(subject)
        return Admitted(subject, asked=True, line=self.authorise(subject, object_, operation.action))


async def admitted_page(
    snapshot: Snapshot,
    operation: Operation,
    model: str,
    headers: Mapping[str, str],
    certificate: PeerCertificate | None = None,
) -> Admitted:
    """As `Snapshot.admit_page`, and waits while an issuer is asked for a token's key."""
    try:
        return snapshot.admit_page(operation, model, headers, certificate)
    except KeysNeeded as needed:
        await needed.ready()
    return snapshot.admit_page(operation, model, headers, certificate)


class Swap(Protocol):
    """What the application does around a swap."""

    async def prepare(self, new: Snapshot) -> None:
        """Start what is new, before it takes effect. MUST NOT fail."""

    def done(self, old: Snapshot, new: Snapshot) -> None:
        """It is in force: let go of what is gone."""

    def looked(self, outcome: str) -> None:
        """The files were read: `swapped`, `unchanged` or `refused`."""


class Parts(msgspec.Struct, frozen=True):
    """What outlives a snapshot and is handed to each."""

    pins: Pins
    counters: Counters
    replica_pins: Pins | None = None
    """Where sequences are on replicas; None: pinned by this process alone."""
    lives: Lives | None = None
    ring: Ring | None = None
    """Of replicas, likewise."""
    keys: Sources = msgspec.field(default_factory=Sources)
    """Key sets of tokens' issuers that come from URLs."""
    monitors: MonitorBoard | None = None
    """Where monitors count; None: nowhere, and there are none."""
    fairness: FairnessBoard | None = None
    """Where decisions are counted by group; None: nowhere."""


def compile_snapshot(
    config: Path, parts: Parts, previous: Snapshot | None = None, fixed: Settings | None = None
) -> Snapshot:
    """Read, check and compile everything that `config` names.

    Upstreams that are as they were are taken over from `previous`; the new ones are not started.

    Args:
        config: `tidegate.yaml`.
        parts: what outlives snapshots.
        previous: the snapshot in force.
        fixed: the settings that this run began with; some of them cannot change.

    Raises:
        SnapshotError: with every finding; the file names, lines and remedies are in it.
    """
    reading = read(config)
    if reading.settings is None or any(finding.severity == "error" for finding in reading.findings):
        raise SnapshotError(reading.findings)
    settings = reading.settings
    if fixed is not None and (changed := list(_fixed_changes(fixed, settings, ()))):
        raise SnapshotError([_fixed_finding(config, reading.places, place) for place in changed])
    try:
        policy = policy_of(settings)
    except PolicyError as error:
        raise SnapshotError(error.findings) from None
    # Judged again, since the files may have changed since `read`: what is judged here is what is used.
    tls, problems = read_material(settings)
    if wrong := [problem for problem in problems if problem.severity == "error"]:
        raise SnapshotError([_tls_finding(config, reading.places, problem) for problem in wrong])
    jwks, findings = key_files.read_key_sets(settings, str(config), reading.places)
    if findings:
        raise SnapshotError(findings)
    plans, findings = plan_files.read_plans(settings, str(config), reading.places)
    if wrong_plans := [finding for finding in findings if finding.severity == "error"]:
        raise SnapshotError(wrong_plans)
    profiles, findings = read_profiles(settings, str(config), reading.places)
    if findings:
        raise SnapshotError(findings)
    try:
        approvals = load_approvals(settings)
    except ValueError as error:
        raise SnapshotError([_registry_finding(config, reading.places, str(error))]) from None
    try:
        return _compiled(settings, policy, parts, previous, tls, jwks, plans, profiles, approvals)
    except MonitorError as error:
        place = reading.places.of_key(("routes", error.route, "monitor"))
        raise SnapshotError([Finding(str(config), *place, "error", "monitor", str(error))]) from None
    except FairnessError as error:
        place = reading.places.of_key(("routes", error.route, "fairness"))
        raise SnapshotError([Finding(str(config), *place, "error", "fairness", str(error))]) from None


def compile_last_good(good: LastGood, parts: Parts) -> Snapshot:
    """The snapshot that was last in force, whatever the files say now."""
    settings = good.settings
    if good.policy is None or settings.policy is None or settings.policy.approvals:
        policy = policy_of(settings)
    else:
        named = settings.policy
        model = None if good.model is None else (good.model, str(named.model))
        policy = PolicySnapshot.compile(good.policy, str(named.file), model=model, fields=GATEWAY_FIELDS)
    profiles = {
        name: decode(good.profiles[str(route.monitor.profile)], route.monitor.profile)
        for name, route in settings.routes.items()
        if route.monitor is not None
    }
    try:
        approvals = load_approvals(settings)
    except ValueError:  # it was said when the snapshot was refused; until it is mended nothing is approved
        approvals = Approvals(View(), "true")
    return _compiled(settings, policy, parts, None, good.tls, good.jwks, good.plans, profiles, approvals)


def _compiled(
    settings: Settings,
    policy: PolicySnapshot,
    parts: Parts,
    previous: Snapshot | None,
    tls: Material,
    jwks: Mapping[str, bytes],
    plans: Mapping[str, bytes],
    profiles: Mapping[str, Profile],
    approvals: Approvals | None,
) -> Snapshot:
    identity = settings.identity
    understood = lastgood.canonical(settings)
    return Snapshot(
        settings=settings,
        hash=hashlib.sha256(
            b"".join(
                (
                    *(understood, policy.hash.encode(), tls.digest.encode()),
                    *(jwks[path] for path in sorted(jwks)),
                    *(plans[path] for path in sorted(plans)),
                    *(profiles[route].hash.encode() for route in sorted(profiles)),
                    b"" if approvals is None else encode_view(approvals.view),
                )
            )
        ).hexdigest(),
        since=dt.datetime.now(dt.UTC),
        identifier=Identifier(identity, _tokens(settings, parts.keys, jwks)),
        policy=policy,
        routes=RouteTable.compile(settings, pins=parts.pins, approvals=approvals),
        upstreams=Upstreams(
            settings.upstreams,
            counters=parts.counters,
            previous=None if previous is None else previous.upstreams,
            tls=tls.upstreams,
            pins=parts.replica_pins,
            lives=parts.lives,
            ring=parts.ring,
        ),
        allowed_headers={
            name: None if identity is None else frozenset(header.lower() for header in upstream.forward_headers)
            for name, upstream in settings.upstreams.items()
        },
        tls=tls,
        jwks=jwks,
        features=plan_files.features_of(settings, plans),
        plans=plans,
        monitors={}
        if parts.monitors is None
        else parts.monitors.of(
            profiles,
            {name: route.monitor.outputs for name, route in settings.routes.items() if route.monitor is not None},
        ),
        fairness={} if parts.fairness is None else parts.fairness.of(settings),
        approvals=approvals,
    )


def _tokens(settings: Settings, sources: Sources, jwks: Mapping[str, bytes]) -> tuple[Tokens, ...]:
    """What judges the tokens of all issuers; none without issuers."""
    if settings.identity is None or not settings.identity.jwt:
        return ()
    issuers: list[tuple[settings_.Jwt, KeySource]] = [
        (one, sources.of(one.jwks) if key_files.is_url(one.jwks) else KeySource(parse_keys(jwks[one.jwks])))
        for one in settings.identity.jwt
    ]
    return (Tokens(issuers),)


def _fixed_changes(old: msgspec.Struct, new: msgspec.Struct, place: Place) -> Iterator[Place]:
    """The keys that differ and cannot: within `_FIXED`, down to the single key; whether there is a registry."""
    if isinstance(old, Settings) and isinstance(new, Settings) and (old.registry is None) != (new.registry is None):
        yield ("registry",)  # the supervisor follows it
    for name in new.__struct_fields__ if place else _FIXED:
        before, after = getattr(old, name), getattr(new, name)
        if place == ("listen",) and name == "tls" and before is not None and after is not None:
            continue  # other files take effect; only TLS itself comes and goes with a restart
        if isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
            yield from _fixed_changes(before, after, (*place, name))
        elif before != after:
            yield (*place, name)


def _fixed_finding(config: Path, places: Places, place: Place) -> Finding:
    line, column = places.of_key(place)
    message = f"`{dotted(place)}` cannot change while the gateway runs: restart it, or undo the edit"
    return Finding(str(config), line, column, "error", "fixed-setting", message)


def _registry_finding(config: Path, places: Places, message: str) -> Finding:
    return Finding(str(config), *places.of_key(("registry",)), "error", "registry", message)


def _tls_finding(config: Path, places: Places, problem: Problem) -> Finding:
    line, column = places.of(problem.place)
    message = f"`{dotted(problem.place)}`: {problem.message}"
    return Finding(str(config), line, column, problem.severity, problem.code, message)


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
