"""The registration of this worker's shared memory with one model server.

Contract: `name` is the region's name there while calls may use it, else "". A server on this machine proves that it
sees the same memory by opening the worker's file, whose name nobody can guess; one in a container with another
/dev/shm cannot. What a Triton answers here also says which calls have ended: it refuses to give up a region that a
call still uses (from 2.51 on; older ones would read or write freed memory, and are not asked), so a registration that
succeeds anew means that no earlier call is left that could write into this memory (`on_fresh`). Nothing here fails:
without a registration tensors are copied.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec

from gateway import logs
from gateway.errors import TidegateError
from gateway.upstream.capabilities import TRITON, Capabilities
from gateway.upstream.http_head import split_address
from gateway.upstream.http_response import Response
from gateway.upstream.shm_ring import PLACE, PREFIX, Ring

_EXTENSION: Final = "system_shared_memory"
_COUNTS_USERS_FROM: Final = (2, 51)
"""Triton from this version on knows which regions are in use (its change #7567)."""
_AGAIN_S: Final = 5.0
"""Until the next try with a server that has the region still: calls that use it have not ended."""
_SECONDS: Final = 2.0
"""For one page."""
_PAGES: Final = "/v2/systemsharedmemory/"
_numbers = itertools.count()

_log = logs.get("upstream")


class Server(Protocol):
    """Whose registration it is: the replica."""

    address: str
    label: str

    @property
    def capabilities(self) -> Capabilities | None:
        """What it said of itself."""

    def control(self, method: str, target: str, *, body: bytes = b"", timeout: float) -> Awaitable[Response]:
        """One page of it."""


class Region:
    """This worker's memory at one server; `on_fresh` is called when no earlier call there can use it any more."""

    def __init__(self, ring: Ring, server: Server, on_fresh: Callable[[], None]) -> None:
        self._ring = ring
        self._server = server
        self._on_fresh = on_fresh
        self._own = f"{ring.name}-{next(_numbers)}"
        self.name = ""
        """Empty: not registered."""
        self._asked = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def begin(self) -> None:
        """Register, anew if it was: the server has (re)started, or does not know the region."""
        self.name = ""
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._register())
            self._task.add_done_callback(self._registered)

    async def close(self) -> None:
        """Give it up, if the server lets go of it; the next worker that starts removes what is left."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._asked:
            self.name = ""
            await self._try("POST", f"region/{self._own}/unregister")

    def _registered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("a defect", exc_info=task.exception(), extra={"fields": {"replica": self._server.label}})

    async def _register(self) -> None:
        if not (self._can() and await _is_here(self._server.address)):
            return
        if self._asked:
            await self._try("POST", f"region/{self._own}/unregister")
        self._asked = True
        wanted = {"key": "/" + self._ring.name, "offset": 0, "byte_size": self._ring.size}
        taken = await self._try("POST", f"region/{self._own}/register", msgspec.json.encode(wanted))
        rows = await self._rows(f"region/{self._own}/status")
        if not any(wanted.items() <= row.items() for row in rows):
            return  # another /dev/shm, another user, or a server that says yes to everything
        if taken is None and not self._closed:
            # It is the same process as before, and calls of before are under way: they may still write.
            self._timer = asyncio.get_running_loop().call_later(_AGAIN_S, self.begin)
            return
        self._on_fresh()
        self.name = self._own
        _log.info("%s: shared memory is in use", self._server.label, extra={"fields": {"replica": self._server.label}})
        await self._sweep()

    def _can(self) -> bool:
        known = self._server.capabilities
        if known is None or known.name != TRITON or not known.binary or _EXTENSION not in known.extensions:
            return False
        major, _, rest = known.version.partition(".")
        minor = rest.partition(".")[0]
        return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= _COUNTS_USERS_FROM

    async def _sweep(self) -> None:
        """Give up what workers that were killed have left there; it sees this /dev/shm, so a missing file is gone."""
        for row in await self._rows("status"):
            key = str(row.get("key", "")).lstrip("/")
            if key.startswith(PREFIX) and "/" not in key and not (PLACE / key).exists():
                await self._try("POST", f"region/{row['name']}/unregister")

    async def _rows(self, page: str) -> list[dict[str, Any]]:
        """Regions that it has."""
        response = await self._try("GET", page)
        try:
            return [] if response is None else msgspec.json.decode(response.body, type=list[dict[str, Any]])
        except msgspec.DecodeError:
            return []

    async def _try(self, method: str, page: str, body: bytes = b"") -> Response | None:
        """A page's answer; None: there is none, or it is a refusal."""
        try:
            response = await self._server.control(method, _PAGES + page, body=body, timeout=_SECONDS)
        except TidegateError:
            return None
        return response if response.status == 200 else None


async def _is_here(address: str) -> bool:
    """Whether an address is one of this machine: a socket can be bound to it."""
    host, _ = split_address(address)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, number, _, place in found:
        with suppress(OSError), socket.socket(family, kind, number) as probe:
            probe.bind(place)
            return True
    return False
