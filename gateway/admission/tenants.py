"""Step 5: is there room for this tenant's request?

Contract: exact over all workers of one machine, without a lock on the way (`kernels.counters`). Synchronous,
some microseconds. `enter` takes or raises `errors.Limited`; whoever entered MUST `leave`. The order is
concurrency (a refusal there costs no token), rate, bytes. With `limits.backend: local`
each gateway machine grants limits anew; with `redis://` they hold over all gateways (`shared`), and then
`enter` gives a coroutine for tenants that have limits: the answer of one round trip.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.admission import limit_table
from gateway.admission.away import Away
from gateway.admission.limit_table import DAY, IN_FLIGHT, TAT, LimitTable
from gateway.errors import Limited, Overloaded
from gateway.settings import Limits, TenantLimit

if TYPE_CHECKING:
    from gateway.admission.shared import SharedQuotas

EVERYONE = "*"
_SECOND = 1_000_000_000
_DAY_NS = 86_400 * _SECOND
_MOST_BYTES = (1 << 48) - 1
"""The day's counter ends at 256 TiB; a larger quota is no limit."""
_CONCURRENCY_RETRY = 1.0
"""Seconds. When a request in flight will end is not known; a second is the least that Retry-After can say."""
_REMEMBERED = 8192
"""Tenants whose limits are looked up without hashing their names."""


class Ticket:
    """One admitted request; give it back to `Admission.leave` once."""

    __slots__ = ("shared", "tenant")

    def __init__(self, tenant: _Tenant | None, shared: str = "") -> None:
        self.tenant = tenant
        """What it stands for, until it is given back; `Admission`'s alone."""
        self.shared = shared
        """Its name in the shared quotas; empty: it was admitted without them."""


class _Tenant:
    """A tenant's limits, in the units of the cells."""

    __slots__ = ("burst_ns", "concurrent", "emission_ns", "name", "quota", "row")

    def __init__(self, name: str, limit: TenantLimit | None, row: int) -> None:
        self.name = name
        self.row = row
        self.emission_ns = self.burst_ns = 0
        self.concurrent = None if limit is None else limit.concurrent
        self.quota = None if limit is None or limit.bytes is None else min(limit.bytes, _MOST_BYTES)
        if limit is not None and limit.rate is not None:
            self.emission_ns = max(1, round(_SECOND / limit.rate))
            burst = max(1, ceil(limit.rate)) if limit.burst is None else limit.burst
            self.burst_ns = self.emission_ns * burst


class Admission:
    """The door-keeper of one worker.

    Args:
        limits: of the snapshot in force; `reload` changes them.
        run_dir: the directory that all workers of this gateway share.
        slot: this worker's number, 0 up to `slots` - 1.
        slots: the number of workers.
        limited: is told (tenant, `rate` | `concurrent` | `bytes`) of each refusal.
        away: is told (`local` | `open` | `closed`) of each request that the shared quotas could not decide.
        backend: is told, at each change, whether the shared quotas can be asked.
        monotonic: nanoseconds of a clock that all processes of the machine share.
        wall: Unix time in nanoseconds, for the day.
    """

    def __init__(
        self,
        limits: Limits,
        run_dir: Path,
        slot: int,
        slots: int = 1,
        *,
        limited: Callable[[str, str], None] = lambda _tenant, _limit: None,
        away: Callable[[str], None] = lambda _: None,
        backend: Callable[[bool], None] = lambda _: None,
        monotonic: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        if not 0 <= slot < slots:
            raise ValueError(f"slot {slot} of {slots}")
        self.in_flight = 0
        """Requests that this worker is serving, of tenants with and without limits."""
        self._limits = limits
        self._table = LimitTable(run_dir / limit_table.FILE, slots)
        self._words = self._table.words
        self._slot = slot
        self._slots = slots
        self._limited = limited
        self._monotonic = monotonic
        self._wall = wall
        self._tenants: dict[str, _Tenant] = {}
        self._table.clear(slot)
        self._away = away
        self._backend = backend
        self._shared = self._connect(limits)
        self._leaving: set[asyncio.Task[None]] = set()

    def enter(self, tenant: str, nbytes: int) -> Ticket | Awaitable[Ticket]:
        """Admits one request with a body of `nbytes` bytes.

        Raises:
            Limited: with the limit's name as `detail`, and the seconds after which it is worth trying again.
        """
        known = self._tenants.get(tenant) or self._find(tenant)
        row = known.row
        if row < 0:  # no limits
            self.in_flight += 1
            return Ticket(known)
        if self._shared is not None:
            return self._ask(self._shared, known, nbytes)
        return self._enter(known, row, nbytes)

    def _enter(self, known: _Tenant, row: int, nbytes: int) -> Ticket:
        if known.concurrent is not None and not self._words.enter(
            row + IN_FLIGHT, self._slots, self._slot, known.concurrent
        ):
            raise self._refusal(known, "concurrent", _CONCURRENCY_RETRY)
        if known.concurrent is None:
            # Counted all the same: the next reload may set a limit.
            self._words.add(row + IN_FLIGHT + self._slot, 1)
        if known.emission_ns:
            wait = self._words.gcra_take(row + TAT, self._monotonic(), known.emission_ns, known.burst_ns)
            if wait:
                self._words.add(row + IN_FLIGHT + self._slot, -1)
                raise self._refusal(known, "rate", wait / _SECOND)
        if known.quota is not None:
            now = self._wall()
            if self._words.day_take(row + DAY, now // _DAY_NS, nbytes, known.quota) < 0:
                self._words.add(row + IN_FLIGHT + self._slot, -1)
                raise self._refusal(known, "bytes", (_DAY_NS - now % _DAY_NS) / _SECOND)
        self.in_flight += 1
        return Ticket(known)

    def leave(self, ticket: Ticket, response_bytes: int = 0) -> None:
        """Gives a ticket back and counts the bytes of the answer; a second time does nothing."""
        tenant, ticket.tenant = ticket.tenant, None
        if tenant is None:
            return
        self.in_flight -= 1
        if ticket.shared:
            used = 0 if tenant.quota is None else response_bytes
            if self._shared is not None and ticket.shared != _OPEN and (used or tenant.concurrent):
                self._shared.settle(tenant.name, ticket.shared, used)
            return
        if tenant.row >= 0:
            self._words.add(tenant.row + IN_FLIGHT + self._slot, -1)
            if tenant.quota is not None and response_bytes:
                today = self._wall() // _DAY_NS
                self._words.day_take(tenant.row + DAY, today, response_bytes, _MOST_BYTES)

    def reload(self, limits: Limits) -> None:
        """Takes new limits; what tenants have used so far, and who is in flight, stays."""
        if (limits.backend, limits.backend_tls) != (self._limits.backend, self._limits.backend_tls):
            if self._shared is not None:
                task = asyncio.create_task(self._shared.close())
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
            self._shared = self._connect(limits)
            self.start()
        self._limits = limits
        self._tenants.clear()

    def start(self) -> None:
        """Connects to the shared quotas, if there are some, in the background. Needs a running loop."""
        if self._shared is not None:
            self._shared.start()

    async def begin(self) -> None:
        """Connects to the shared quotas, if there are some, and waits for that within its time limit."""
        if self._shared is not None:
            await self._shared.begin()

    async def settled(self) -> None:
        """Tells the shared quotas what has been used; nothing may enter any more."""
        if self._shared is not None:
            await self._shared.close()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _connect(self, limits: Limits) -> SharedQuotas | None:
        if limits.backend == "local":
            return None
        from gateway.admission.shared import SharedQuotas  # noqa: PLC0415  needs the extra `redis`

        return SharedQuotas(limits.backend, self._backend, limits.backend_tls)

    async def _ask(self, shared: SharedQuotas, known: _Tenant, nbytes: int) -> Ticket:
        ticket = f"{random.getrandbits(96):024x}"
        try:
            verdict, wait_us = await shared.ask(
                known.name,
                ticket,
                (
                    known.emission_ns,
                    known.burst_ns,
                    known.concurrent or 0,
                    -1 if known.quota is None else known.quota,
                    nbytes,
                ),
            )
        except Away:
            return self._without(known, nbytes)
        if verdict:
            limit = _VERDICTS[verdict]
            raise self._refusal(known, limit, wait_us / 1e6 or _CONCURRENCY_RETRY)
        self.in_flight += 1
        return Ticket(known, ticket)

    def _without(self, known: _Tenant, nbytes: int) -> Ticket:
        """The shared quotas cannot be asked: `limits.away` decides."""
        away = self._limits.away
        self._away(away)
        if away == "closed":
            raise Overloaded("the tenant's limits cannot be checked now", retry_after=1.0, detail="limits.backend")
        if away == "open":
            self.in_flight += 1
            return Ticket(known, _OPEN)
        return self._enter(known, known.row, nbytes)

    def close(self) -> None:
        """This worker serves nobody any more."""
        self._table.clear(self._slot)
        self._table.close()

    def _find(self, name: str) -> _Tenant:
        limit = self._limits.tenants.get(name) or self._limits.tenants.get(EVERYONE)
        tenant = _Tenant(name, limit, -1 if limit is None else self._table.row(name))
        if len(self._tenants) >= _REMEMBERED:
            self._tenants.clear()
        self._tenants[name] = tenant
        return tenant

    def _refusal(self, tenant: _Tenant, limit: str, retry_after: float) -> Limited:
        self._limited(tenant.name, limit)
        return Limited(f"tenant '{tenant.name}': {_TEXT[limit]}", retry_after=retry_after, detail=limit)


_OPEN = "open"
_VERDICTS = {1: "concurrent", 2: "rate", 3: "bytes"}
_TEXT = {
    "rate": "too many requests; see Retry-After",
    "concurrent": "too many requests at the same time",
    "bytes": "the day's quota of bytes is used up; it starts anew at 00:00 UTC",
}


def forget_worker(run_dir: Path, slot: int) -> None:
    """Clears a dead worker's requests in flight; for the supervisor, before the slot gets its next worker."""
    limit_table.forget(run_dir / limit_table.FILE, slot)
