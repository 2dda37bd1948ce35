"""Which rules of a policy no recorded decision has needed.

Contract: a pure function of a compiled policy and records. A rule is used when it matches a recorded request, whether
or not another one decides before it: what is unused could go, as far as the log reaches, and nothing would change.
Grants that leave no record when they are used (pages that are read or exported, changes of the policy itself) are not
judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from governance.policy.compare import asked
from governance.policy.model import EVERYWHERE
from governance.policy.parse import Rule
from governance.policy.snapshot import PolicySnapshot

_UNRECORDED = frozenset({"read", "export"})
_REGISTRY = frozenset({"registry", "approval"})
"""Kinds of records that are steps of the registry: who made one was allowed to."""
_MOST_SEEN = 1 << 16
"""Requests that are remembered, so that each is judged once; then it begins anew."""


class Usage(msgspec.Struct, frozen=True):
    """What a log says of a policy's rules."""

    replayed: int
    """Records whose request was judged."""
    unreplayable: int
    """Records of no decision of the policy, those cut short, and those whose subject is a pseudonym."""
    unused: list[Rule]
    """In file order; empty when nothing was judged."""


def usage(policy: PolicySnapshot, records: Iterable[Mapping[str, Any]]) -> Usage:
    """Judges recorded requests; `records` as for `compare.replay`."""
    replayed = unreplayable = 0
    used: set[int] = set()
    seen: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    for record in records:
        step = record.get("kind") in _REGISTRY and record.get("outcome") == "served"
        found = asked({**record, "tenant": EVERYWHERE, "allowed": True} if step else record)
        if found is None:
            unreplayable += 1
            continue
        replayed += 1
        request, roles, _ = found
        if (request, roles) in seen:
            continue
        if len(seen) >= _MOST_SEEN:
            seen.clear()
        seen.add((request, roles))
        used.update(rule.line for rule in policy.engine.matching(request, policy.carried(request, roles)))
    unused = [rule for rule in policy.rules if rule.line not in used and _recorded(policy, rule)] if replayed else []
    return Usage(replayed, unreplayable, unused)


def _recorded(policy: PolicySnapshot, rule: Rule) -> bool:
    """Whether a request that needs the rule leaves a record."""
    words = dict(zip(policy.engine.definition.rule, rule.values, strict=True))
    unseen = words.get("act") in _UNRECORDED or words.get("obj") == "policy"
    return not (unseen and policy.engine.allows(rule))
