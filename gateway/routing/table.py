"""All routes of one snapshot: from the name a client asked for to the route that serves it.

Contract: compiled once from validated settings, immutable afterwards (a bounded cache of passed-through names
apart), swapped as a whole on reload. Pins outlive the table: the same `Pins` is handed to each.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from gateway import settings
from gateway.approvals import Approvals
from gateway.routing.pins import MemoryPins, Pins
from gateway.routing.route import CompiledRoute, compile_route

MOST_IMPLICIT = 1024
"""Passed-through names kept compiled; callers choose these names, so there must be a bound."""


def random64() -> int:
    """64 random bits. The module's generator is seeded anew in each forked worker."""
    return random.getrandbits(64)


class RouteTable:
    """Routes by name. Made by `compile`."""

    def __init__(
        self,
        routes: dict[str, CompiledRoute],
        *,
        passthrough: bool,
        first_upstream: str,
        pins: Pins,
        draw: Callable[[], int],
        approvals: Approvals | None = None,
    ) -> None:
        self.routes = routes
        self.passthrough = passthrough
        """Whether names that no route has are served by the model of that name on the first upstream."""
        self.first_upstream = first_upstream
        self._pins = pins
        self._draw = draw
        self._approvals = approvals
        self._implicit: dict[str, CompiledRoute] = {}

    @classmethod
    def compile(
        cls,
        config: settings.Settings,
        pins: Pins | None = None,
        draw: Callable[[], int] = random64,
        approvals: Approvals | None = None,
    ) -> RouteTable:
        """The table of validated settings.

        Args:
            config: the settings.
            pins: where sequences are pinned; absent: in this process, for this table alone.
            draw: source of random 64-bit integers.
            approvals: says which version is live where a variant names none.

        Raises:
            ValueError: a route that the settings file's checks would have refused.
        """
        pins = MemoryPins() if pins is None else pins
        first = next(iter(config.upstreams), "")
        routes = {
            name: compile_route(name, route, first, pins, draw, implicit=False, approvals=approvals)
            for name, route in config.routes.items()
        }
        passthrough = config.passthrough or not routes
        return cls(routes, passthrough=passthrough, first_upstream=first, pins=pins, draw=draw, approvals=approvals)

    def lookup(self, name: str) -> CompiledRoute | None:
        """The route of that name: from the settings, else passed through if that is on, else None (404)."""
        route = self.routes.get(name)
        if route is None and self.passthrough and name:
            return self.implicit(name)
        return route

    def implicit(self, name: str) -> CompiledRoute:
        """The route to the model of that name on the first upstream, whether it exists there or not."""
        route = self._implicit.get(name)
        if route is None:
            route = compile_route(
                name,
                settings.Route(),
                self.first_upstream,
                self._pins,
                self._draw,
                implicit=True,
                approvals=self._approvals,
            )
            if len(self._implicit) >= MOST_IMPLICIT:
                self._implicit.clear()
            self._implicit[name] = route
        return route
