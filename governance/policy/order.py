"""The order in which Casbin evaluates rules: by priority, by the subjects' place in the hierarchy, or as written.

Contract: as pycasbin 2.8 sorts (`model/model.py`): by subject first, then by `priority`, both stable. A model
whose rules have a `priority` is sorted by it whatever its effect.
"""

from __future__ import annotations

from governance.policy.definition import SUBJECT_PRIORITY
from governance.policy.parse import Membership, ParsedPolicy, Rule


def evaluation_order(parsed: ParsedPolicy) -> list[Rule]:
    """A policy's rules as they are evaluated; a circle under subjectPriority becomes an error of the policy."""
    rules = parsed.rules
    if parsed.definition.effect == SUBJECT_PRIORITY:
        levels = _levels(parsed, [one for one in parsed.memberships if one.kind == "g"])
        dom = parsed.definition.rule.index("dom") if "dom" in parsed.definition.rule else None
        rules = sorted(rules, key=lambda rule: levels.get(("" if dom is None else rule.values[dom], rule.values[0]), 0))
    at = parsed.definition.priority_at
    return rules if at is None else sorted(rules, key=lambda rule: int(rule.values[at]))


def _levels(parsed: ParsedPolicy, memberships: list[Membership]) -> dict[tuple[str, str], int]:
    """Each subject's level, by domain and name: 0 has no members below it, and its rules come first."""
    left = [((one.dom, one.user), (one.dom, one.role), one) for one in memberships]
    names = {name for child, parent, _ in left for name in (child, parent)}
    levels: dict[tuple[str, str], int] = {}
    level = 0
    while left:
        lowest = names - {parent for _, parent, _ in left}
        if not lowest:
            one = left[-1][2]
            message = f"closes a circle: `{one.role}` leads back to `{one.user}`, and subjectPriority needs an order"
            parsed.error(one.line, one.columns[1], "cycle", message)
            return levels
        levels.update(dict.fromkeys(lowest, level))
        left = [entry for entry in left if entry[0] not in lowest]
        names -= lowest
        level += 1
    levels.update(dict.fromkeys(names, level))
    return levels
