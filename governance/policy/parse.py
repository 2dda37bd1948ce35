"""Policy CSV to rules, strictly: nothing is dropped, and nothing kept as it was not meant.

Contract: a pure function from text to `ParsedPolicy`. Casbin's own loader skips what it does not know, keeps
quotes and trailing notes as part of a value, counts a wrong effect as neither allow nor deny, and fails on
the first request that meets a rule of the wrong length. Here each of those is a finding at its line and
column, and what is left are lines that Casbin reads exactly as they are read here. Findings of this file are
those of syntax, arity and effect; what the words mean is judged by `governance/policy/lint.py`.

Lines: `p, SUBJECT, TENANT, OBJECT, ACTION, EFFECT` and `g, USER, ROLE, TENANT`; `#` at the start is a
comment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from governance.documents.nodes import decode
from governance.documents.words import nearest
from governance.policy.model import EFFECTS
from governance.types import Finding

_FIELDS = {
    "p": ("subject", "tenant", "object", "action", "effect"),
    "g": ("user", "role", "tenant"),
}
_SHAPES = {"p": "p, SUBJECT, TENANT, OBJECT, ACTION, EFFECT", "g": "g, USER, ROLE, TENANT"}
_BRACKETS = {")": "(", "]": "["}

Field: TypeAlias = tuple[str, int]
"""A field's text and its column, from 1."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One `p` line."""

    line: int
    columns: tuple[int, ...]
    """Where each field starts, from 1."""
    sub: str
    dom: str
    obj: str
    act: str
    eft: str

    @property
    def values(self) -> list[str]:
        """The fields as Casbin holds them."""
        return [self.sub, self.dom, self.obj, self.act, self.eft]


@dataclass(frozen=True, slots=True)
class Membership:
    """One `g` line: in tenant `dom`, `user` has `role`. A role can have roles itself."""

    line: int
    columns: tuple[int, ...]
    user: str
    role: str
    dom: str

    @property
    def values(self) -> list[str]:
        """The fields as Casbin holds them."""
        return [self.user, self.role, self.dom]


@dataclass(slots=True)
class ParsedPolicy:
    """What a policy file says, in file order, and what is wrong with how it says it."""

    file: str
    rules: list[Rule] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def error(self, line: int, column: int, code: str, message: str) -> None:
        """Adds an error."""
        self.findings.append(Finding(self.file, line, column, "error", code, message))

    def warn(self, line: int, column: int, code: str, message: str) -> None:
        """Adds a warning."""
        self.findings.append(Finding(self.file, line, column, "warning", code, message))

    @property
    def broken(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)


def parse(data: bytes | str, file: str) -> ParsedPolicy:
    """The rules of a policy file.

    Args:
        data: the file's bytes (or its text).
        file: its name in findings.
    """
    policy = ParsedPolicy(file)
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    text, policy.findings = decode(raw, file)
    if text is None:
        return policy
    if raw.startswith(b"\xef\xbb\xbf"):
        message = "byte order mark: Casbin would drop the first line; save the file as UTF-8 without one"
        policy.error(1, 1, "bom", message)
    for number, line in enumerate(text.split("\n"), 1):
        _line(policy, number, line.removesuffix("\r"))
    return policy


def _line(policy: ParsedPolicy, number: int, line: str) -> None:
    text = line.strip(" \t")
    start = line.find(text) + 1 if text else 1
    if not text or text.startswith("#"):
        return
    if text.startswith(";"):
        message = "`;` starts no comment, Casbin skips the line only by luck: write `#`"
        policy.warn(number, start, "semicolon", message)
        return
    if _characters(policy, number, line):
        return
    fields = _split(policy, number, line)
    if fields is None:
        return
    (kind, column), *rest = fields
    if kind not in _FIELDS:
        policy.error(number, column, "unknown-line", _unknown(kind))
    elif len(rest) != len(_FIELDS[kind]):
        policy.error(number, column, "arity", _arity(kind, [text for text, _ in rest]))
    else:
        _complete(policy, number, kind, rest)


def _complete(policy: ParsedPolicy, number: int, kind: str, fields: list[Field]) -> None:
    """A line with the right number of fields."""
    good = True
    for (text, column), name in zip(fields, _FIELDS[kind], strict=True):
        if not text:
            policy.error(number, column, "empty-field", f"the {name} is empty; a line is `{_SHAPES[kind]}`")
            good = False
    values = [text for text, _ in fields]
    if kind == "p" and values[-1] and values[-1] not in EFFECTS:
        close = nearest(values[-1], EFFECTS)
        hint = f"did you mean `{close}`?" if close else "write `allow` or `deny`"
        message = f"unknown effect `{values[-1]}`: Casbin would ignore the rule; {hint}"
        policy.error(number, fields[-1][1], "effect", message)
        good = False
    if not good:
        return
    columns = tuple(column for _, column in fields)
    if kind == "p":
        policy.rules.append(Rule(number, columns, *values))
    else:
        policy.memberships.append(Membership(number, columns, *values))


def _characters(policy: ParsedPolicy, number: int, line: str) -> bool:
    """Whether a character stands in the line that cannot be meant: quotes, invisible ones, an inline note."""
    for at, character in enumerate(line):
        if character == '"' or (character == "'" and _edge(line, at)):
            message = "quotes are kept as part of the value, and do not protect a comma: remove them"
            policy.error(number, at + 1, "quotes", message)
            return True
        if character == "#" and line[at - 1] in " \t,":
            message = "a note behind a rule becomes part of its last value: put it on a line of its own"
            policy.error(number, at + 1, "inline-comment", message)
            return True
        if character != "\t" and not character.isprintable():
            message = f"invisible character U+{ord(character):04X}: remove it"
            policy.error(number, at + 1, "character", message)
            return True
    return False


def _edge(line: str, at: int) -> bool:
    """Whether a position is the first or last of a field; an apostrophe inside of a name is fine."""
    before, after = line[:at].rstrip(" \t"), line[at + 1 :].lstrip(" \t")
    return not before or before.endswith(",") or not after or after.startswith(",")


def _split(policy: ParsedPolicy, number: int, line: str) -> list[Field] | None:
    """The line's fields, as Casbin splits them: a comma inside of brackets does not separate."""
    fields: list[Field] = []
    stack: list[tuple[str, int]] = []
    start = 0
    for at, character in enumerate(line + ","):
        if character in "([":
            stack.append((character, at))
        elif character in _BRACKETS:
            if not stack or stack.pop()[0] != _BRACKETS[character]:
                policy.error(number, at + 1, "brackets", f"`{character}` closes nothing: remove it")
                return None
        elif character == "," and (not stack or at == len(line)):
            if stack:
                bracket, opened = stack[-1]
                message = f"`{bracket}` is never closed and would swallow what follows: remove it"
                policy.error(number, opened + 1, "brackets", message)
                return None
            text = line[start:at]
            fields.append((text.strip(" \t"), start + len(text) - len(text.lstrip(" \t")) + 1))
            start = at + 1
    return fields


def _unknown(kind: str) -> str:
    if not kind:
        return "the line starts with a comma: write `p` or `g` before it"
    if kind.lower() in _FIELDS:
        return f"unknown line `{kind}`, which Casbin would drop: write `{kind.lower()}`"
    if kind.rstrip("0123456789") in _FIELDS:
        return f"the model declares no `{kind}`, so Casbin would drop the line: write `{kind[0]}`"
    if kind.startswith(("user:", "role:")):
        return f"`p` or `g` is missing before `{kind}`: a line is `{_SHAPES['p']}` or `{_SHAPES['g']}`"
    return f"unknown line `{kind[:40]}`, which Casbin would drop: a line is `{_SHAPES['p']}` or `{_SHAPES['g']}`"


def _arity(kind: str, values: list[str]) -> str:
    wanted = len(_FIELDS[kind])
    shape = f"`{kind}` takes {wanted} fields, not {len(values)}: `{_SHAPES[kind]}`"
    if len(values) == wanted + 1 and not values[-1]:
        return f"{shape} (a comma too many at the end)"
    if kind == "g" and len(values) == wanted - 1:
        return f"{shape} (the tenant is missing)"
    if kind == "p" and len(values) == wanted - 1 and values[-1] not in EFFECTS:
        return f"{shape} (the effect, `allow` or `deny`, is missing)"
    return shape
