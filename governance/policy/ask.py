"""From a subject and what it wants to do to the request that the policy is asked.

Contract: the only place that knows in which tenant an object is asked. Governance objects (`registry:`,
`route:`, `fairness:`, `policy`, `audit`, `server`) are asked in tenant `*`, so that only rules and memberships of
tenant `*` grant them, and a credential's roles, which hold in its own tenant, never do.
"""

from __future__ import annotations

from governance.policy.model import EVERYWHERE, is_governance
from governance.policy.snapshot import PolicySnapshot
from governance.types import Decision, Subject


def request_of(subject: Subject, obj: str, action: str) -> tuple[str, str, str, str]:
    """The four fields of the request: subject, tenant, object, action."""
    return subject.id, EVERYWHERE if is_governance(obj) else subject.tenant, obj, action


def ask(policy: PolicySnapshot, subject: Subject, obj: str, action: str) -> Decision:
    """What a policy says to a subject's request, its credential's roles included."""
    return policy.decide(*request_of(subject, obj, action), roles=subject.roles)
