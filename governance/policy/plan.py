"""How the rules that can match a request are found without looking at the others.

Contract: `plan` splits a matcher into alternatives (`||` at the top), each into guards (conditions on the
request alone), columns (what one field of a rule must be, given the request) and the rest, which is evaluated
rule by rule. Their conjunction means what the alternative means; nothing is lost or added. The engine puts the
rules under their columns' values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

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


@dataclass(frozen=True, slots=True)
class Same:
    """The rule's field is one of these texts."""

    index: int
    texts: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Reached:
    """The rule's field is the name, one of its roles, or one of these texts."""

    index: int
    by: Linked
    texts: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Matched:
    """The rule's field is a pattern that the text matches, or one of these texts."""

    index: int
    by: Match
    texts: tuple[Operand, ...]


Column: TypeAlias = Same | Reached | Matched


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way for a rule to match."""

    guards: tuple[Expression, ...]
    columns: tuple[Column, ...]
    rest: tuple[Expression, ...]


def plan(matcher: Expression) -> tuple[Alternative, ...]:
    """The alternatives of a matcher, in its order."""
    return tuple(_alternative(one) for one in (matcher.of if isinstance(matcher, Some) else (matcher,)))


def _alternative(tree: Expression) -> Alternative:
    guards: list[Expression] = []
    columns: dict[int, Column] = {}
    rest: list[Expression] = []
    for one in tree.of if isinstance(tree, All) else (tree,):
        if not _rule_fields(one):
            guards.append(one)
            continue
        column = _column(one)
        if column is None or column.index in columns:
            rest.append(one)
        else:
            columns[column.index] = column
    # The narrowest first: roles, then equal texts, then patterns (keyMatch before those tried one by one).
    ordered = sorted(columns.values(), key=_cost)
    return Alternative(tuple(guards), tuple(ordered), tuple(rest))


def _cost(column: Column) -> tuple[int, int]:
    if isinstance(column, Reached):
        return 0, column.index
    if isinstance(column, Same):
        return 1, column.index
    return (2 if column.by.function == "keyMatch" else 3), column.index


def _column(tree: Expression) -> Column | None:
    index: int | None = None
    by: Linked | Match | None = None
    texts: list[Operand] = []
    for term in tree.of if isinstance(tree, Some) else (tree,):
        found = _term(term)
        if found is None or (index is not None and found[0] != index):
            return None
        index, special, more = found
        if special is not None and by is not None:
            return None
        by = by or special
        texts += more
    if index is None:
        return None
    if by is None:
        return Same(index, tuple(texts))
    return Reached(index, by, tuple(texts)) if isinstance(by, Linked) else Matched(index, by, tuple(texts))


def _term(tree: Expression) -> tuple[int, Linked | Match | None, tuple[Operand, ...]] | None:
    """One condition on one field of the rule: its index, and what it must be."""
    if isinstance(tree, Compare) and tree.op == "==":
        for one, other in ((tree.left, tree.right), (tree.right, tree.left)):
            if _of_rule(one) and not _of_rule(other):
                return one.index, None, (other,)
    if isinstance(tree, Among) and not tree.negated and _of_rule(tree.left) and not any(map(_of_rule, tree.group)):
        return tree.left.index, None, tree.group
    if isinstance(tree, Linked) and _of_rule(tree.role) and not _of_rule(tree.name):
        asked = tree.domain is None or not _of_rule(tree.domain)
        return (tree.role.index, tree, ()) if asked else None
    if isinstance(tree, Match) and _of_rule(tree.pattern) and not _of_rule(tree.key):
        return tree.pattern.index, tree, ()
    return None


def _of_rule(operand: Operand) -> TypeGuard[Field]:
    return isinstance(operand, Field) and operand.side == "p"


def _rule_fields(tree: Expression) -> bool:
    """Whether a condition looks at the rule."""
    if isinstance(tree, Truth):
        return False
    if isinstance(tree, Not):
        return _rule_fields(tree.of)
    if isinstance(tree, (All, Some)):
        return any(map(_rule_fields, tree.of))
    operands: tuple[Operand, ...]
    if isinstance(tree, Compare):
        operands = (tree.left, tree.right)
    elif isinstance(tree, Among):
        operands = (tree.left, *tree.group)
    elif isinstance(tree, Match):
        operands = (tree.key, tree.pattern)
    else:
        operands = (tree.name, tree.role, Text("") if tree.domain is None else tree.domain)
    return any(map(_of_rule, operands))
