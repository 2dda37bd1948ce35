"""From the files to a snapshot.

Contract: settings, policy, routes and all else that the settings name compile together, off to the side, or not at
all; what does not hold is a `SnapshotError` with file, line and remedy. What cannot change while running (ports,
workers, state directory, telemetry) is refused as an edit.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from gateway import lastgood
from gateway import plans as plan_files
from gateway import settings as settings_
from gateway.approvals import Approvals, load_approvals
from gateway.fairness import Board as FairnessBoard
from gateway.fairness import FairnessError
from gateway.identity import Identifier, Sources
from gateway.identity import reading as key_files
from gateway.identity.jwks import parse as parse_keys
from gateway.identity.jwt import Tokens
from gateway.identity.sources import KeySource
from gateway.lastgood import LastGood
from gateway.monitors import Board as MonitorBoard
from gateway.monitors import MonitorError
from gateway.policy_in_force import policy_of
from gateway.routing import Pins, RouteTable
from gateway.settings import Settings
from gateway.settings.file import read
from gateway.settings.profiles import read_profiles
from gateway.snapshot import Snapshot
from gateway.tls import Material, Problem, read_material
from gateway.upstream import Counters, Upstreams
from gateway.upstream.lives import Lives
from gateway.upstream.shm_ring import Ring
from governance.documents.convert import Place, Places, dotted
from governance.errors import PolicyError
from governance.monitor.profile import Profile, decode
from governance.policy import GATEWAY_FIELDS, PolicySnapshot
from governance.registry.view import View
from governance.registry.view import encode as encode_view
from governance.types import Finding

_FIXED = ("listen", "state_dir", "workers", "shared_memory", "audit", "store", "metrics", "telemetry", "log", "drain")
"""Settings that take effect at the next start."""


class SnapshotError(ValueError):
    """Settings or policy do not hold; `findings` say where."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = tuple(findings)


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


class _Files(msgspec.Struct, frozen=True):
    """What the files that the settings name say, read and judged."""

    policy: PolicySnapshot
    tls: Material
    jwks: Mapping[str, bytes]
    plans: Mapping[str, bytes]
    profiles: Mapping[str, Profile]
    approvals: Approvals | None

    def digest(self, settings: bytes) -> str:
        """SHA-256, in hex, with the settings as they were understood."""
        return hashlib.sha256(
            b"".join(
                (
                    *(settings, self.policy.hash.encode(), self.tls.digest.encode()),
                    *(self.jwks[path] for path in sorted(self.jwks)),
                    *(self.plans[path] for path in sorted(self.plans)),
                    *(self.profiles[route].hash.encode() for route in sorted(self.profiles)),
                    b"" if self.approvals is None else encode_view(self.approvals.view),
                )
            )
        ).hexdigest()


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
    files = _files_of(config, settings, reading.places)
    try:
        return _compiled(settings, files, parts, previous)
    except (MonitorError, FairnessError) as error:
        what = "monitor" if isinstance(error, MonitorError) else "fairness"
        place = reading.places.of_key(("routes", error.route, what))
        raise SnapshotError([Finding(str(config), *place, "error", what, str(error))]) from None


def _files_of(config: Path, settings: Settings, places: Places) -> _Files:
    """What the settings' files say. Judged again, since they may have changed since `read`: this is what is used."""
    try:
        policy = policy_of(settings)
    except PolicyError as error:
        raise SnapshotError(error.findings) from None
    tls, problems = read_material(settings)
    if wrong := [problem for problem in problems if problem.severity == "error"]:
        raise SnapshotError([_tls_finding(config, places, problem) for problem in wrong])
    jwks, findings = key_files.read_key_sets(settings, str(config), places)
    if findings:
        raise SnapshotError(findings)
    plans, findings = plan_files.read_plans(settings, str(config), places)
    if wrong_plans := [finding for finding in findings if finding.severity == "error"]:
        raise SnapshotError(wrong_plans)
    profiles, findings = read_profiles(settings, str(config), places)
    if findings:
        raise SnapshotError(findings)
    try:
        approvals = load_approvals(settings)
    except ValueError as error:
        place = places.of_key(("registry",))
        raise SnapshotError([Finding(str(config), *place, "error", "registry", str(error))]) from None
    return _Files(policy, tls, jwks, plans, profiles, approvals)


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
    return _compiled(settings, _Files(policy, good.tls, good.jwks, good.plans, profiles, approvals), parts, None)


def _compiled(settings: Settings, files: _Files, parts: Parts, previous: Snapshot | None) -> Snapshot:
    identity = settings.identity
    monitors = (
        {}
        if parts.monitors is None
        else parts.monitors.of(
            files.profiles,
            {name: route.monitor.outputs for name, route in settings.routes.items() if route.monitor is not None},
            {name: route.monitor.quality for name, route in settings.routes.items() if route.monitor is not None},
        )
    )
    return Snapshot(
        settings=settings,
        hash=files.digest(lastgood.canonical(settings)),
        since=dt.datetime.now(dt.UTC),
        identifier=Identifier(identity, _tokens(settings, parts.keys, files.jwks)),
        policy=files.policy,
        routes=RouteTable.compile(settings, pins=parts.pins, approvals=files.approvals),
        upstreams=Upstreams(
            settings.upstreams,
            counters=parts.counters,
            previous=None if previous is None else previous.upstreams,
            tls=files.tls.upstreams,
            pins=parts.replica_pins,
            lives=parts.lives,
            ring=parts.ring,
            engine=settings.listen.grpc_engine,
        ),
        allowed_headers={
            name: None if identity is None else frozenset(header.lower() for header in upstream.forward_headers)
            for name, upstream in settings.upstreams.items()
        },
        tls=files.tls,
        jwks=files.jwks,
        features=plan_files.features_of(settings, files.plans),
        plans=files.plans,
        monitors=monitors,
        judged={name: one for name, one in monitors.items() if one.refuses},
        fairness={} if parts.fairness is None else parts.fairness.of(settings),
        approvals=files.approvals,
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
        if (*place, name) == ("audit", "retention"):
            continue  # what `tidegate audit prune` goes by, which reads it anew
        if isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
            yield from _fixed_changes(before, after, (*place, name))
        elif before != after:
            yield (*place, name)


def _fixed_finding(config: Path, places: Places, place: Place) -> Finding:
    line, column = places.of_key(place)
    message = f"`{dotted(place)}` cannot change while the gateway runs: restart it, or undo the edit"
    return Finding(str(config), line, column, "error", "fixed-setting", message)


def _tls_finding(config: Path, places: Places, problem: Problem) -> Finding:
    line, column = places.of(problem.place)
    message = f"`{dotted(problem.place)}`: {problem.message}"
    return Finding(str(config), line, column, problem.severity, problem.code, message)
