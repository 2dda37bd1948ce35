"""All model servers of the settings, by name.

Contract: a frozen mapping in the order of the settings; the first is the default. A changed configuration
makes a new one that takes over the servers whose settings are the same, with their connections and what they
know; the old one is closed with `keep=` the new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from gateway import settings
from gateway.upstream.events import Counters
from gateway.upstream.upstream import Upstream


class Upstreams(Mapping[str, Upstream]):
    """Every model server by its name."""

    def __init__(
        self,
        configs: Mapping[str, settings.Upstream],
        *,
        counters: Counters | None = None,
        previous: Mapping[str, Upstream] | None = None,
    ) -> None:
        """`previous`: servers to take over where their settings are the same."""
        known = previous or {}
        self._servers: dict[str, Upstream] = {}
        for name, config in configs.items():
            old = known.get(name)
            if old is not None and old.settings == config:
                self._servers[name] = old
            else:
                self._servers[name] = Upstream(name, config, counters=counters)

    def __getitem__(self, name: str) -> Upstream:
        return self._servers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._servers)

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def default(self) -> Upstream:
        """The first of the settings."""
        return next(iter(self._servers.values()))

    async def start(self) -> None:
        """Start those that do not run yet; see `Upstream.start`."""
        await asyncio.gather(*(server.start() for server in self._servers.values()))

    async def close(self, drain: float = 0.0, *, keep: Mapping[str, Upstream] | None = None) -> None:
        """Close all, but those that are in `keep` too; calls under way have `drain` seconds."""
        kept = {id(server) for server in keep.values()} if keep is not None else set()
        await asyncio.gather(*(server.close(drain) for server in self._servers.values() if id(server) not in kept))
