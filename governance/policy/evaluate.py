"""A matcher as a function of one request and one rule: the specification of `engine.py`.

Contract: `function` turns a tree of `expression.py` into closures that evaluate in Casbin's order, with its
short cuts, so that what raises there is `Unjudged` here at the same rule. Patterns are compiled beforehand
(`Patterns`): those of rules when the policy is, none while a request waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import eq, ge, gt, le, lt, ne
from typing import TypeAlias

from governance.policy.expression import (
    All,
    Among,
    Compare,
    Expression,
    Field,
    Linked,
    Match,
    Not,
    Operand,
    Some,
    Text,
    Truth,
)
from governance.policy.functions import Predicate, compiled
from governance.policy.roles import Carried, Roles

Values: TypeAlias = Sequence[str]
Reader: TypeAlias = Callable[[Values, Values], str]
Condition: TypeAlias = Callable[[Values, Values, Carried | None], bool]
"""Of the request's fields, the rule's fields, and the roles of the request's credential."""

_COMPARE: Mapping[str, Callable[[str, str], bool]] = {
    "==": eq,
    "!=": ne,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
    "in": lambda part, whole: part in whole,
    "not in": lambda part, whole: part not in whole,
}


class Patterns:
    """The compiled patterns of a policy."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Predicate] = {}

    def of(self, function: str, pattern: str) -> Predicate:
        """The predicate of a pattern. Raises PatternError."""
        key = function, pattern
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = compiled(function, pattern)
        return found

    def known(self, function: str, pattern: str) -> Predicate:
        """The predicate of a pattern that has been compiled."""
        return self._found[function, pattern]


def reader(operand: Operand) -> Reader:
    """The text of an operand."""
    if isinstance(operand, Text):
        value = operand.value
        return lambda _r, _p: value
    index = operand.index
    return (lambda r, _p: r[index]) if operand.side == "r" else (lambda _r, p: p[index])


def function(tree: Expression, roles: Mapping[str, Roles], patterns: Patterns) -> Condition:
    """The condition of a tree.

    Args:
        tree: the matcher or a part of it.
        roles: the memberships behind `g`, `g2`, ...
        patterns: compiled patterns; literal ones are added. Raises PatternError.
    """
    if isinstance(tree, Truth):
        value = tree.value
        return lambda _r, _p, _c: value
    if isinstance(tree, Not):
        of = function(tree.of, roles, patterns)
        return lambda r, p, c: not of(r, p, c)
    if isinstance(tree, All):
        return _all([function(one, roles, patterns) for one in tree.of])
    if isinstance(tree, Some):
        return _some([function(one, roles, patterns) for one in tree.of])
    if isinstance(tree, Compare):
        compare, left, right = _COMPARE[tree.op], reader(tree.left), reader(tree.right)
        return lambda r, p, _c: compare(left(r, p), right(r, p))
    if isinstance(tree, Among):
        return _among(tree)
    if isinstance(tree, Linked):
        return _linked(tree, roles[tree.function])
    return _match(tree, patterns)


def _all(terms: Iterable[Condition]) -> Condition:
    kept = tuple(terms)

    def every(r: Values, p: Values, c: Carried | None) -> bool:
        return all(term(r, p, c) for term in kept)

    return every


def _some(terms: Iterable[Condition]) -> Condition:
    kept = tuple(terms)

    def some(r: Values, p: Values, c: Carried | None) -> bool:
        return any(term(r, p, c) for term in kept)

    return some


def _among(tree: Among) -> Condition:
    left, group, negated = reader(tree.left), tuple(map(reader, tree.group)), tree.negated

    def among(r: Values, p: Values, _c: Carried | None) -> bool:
        text = left(r, p)
        return any(one(r, p) == text for one in group) is not negated

    return among


def _linked(tree: Linked, roles: Roles) -> Condition:
    name, role = reader(tree.name), reader(tree.role)
    domain = reader(Text("") if tree.domain is None else tree.domain)
    main = tree.function == "g"

    def linked(r: Values, p: Values, c: Carried | None) -> bool:
        return roles.has(name(r, p), role(r, p), domain(r, p), c if main else None)

    return linked


def _match(tree: Match, patterns: Patterns) -> Condition:
    name, key, pattern = tree.function, reader(tree.key), reader(tree.pattern)
    if isinstance(tree.pattern, Text):
        fixed = patterns.of(name, tree.pattern.value)
        return lambda r, p, _c: fixed(key(r, p))
    if isinstance(tree.pattern, Field) and tree.pattern.side == "r":  # keyMatch alone: cheap, and not kept
        return lambda r, p, _c: compiled(name, pattern(r, p))(key(r, p))
    known = patterns.known
    return lambda r, p, _c: known(name, pattern(r, p))(key(r, p))
