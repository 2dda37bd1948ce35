"""The decision: a policy compiled for its model, immutable.

Contract: `decide` answers as pycasbin 2.8 does and names the deciding rule: in priority models the one that
decided, else the first matching deny where a deny wins, else the first matching allow; None by default. Rules
stand in a trie by the values of their columns (`plan.py`), each leaf with the first rule that allows and the
first that denies, so a decision costs a few look-ups whatever the number of rules. Names are looked up and
never added. `in_order` evaluates rule after rule as Casbin does (`evaluate.py`): the specification, and what
decides when a function cannot judge a request; then the answer is no, as pycasbin raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from governance.errors import PolicyError
from governance.policy.definition import (
    ALLOW_AND_DENY,
    ALLOW_OVERRIDE,
    DENY_OVERRIDE,
    PRIORITY,
    SUBJECT_PRIORITY,
    Definition,
)
from governance.policy.evaluate import Condition, Patterns, Values, function, reader
from governance.policy.expression import All, Field, Linked, Operand, matches
from governance.policy.functions import PatternError, Unjudged, prefix_of
from governance.policy.order import evaluation_order
from governance.policy.parse import ParsedPolicy, Rule
from governance.policy.plan import Alternative, Matched, Reached, Same, plan
from governance.policy.roles import Carried, Roles
from governance.types import Decision

Node: TypeAlias = Any
"""A level of the trie: a dict, a list of patterns, or a leaf."""
Step: TypeAlias = Callable[[list[Node], Values, Carried | None], list[Node]]
_Entries: TypeAlias = tuple[int, int, dict[tuple[str, str], list[Node]], tuple[Step, ...]]
"""Index of the name and of the domain, first nodes by domain and name, and the steps after."""

_NEVER = 1 << 62
"""Rank of no rule."""
_DENIED = Decision(allow=False, line=None)
_ALLOWED = Decision(allow=True, line=None)


class Engine:
    """What a policy decides. Safe to share by threads."""

    __slots__ = ("_allowed", "_alternatives", "_denied", "_effect", "_empty", "_whole", "definition", "roles", "rules")

    def __init__(self, parsed: ParsedPolicy) -> None:
        """Compiles a policy that was read without errors.

        Raises:
            PolicyError: a pattern that can never be judged, or rules that cannot be put in order.
        """
        self.definition: Definition = parsed.definition
        self._effect = parsed.definition.effect
        names = [name for name, _ in parsed.definition.roles]
        self.roles = {name: Roles(one for one in parsed.memberships if one.kind == name) for name in names}
        self.rules: tuple[Rule, ...] = tuple(evaluation_order(parsed))
        """In the order of evaluation."""
        patterns = _patterns(parsed)
        if parsed.broken:
            raise PolicyError(parsed.findings)
        self._whole = function(parsed.definition.matcher, self.roles, patterns)
        ways = plan(parsed.definition.matcher)
        self._alternatives = tuple(_Way(one, self, patterns) for one in ways)
        self._empty = ("",) * len(parsed.definition.rule)
        self._allowed = tuple(Decision(allow=True, line=rule.line) for rule in self.rules)
        self._denied = tuple(Decision(allow=False, line=rule.line) for rule in self.rules)

    def allows(self, rule: Rule) -> bool:
        """Whether a rule's effect is to allow."""
        at = self.definition.effect_at
        return at is None or rule.values[at] == "allow"

    def decide(self, request: Values, carried: Carried | None = None) -> Decision:
        """What the policy says.

        Args:
            request: the fields of `r`.
            carried: the roles that the request's credential gives its subject.
        """
        if not self.rules:
            return self.in_order(request, carried)
        deny = allow = _NEVER
        try:
            for way in self._alternatives:
                for leaf in way.firsts(request, carried):
                    if leaf[0] < deny:  # noqa: PLR1730 - `min` costs a third of the decision
                        deny = leaf[0]
                    if leaf[1] < allow:  # noqa: PLR1730
                        allow = leaf[1]
        except Unjudged:
            return self.in_order(request, carried)
        return self._verdict(deny, allow)

    def _verdict(self, deny: int, allow: int) -> Decision:
        effect = self._effect
        if effect == ALLOW_OVERRIDE or (effect in (PRIORITY, SUBJECT_PRIORITY) and allow < deny):
            deny = _NEVER
        if deny != _NEVER:
            return self._denied[deny]
        if allow != _NEVER:
            return self._allowed[allow]
        return _ALLOWED if effect == DENY_OVERRIDE else _DENIED

    def in_order(self, request: Values, carried: Carried | None = None) -> Decision:
        """As `decide`, rule after rule: what both mean."""
        deny = allow = _NEVER
        try:
            if not self.rules:  # Casbin then asks the matcher with empty fields
                return _ALLOWED if self._whole(request, self._empty, carried) else self._verdict(deny, allow)
            for rank, rule in enumerate(self.rules):
                if not self._whole(request, rule.values, carried):
                    continue
                if self.allows(rule):
                    allow = min(allow, rank)
                else:
                    deny = min(deny, rank)
                if self._settled(deny, allow):
                    break
        except Unjudged:
            return _DENIED
        return self._verdict(deny, allow)

    def _settled(self, deny: int, allow: int) -> bool:
        """Whether no later rule can change the verdict."""
        if self._effect == ALLOW_OVERRIDE:
            return allow != _NEVER
        if self._effect in (ALLOW_AND_DENY, DENY_OVERRIDE):
            return deny != _NEVER
        return deny != allow

    def matching(self, request: Values, carried: Carried | None = None) -> list[Rule]:
        """Every rule that matches a request, in the order of evaluation; none that cannot be judged."""
        ranks: set[int] = set()
        for way in self._alternatives:
            try:
                ranks.update(way.ranks(request, carried))
            except Unjudged:
                continue
        return [self.rules[rank] for rank in sorted(ranks)]


class _Way:
    """One alternative of the matcher over all rules."""

    def __init__(self, way: Alternative, engine: Engine, patterns: Patterns) -> None:
        self._rules = engine.rules
        self._allows = engine.allows
        self._guards = tuple(function(one, engine.roles, patterns) for one in way.guards)
        self._rest: Condition | None = function(All(way.rest), engine.roles, patterns) if way.rest else None
        root = _Branch()
        for rank, rule in enumerate(engine.rules):
            root.add([rule.values[column.index] for column in way.columns], rank, engine.allows(rule))
        self._root = root.frozen(way.columns, patterns)
        self._steps = tuple(_step(column, engine.roles) for column in way.columns)
        self._entries = _entries(way, self._root, engine.roles)

    def _leaves(self, request: Values, carried: Carried | None) -> list[Node]:
        for guard in self._guards:
            if not guard(request, (), carried):
                return []
        if carried is None and self._entries is not None:
            name, domain, known, steps = self._entries
            who = request[name]
            nodes = known.get((request[domain], who))
            if nodes is None:
                own = self._root.get(who)
                if own is None:
                    return []
                nodes = [own]
        else:
            nodes, steps = [self._root], self._steps
        for step in steps:
            nodes = step(nodes, request, carried)
            if not nodes:
                break
        return nodes

    def firsts(self, request: Values, carried: Carried | None) -> Iterable[Node]:
        """Ranks of the first deny and the first allow, leaf by leaf."""
        leaves = self._leaves(request, carried)
        return leaves if self._rest is None else self._filtered(leaves, request, carried)

    def _filtered(self, leaves: list[Node], request: Values, carried: Carried | None) -> Iterator[tuple[int, int]]:
        for rank in sorted({rank for leaf in leaves for rank in leaf[2]}):
            rule = self._rules[rank]
            if self._rest is None or self._rest(request, rule.values, carried):
                yield (_NEVER, rank) if self._allows(rule) else (rank, _NEVER)

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
        self.first_deny = self.first_allow = _NEVER

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


def _entries(way: Alternative, root: Node, roles: dict[str, Roles]) -> _Entries | None:
    """For `g(r.NAME, p.FIELD, r.DOMAIN)`: what each name that has roles in a domain finds on the first level.

    It saves most requests the walk over the subject's roles (1 us of 4).
    """
    if not way.columns or not isinstance(way.columns[0], Reached) or way.columns[0].texts:
        return None
    by = way.columns[0].by
    if not isinstance(by.name, Field) or not isinstance(by.domain, Field):
        return None
    found = {
        (dom, name): [root[one] for one in {name: 0, **reached} if one in root]
        for (dom, name), reached in roles[by.function].known.items()
    }
    steps = tuple(_step(column, roles) for column in way.columns[1:])
    return by.name.index, by.domain.index, found, steps


def _step(column: Same | Reached | Matched, roles: dict[str, Roles]) -> Step:
    if isinstance(column, Reached):
        return _reached(column, roles[column.by.function])
    if isinstance(column, Same):
        return _same(column.texts)
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
    """Equal to one of some texts: with one or two of them, as nearly always, without a loop."""
    readers = tuple(map(reader, texts))
    if len(texts) == 1 and isinstance(texts[0], Field):
        at = texts[0].index
        return lambda nodes, r, _c: [found for node in nodes if (found := node.get(r[at])) is not None]
    kinds = tuple(isinstance(text, Field) for text in texts)
    if kinds in ((True, False), (False, True)):
        field, literal = sorted(texts, key=lambda text: not isinstance(text, Field))
        index, value = getattr(field, "index"), getattr(literal, "value")  # noqa: B009

        def either(nodes: list[Node], r: Values, _c: Carried | None) -> list[Node]:
            text = r[index]
            found = []
            for node in nodes:
                if (child := node.get(text)) is not None:
                    found.append(child)
                if (child := node.get(value)) is not None:
                    found.append(child)
            return found

        return either

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


def _patterns(parsed: ParsedPolicy) -> Patterns:
    """Compiles the patterns of all rules; one that cannot be is an error of the policy."""
    patterns = Patterns()
    for use in matches(parsed.definition.matcher):
        if not isinstance(use.pattern, Field) or use.pattern.side != "p":
            continue
        patterns.of(use.function, "")
        for rule in parsed.rules:
            try:
                patterns.of(use.function, rule.values[use.pattern.index])
            except PatternError as error:
                parsed.error(rule.line, rule.columns[use.pattern.index], "pattern", str(error))
    return patterns
