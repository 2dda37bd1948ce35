"""Why a request is allowed or denied, and what is nearest to the contrary.

Contract: the evaluator that decides (`engine.py`), asked for every rule that matches; nothing is decided here
a second time. For policies of the built-in model. `Explanation.nearest[0]` misses least; with its `grant`
lines added and its `remove` lines taken out the decision is the contrary, which is tried before it is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from governance.policy.model import EVERYWHERE, key_match
from governance.policy.parse import Rule
from governance.policy.roles import Carried
from governance.policy.snapshot import PolicySnapshot

_MOST_NEAREST = 5


class Matched(msgspec.Struct, frozen=True):
    """A rule that decided."""

    line: int
    rule: str
    """As it stands in the policy."""


class Near(msgspec.Struct, frozen=True):
    """A rule that would have decided otherwise, had its missing conditions held."""

    line: int
    held: list[str]
    missing: list[str]
    grant: list[str] = []
    """Lines that, added to the policy, make up for what is missing."""
    remove: list[int] = []
    """Lines of rules that would still decide, and have to go."""


class Explanation(msgspec.Struct, frozen=True):
    """A decision with its reasons."""

    allow: bool
    matched: list[Matched]
    """All rules that decided, in file order; none on default denial."""
    roles: list[list[str]]
    """From the subject, membership by membership, to what the rules name; every role that it has on default denial."""
    nearest: list[Near]
    snapshot: str
    """Hash of the policy."""


def explain(policy: PolicySnapshot, request: tuple[str, str, str, str], roles: Sequence[str] = ()) -> Explanation:
    """The reasons of a decision.

    Args:
        policy: of the built-in model.
        request: subject, tenant, object, action.
        roles: roles of the credential without `role:`.
    """
    carried = policy.carried(request, roles)
    decision = policy.answer(request, roles)
    matching = policy.engine.matching(request, carried)
    deciding = [rule for rule in matching if decision.line is not None and (rule.eft == "allow") is decision.allow]
    wanted = "deny" if decision.allow else "allow"
    return Explanation(
        allow=decision.allow,
        matched=[Matched(rule.line, rule.text.strip(" \t")) for rule in deciding],
        roles=_paths(policy, request, carried, deciding),
        nearest=_nearest(policy, request, carried, wanted, [] if decision.allow else deciding),
        snapshot=policy.hash,
    )


def _paths(
    policy: PolicySnapshot, request: Sequence[str], carried: Carried | None, deciding: Sequence[Rule]
) -> list[list[str]]:
    sub, dom = request[0], request[1]
    graph = policy.engine.roles["g"]
    ends = [rule.sub for rule in deciding] if deciding else sorted(graph.reach(sub, dom, carried))
    paths = [graph.path(sub, end, dom, carried) for end in dict.fromkeys(ends)]
    return [path for path in paths if path is not None and len(path) > 1]


def _nearest(
    policy: PolicySnapshot,
    request: tuple[str, str, str, str],
    carried: Carried | None,
    wanted: str,
    against: Sequence[Rule],
) -> list[Near]:
    sub, dom = request[0], request[1]
    reach = policy.engine.roles["g"].reach(sub, dom, carried)
    found: list[tuple[tuple[int, int, int], Near]] = []
    brought: dict[str, list[Rule]] = {}
    for rule in policy.rules:
        if rule.eft != wanted:
            continue
        held, missing, role, line = _conditions(rule, request, reach)
        still = list(against)
        if role is not None and wanted == "allow":
            # A role may bring denials of its own.
            if role not in brought:
                brought[role] = _denials(policy, request, carried, role)
            still = brought[role]
        if not missing and not still:
            continue  # it holds already
        gone = [one.line for one in still]
        missing += [
            f"line {number} ({policy_line(one)}) does not apply" for number, one in zip(gone, still, strict=True)
        ]
        grant = ([f"g, {sub}, {role}, {dom}"] if role is not None else []) + ([line] if line else [])
        # Of two that miss as much, a membership is granted sooner than a rule is written.
        rank = len(missing), 0 if line is None else 1, rule.line
        found.append((rank, Near(rule.line, held, missing, grant, gone)))
    found.sort(key=lambda one: one[0])
    return [near for _, near in found[:_MOST_NEAREST]]


def policy_line(rule: Rule) -> str:
    """A rule as one line."""
    return ", ".join(("p", *rule.values))


def _conditions(
    rule: Rule, request: tuple[str, str, str, str], reach: dict[str, int]
) -> tuple[list[str], list[str], str | None, str | None]:
    """What holds and what is missing, the role that is missing, and the rule that would make up for the rest."""
    sub, dom, obj, act = request
    conditions = [
        (rule.sub in reach, f"{rule.sub} in tenant {dom}" if rule.sub.startswith("role:") else f"subject {rule.sub}"),
        (rule.dom in (dom, EVERYWHERE), f"tenant {rule.dom}"),
        (key_match(obj, rule.obj), f"object {rule.obj}"),
        (rule.act in (act, "*"), f"action {rule.act}"),
    ]
    held = [text for holds, text in conditions if holds]
    missing = [text for holds, text in conditions if not holds]
    fits = all(holds for holds, _ in conditions[1:])
    role = rule.sub if rule.sub not in reach and rule.sub.startswith("role:") else None
    other = rule.sub not in reach and role is None
    line = None
    if not fits or other:
        line = f"p, {sub if other else rule.sub}, {dom}, {obj}, {act}, {rule.eft}"
    return held, missing, role, line


def _denials(
    policy: PolicySnapshot, request: tuple[str, str, str, str], carried: Carried | None, role: str
) -> list[Rule]:
    """The denials that match once the subject has one more role."""
    more = Carried(request[0], request[1], (*(carried.roles if carried is not None else ()), role))
    return [rule for rule in policy.engine.matching(request, more) if rule.eft == "deny"]
