"""Policy CSV to rules, strictly: nothing is dropped, and nothing kept as it was not meant.

Contract: a pure function from text to `ParsedPolicy`. Casbin's own loader skips what it does not know, keeps
quotes and trailing notes as part of a value, counts a wrong effect as neither allow nor deny, and fails on
the first request that meets a rule of the wrong length. Here each of those is a finding at its line and
column, and what is left are lines that Casbin reads exactly as they are read here. Findings of this file are
those of syntax, arity and effect; what the words mean is judged by `governance/policy/lint.py`. Lines keep
their text, so that a policy can be written back byte for byte (`fix.py`).

Lines: `p, SUBJECT, TENANT, OBJECT, ACTION, EFFECT` and `g, USER, ROLE, TENANT` in the built-in model, else as
the model says; `#` at the start is a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from governance.documents.nodes import decode
from governance.documents.words import nearest
from governance.policy import repair
from governance.policy.definition import Definition, builtin
from governance.policy.model import EFFECTS
from governance.types import Finding

Field: TypeAlias = tuple[str, int]
"""A field's text and its column, from 1."""

Witness: TypeAlias = tuple[str, ...] | None
"""A request that shows a finding."""

_BRACKETS = {")": "(", "]": "["}
_LONGEST_PRIORITY = 18
"""Digits."""
# Most lines: nothing in them needs to be looked at more closely (some 2 us a line in place of 20).
_PLAIN = re.compile(r"[pg][0-9]*[ \t]*,[\w \t,:*/.@+=\-!$%&<>?^`{|}~\\]*", re.ASCII)
_BUILTIN = {
    "p": ("subject", "tenant", "object", "action", "effect"),
    "g": ("user", "role", "tenant"),
}


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line that says something."""

    line: int
    text: str
    """As it is written, without its end."""
    values: tuple[str, ...]
    """The fields after the first, as Casbin holds them."""

    @property
    def columns(self) -> tuple[int, ...]:
        """Where each of the values starts, from 1."""
        fields, _ = split(self.text)
        return tuple(column for _, column in fields[1:])


class Rule(Line, frozen=True, gc=False):
    """One `p` line. The names of the fields are those of the built-in model."""

    @property
    def sub(self) -> str:
        """Subject."""
        return self.values[0]

    @property
    def dom(self) -> str:
        """Tenant."""
        return self.values[1]

    @property
    def obj(self) -> str:
        """Object, or its beginning up to a `*`."""
        return self.values[2]

    @property
    def act(self) -> str:
        """Action."""
        return self.values[3]

    @property
    def eft(self) -> str:
        """Effect."""
        return self.values[4]


class Membership(Line, frozen=True, gc=False):
    """One `g` line: in `dom`, `user` has `role`. A role can have roles itself."""

    kind: str = "g"
    """`g`, `g2`, ..."""

    @property
    def user(self) -> str:
        """Who has it."""
        return self.values[0]

    @property
    def role(self) -> str:
        """What is had."""
        return self.values[1]

    @property
    def dom(self) -> str:
        """Where; empty in models whose roles hold everywhere."""
        return self.values[2] if len(self.values) > 2 else ""


@dataclass(slots=True)
class ParsedPolicy:
    """What a policy file says, in file order, and what is wrong with how it says it."""

    file: str
    definition: Definition = field(default_factory=builtin)
    rules: list[Rule] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    """Comment lines: number and text."""
    findings: list[Finding] = field(default_factory=list)
    repairs: dict[int, str] = field(default_factory=dict)
    """Line -> what it surely was meant to be; see `repair.py`."""

    def error(
        self, line: int, column: int, code: str, message: str, *, fix: str | None = None, witness: Witness = None
    ) -> None:
        """Adds an error."""
        self.findings.append(Finding(self.file, line, column, "error", code, message, fix, witness))

    def warn(
        self, line: int, column: int, code: str, message: str, *, fix: str | None = None, witness: Witness = None
    ) -> None:
        """Adds a warning."""
        self.findings.append(Finding(self.file, line, column, "warning", code, message, fix, witness))

    @property
    def broken(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)


def parse(data: bytes | str, file: str, definition: Definition | None = None) -> ParsedPolicy:
    """The rules of a policy file.

    Args:
        data: the file's bytes (or its text).
        file: its name in findings.
        definition: the model that it is written for; None: the built-in one.
    """
    policy = ParsedPolicy(file) if definition is None else ParsedPolicy(file, definition)
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    text, policy.findings = decode(raw, file)
    if text is None:
        return policy
    if raw.startswith(b"\xef\xbb\xbf"):
        message = "byte order mark: Casbin would drop the first line; save the file as UTF-8 without one"
        policy.error(1, 1, "bom", message, fix="save as UTF-8 without a byte order mark (`lint --fix` does)")
    reader = _Reader(policy)
    for number, line in enumerate(text.split("\n"), 1):
        reader.line(number, line.removesuffix("\r"))
    return policy


def split(line: str) -> tuple[list[Field], tuple[int, str] | None]:
    """A line's fields, as Casbin splits them: a comma inside of brackets does not separate.

    Returns:
        The fields up to the first fault, and the offset and text of a bracket that has no partner.
    """
    fields: list[Field] = []
    stack: list[tuple[str, int]] = []
    start = 0
    for at, character in enumerate(line + ","):
        if character in "([":
            stack.append((character, at))
        elif character in _BRACKETS:
            if not stack or stack.pop()[0] != _BRACKETS[character]:
                return fields, (at, character)
        elif character == "," and (not stack or at == len(line)):
            if stack:
                return fields, (stack[-1][1], stack[-1][0])
            text = line[start:at]
            fields.append((text.strip(" \t"), start + len(text) - len(text.lstrip(" \t")) + 1))
            start = at + 1
    return fields, None


class _Reader:
    """Reads line after line into a policy."""

    def __init__(self, policy: ParsedPolicy) -> None:
        model = policy.definition
        self._policy = policy
        self._words = model is builtin()
        self._shapes: dict[str, tuple[str, ...]] = {"p": model.rule}
        for name, arity in model.roles:
            self._shapes[name] = ("user", "role", "domain")[:arity]
        if self._words:
            self._shapes = dict(_BUILTIN)
        self._effect = model.effect_at
        self._priority = model.priority_at

    def line(self, number: int, line: str) -> None:
        if _PLAIN.fullmatch(line):
            values = [text.strip(" \t") for text in line.split(",")]
            self._fields(number, line, values)
            return
        text = line.strip(" \t")
        start = line.find(text) + 1 if text else 1
        if not text:
            return
        if text.startswith("#"):
            self._policy.notes.append((number, text))
            return
        if text.startswith(";"):
            message = "`;` starts no comment, Casbin skips the line only by luck: write `#`"
            self._repair(number, line)
            self._policy.warn(number, start, "semicolon", message, fix="#" + text[1:])
            return
        if self._characters(number, line):
            return
        fields, fault = split(line)
        if fault is not None:
            at, bracket = fault
            why = "closes nothing" if bracket in _BRACKETS else "is never closed and would swallow what follows"
            self._policy.error(number, at + 1, "brackets", f"`{bracket}` {why}: remove it")
            return
        self._fields(number, line, [text for text, _ in fields])

    def _repair(self, number: int, line: str) -> str | None:
        """Remembers what a line surely was meant to be."""
        better = repair.line(line, {kind: len(shape) for kind, shape in self._shapes.items()}, self._effect)
        if better is not None:
            self._policy.repairs[number] = better
        return better

    def _error(self, number: int, line: str, column: int, code: str, message: str) -> None:
        self._policy.error(number, column, code, message, fix=self._repair(number, line))

    def _fields(self, number: int, line: str, values: list[str]) -> None:
        kind = values[0]
        shape = self._shapes.get(kind)
        if shape is None:
            column = split(line)[0][0][1]
            code = "separator" if re.match(r"[pg][0-9]*[ \t]*[;\t]", line.lstrip()) else "unknown-line"
            self._error(number, line, column, code, self._unknown(kind))
            return
        values = values[1:]
        if len(values) != len(shape):
            self._error(number, line, split(line)[0][0][1], "arity", self._arity(kind, values))
            return
        if not self._complete(number, line, kind, values):
            return
        if kind == "p":
            self._policy.rules.append(Rule(number, line, tuple(values)))
        else:
            self._policy.memberships.append(Membership(number, line, tuple(values), kind))

    def _complete(self, number: int, line: str, kind: str, values: list[str]) -> bool:
        """Whether the values of a line with the right number of fields can stand."""
        good = True
        if self._words and "" in values:
            for (text, column), name in zip(split(line)[0][1:], self._shapes[kind], strict=True):
                if not text:
                    message = f"the {name} is empty; a line is `{self._shape(kind)}`"
                    self._policy.error(number, column, "empty-field", message)
            good = False
        if kind != "p":
            return good
        if self._effect is not None and (effect := values[self._effect]) not in EFFECTS and (effect or not self._words):
            close = nearest(effect, EFFECTS)
            hint = f"did you mean `{close}`?" if close else "write `allow` or `deny`"
            message = f"unknown effect `{effect}`: Casbin would ignore the rule; {hint}"
            self._error(number, line, split(line)[0][self._effect + 1][1], "effect", message)
            good = False
        if self._priority is not None:
            text = values[self._priority]
            if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_PRIORITY):
                column = split(line)[0][self._priority + 1][1]
                message = (
                    f"the priority `{text}` is no whole number, which Casbin fails on or sorts as text: write 1, 2"
                )
                self._policy.error(number, column, "priority", message)
                good = False
        return good

    def _characters(self, number: int, line: str) -> bool:
        """Whether a character stands in the line that cannot be meant: quotes, invisible ones, an inline note."""
        for at, character in enumerate(line):
            if character == '"' or (character == "'" and _edge(line, at)):
                message = "quotes are kept as part of the value, and do not protect a comma: remove them"
                self._error(number, line, at + 1, "quotes", message)
                return True
            if character == "#" and line[at - 1] in " \t,":
                message = "a note behind a rule becomes part of its last value: put it on a line of its own"
                self._error(number, line, at + 1, "inline-comment", message)
                return True
            if character != "\t" and not character.isprintable():
                self._error(number, line, at + 1, "character", f"invisible character U+{ord(character):04X}: remove it")
                return True
        return False

    def _shape(self, kind: str) -> str:
        return ", ".join((kind, *(name.upper() for name in self._shapes[kind])))

    def _unknown(self, kind: str) -> str:
        if not kind:
            return "the line starts with a comma: write `p` or `g` before it"
        if kind.lower() in self._shapes:
            return f"unknown line `{kind}`, which Casbin would drop: write `{kind.lower()}`"
        if re.match(r"[pg][0-9]*[ \t]*[;\t]", kind):
            return "the columns are not separated by commas: save the file as CSV with commas"
        if kind.rstrip("0123456789") in ("p", "g"):
            return f"the model declares no `{kind}`, so Casbin would drop the line: write `{kind[0]}`"
        lines = " or ".join(f"`{self._shape(one)}`" for one in self._shapes)
        if kind.startswith(("user:", "role:")):
            return f"`p` or `g` is missing before `{kind}`: a line is {lines}"
        return f"unknown line `{kind[:40]}`, which Casbin would drop: a line is {lines}"

    def _arity(self, kind: str, values: list[str]) -> str:
        wanted = len(self._shapes[kind])
        shape = f"`{kind}` takes {wanted} fields, not {len(values)}: `{self._shape(kind)}`"
        if len(values) > wanted and not any(values[wanted:]):
            return f"{shape} (a comma too many at the end)"
        if kind != "p" and len(values) == wanted - 1 and wanted == 3:
            return f"{shape} (the {self._shapes[kind][2]} is missing)"
        if kind == "p" and len(values) == wanted - 1 and self._effect == len(values) and values[-1] not in EFFECTS:
            return f"{shape} (the effect, `allow` or `deny`, is missing)"
        return shape


def _edge(line: str, at: int) -> bool:
    """Whether a position is the first or last of a field; an apostrophe inside of a name is fine."""
    before, after = line[:at].rstrip(" \t"), line[at + 1 :].lstrip(" \t")
    return not before or before.endswith(",") or not after or after.startswith(",")
