"""Rules in a trie by the values that a request must have: how those that match are found.

Contract: immutable once built, safe to share by threads; names are looked up and never added. Each level is one
column of `plan.py`; each leaf has the ranks of its rules and the first that denies and that allows. Where an
alternative has a rest, it is evaluated for the rules of the leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from governance.policy.evaluate import Condition, Patterns, Values, function, reader
from governance.policy.expression import All, Field, Linked, Operand, Text
from governance.policy.functions import prefix_of
from governance.policy.model import MOST_HOPS
from governance.policy.parse import Rule
from governance.policy.plan import Alternative, Matched, Reached, Same
from governance.policy.roles import Carried, Roles

Node: TypeAlias = Any
"""A level of the trie: a dict, a list of patterns, or a leaf."""
Step: TypeAlias = Callable[[list[Node], Values, Carried | None], list[Node]]

NEVER = 1 << 62
"""Rank of no rule."""


class Way:
    """One alternative of the matcher over all rules."""

    def __init__(
        self,
        way: Alternative,
        rules: Sequence[Rule],
        allows: Callable[[Rule], bool],
        roles: Mapping[str, Roles],
        patterns: Patterns,
    ) -> None:
        """Puts rules under their columns' values.

        Args:
            way: what the alternative asks.
            rules: all rules, in the order of evaluation; a rule's index is its rank.
            allows: whether a rule's effect is to allow.
            roles: the memberships behind `g`, `g2`, ...
            patterns: those of the rules, compiled.
        """
        self._rules = rules
        self._allows = allows
        self._guards = tuple(function(one, roles, patterns) for one in way.guards)
        self._rest: Condition | None = function(All(way.rest), roles, patterns) if way.rest else None
        root = _Branch()
        for rank, rule in enumerate(rules):
            root.add([rule.values[column.index] for column in way.columns], rank, allows(rule))
        self._root = root.frozen(way.columns, patterns)
        self._steps = tuple(_step(column, roles) for column in way.columns)
        self._entries = _entries(way, self._root, roles)

    def _leaves(self, request: Values, carried: Carried | None) -> list[Node]:
        for guard in self._guards:
            if not guard(request, (), carried):
                return []
        entries = self._entries
        if entries is None or (carried is not None and not entries.short):
            nodes, steps = [self._root], self._steps
        else:
            name, domain, known, _, steps, main, _ = entries
            who, where = request[name], request[domain]
            nodes = known.get((where, who)) or self._own(who, request)
            if carried is not None and main and carried[0] == who and carried[1] == where:
                for role in carried[2]:
                    more = known.get((where, role)) or self._own(role, request)
                    nodes = nodes + more if nodes else more
        for step in steps:
            if not nodes:
                break
            nodes = step(nodes, request, carried)
        return nodes

    def _own(self, name: str, request: Values) -> list[Node]:
        """What stands under a name that has no roles, in the request's domain."""
        node = self._root.get(name)
        if node is None or self._entries is None:
            return []
        within = self._entries.within
        return [node] if within is None else within([node], request, None)

    @property
    def firsts(self) -> Callable[[Values, Carried | None], Iterable[Node]]:
        """What gives a request's leaves: ranks of the first deny and the first allow, leaf by leaf."""
        return self._leaves if self._rest is None else self._fitting

    def _fitting(self, request: Values, carried: Carried | None) -> Iterable[Node]:
        return self._filtered(self._leaves(request, carried), request, carried)

    def _filtered(self, leaves: list[Node], request: Values, carried: Carried | None) -> Iterator[tuple[int, int]]:
        for rank in sorted({rank for leaf in leaves for rank in leaf[2]}):
            rule = self._rules[rank]
            if self._rest is None or self._rest(request, rule.values, carried):
                yield (NEVER, rank) if self._allows(rule) else (rank, NEVER)

    def ranks(self, request: Values, carried: Carried | None) -> set[int]:
        """Ranks of all rules that match."""
        leaves = self._leaves(request, carried)
        return {min(pair) for pair in self._filtered(leaves, request, carried)}


class _Branch:
    """A level of the trie while it is built."""

    __slots__ = ("children", "first_allow", "first_deny", "ranks")

    def __init__(self) -> None:
        self.children: dict[str, _Branch] = {}
        self.ranks: list[int] = []
        self.first_deny = self.first_allow = NEVER

    def add(self, keys: Sequence[str], rank: int, allows: bool) -> None:
        """Adds a rule under its columns' values."""
        node = self
        for key in keys:
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = _Branch()
            node = child
        node.ranks.append(rank)
        if allows:
            node.first_allow = min(node.first_allow, rank)
        else:
            node.first_deny = min(node.first_deny, rank)

    def frozen(self, columns: Sequence[Same | Reached | Matched], patterns: Patterns) -> Node:
        """The level as it is searched."""
        if not columns:
            return self.first_deny, self.first_allow, tuple(self.ranks)
        column, *rest = columns
        children = {key: branch.frozen(rest, patterns) for key, branch in self.children.items()}
        if not isinstance(column, Matched):
            return children
        name = column.by.function
        if name != "keyMatch":
            return children, [(patterns.of(name, key), child) for key, child in children.items()]
        exact: dict[str, Node] = {}
        starts: dict[str, list[Node]] = {}
        for key, child in children.items():
            prefix = prefix_of(key)
            if prefix is None:
                exact[key] = child
            else:
                starts.setdefault(prefix, []).append(child)
        return children, exact, starts, tuple(sorted({len(prefix) for prefix in starts}))


class _Entries(NamedTuple):
    """For `g(r.NAME, p.FIELD, r.DOMAIN)` in front: the walk over the subject's roles, done beforehand."""

    name: int
    domain: int
    known: Mapping[tuple[str, str], list[Node]]
    """By domain and name: what stands under the name and its roles in that domain. For names that have roles, and for
    those that a rule names with the domain."""
    within: Step | None
    """The step from a name to a domain, where the model has it there; `known` is behind it."""
    steps: tuple[Step, ...]
    """Those after the first."""
    main: bool
    """Whether a credential's roles count."""
    short: bool
    """Whether no chain is so long that a role carried in front of it would end it sooner."""


def _entries(way: Alternative, root: Node, roles: Mapping[str, Roles]) -> _Entries | None:
    """It saves a request the walk over its subject's roles (1 us of 4)."""
    if not way.columns or not isinstance(way.columns[0], Reached) or way.columns[0].texts:
        return None
    by = way.columns[0].by
    if not isinstance(by.name, Field) or not isinstance(by.domain, Field):
        return None
    graph = roles[by.function].known
    rest = way.columns[1:]
    within: Step | None = None
    if rest and isinstance(rest[0], Same) and _speaks_of(rest[0], by.domain):
        within = _step(rest[0], roles)
        rest = rest[1:]
    known: dict[tuple[str, str], list[Node]] = {}
    for (dom, name), reached in graph.items():
        nodes = [root[one] for one in {name: 0, **reached} if one in root]
        if within is not None and nodes:
            nodes = within(nodes, [dom] * (by.domain.index + 1), None)
        known[dom, name] = nodes
    if within is not None:
        for name, node in root.items():
            for dom in node:
                if (dom, name) not in known:
                    known[dom, name] = within([node], [dom] * (by.domain.index + 1), None)
    short = all(hops < MOST_HOPS for reached in graph.values() for hops in reached.values())
    main = by.function == "g"
    return _Entries(by.name.index, by.domain.index, known, within, tuple(_fused(rest, roles)), main, short)


def _speaks_of(column: Same, domain: Field) -> bool:
    """Whether a column asks nothing of a request but its domain."""
    return all(isinstance(text, Text) or text.index == domain.index for text in column.texts)


def _fused(columns: Sequence[Same | Reached | Matched], roles: Mapping[str, Roles]) -> Iterator[Step]:
    """The steps of some columns; "equal, or a literal" and the same again, or `keyMatch`, are one (0.3 us less)."""
    at = 0
    while at < len(columns):
        pair = [_either(column) for column in columns[at : at + 2]]
        if len(pair) == 2 and pair[0] is not None and pair[1] is not None:
            yield _both_either(*pair[0], *pair[1])
            at += 2
        elif len(pair) == 2 and pair[0] is not None and (key := _starts(columns[at + 1])) is not None:
            yield _either_starting(*pair[0], key)
            at += 2
        else:
            yield _step(columns[at], roles)
            at += 1


def _either(column: Same | Reached | Matched) -> tuple[int, str] | None:
    """The request's field and the literal, where a column is equal to one of the two."""
    if not isinstance(column, Same) or len(column.texts) != 2:
        return None
    one, other = column.texts
    if isinstance(one, Text):
        one, other = other, one
    return (one.index, other.value) if isinstance(one, Field) and isinstance(other, Text) else None


def _starts(column: Same | Reached | Matched) -> int | None:
    """The request's field that a column holds against prefixes, where it asks nothing else."""
    if not isinstance(column, Matched) or column.by.function != "keyMatch" or column.texts:
        return None
    return column.by.key.index if isinstance(column.by.key, Field) else None


def _either_starting(index: int, literal: str, key: int) -> Step:
    def step(nodes: list[Node], r: Values, _c: Carried | None) -> list[Node]:
        asked, text = r[index], r[key]
        found: list[Node] = []
        for node in nodes:
            for one in (asked, literal):
                child = node.get(one)
                if child is not None:
                    _, exact, starts, lengths = child
                    if (last := exact.get(text)) is not None:
                        found.append(last)
                    for length in lengths:
                        if (more := starts.get(text[:length])) is not None:
                            found += more
        return found

    return step


def _one_either(index: int, literal: str) -> Step:
    def step(nodes: list[Node], r: Values, _c: Carried | None) -> list[Node]:
        text = r[index]
        found = []
        for node in nodes:
            if (child := node.get(text)) is not None:
                found.append(child)
            if (child := node.get(literal)) is not None:
                found.append(child)
        return found

    return step


def _both_either(first: int, literal: str, second: int, other: str) -> Step:
    def step(nodes: list[Node], r: Values, _c: Carried | None) -> list[Node]:
        one, two = r[first], r[second]
        found = []
        for node in nodes:
            for key in (one, literal):
                child = node.get(key)
                if child is not None:
                    if (last := child.get(two)) is not None:
                        found.append(last)
                    if (last := child.get(other)) is not None:
                        found.append(last)
        return found

    return step


def _step(column: Same | Reached | Matched, roles: Mapping[str, Roles]) -> Step:
    if isinstance(column, Reached):
        return _reached(column, roles[column.by.function])
    if isinstance(column, Same):
        pair = _either(column)
        return _same(column.texts) if pair is None else _one_either(*pair)
    key, texts = reader(column.by.key), tuple(map(reader, column.texts))
    if column.by.function == "keyMatch":
        return _starting(key, texts)

    def fitting(nodes: list[Node], r: Values, _c: Carried | None) -> list[Node]:
        text = key(r, ())
        found = [child for _, tried in nodes for fits, child in tried if fits(text)]
        for one in texts:
            found += [node[0][one(r, ())] for node in nodes if one(r, ()) in node[0]]
        return found

    return fitting


def _same(texts: Sequence[Operand]) -> Step:
    """Equal to one of some texts."""
    readers = tuple(map(reader, texts))
    if len(texts) == 1 and isinstance(texts[0], Field):
        at = texts[0].index
        return lambda nodes, r, _c: [found for node in nodes if (found := node.get(r[at])) is not None]

    def several(nodes: list[Node], r: Values, _c: Carried | None) -> list[Node]:
        keys = {one(r, ()) for one in readers}
        return [found for node in nodes for key in keys if (found := node.get(key)) is not None]

    return several


def _reached(column: Reached, roles: Roles) -> Step:
    by: Linked = column.by
    name, domain = reader(by.name), (None if by.domain is None else reader(by.domain))
    texts = tuple(map(reader, column.texts))
    main = by.function == "g"
    known = roles.known

    def reached(nodes: list[Node], r: Values, c: Carried | None) -> list[Node]:
        who = name(r, ())
        where = "" if domain is None else domain(r, ())
        if c is not None and main:
            names: Iterable[str] = roles.reach(who, where, c)
        else:
            names = known.get((where, who), ())
        found: list[Node] = []
        for node in nodes:
            if (own := node.get(who)) is not None:
                found.append(own)
            found += [child for one in names if (child := node.get(one)) is not None]
            for text in texts:
                if (child := node.get(text(r, ()))) is not None:
                    found.append(child)
        return found

    return reached


def _starting(key: Callable[[Values, Values], str], texts: Sequence[Callable[[Values, Values], str]]) -> Step:
    def starting(nodes: list[Node], r: Values, _c: Carried | None) -> list[Node]:
        text = key(r, ())
        found: list[Node] = []
        for children, exact, starts, lengths in nodes:
            if (child := exact.get(text)) is not None:
                found.append(child)
            for length in lengths:
                more = starts.get(text[:length])
                if more is not None:
                    found += more
            for one in texts:
                if (child := children.get(one(r, ()))) is not None:
                    found.append(child)
        return found

    return starting
