"""The decision: a policy compiled for its model, immutable.

Contract: `decide` answers as pycasbin 2.8 does and names the deciding rule: in priority models the one that
decided, else the first matching deny where a deny wins, else the first matching allow; None by default. Rules
are found by `trie.py`, so a decision costs a few look-ups whatever their number. `in_order` evaluates rule
after rule as Casbin does (`evaluate.py`): the specification, and what decides when a function cannot judge a
request; then the answer is no, as pycasbin raises.
"""

from __future__ import annotations

from governance.errors import PolicyError
from governance.policy.definition import (
    ALLOW_AND_DENY,
    ALLOW_OVERRIDE,
    DENY_OVERRIDE,
    PRIORITY,
    SUBJECT_PRIORITY,
    Definition,
)
from governance.policy.evaluate import Patterns, Values, function
from governance.policy.expression import Field, matches
from governance.policy.functions import PatternError, Unjudged
from governance.policy.order import evaluation_order
from governance.policy.parse import ParsedPolicy, Rule
from governance.policy.plan import plan
from governance.policy.roles import Carried, Roles
from governance.policy.trie import NEVER, Way
from governance.types import Decision

_DENIED = Decision(allow=False, line=None)
_ALLOWED = Decision(allow=True, line=None)


class Engine:
    """What a policy decides. Safe to share by threads."""

    __slots__ = (
        "_allowed",
        "_alternatives",
        "_denied",
        "_effect",
        "_empty",
        "_firsts",
        "_whole",
        "definition",
        "roles",
        "rules",
    )

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
        self._alternatives = tuple(Way(one, self.rules, self.allows, self.roles, patterns) for one in ways)
        self._firsts = tuple(way.firsts for way in self._alternatives)
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
        deny = allow = NEVER
        try:
            for firsts in self._firsts:
                for leaf in firsts(request, carried):
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
            deny = NEVER
        if deny != NEVER:
            return self._denied[deny]
        if allow != NEVER:
            return self._allowed[allow]
        return _ALLOWED if effect == DENY_OVERRIDE else _DENIED

    def in_order(self, request: Values, carried: Carried | None = None) -> Decision:
        """As `decide`, rule after rule: what both mean."""
        deny = allow = NEVER
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
            return allow != NEVER
        if self._effect in (ALLOW_AND_DENY, DENY_OVERRIDE):
            return deny != NEVER
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
