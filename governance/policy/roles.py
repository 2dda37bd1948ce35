"""Who has which roles: the memberships of a policy, followed once.

Contract: immutable after `Roles(...)`; a look-up never adds a name (Casbin's own role manager keeps every
name that it is asked about, so callers could fill the memory). Chains count as Casbin counts them:
`MOST_HOPS` and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from governance.policy.model import MOST_HOPS
from governance.policy.parse import Membership


class Roles:
    """The roles that each name reaches in each tenant, with the length of the shortest chain."""

    def __init__(self, memberships: Iterable[Membership]) -> None:
        self._next: dict[str, dict[str, list[Membership]]] = {}
        for one in memberships:
            self._next.setdefault(one.dom, {}).setdefault(one.user, []).append(one)
        self._reached = {
            (dom, name): _reach(edges, name, MOST_HOPS) for dom, edges in self._next.items() for name in edges
        }

    def of(self, name: str, dom: str) -> Mapping[str, int]:
        """The roles of a name in a tenant, each with its number of hops (1 is direct)."""
        return self._reached.get((dom, name), _NONE)

    def reach(self, name: str, dom: str, carried: Iterable[str] = ()) -> set[str]:
        """Every subject of rules that a name answers to in a tenant: itself and all its roles.

        Args:
            name: the subject.
            dom: the tenant.
            carried: roles that the subject's credential gives it in this tenant, each like a `g` line.
        """
        found = {name, *self.of(name, dom)}
        for role in carried:
            found.add(role)
            found.update(one for one, hops in self.of(role, dom).items() if hops < MOST_HOPS)
        return found

    def has(self, name: str, role: str, dom: str, carried: Iterable[str] = ()) -> bool:
        """Casbin's `g(name, role, dom)`; the arguments are those of `reach`."""
        return role in self.reach(name, dom, carried)

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


def _reach(edges: Mapping[str, list[Membership]], start: str, most: int) -> dict[str, int]:
    """Breadth first from one name: role -> hops."""
    reached: dict[str, int] = {}
    level = [start]
    for hops in range(1, most + 1):
        level = list(
            dict.fromkeys(one.role for name in level for one in edges.get(name, ()) if one.role not in reached)
        )
        if not level:
            break
        reached.update(dict.fromkeys(level, hops))
    return reached
