"""Who may do what nobody should do alone, and names that look like other names.

Contract: adds findings to a `ParsedPolicy` of the built-in model. Errors: a user who may both `edit` and
`approve` one governance object (when at least one of the two is named; a `*` for the action is a warning, as
wildcards are), and a user with two roles that the policy declares separate:

    # sod: role:maker, role:checker

a comment to Casbin, and a duty here: no user may have two of these roles in one tenant.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from governance.policy.functions import prefix_of
from governance.policy.model import EVERYWHERE, OBJECTS
from governance.policy.parse import Line, ParsedPolicy, Rule
from governance.policy.roles import Roles

_GOVERNED = ("policy", "registry:", "route:", "audit", "server")
# Letters of other scripts that look like Latin ones (Unicode TR 39; those on keyboards beside Latin layouts).
_CYRILLIC = "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d"
_GREEK = "\u03b1\u03bf\u03bd\u03c1\u03c4\u03c5\u03c7\u03ba\u03b9"
_LOOKS = str.maketrans(_CYRILLIC + _GREEK + "\u0131", "aeopcyxijshdqw" + "aovptuxki" + "i")


def duties(policy: ParsedPolicy, roles: Roles) -> None:
    """Judges who holds which powers together."""
    _self_approval(policy, roles)
    _separate(policy, roles)
    _lockout(policy, roles)


def look_alikes(policy: ParsedPolicy) -> None:
    """Names that differ from another only in case, blanks or letters that look the same."""
    first: dict[str, tuple[str, int]] = {}
    said: set[str] = set()
    for one, index, name in _names(policy):
        kept, line = first.setdefault(_skeleton(name), (name, one.line))
        if kept != name and name not in said:
            said.add(name)
            message = f"`{name}` looks like `{kept}` on line {line} and is another name to the gateway"
            policy.warn(one.line, one.columns[index], "look-alike", message)


def _names(policy: ParsedPolicy) -> Iterator[tuple[Line, int, str]]:
    lines: list[Line] = [*policy.rules, *policy.memberships]
    lines.sort(key=lambda one: one.line)
    for one in lines:
        for index, name in enumerate(one.values[:3]):
            yield one, index, name


def _skeleton(name: str) -> str:
    if name.isascii() and name.islower() and " " not in name:
        return name
    return unicodedata.normalize("NFKC", name).casefold().translate(_LOOKS).replace(" ", "")


def _powers(policy: ParsedPolicy, action: str) -> dict[str, list[Rule]]:
    """The rules that grant an action on governance objects, by subject."""
    found: dict[str, list[Rule]] = {}
    for rule in policy.rules:
        prefix = prefix_of(rule.obj)
        governs = (rule.obj if prefix is None else prefix).startswith(_GOVERNED) or prefix == ""
        if rule.eft == "allow" and rule.dom == EVERYWHERE and rule.act in (action, "*") and governs:
            found.setdefault(rule.sub, []).append(rule)
    return found


def _members(roles: Roles, subjects: set[str]) -> Iterator[tuple[str, set[str]]]:
    """Users, with everything that they answer to in tenant `*`."""
    users = [one for one in subjects if one.startswith("user:")]
    users += [name for dom, name in roles.known if dom == EVERYWHERE and name.startswith("user:")]
    for user in dict.fromkeys(users):
        yield user, set(roles.reach(user, EVERYWHERE))


def _self_approval(policy: ParsedPolicy, roles: Roles) -> None:
    edits, approvals = _powers(policy, "edit"), _powers(policy, "approve")
    powers = edits.keys() | approvals.keys()
    kinds: set[frozenset[str]] = set()
    for user, names in _members(roles, powers):
        kind = frozenset(names & powers)
        if kind in kinds:
            continue  # as somebody before, who was named
        kinds.add(kind)
        for approval in [rule for name in sorted(kind) for rule in approvals.get(name, ())]:
            for edit in [rule for name in sorted(kind) for rule in edits.get(name, ())]:
                obj = _common(approval.obj, edit.obj)
                if obj is not None and not _denied(policy, names, obj):
                    _approves_itself(policy, user, obj, approval, edit)


def _approves_itself(policy: ParsedPolicy, user: str, obj: str, approval: Rule, edit: Rule) -> None:
    where = "this line" if edit.line == approval.line else f"line {edit.line}"
    message = f"`{user}` may both `approve` and (by {where}) `edit` `{obj}`: let somebody else approve"
    column = approval.columns[3]
    witness = user, EVERYWHERE, obj, "approve"
    if any(one.line == approval.line and one.message == message for one in policy.findings):
        return
    if approval.act == "*" and edit.act == "*":
        policy.warn(approval.line, column, "self-approval", message, witness=witness)
    else:
        policy.error(approval.line, column, "self-approval", message, witness=witness)


def _common(one: str, other: str) -> str | None:
    """A governance object that two patterns match."""
    starts = [prefix_of(one), prefix_of(other)]
    texts = [text if start is None else start for text, start in zip((one, other), starts, strict=True)]
    longer, shorter = sorted(range(2), key=lambda at: len(texts[at]), reverse=True)
    if starts[shorter] is None and (texts[0] != texts[1]):
        return None
    if not texts[longer].startswith(texts[shorter]):
        return None
    found = texts[longer] or "policy"
    return found + "anything" if starts[longer] is not None and texts[longer] and found not in OBJECTS else found


def _denied(policy: ParsedPolicy, names: set[str], obj: str) -> bool:
    """Whether a deny takes one of the two away again."""
    return any(
        rule.eft == "deny" and rule.sub in names and rule.dom == EVERYWHERE and rule.act in ("approve", "edit", "*")
        and _common(rule.obj, obj) is not None
        for rule in policy.rules
    )  # fmt: skip


def _separate(policy: ParsedPolicy, roles: Roles) -> None:
    for number, text in policy.notes:
        head, colon, rest = text.lstrip("# \t").partition(":")
        if not colon or head.strip().lower() != "sod":
            continue
        wanted = [name.strip() for name in rest.split(",")]
        if len(wanted) < 2 or len(set(wanted)) != len(wanted) or not all(map(_is_role, wanted)):
            policy.error(number, 1, "sod", "write `# sod: role:MAKER, role:CHECKER`: two roles or more, with commas")
            continue
        for (dom, name), reached in roles.known.items():
            held = [f"`{role}`" for role in wanted if role in reached]
            if len(held) > 1 and name.startswith("user:"):
                last = next(one for one in reversed(policy.memberships) if one.dom == dom and one.user == name)
                message = f"`{name}` has {' and '.join(held)} in tenant `{dom}`, which line {number} forbids"
                policy.error(last.line, last.columns[1], "sod", message)


def _is_role(name: str) -> bool:
    return name.startswith("role:") and len(name) > len("role:") and " " not in name


def _lockout(policy: ParsedPolicy, roles: Roles) -> None:
    """Rules name who changes the policy, and nobody is left who may."""
    powers = {"edit", "approve", "*"}
    rules = [one for one in policy.rules if one.obj == "policy" and one.act in powers and one.eft == "allow"]
    rules = [one for one in rules if one.dom == EVERYWHERE]
    if not rules or any(rule.sub.startswith("user:") for rule in rules):
        return
    wanted = {rule.sub for rule in rules}
    if not any(wanted & names for _, names in _members(roles, set())):
        first = rules[0]
        message = f"nobody is left who may `{first.act}` the policy: add `g, user:NAME, {first.sub}, *`"
        policy.warn(first.line, first.columns[0], "lockout", message)
