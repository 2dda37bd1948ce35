"""All model servers of the settings, by name.

Contract: a frozen mapping in the order of the settings; the first is the default. A changed configuration
makes a new one that takes over the servers whose settings are the same, with their connections and what they
know; the old one is closed with `keep=` the new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from gateway import settings
from gateway.routing.pins import Pins
from gateway.tls import ClientFiles
from gateway.upstream.events import Counters
from gateway.upstream.grpc_channel import Engine
from gateway.upstream.lives import Lives
from gateway.upstream.replica import Restore
from gateway.upstream.shm_ring import Ring
from gateway.upstream.upstream import Upstream


class Upstreams(Mapping[str, Upstream]):
    """Every model server by its name."""

    def __init__(
        self,
        configs: Mapping[str, settings.Upstream],
        *,
        counters: Counters | None = None,
        previous: Mapping[str, Upstream] | None = None,
        tls: Mapping[str, ClientFiles] | None = None,
        pins: Pins | None = None,
        lives: Lives | None = None,
        ring: Ring | None = None,
        engine: Engine = "auto",
    ) -> None:
        """`pins`, `lives`: of sequences and replicas, shared by the workers; `ring`: of this one.

        `engine`: what carries gRPC streams to them.
        `previous`: servers to take over where their settings are the same; `tls`: certificates by name.
        Where only the rest of an upstream's settings changed, the replicas that stay keep their connections.
        """
        known = previous or {}
        files = tls or {}
        self._servers: dict[str, Upstream] = {}
        for name, config in configs.items():
            old = known.get(name)
            if old is not None and old.settings == config:
                self._servers[name] = old
            else:
                self._servers[name] = Upstream(
                    name,
                    config,
                    counters=counters,
                    tls=files.get(name),
                    pins=pins,
                    lives=lives,
                    ring=ring,
                    engine=engine,
                    previous=old,
                )

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

    def renew_tls(self, tls: Mapping[str, ClientFiles]) -> None:
        """Certificates of a new snapshot, for servers that were taken over into it."""
        for name, server in self._servers.items():
            server.renew_tls(tls.get(name))

    def restore_with(self, restore: Restore) -> None:
        """What a replica that comes back is brought to; see `Upstream.restore_with`."""
        for server in self._servers.values():
            server.restore_with(restore)

    async def start(self) -> None:
        """Start those that do not run yet; see `Upstream.start`."""
        await asyncio.gather(*(server.start() for server in self._servers.values()))

    async def close(self, drain: float = 0.0, *, keep: Mapping[str, Upstream] | None = None) -> None:
        """Close all, but those that are in `keep` too; calls under way have `drain` seconds."""
        kept = keep or {}
        await asyncio.gather(
            *(
                server.close(drain, keep=kept.get(name))
                for name, server in self._servers.items()
                if kept.get(name) is not server
            )
        )
