"""Rules of a policy that stand in each other's way: shadowed, unreachable, in conflict.

Contract: adds warnings, each with a request that shows it, to a `ParsedPolicy` of the built-in model. A rule
covers another when it matches whatever the other matches; pairs are found by look-ups, not by comparing each
with each. A deny wins over every allow, so an allow that a deny covers does nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator

from governance.policy.functions import prefix_of
from governance.policy.model import EVERYWHERE, is_governance
from governance.policy.parse import ParsedPolicy, Rule
from governance.policy.roles import Roles

_MOST_CONFLICTS = 100
"""Warnings of conflicts in one policy; a person reads no more."""


def overlaps(policy: ParsedPolicy, roles: Roles) -> None:
    """Judges the rules of a policy against each other."""
    covers = _Covers(policy.rules)
    for rule in policy.rules:
        _covered(policy, rule, covers)
    _conflicts(policy, roles)


def example(rule: Rule, subject: str | None = None) -> tuple[str, str, str, str]:
    """A request that a rule matches.

    Args:
        rule: the rule.
        subject: who asks; None: the rule's own subject.
    """
    prefix = prefix_of(rule.obj)
    obj = rule.obj if prefix is None else (prefix or "model:") + "anything"
    act = "infer" if rule.act == "*" and not is_governance(obj) else "read" if rule.act == "*" else rule.act
    dom = rule.dom if rule.dom != EVERYWHERE or is_governance(obj) else "anyone"
    return subject or rule.sub, dom, obj, act


class _Covers:
    """Rules by subject, tenant, action and effect, searched for those whose object is as wide or wider."""

    def __init__(self, rules: list[Rule]) -> None:
        self._exact: dict[tuple[str, ...], Rule] = {}
        self._wide: dict[tuple[str, ...], dict[str, Rule]] = {}
        for rule in rules:
            key = rule.sub, rule.dom, rule.act, rule.eft
            prefix = prefix_of(rule.obj)
            if prefix is None:
                self._exact.setdefault((*key, rule.obj), rule)
            else:
                self._wide.setdefault(key, {}).setdefault(prefix, rule)

    def of(self, rule: Rule, effect: str) -> Rule | None:
        """The first rule of an effect that covers another, itself not counted."""
        found: list[Rule] = []
        prefix = prefix_of(rule.obj)
        text = rule.obj if prefix is None else prefix
        for dom in {rule.dom, EVERYWHERE}:
            for act in {rule.act, "*"}:
                key = rule.sub, dom, act, effect
                if prefix is None and (same := self._exact.get((*key, text))) is not None:
                    found.append(same)
                wide = self._wide.get(key)
                if wide is not None:
                    found += [one for start, one in wide.items() if text.startswith(start)]
        return min((one for one in found if one.line != rule.line), key=lambda one: one.line, default=None)


def _covered(policy: ParsedPolicy, rule: Rule, covers: _Covers) -> None:
    if rule.eft == "allow" and (by := covers.of(rule, "deny")) is not None:
        message = f"can never allow anything: line {by.line} denies as much or more, and a deny wins"
        policy.warn(rule.line, 1, "unreachable", message, witness=example(rule))
        return
    by = covers.of(rule, rule.eft)
    if by is None or (by.values == rule.values):
        return
    if covers.of(by, rule.eft) is rule and by.line > rule.line:
        return  # both say the same; one is enough to be told
    verb = "allows" if rule.eft == "allow" else "denies"
    message = f"does nothing: line {by.line} {verb} as much or more; remove one of the two"
    policy.warn(rule.line, 1, "shadowed", message, witness=example(rule))


def _conflicts(policy: ParsedPolicy, roles: Roles) -> None:
    """Subjects that one line allows and another denies, one of the two through a role."""
    denials = [rule for rule in policy.rules if rule.eft == "deny"]
    allows: dict[str, list[Rule]] = {}
    for rule in policy.rules if denials else ():
        if rule.eft == "allow":
            allows.setdefault(rule.sub, []).append(rule)
    holders: dict[str, list[tuple[str, str]]] = {}
    for (dom, name), reached in roles.known.items() if denials else ():
        for role in reached:
            holders.setdefault(role, []).append((dom, name))
    seen: set[tuple[int, int]] = set()
    for denial in denials:
        for dom, name in _subjects(denial, holders, roles):
            others = [other for other in roles.reach(name, dom) if other != denial.sub]
            for allow in [rule for other in others for rule in allows.get(other, ())]:
                pair = allow.line, denial.line
                if pair not in seen and len(seen) < _MOST_CONFLICTS and _meet(allow, denial, dom):
                    seen.add(pair)
                    _conflict(policy, allow, denial, dom, name)


def _conflict(policy: ParsedPolicy, allow: Rule, denial: Rule, dom: str, name: str) -> None:
    narrow = allow if len(allow.obj) >= len(denial.obj) else denial
    obj = example(narrow)[2]
    act = denial.act if denial.act != "*" else example(allow)[3]
    message = f"conflicts with line {allow.line}, which allows it to `{name}`: the deny wins"
    policy.warn(denial.line, 1, "conflict", message, witness=(name, dom, obj, act))


def _subjects(denial: Rule, holders: dict[str, list[tuple[str, str]]], roles: Roles) -> Iterator[tuple[str, str]]:
    """Tenant and name of whoever a denial reaches and who has roles; one for each set of roles."""
    kinds: set[tuple[str, frozenset[str]]] = set()
    tenants = {dom for dom, name in roles.known if name == denial.sub}
    for dom, name in [(dom, denial.sub) for dom in sorted(tenants)] + holders.get(denial.sub, []):
        kind = dom, frozenset(roles.of(name, dom))
        if denial.dom in (dom, EVERYWHERE) and kind not in kinds:
            kinds.add(kind)
            yield dom, name


def _meet(allow: Rule, denial: Rule, dom: str) -> bool:
    """Whether there is a request of a tenant that both match."""
    if allow.dom not in (dom, EVERYWHERE) or not ({allow.act, denial.act} & {"*"} or allow.act == denial.act):
        return False
    one, other = prefix_of(allow.obj), prefix_of(denial.obj)
    if one is None and other is None:
        return allow.obj == denial.obj
    if one is None:
        return allow.obj.startswith(other or "")
    if other is None:
        return denial.obj.startswith(one)
    return one.startswith(other) or other.startswith(one)
