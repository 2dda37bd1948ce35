"""What the steps of one model version amount to, and which step may follow.

Contract: pure. `Standing` is a fold over a version's steps; `judge` refuses a step that may not follow, for everybody
alike: a step that a person asks for, and one that is read back from the store. So a history that nobody could have
made is found.

    registered        submitted          all approvals       promoted         deprecated       retired
    ---------> draft ---------> in review ----------> approved -------> live ----------> deprecated -------> retired
                 ^                  |                    |                ^                  |
                 +---- rejected ----+---- voided --------+                +---- promoted ----+

`retired` is reached from everywhere: it is how a version is taken out at once. Nobody approves what they registered or
submitted. Approvals are of one binding: a version that is registered or submitted anew has none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from governance.errors import RegistryBroken, RegistryRefused
from governance.registry.events import FIRST, Binding, Event, GateResult, Kind, Need, Sources, encode, text_digest

State: TypeAlias = Literal["draft", "in review", "approved", "live", "deprecated", "retired"]

MAY: dict[Kind, frozenset[State | None]] = {
    "registered": frozenset({None, "draft", "in review", "approved"}),
    "submitted": frozenset({"draft"}),
    "approved": frozenset({"in review"}),
    "rejected": frozenset({"in review", "approved"}),
    "voided": frozenset({"in review", "approved"}),
    "promoted": frozenset({"approved", "deprecated"}),
    "deprecated": frozenset({"live"}),
    "retired": frozenset({"draft", "in review", "approved", "live", "deprecated"}),
}
"""From which states each step leads on; None: before the first."""

REASONED = frozenset({"rejected", "voided", "deprecated", "retired"})
"""Steps that need a reason."""

SERVABLE: frozenset[State] = frozenset({"approved", "live", "deprecated"})
"""States in which a version may answer."""


class Standing:
    """What the steps of one version amount to."""

    def __init__(self, steps: Iterable[Event] = ()) -> None:
        """Raises RegistryBroken: a step is among them that may not follow."""
        self.history: list[Event] = []
        self.state: State | None = None
        """None: not registered."""
        self.authors: set[str] = set()
        """Whoever registered or submitted it."""
        self.binding: Binding | None = None
        self.sources: Sources | None = None
        self.risk = ""
        self.needs: tuple[Need, ...] = ()
        self.gates: tuple[GateResult, ...] = ()
        self.approvals: list[Event] = []
        """Those that count."""
        self.expires: dt.datetime | None = None
        """End of the approval; None: not approved, or without end."""
        self.review: dt.datetime | None = None
        """When it is to be looked at again."""
        self.promoted: dt.datetime | None = None
        self.deprecated: dt.datetime | None = None
        self.sunset: dt.datetime | None = None
        self.link = ""
        self._previous = FIRST
        for step in steps:
            try:
                self.add(step)
            except RegistryRefused as error:
                named = f"{step.model} {step.version}, step {step.number}"
                raise RegistryBroken(f"{named}: {error}: the store was changed; restore it from a backup") from None

    @property
    def previous(self) -> str:
        """What the next step has to carry."""
        return self._previous

    @property
    def missing(self) -> list[str]:
        """The roles, one for each person, whose approval is still needed."""
        return unmet(self.needs, [step.roles for step in self.approvals])

    def expired(self, now: dt.datetime) -> bool:
        """Whether the approval has come to its end."""
        return self.expires is not None and now >= self.expires

    def serves(self, now: dt.datetime) -> bool:
        """Whether it may answer requests."""
        return self.state in SERVABLE and not self.expired(now)

    def judge(self, step: Event) -> None:
        """Raises RegistryRefused: this step may not follow."""
        if step.number != len(self.history) or step.previous != self._previous:
            raise RegistryRefused("it does not follow the step before")
        if self.history and step.time < self.history[-1].time:
            raise RegistryRefused(f"the clock is behind the last step ({self.history[-1].time:%Y-%m-%dT%H:%M:%SZ})")
        if self.state not in MAY[step.kind]:
            raise RegistryRefused(_not_from(step.kind, self.state))
        if step.kind in REASONED and not step.reason.strip():
            raise RegistryRefused("a reason is needed")
        special = getattr(self, f"_judge_{step.kind}", None)
        if special is not None:
            special(step)

    def _judge_registered(self, step: Event) -> None:
        if step.binding is None or step.sources is None:
            raise RegistryRefused("it is bound to nothing")

    def _judge_submitted(self, step: Event) -> None:
        assert self.binding is not None
        bound = step.binding
        if bound is None or (bound.files, bound.card, bound.evidence) != (
            self.binding.files,
            self.binding.card,
            self.binding.evidence,
        ):
            raise RegistryRefused("it is not what was registered")
        failed = [gate.gate for gate in step.gates if not gate.ok]
        if failed:
            raise RegistryRefused(f"gates that do not hold: {', '.join(failed)}")

    def _judge_approved(self, step: Event) -> None:
        assert self.binding is not None
        if step.digest != self.binding.digest:
            raise RegistryRefused("the approval is of something else than what is in review")
        if step.by in self.authors:
            raise RegistryRefused(f"{step.by} registered or submitted it: somebody else must approve")
        if step.by in {one.by for one in self.approvals}:
            raise RegistryRefused(f"{step.by} has approved it already: somebody else must, too")
        if not step.roles:
            roles = ", ".join(dict.fromkeys(need.role for need in self.needs))
            raise RegistryRefused(f"{step.by} holds none of the roles that must approve: {roles}")

    def _judge_promoted(self, step: Event) -> None:
        if self.expired(step.time):
            assert self.expires is not None
            raise RegistryRefused(f"the approval ended {self.expires:%Y-%m-%d}: register it again for another one")

    def _judge_deprecated(self, step: Event) -> None:
        if step.sunset is not None and step.sunset < step.time:
            raise RegistryRefused("the sunset must not be before the deprecation (RFC 9745, section 4)")

    def add(self, step: Event) -> None:
        """Take one more step. Raises RegistryRefused, and nothing has changed."""
        self.judge(step)
        self.history.append(step)
        self._previous = text_digest(encode(step))
        getattr(self, f"_on_{step.kind}")(step)

    def _on_registered(self, step: Event) -> None:
        self.state, self.binding, self.sources = "draft", step.binding, step.sources
        self.risk, self.needs, self.gates = "", (), ()
        self.authors.add(step.by)
        self._void()

    def _on_submitted(self, step: Event) -> None:
        self.state, self.binding = "in review", step.binding
        self.risk, self.needs, self.gates = step.risk, step.needs, step.gates
        self.authors.add(step.by)
        self._void()
        if not self.missing:  # a class that asks nobody
            self._approve(step.time)

    def _on_approved(self, step: Event) -> None:
        self.approvals.append(step)
        if not self.missing:
            self._approve(step.time)

    def _approve(self, now: dt.datetime) -> None:
        self.state = "approved"
        submitted = next(step for step in reversed(self.history) if step.kind == "submitted")
        self.expires = None if submitted.valid_s is None else now + dt.timedelta(seconds=submitted.valid_s)
        self.review = None if submitted.review_s is None else now + dt.timedelta(seconds=submitted.review_s)

    def _on_rejected(self, _step: Event) -> None:
        self.state = "draft"
        self._void()

    _on_voided = _on_rejected

    def _void(self) -> None:
        self.approvals, self.expires, self.review = [], None, None

    def _on_promoted(self, step: Event) -> None:
        self.state, self.promoted = "live", step.time
        self.deprecated, self.sunset, self.link = None, None, ""

    def _on_deprecated(self, step: Event) -> None:
        self.state, self.deprecated, self.sunset, self.link = "deprecated", step.time, step.sunset, step.link

    def _on_retired(self, _step: Event) -> None:
        self.state = "retired"


def fold(steps: Sequence[Event]) -> dict[tuple[str, str], Standing]:
    """What steps of several versions amount to. Raises RegistryBroken."""
    by_version: dict[tuple[str, str], list[Event]] = {}
    for step in steps:
        by_version.setdefault((step.model, step.version), []).append(step)
    return {key: Standing(sorted(own, key=lambda step: step.number)) for key, own in sorted(by_version.items())}


def unmet(needs: Sequence[Need], held: Sequence[Sequence[str]]) -> list[str]:
    """The roles that no person is left for, when each person counts for one.

    A maximum matching of people and wanted roles (augmenting paths), so that whoever holds two roles fills the one
    that nobody else can.

    Args:
        needs: what is wanted.
        held: the roles of each person.
    """
    wanted = [need.role for need in needs for _ in range(need.count)]
    filled: dict[int, int] = {}

    def place(person: int, seen: set[int]) -> bool:
        for at, role in enumerate(wanted):
            if at in seen or role not in held[person]:
                continue
            seen.add(at)
            if at not in filled or place(filled[at], seen):
                filled[at] = person
                return True
        return False

    for person in range(len(held)):
        place(person, set())
    return [role for at, role in enumerate(wanted) if at not in filled]


def _not_from(kind: Kind, state: State | None) -> str:
    if state is None:
        return "there is no such version: `tidegate registry register` makes one"
    if kind == "registered":
        return f"it is {state}: what was served does not change; register another version"
    allowed = ", ".join(sorted(str(one) for one in MAY[kind] if one is not None))
    return f"it is {state}, and only a version that is {allowed.replace(', ', ' or ')} can be {kind}"
