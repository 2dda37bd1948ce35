"""Who has which roles: the memberships of a policy, followed once.

Contract: immutable after `Roles(...)`; a look-up never adds a name (Casbin's own role manager keeps every
name that it is asked about, so callers could fill the memory). Chains count as Casbin counts them:
`MOST_HOPS` and no more. Models whose roles have no domain use the domain "".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from governance.policy.model import MOST_HOPS
from governance.policy.parse import Membership


class Carried(NamedTuple):
    """The roles that a request's credential gives its subject: each acts as one `g` line more."""

    name: str
    dom: str
    roles: tuple[str, ...]


class Roles:
    """The roles that each name reaches in each domain, with the length of the shortest chain."""

    def __init__(self, memberships: Iterable[Membership]) -> None:
        self._next: dict[str, dict[str, list[Membership]]] = {}
        for one in memberships:
            self._next.setdefault(one.dom, {}).setdefault(one.user, []).append(one)
        self._reached = {(dom, name): _reach(edges, name) for dom, edges in self._next.items() for name in edges}

    @property
    def known(self) -> Mapping[tuple[str, str], Mapping[str, int]]:
        """By domain and name: the roles of each name that is a member of one."""
        return self._reached

    def of(self, name: str, dom: str) -> Mapping[str, int]:
        """The roles of a name in a domain, each with its number of hops (1 is direct)."""
        return self._reached.get((dom, name), _NONE)

    def reach(self, name: str, dom: str, carried: Carried | None = None) -> dict[str, int]:
        """Everything that a name answers to in a domain: itself (0 hops) and all its roles.

        Args:
            name: whose roles.
            dom: where.
            carried: what the request's credential adds.
        """
        found = {name: 0}
        for role, hops in self.of(name, dom).items():
            found.setdefault(role, hops)
        if carried is not None and carried.dom == dom and carried.name in found:
            start = found[carried.name] + 1
            for role in carried.roles:
                for one, hops in ((role, 0), *self.of(role, dom).items()):
                    if start + hops <= min(MOST_HOPS, found.get(one, MOST_HOPS)):
                        found[one] = start + hops
        return found

    def has(self, name: str, role: str, dom: str, carried: Carried | None = None) -> bool:
        """Casbin's `g(name, role, dom)`; the arguments are those of `reach`."""
        if name == role or role in self.of(name, dom):
            return True
        return carried is not None and role in self.reach(name, dom, carried)

    def path(self, name: str, role: str, dom: str, carried: Carried | None = None) -> list[str] | None:
        """The shortest chain from a name to a role, both included; None where there is none."""
        added = carried.roles if carried is not None and carried.dom == dom else ()
        before: dict[str, str | None] = {name: None}
        level: Sequence[str] = [name]
        for _ in range(MOST_HOPS + 1):
            if role in before:
                break
            following: list[str] = []
            for one in level:
                roles = [edge.role for edge in self._next.get(dom, {}).get(one, ())]
                roles += added if carried is not None and one == carried.name else ()
                for other in roles:
                    if other not in before:
                        before[other] = one
                        following.append(other)
            level = following
        if role not in before:
            return None
        chain = [role]
        while (one_before := before[chain[-1]]) is not None:
            chain.append(one_before)
        return chain[::-1] if len(chain) <= MOST_HOPS + 1 else None

    def cycles(self) -> list[Membership]:
        """The memberships that close a circle, in file order."""
        found: dict[int, Membership] = {}
        for edges in self._next.values():
            finished: set[str] = set()
            for start in edges:
                path: dict[str, None] = {}
                todo: list[tuple[str, Membership | None, bool]] = [(start, None, False)]
                while todo:
                    name, via, leaving = todo.pop()
                    if leaving:
                        path.pop(name)
                        finished.add(name)
                    elif name in path and via is not None:
                        found[via.line] = via
                    elif name not in finished:
                        path[name] = None
                        todo.append((name, None, True))
                        todo.extend((edge.role, edge, False) for edge in edges.get(name, ()))
        return [found[line] for line in sorted(found)]

    def too_deep(self) -> list[tuple[str, Membership]]:
        """Names with roles that Casbin no longer reaches, with the membership at which it stops."""
        found: list[tuple[str, Membership]] = []
        for dom, edges in self._next.items():
            for name in edges:
                reached = self._reached[dom, name]
                for role, hops in reached.items():
                    if hops == MOST_HOPS:
                        beyond = [one for one in edges.get(role, ()) if one.role not in reached and one.role != name]
                        found.extend((name, one) for one in beyond[:1])
        return found


_NONE: Mapping[str, int] = {}


def _reach(edges: Mapping[str, list[Membership]], start: str) -> dict[str, int]:
    """Breadth first from one name: role -> hops."""
    first = edges[start]
    if len(first) == 1 and first[0].role not in edges:  # most names: one role, which has none itself
        return {first[0].role: 1}
    reached: dict[str, int] = {}
    level = [start]
    for hops in range(1, MOST_HOPS + 1):
        level = list(
            dict.fromkeys(one.role for name in level for one in edges.get(name, ()) if one.role not in reached)
        )
        if not level:
            break
        reached.update(dict.fromkeys(level, hops))
    return reached
