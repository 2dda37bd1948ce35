"""The built-in Casbin model, and the words its policies are written in.

Contract: `BUILTIN_MODEL` is the text in Casbin's own syntax, as `builtin_model.conf` ships it; the other
names are what its four request fields may hold. Requests on governance objects are asked in tenant `*`, so
that a tenant's own rules never grant them (`governance/policy/ask.py`).
"""

from __future__ import annotations

from importlib.resources import files

BUILTIN_MODEL = files("governance.policy").joinpath("builtin_model.conf").read_text("utf-8")
"""Casbin model: allow unless denied, roles by tenant, keyMatch on objects."""

ACTIONS = ("infer", "read", "load", "unload", "configure", "approve", "promote", "export", "edit", "join")
"""What can be done. `read` is metadata, config and statistics; `configure` trace, log and shared memory; `join` tells
of people whom decisions were about."""

OBJECT_PREFIXES = ("model:", "registry:", "route:", "fairness:")
"""Objects that have names."""

OBJECTS = ("policy", "audit", "server")
"""Objects that there is one of."""

EVERYWHERE = "*"
"""The tenant of governance objects; as a rule's tenant, object or action: each of them."""

EFFECTS = ("allow", "deny")
"""What a rule can say. A deny that matches wins over every allow."""

EMERGENCY_ROLE = "role:break-glass"
"""Who holds it in tenant `*` may change the policy at once, for a time (`changes.py`)."""

MOST_HOPS = 9
"""Longest chain of memberships that Casbin follows (`max_hierarchy_level` 10 counts the subject itself)."""


def is_governance(obj: str) -> bool:
    """Whether an object belongs to the gateway rather than to a tenant: everything but `model:NAME`."""
    return not obj.startswith("model:")


def key_match(key: str, pattern: str) -> bool:
    """Casbin's `keyMatch`: equal, or equal up to the pattern's first `*`; what follows is ignored."""
    star = pattern.find("*")
    return key == pattern if star < 0 else key.startswith(pattern[:star])
