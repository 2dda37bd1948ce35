"""One step of the registry, from the wish to the store and the audit log.

Contract: in this order, so that a crash at any point leaves what the next call brings to its end:

    1 the policy in force allows the person to do it, or the refusal is recorded
    2 what lies in the files is what was agreed to, else the approvals are void: a step of its own
    3 the state machine allows it after the steps before
    4 the step is stored: from here on it holds
    5 its record is in the audit log
    6 the store knows that it is

A crash between 5 and 6 leaves two records of one id. What was stored and not recorded is recorded first.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from governance.errors import RegistryInputError, RegistryRefused
from governance.policy.model import EVERYWHERE
from governance.registry import gates
from governance.registry.bound import Now
from governance.registry.events import Event, Kind, Need
from governance.registry.machine import Standing
from governance.registry.trail import ACTIONS, Trail, record_of, refusal

_TRIES = 5
"""When others make steps of the same version at the same time."""
_LONGEST_NAME = 256


class Overtaken(Exception):
    """Somebody else has made the next step of this version meanwhile."""


class Steps(Protocol):
    """Where steps are kept: `governance.store.steps`."""

    def of(self, model: str, version: str) -> list[Event]:
        """The steps of one version, in order."""

    def append(self, step: Event) -> None:
        """Write one, durably. Raises Overtaken."""

    def unrecorded(self) -> list[tuple[int, Event]]:
        """Steps that are not known to be recorded, oldest first, with their rows."""

    def recorded(self, rows: Sequence[int]) -> None:
        """They are."""


class Person(msgspec.Struct, frozen=True):
    """Who makes a step."""

    id: str
    """`user:NAME`."""
    proof: str
    """`api_key`, or `local`."""


class Desk:
    """Makes steps.

    Args:
        steps: where they are kept.
        now: the policy in force, and what lies in the files.
        trail: where they are recorded; None: nowhere.
    """

    def __init__(
        self,
        steps: Steps,
        now: Now,
        trail: Trail | None,
    ) -> None:
        self._steps = steps
        self._now = now
        self._policy = now.policy
        self._trail = trail

    def standing(self, model: str, version: str) -> Standing:
        """What the steps of a version amount to. Raises StoreError, RegistryBroken."""
        return Standing(self._steps.of(model, version))

    def catch_up(self) -> None:
        """Record what a crash has left unrecorded. Raises AuditError, StoreError."""
        if self._trail is None:
            return
        left = self._steps.unrecorded()
        if left:
            self._trail.write([record_of(step) for _, step in left])  # 5
            self._steps.recorded([row for row, _ in left])  # 6

    def register(
        self, model: str, version: str, who: Person, files: Path, card: Path, evidence: Mapping[str, Path], reason: str
    ) -> Standing:
        """A version, or what it is bound to anew.

        Raises:
            RegistryRefused: the policy or the state does not allow it.
            RegistryInputError: a name is none, or a file cannot be read.
        """
        for kind, name in (("model", model), ("version", version), *(("evidence", name) for name in evidence)):
            if not name.isprintable() or not name or " " in name or len(name) > _LONGEST_NAME:
                raise RegistryInputError(f"{name!r} is no name of a {kind}: no blanks, at most {_LONGEST_NAME} long")
        sources = self._now.sources(files, card, evidence)

        def make(_standing: Standing, _now: dt.datetime) -> dict[str, Any]:
            return {"binding": self._now.bound(sources), "sources": sources}

        return self._step("registered", model, version, who, reason, make)

    def submit(self, model: str, version: str, who: Person, reason: str) -> Standing:
        """Ask for approvals. Raises RegistryRefused: the gates that do not hold are named."""

        def make(standing: Standing, _now: dt.datetime) -> dict[str, Any]:
            if standing.sources is None or standing.binding is None:
                return {}  # the state machine refuses it
            read = self._now.requirements()
            bound = self._now.bound(standing.sources)
            card, risk, wanted = self._now.risk_class(standing.sources, read)
            found = {name: self._now.path(path) for name, path in standing.sources.evidence.items()}
            results = gates.judge(wanted, model, version, card, bound.card, found)
            if any(one.evidence and one.evidence not in {bound.card, *bound.evidence.values()} for one in results):
                raise RegistryRefused("the evidence changes while it is read: try again")
            return {
                "binding": msgspec.structs.replace(bound, requirements=read.digest, policy=self._policy.hash),
                "risk": risk,
                "needs": tuple(Need(one.role, one.count) for one in wanted.approvals),
                "valid_s": wanted.valid_s,
                "review_s": wanted.review_s,
                "gates": results,
            }

        return self._step("submitted", model, version, who, reason, make)

    def approve(self, model: str, version: str, who: Person, reason: str) -> Standing:
        """Agree to exactly what is in review. Raises RegistryRefused."""

        def make(standing: Standing, _now: dt.datetime) -> dict[str, Any]:
            if standing.binding is None:
                return {}
            roles = self._policy.engine.roles.get("g")
            wanted = dict.fromkeys(need.role for need in standing.needs)
            held = tuple(role for role in wanted if roles is not None and roles.has(who.id, role, EVERYWHERE))
            return {"digest": standing.binding.digest, "roles": held}

        return self._step("approved", model, version, who, reason, make, bound=True)

    def reject(self, model: str, version: str, who: Person, reason: str) -> Standing:
        """Send it back. Raises RegistryRefused."""
        return self._step("rejected", model, version, who, reason, _nothing)

    def promote(self, model: str, version: str, who: Person, reason: str) -> Standing:
        """Make it live. Raises RegistryRefused."""
        return self._step("promoted", model, version, who, reason, _nothing, bound=True)

    def deprecate(
        self, model: str, version: str, who: Person, reason: str, sunset: dt.datetime | None, link: str
    ) -> Standing:
        """Tell callers that it will go. Raises RegistryRefused."""
        return self._step(
            "deprecated", model, version, who, reason, lambda _standing, _now: {"sunset": sunset, "link": link}
        )

    def retire(self, model: str, version: str, who: Person, reason: str) -> Standing:
        """Take it out, at once and for good. Raises RegistryRefused."""
        return self._step("retired", model, version, who, reason, _nothing)

    def _step(
        self,
        kind: Kind,
        model: str,
        version: str,
        who: Person,
        reason: str,
        make: Callable[[Standing, dt.datetime], dict[str, Any]],
        *,
        bound: bool = False,
    ) -> Standing:
        self.catch_up()
        try:
            self._allowed(kind, model, who)  # 1
            for _ in range(_TRIES):
                try:
                    return self._try(kind, model, version, who, reason, make, bound=bound)
                except Overtaken:
                    continue
            raise RegistryRefused("others make steps of this version at the same time: try again")
        except RegistryRefused as error:
            self.catch_up()  # what was void is a step
            if self._trail is not None:
                self._trail.write([refusal(kind, model, version, who.id, self._policy.hash, str(error))])
            raise

    def _try(
        self,
        kind: Kind,
        model: str,
        version: str,
        who: Person,
        reason: str,
        make: Callable[[Standing, dt.datetime], dict[str, Any]],
        *,
        bound: bool,
    ) -> Standing:
        standing = self.standing(model, version)

        def event(kind: Kind, reason: str, **more: Any) -> Event:
            now = dt.datetime.now(dt.UTC)
            return Event(
                model=model,
                version=version,
                number=len(standing.history),
                time=max([now, *(step.time for step in standing.history[-1:])]),
                kind=kind,
                by=who.id,
                previous=standing.previous,
                reason=reason,
                proof=who.proof,
                policy=self._policy.hash,
                **more,
            )

        changed = (
            self._now.changed(standing) if bound and standing.state in ("in review", "approved", "deprecated") else []
        )
        if changed:  # 2
            said = f"changed since it was submitted: {', '.join(changed)}"
            if standing.state != "deprecated":
                void = event("voided", said)
                standing.add(void)
                self._steps.append(void)
                said += "; its approvals are void: register or submit it again"
            raise RegistryRefused(said)
        step = event(kind, reason, **make(standing, dt.datetime.now(dt.UTC)))
        standing.add(step)  # 3
        self._steps.append(step)  # 4
        self.catch_up()
        return standing

    def _allowed(self, kind: Kind, model: str, who: Person) -> None:
        action, obj = ACTIONS[kind], f"registry:{model}"
        if not self._policy.decide(who.id, EVERYWHERE, obj, action).allow:
            raise RegistryRefused(f"the policy in force does not allow {who.id} to `{action}` on `{obj}`")


def _nothing(_standing: Standing, _now: dt.datetime) -> dict[str, Any]:
    return {}
