"""What two policies of the built-in model grant differently, and what a draft would have decided.

Contract: pure functions of compiled policies. `compare` speaks of the users, tenants, objects and actions that
either file names, as they are written (a `*` stands for itself), and of nothing else; it is exact there: every
entry was decided by both. `replay` decides recorded requests again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from governance.policy.model import EVERYWHERE, is_governance
from governance.policy.snapshot import PolicySnapshot

_Rights: TypeAlias = frozenset[tuple[str, str, str]]
_POWERS = frozenset({"approve", "edit", "promote", "configure", "export", "*"})
_UNDECIDED = frozenset({"401", "413", "UNAUTHENTICATED"})
_WORDS = ("subject", "tenant", "object", "action")
_REFUSED = frozenset({"403", "PERMISSION_DENIED"})


class Grant(msgspec.Struct, frozen=True, order=True):
    """One request that is allowed."""

    subject: str
    tenant: str
    object: str
    action: str

    @property
    def escalates(self) -> bool:
        """Whether it is power over the gateway itself, or without bounds: what to look at first."""
        return is_governance(self.object) or self.action in _POWERS or "*" in self.object or self.tenant == EVERYWHERE


class Changes(msgspec.Struct, frozen=True):
    """Grants that only the new policy makes, and those that only the old one made; escalations first."""

    gained: list[Grant]
    lost: list[Grant]

    @property
    def by_subject(self) -> dict[str, tuple[list[Grant], list[Grant]]]:
        """Gained and lost by subject; those with a gained escalation first."""
        found: dict[str, tuple[list[Grant], list[Grant]]] = {}
        for one in self.gained:
            found.setdefault(one.subject, ([], []))[0].append(one)
        for one in self.lost:
            found.setdefault(one.subject, ([], []))[1].append(one)
        return found


class Changed(msgspec.Struct, frozen=True):
    """A recorded request that is decided otherwise."""

    index: int
    id: str
    was: bool
    """Whether it was allowed."""
    now: bool
    line: int | None
    """Of the rule that decides now; null by default."""


class Replay(msgspec.Struct, frozen=True):
    """Recorded requests, decided again."""

    replayed: int
    unreplayable: int
    """Records of no decision of the policy, those cut short, and those whose subject is a pseudonym."""
    changed: list[Changed]


def compare(old: PolicySnapshot, new: PolicySnapshot) -> Changes:
    """What is granted differently."""
    policies = (old, new)
    users, tenants, objects, actions = _named(policies)
    rights = [_Subjects(policy) for policy in policies]
    gained: list[Grant] = []
    lost: list[Grant] = []
    for user in sorted(users):
        for tenant in sorted(tenants):
            before, after = (one.of(user, tenant) for one in rights)
            if before == after:
                continue
            for obj in sorted(objects):
                for action in sorted(actions):
                    request = user, tenant, obj, action
                    was, now = (policy.engine.decide(request).allow for policy in policies)
                    if was is not now:
                        (gained if now else lost).append(Grant(*request))
    return Changes(sorted(gained, key=_order), sorted(lost, key=_order))


def _order(grant: Grant) -> tuple[bool, Grant]:
    return not grant.escalates, grant


def _named(policies: Iterable[PolicySnapshot]) -> tuple[set[str], set[str], set[str], set[str]]:
    users: set[str] = set()
    tenants: set[str] = set()
    objects: set[str] = set()
    actions: set[str] = set()
    for policy in policies:
        for rule in policy.rules:
            users.add(rule.sub)
            tenants.add(rule.dom)
            objects.add(rule.obj)
            actions.add(rule.act)
        for one in policy.memberships:
            users.update((one.user, one.role))
            tenants.add(one.dom)
    return {name for name in users if name.startswith("user:")}, tenants, objects, actions


class _Subjects:
    """The rules that hold for a user in a tenant, as a set: equal sets decide alike."""

    def __init__(self, policy: PolicySnapshot) -> None:
        self._roles = policy.engine.roles["g"]
        found: dict[tuple[str, str], set[tuple[str, str, str]]] = {}
        for rule in policy.rules:
            found.setdefault((rule.sub, rule.dom), set()).add((rule.obj, rule.act, rule.eft))
        self._rules = {key: frozenset(rules) for key, rules in found.items()}
        self._known: dict[tuple[frozenset[str], str], _Rights] = {}

    def of(self, user: str, tenant: str) -> _Rights:
        names = frozenset(self._roles.reach(user, tenant))
        key = names, tenant
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = frozenset().union(
                *(self._rules.get((name, where), ()) for name in names for where in {tenant, EVERYWHERE})
            )
        return found


def replay(policy: PolicySnapshot, records: Iterable[Mapping[str, Any]]) -> Replay:
    """Decides recorded requests again.

    Args:
        policy: the draft.
        records: decision records as `audit export` writes them: `index`, `id`, `subject`, `tenant`, `object`,
            `action`, `roles`, `allowed`; without the last, `kind`, `variant` and `status` say what it was.
    """
    replayed = unreplayable = 0
    changed: list[Changed] = []
    for at, record in enumerate(records):
        found = asked(record)
        if found is None:
            unreplayable += 1
            continue
        request, roles, was = found
        replayed += 1
        decision = policy.answer(request, roles)
        if decision.allow is not was:
            index = record.get("index")
            place = index if isinstance(index, int) else at
            changed.append(Changed(place, str(record.get("id") or ""), was, decision.allow, decision.line))
    return Replay(replayed, unreplayable, changed)


def asked(record: Mapping[str, Any]) -> tuple[tuple[str, str, str, str], tuple[str, ...], bool] | None:
    """The request of a record, the roles of its credential, and whether it was allowed; None: no decision is in it."""
    words = [record.get(name) for name in _WORDS]
    if not all(isinstance(word, str) for word in words) or record.get("sealed"):
        return None
    subject, tenant, obj, action = map(str, words)
    was = _was(record, obj, action)
    if was is None or not subject.startswith("user:") or not {*_WORDS, "roles"}.isdisjoint(record.get("cut") or ()):
        return None
    roles = record.get("roles") or ()
    request = subject, EVERYWHERE if is_governance(obj) else tenant, obj, action
    return request, tuple(str(role).removeprefix("role:") for role in roles), was


def _was(record: Mapping[str, Any], obj: str, action: str) -> bool | None:
    """Whether the policy allowed a recorded request; None: it was not asked."""
    allowed = record.get("allowed")
    if isinstance(allowed, bool):
        return allowed
    status = str(record.get("status", ""))
    kind = record.get("kind", "inference")
    # The index and the server's metadata are for everyone who is known.
    if kind not in ("inference", "control") or (kind, obj, action) == ("control", "server", "read"):
        return None
    if status in _UNDECIDED:
        return None
    # What was sent on to a variant was allowed, whatever a model server said to it.
    return status not in _REFUSED or record.get("variant") is not None
