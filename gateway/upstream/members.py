"""The replicas of one upstream as they come and go.

Contract: `replicas` is an immutable tuple that is replaced as a whole; `on_change` is called after each
change of it and of what is known of a member. Replicas are known by their addresses: one that stays in the
settings or in DNS keeps its connections, counters and pins. One that leaves gets no more calls, finishes those
it has, and is closed. `start` and what follows belong to the event loop that serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway import logs, settings
from gateway.upstream.events import Counters, Silent
from gateway.upstream.grpc_channel import Engine
from gateway.upstream.lives import Lives
from gateway.upstream.replica import Replica, Restore
from gateway.upstream.resolve import RESOLVE_SECONDS, Target, expand, names_of, resolve
from gateway.upstream.shm_ring import Ring
from gateway.upstream.tls import UpstreamTls

DRAIN_SECONDS = 60.0
"""Longest time for the calls of a replica that has left DNS."""
_LOOK_S = 0.1

_log = logs.get("upstream")


class Members:
    """The replicas, and the task that follows DNS."""

    def __init__(
        self,
        name: str,
        config: settings.Upstream,
        on_change: Callable[[], None],
        *,
        counters: Counters | None,
        tls: UpstreamTls | None,
        lives: Lives | None,
        ring: Ring | None,
        engine: Engine,
        previous: Members | None = None,
    ) -> None:
        """`previous`: of the same upstream in the settings before; replicas with the same connections go over."""
        self._name = name
        self.settings = config
        self._on_change = on_change
        self._counters = counters or Silent()
        self.tls = tls
        self._lives = lives
        self._ring = ring
        self._engine = engine
        self.wanted: Callable[[], Sequence[tuple[str, str]]] = tuple
        self.restore: Restore | None = None
        self._names = names_of(config)
        self.known: dict[str, tuple[str, ...]] = {}
        self._previous = previous if previous is not None and _same_connections(previous.settings, config) else None
        if self._previous is not None:
            self.known = {name: found for name, found in self._previous.known.items() if name in self._names}
        self._started = False
        self._following: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self.replicas: tuple[Replica, ...] = self._made(expand(config, self.known))

    async def start(self) -> None:
        """Resolve, take over, and look once at every replica."""
        if self._started:
            return
        self._started = True
        if self._names:
            await self._resolve()
        else:
            self._adopt(self.replicas)
        await asyncio.gather(*(replica.start() for replica in self.replicas))
        if self._names:
            self._following = asyncio.get_running_loop().create_task(self._follow())
        self._previous = None

    async def close(self, drain: float, keep: Sequence[Replica] = ()) -> None:
        """Close all that are not in `keep`."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        for replica in self.replicas:
            if self._on_change in replica.listeners:
                replica.listeners.remove(self._on_change)
        gone = [replica for replica in self.replicas if replica not in keep]
        await asyncio.gather(*(_retire(replica, drain) for replica in gone))
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _made(self, targets: Sequence[Target]) -> tuple[Replica, ...]:
        """A replica for each target: the one that there is, else a new one."""
        old = list(getattr(self, "replicas", ()))
        if self._previous is not None:
            old += self._previous.replicas
        known = {(one.address, one.grpc_address): one for one in reversed(old) if not one.draining}
        taken = {one.number for target in targets if (one := known.get((target.http, target.grpc)))}
        found: list[Replica] = []
        number = 0
        for target in targets:
            replica = known.get((target.http, target.grpc))
            if replica is None:
                while number in taken:
                    number += 1
                taken.add(number)
                replica = Replica(
                    self._name,
                    target.http,
                    target.grpc,
                    self.settings,
                    counters=self._counters,
                    tls=self.tls,
                    host=target.host,
                    number=number,
                    lives=self._lives,
                    ring=self._ring,
                    engine=self._engine,
                )
            found.append(replica)
        return tuple(found)

    def _adopt(self, replicas: Sequence[Replica]) -> None:
        """They are this upstream's now."""
        for replica in replicas:
            if replica.settings is not self.settings:
                replica.reconfigure(self.settings)
            replica.wanted = self.wanted
            replica.siblings = self._several
            replica.restore = self.restore
            if self._on_change not in replica.listeners:
                replica.listeners.append(self._on_change)
        self._on_change()

    def _several(self) -> bool:
        return len(self.replicas) > 1

    # -- DNS -------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(RESOLVE_SECONDS)
            try:
                before = self.replicas
                await self._resolve()
                # Looked at here, so that one that has just come gets no traffic before it was checked.
                await asyncio.gather(*(replica.start() for replica in self.replicas if replica not in before))
            except Exception:  # noqa: BLE001 - whatever it is, the next look-up must be made
                _log.exception("a defect", extra={"fields": {"upstream": self._name}})

    async def _resolve(self) -> None:
        found = await asyncio.gather(*(resolve(name) for name in self._names), return_exceptions=True)
        for name, addresses in zip(self._names, found, strict=True):
            if isinstance(addresses, tuple) and addresses:
                self.known[name] = addresses
            else:
                self._counters.on_event("resolve_failed", upstream=self._name)
                _log.warning(
                    "upstream '%s': its name cannot be resolved: %s",
                    self._name,
                    addresses or "no address",
                    extra={"fields": {"upstream": self._name}},
                )
        self._replace(self._made(expand(self.settings, self.known)))

    def _replace(self, replicas: tuple[Replica, ...]) -> None:
        before, self.replicas = self.replicas, replicas
        for replica in before:
            if replica not in replicas:
                self._counters.on_event("replica_removed", upstream=self._name, replica=str(replica.number))
                replica.drain()
                task = asyncio.get_running_loop().create_task(_retire(replica, DRAIN_SECONDS))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
        for replica in replicas:
            if replica not in before:
                self._counters.on_event("replica_added", upstream=self._name, replica=str(replica.number))
        self._adopt(replicas)

    @property
    def leaving(self) -> int:
        """Replicas that have left and still have calls under way."""
        return len(self._leaving)


async def _retire(replica: Replica, drain: float) -> None:
    """No new calls; closed once none is under way, at the latest after `drain` seconds."""
    replica.drain()
    loop = asyncio.get_running_loop()
    over = loop.time() + drain
    while replica.in_flight and loop.time() < over:  # noqa: ASYNC110 - calls set no event: they only count
        await asyncio.sleep(_LOOK_S)
    await replica.close(max(over - loop.time(), 0.0))


def _same_connections(one: settings.Upstream, other: settings.Upstream) -> bool:
    """Whether replicas of one can serve the other: all that their connections and forms depend on is equal."""
    return all(
        getattr(one, field) == getattr(other, field)
        for field in ("tls", "binary", "drain_streams", "connections", "shared_memory")
    )
