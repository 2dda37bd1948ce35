"""What a well-formed policy says that it cannot mean, or most likely does not.

Contract: adds findings to a `ParsedPolicy` of the built-in model; `lint_overlap` judges rules against each
other, `lint_duties` who holds which powers together. No request is evaluated.
Errors are words that no request can ever hold (an unknown action, an object or subject without its prefix):
such a line does nothing, and a deny that does nothing allows. Everything else is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable

from governance.documents.words import nearest
from governance.policy.lint_duties import duties, look_alikes
from governance.policy.lint_overlap import overlaps
from governance.policy.model import (
    ACTIONS,
    EMERGENCY_ROLE,
    EVERYWHERE,
    MOST_HOPS,
    OBJECT_PREFIXES,
    OBJECTS,
    is_governance,
)
from governance.policy.parse import Membership, ParsedPolicy, Rule
from governance.policy.roles import Roles

_GOVERNED = tuple(prefix for prefix in OBJECT_PREFIXES if is_governance(prefix))
_MOST_CANDIDATES = 64
"""Names that a mistyped one is compared with."""
_OBJECT_FORMS = "`model:NAME`, `registry:NAME`, `route:NAME`, `fairness:NAME`, `policy`, `audit`, `server` or `*`"
_WORDS = "`infer`, `read`, `load`, `unload`, `configure`, `approve`, `promote`, `export`, `edit`, `join` or `*`"


def lint(policy: ParsedPolicy) -> None:
    """Judges a parsed policy; findings end up in file order."""
    for rule in policy.rules:
        _subject(policy, rule.line, rule.columns[0], rule.sub)
        _object(policy, rule)
        _action(policy, rule)
    for one in policy.memberships:
        _subject(policy, one.line, one.columns[0], one.user)
        if not one.role.startswith("role:") or one.role == "role:":
            message = f"`{one.role}` is no role: write `role:{one.role.split(':')[-1] or 'NAME'}`"
            policy.error(one.line, one.columns[1], "prefix", message)
    _repeated(policy)
    _wide(policy)
    roles = Roles(policy.memberships)
    _circles(policy, roles)
    _unheld(policy, roles)
    overlaps(policy, roles)
    duties(policy, roles)
    look_alikes(policy)
    if not any(rule.eft == "allow" for rule in policy.rules) and not policy.broken:
        policy.warn(1, 1, "allows-nothing", "no rule allows anything: every request will be refused")
    policy.findings.sort(key=lambda finding: (finding.line, finding.column))


def _subject(policy: ParsedPolicy, line: int, column: int, name: str) -> None:
    if name.startswith(("user:", "role:")) and len(name) > len("user:"):
        return
    bare = name.partition(":")[2] if name.lower().startswith(("user:", "role:")) else name
    why = "nobody is called that" if name == "*" else f"write `user:{bare or 'NAME'}` or `role:{bare or 'NAME'}`"
    policy.error(line, column, "prefix", f"`{name}` is neither a user nor a role: {why}")


def _object(policy: ParsedPolicy, rule: Rule) -> None:
    obj, column = rule.obj, rule.columns[2]
    if obj == "*" or obj in OBJECTS:
        return
    prefix = next((one for one in OBJECT_PREFIXES if obj.startswith(one)), None)
    if prefix is None or obj == prefix:
        head, colon, _ = obj.partition(":")
        close = nearest(head + ":", OBJECT_PREFIXES) if colon else nearest(obj, OBJECTS)
        if prefix is not None:
            hint = f"`{prefix}` needs a name, such as `{prefix}*`"
        elif close is not None:
            hint = f"did you mean `{close}`?"
        else:
            hint = f"objects are {_OBJECT_FORMS}" if colon else f"write `model:{obj}`"
        policy.error(rule.line, column, "object", f"unknown object `{obj}`: {hint}")
        return
    star = obj.find("*")
    if 0 <= star < len(obj) - 1:
        message = (
            f"what follows the `*` is ignored: `{obj}` matches everything that starts with `{obj[:star]}`, "
            f"such as `{obj[:star]}anything`; end it at the `*`"
        )
        witness = rule.sub, rule.dom, obj[:star] + "anything", rule.act
        policy.warn(rule.line, column, "pattern", message, fix=_instead(rule, 2, obj[: star + 1]), witness=witness)


def _action(policy: ParsedPolicy, rule: Rule) -> None:
    if rule.act != "*" and rule.act not in ACTIONS:
        close = nearest(rule.act, ACTIONS)
        hint = f"did you mean `{close}`?" if close else f"actions are {_WORDS}"
        fix = _instead(rule, 3, close) if close else None
        policy.error(rule.line, rule.columns[3], "action", f"unknown action `{rule.act}`: {hint}", fix=fix)


def _instead(rule: Rule, index: int, text: str) -> str:
    """A rule with one field replaced, as a line."""
    return ", ".join(("p", *rule.values[:index], text, *rule.values[index + 1 :]))


def _repeated(policy: ParsedPolicy) -> None:
    lines: dict[tuple[str, ...], int] = {}
    both: list[Rule | Membership] = [*policy.rules, *policy.memberships]
    for one in both:
        if one.values in lines:
            policy.warn(one.line, 1, "duplicate", f"the same as line {lines[one.values]}: remove one", fix="")
        lines.setdefault(one.values, one.line)


def _wide(policy: ParsedPolicy) -> None:
    for rule in policy.rules:
        governance = rule.obj in OBJECTS or rule.obj.startswith(_GOVERNED)
        if governance and rule.dom != EVERYWHERE:
            message = f"can never match: `{rule.obj}` is asked in tenant `*`: write that in place of `{rule.dom}`"
            fix = _instead(rule, 1, EVERYWHERE)
            policy.warn(rule.line, rule.columns[1], "unreachable", message, fix=fix)
            continue
        if rule.eft != "allow":
            continue
        wide = [
            name for name, text in zip(("tenant", "object", "action"), rule.values[1:4], strict=True) if text == "*"
        ]
        if governance:
            wide = [name for name in wide if name != "tenant"]  # the only way to write it
            what = f"grants `{rule.act}` on the governance object `{rule.obj}`: have a second person look at it"
            policy.warn(rule.line, rule.columns[2], "governance-grant", what)
        if wide:
            policy.warn(rule.line, rule.columns[1], "wildcard", f"allows every {' and every '.join(wide)}")


def _circles(policy: ParsedPolicy, roles: Roles) -> None:
    for one in roles.cycles():
        message = f"closes a circle: `{one.role}` leads back to `{one.user}`, so both have the same rights"
        policy.warn(one.line, one.columns[1], "cycle", message)
    for name, one in roles.too_deep():
        message = (
            f"`{name}` does not get `{one.role}`: it is {MOST_HOPS + 1} memberships away, and Casbin follows "
            f"{MOST_HOPS}; shorten the chain"
        )
        policy.warn(one.line, one.columns[1], "depth", message)


def _unheld(policy: ParsedPolicy, roles: Roles) -> None:
    """Roles that nobody has, roles that may do nothing, tenants in which a membership leads nowhere."""
    ruled: dict[str, set[str]] = {}
    for rule in policy.rules:
        ruled.setdefault(rule.sub, set()).add(rule.dom)
    held: dict[str, set[str]] = {}
    for one in policy.memberships:
        held.setdefault(one.role, set()).add(one.dom)
    domains = {rule.dom for rule in policy.rules}
    models = {rule.sub for rule in policy.rules if rule.obj == "*" or rule.obj.startswith("model:")}
    for rule in policy.rules:
        if rule.sub.startswith("role:"):
            _role_held(policy, rule, held)
    # The emergency role needs no rule.
    for one in [one for one in policy.memberships if (one.role, one.dom) != (EMERGENCY_ROLE, EVERYWHERE)]:
        if one.dom not in domains and EVERYWHERE not in domains:
            hint = _did_you_mean(one.dom, domains, "the membership does nothing")
            policy.warn(one.line, one.columns[2], "orphan-tenant", f"tenant `{one.dom}` has no rules: {hint}")
            continue
        reached = (one.role, *roles.of(one.role, one.dom))
        if not any(ruled.get(role, _NOWHERE) & {one.dom, EVERYWHERE} for role in reached):
            where = f"in tenant `{one.dom}`"
            hint = _did_you_mean(one.role, ruled, "the membership does nothing")
            if one.dom == EVERYWHERE and one.role in ruled:
                hint = "a membership of tenant `*` holds for governance objects alone; name the tenant"
            policy.warn(one.line, one.columns[1], "unknown-role", f"`{one.role}` has no rules {where}: {hint}")
        elif one.dom == EVERYWHERE and models.intersection(reached):
            message = (
                f"in tenant `*`, `{one.role}` holds for governance objects alone: for models, "
                "add the membership in each tenant"
            )
            policy.warn(one.line, one.columns[2], "wildcard", message)


_NOWHERE: frozenset[str] = frozenset()


def _role_held(policy: ParsedPolicy, rule: Rule, held: dict[str, set[str]]) -> None:
    domains = held.get(rule.sub)
    if domains is None:
        hint = _did_you_mean(rule.sub, held, "the rule holds for roles of credentials alone")
        policy.warn(rule.line, rule.columns[0], "unknown-role", f"nobody has `{rule.sub}`: {hint}")
    elif rule.dom != EVERYWHERE and rule.dom not in domains:
        hint = _did_you_mean(rule.dom, domains, "the rule holds for roles of credentials alone")
        message = f"nobody has `{rule.sub}` in tenant `{rule.dom}`: {hint}"
        policy.warn(rule.line, rule.columns[1], "unknown-role", message)


def _did_you_mean(name: str, valid: Iterable[str], otherwise: str) -> str:
    # Half of a mistyped name is as it should be; comparing with every name would take minutes in large policies.
    half = max(1, len(name) // 2)
    start, end = name[:half].lower(), name[half:].lower()
    likely = [one for one in valid if one != name and (one.lower().startswith(start) or one.lower().endswith(end))]
    close = nearest(name, likely[:_MOST_CANDIDATES])
    return f"did you mean `{close}`?" if close else otherwise
