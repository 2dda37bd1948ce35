"""A Casbin model: what requests and rules look like, when they match, and what a match means.

Contract: `define` reads a model file strictly and refuses, by name and with its place, what this gateway's
evaluator does not decide exactly as pycasbin 2.8 does: matchers beyond `expression.py`, conditional roles,
second definitions (`r2`, `p2`, `e2`, `m2`), effects of one's own. A `Definition` that exists can be compiled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from governance.documents.words import nearest
from governance.errors import PolicyError
from governance.policy import expression
from governance.policy.conf import Conf, Value, read
from governance.policy.expression import Expression, ExpressionError
from governance.policy.functions import PatternError, compiled
from governance.policy.model import BUILTIN_MODEL
from governance.types import Finding

ALLOW_OVERRIDE = "some(where (p.eft == allow))"
DENY_OVERRIDE = "!some(where (p.eft == deny))"
ALLOW_AND_DENY = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"
PRIORITY = "priority(p.eft) || deny"
SUBJECT_PRIORITY = "subjectPriority(p.eft) || deny"
EFFECTS = (ALLOW_OVERRIDE, DENY_OVERRIDE, ALLOW_AND_DENY, PRIORITY, SUBJECT_PRIORITY)
"""Casbin's policy effects; it knows no others, and none with other blanks."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECTION = {
    "r": "request_definition",
    "p": "policy_definition",
    "e": "policy_effect",
    "m": "matchers",
}


@dataclass(frozen=True, slots=True)
class Definition:
    """A model that can be compiled."""

    file: str
    request: tuple[str, ...]
    """Names of the request's fields."""
    rule: tuple[str, ...]
    """Names of the fields of a `p` line."""
    roles: tuple[tuple[str, int], ...]
    """`g`, `g2`, ... with the number of fields of their lines: 2, or 3 with a domain."""
    effect: str
    """One of `EFFECTS`."""
    matcher: Expression
    text: str
    """The matcher as it is written."""
    places: tuple[tuple[int, int], ...] = ()
    """Line and column of each character of `text`."""

    @property
    def effect_at(self) -> int | None:
        """Index of the rules' `eft`; None: every rule allows."""
        return self.rule.index("eft") if "eft" in self.rule else None

    @property
    def priority_at(self) -> int | None:
        """Index of the rules' `priority`: Casbin evaluates in ascending order of it, then in file order."""
        return self.rule.index("priority") if "priority" in self.rule else None


def define(data: bytes, file: str) -> tuple[Definition | None, list[Finding]]:
    """The model of a file, or what is wrong with it.

    Args:
        data: the file's bytes.
        file: its name in findings.
    """
    conf = read(data, file)
    for key, section in _SECTION.items():
        if key not in conf.values and not conf.findings:
            conf.error((1, 1), "missing", f"`{key}` is missing: add `[{section}]` with `{key} = ...`")
    if conf.findings:
        return None, conf.findings
    request = _fields(conf, "r")
    rule = _fields(conf, "p")
    roles = {key: _role(conf, key) for key in conf.values if key.startswith("g")}
    _gaps(conf, roles)
    effect = _effect(conf)
    if conf.findings:
        return None, sorted(conf.findings, key=lambda one: (one.line, one.column))
    if effect == SUBJECT_PRIORITY and "g" not in roles:
        message = "subjectPriority needs roles: add `[role_definition]` with `g = _, _`"
        conf.error(conf.values["e"].place(0), "effect", message)
        return None, conf.findings
    value = conf.values["m"]
    text = value.text.partition("#")[0].rstrip()
    try:
        matcher = expression.parse(text, request, rule, roles)
    except ExpressionError as error:
        conf.error(value.place(error.at), error.code, f"matcher: {error}")
        return None, conf.findings
    for use in expression.matches(matcher):
        if isinstance(use.pattern, expression.Text):
            try:
                compiled(use.function, use.pattern.value)
            except PatternError as error:
                conf.error(value.place(use.at), "pattern", str(error))
                return None, conf.findings
    places = tuple(value.place(at) for at in range(len(text)))
    return Definition(file, request, rule, tuple(roles.items()), effect, matcher, text, places), []


@cache
def builtin() -> Definition:
    """The built-in model."""
    found, findings = define(BUILTIN_MODEL.encode(), "built-in model")
    if found is None:
        raise PolicyError(findings)
    return found


def _fields(conf: Conf, key: str) -> tuple[str, ...]:
    value = conf.values[key]
    names: list[str] = []
    offset = 0
    for part in value.text.split(","):
        name = part.strip()
        place = value.place(offset + len(part) - len(part.lstrip()))
        if not _NAME.fullmatch(name):
            shown = name or "nothing"
            message = f"`{shown}` is no field's name: write letters, digits and `_`, separated by commas"
            conf.error(place, "field", message)
        elif name in names:
            conf.error(place, "field", f"`{name}` is a field already: give it another name")
        names.append(name)
        offset += len(part) + 1
    return tuple(names)


def _role(conf: Conf, key: str) -> int:
    """The number of fields of a role definition."""
    value: Value = conf.values[key]
    if "(" in value.text:
        place = value.place(value.text.index("("))
        message = f"`{key}` has conditions, which depend on the time or on code: conditional roles are not supported"
        conf.error(place, "unsupported", message)
        return 2
    parts = [part.strip() for part in value.text.split(",")]
    if any(part != "_" for part in parts) or len(parts) not in (2, 3):
        message = f"`{key} = {value.text}`: write `{key} = _, _`, or `{key} = _, _, _` for roles by domain"
        conf.error(value.place(0), "role", message)
        return 2
    return len(parts)


def _gaps(conf: Conf, roles: dict[str, int]) -> None:
    """Casbin reads `g`, `g2`, `g3`, ... and stops at the first that is missing."""
    names = ["g", *(f"g{number}" for number in range(2, len(roles) + 2))][: len(roles)]
    for key in roles:
        if key not in names:
            wanted = next(name for name in names if name not in roles)
            conf.error(conf.values[key].place(0), "role", f"`{key}` without `{wanted}`, so Casbin would drop it")


def _effect(conf: Conf) -> str:
    value = conf.values["e"]
    text = re.sub(r"\bp_(?=eft\b)", "p.", value.text.partition("#")[0].strip())
    if text not in EFFECTS:
        close = nearest(text, EFFECTS)
        hint = f"did you mean `{close}`?" if close else "effects are " + ", ".join(f"`{one}`" for one in EFFECTS)
        conf.error(value.place(0), "effect", f"unknown effect `{text}`, which Casbin refuses: {hint}")
    return text
