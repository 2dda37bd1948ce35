"""What each model takes and gives, remembered per (model, version).

Contract: one fetch at a time for each model and version, however many wait for it. An answer older than
`TTL_SECONDS` still serves while a new one is fetched in the background; a model that the server no longer
knows is forgotten then. `peek` never waits. An equal signature keeps its identity, so that callers can
compare by `is`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.errors import BadGateway, NotFound, TidegateError, UpstreamAnswered, UpstreamError
from gateway.upstream.answers import error_of
from gateway.upstream.counts import Entry, Known
from gateway.upstream.pool import Headers, Pool
from gateway.upstream.targets import model_target
from gateway.wire.validate import ModelSignature

TTL_SECONDS = 10.0
"""After it a signature is fetched anew in the background. A wrong one does no harm meanwhile: a call that
does not fit is judged again by a fresh one."""
RETRY_SECONDS = 1.0
"""Time to the next fetch after one that failed or found nothing new: a server in trouble is not asked per
call."""
UNKNOWN_SECONDS = 5.0
"""Time to the next background fetch of a model that the server did not have."""
FETCH_SECONDS = 5.0
"""Longest time for one page."""
MAX_ENTRIES = 4096
"""Models and versions remembered; beyond, the one fetched longest ago is forgotten."""

_NO_SUCH_PAGE = frozenset({404, 405, 501})
_HEADERS: Headers = b""


class _Entry(Entry):
    __slots__ = ("fetched",)

    def __init__(self, signature: ModelSignature, now: float) -> None:
        self.signature = signature
        self.fetched = now
        self.stale_at = now + TTL_SECONDS


class Signatures(Known):
    """The signatures of one model server's models."""

    def __init__(self, pool: Pool, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change`: called when a model version became known or was forgotten."""
        self._pool = pool
        self._on_change = on_change
        self._asked_at: dict[tuple[str, str], float] = {}  # of those that are not known
        self._entries: dict[tuple[str, str], _Entry] = {}  # the one fetched longest ago first
        self._fetches: dict[tuple[str, str], asyncio.Task[ModelSignature]] = {}

    def knows(self, model: str, version: str) -> bool:
        """Whether it is known, however old; asks for nothing."""
        return (model, version) in self._entries

    @property
    def known(self) -> tuple[tuple[str, str], ...]:
        """(model, version) that are known."""
        return tuple(self._entries)

    def is_due(self, model: str, version: str) -> bool:
        """Whether it should be asked for in the background: it is old, or unknown and was not asked for lately."""
        now = asyncio.get_running_loop().time()
        entry = self._entries.get((model, version))
        if entry is not None:
            return now > entry.stale_at
        return now - self._asked_at.get((model, version), -UNKNOWN_SECONDS) >= UNKNOWN_SECONDS

    def ask(self, model: str, version: str) -> None:
        """Ask in the background."""
        self._fetch(model, version)

    async def get(self, model: str, version: str) -> ModelSignature:
        """What is known, else what the server says; version "" is the server's own choice.

        Raises:
            NotFound: the server knows no such model or version, in its own words.
            UpstreamAnswered: it refuses otherwise, such as a model that is not ready.
            UpstreamError: it cannot be asked.
        """
        known = self.peek(model, version)
        return await asyncio.shield(self._fetch(model, version)) if known is None else known

    async def fresh(self, model: str, version: str) -> ModelSignature:
        """What the server says now, or said within the last `RETRY_SECONDS`. Errors are those of `get`."""
        entry = self._entries.get((model, version))
        if entry is not None and asyncio.get_running_loop().time() - entry.fetched < RETRY_SECONDS:
            return entry.signature
        return await asyncio.shield(self._fetch(model, version))

    def invalidate(self, model: str) -> None:
        """Forget every version of a model: it was loaded or unloaded. A fetch under way no longer counts."""
        found = False
        for known in (self._entries, self._fetches, self._asked_at):
            for key in [key for key in known if key[0] == model]:
                found = True
                del known[key]
        if found:
            self._on_change()

    def invalidate_all(self) -> None:
        """Forget everything: it is another server now."""
        self._entries.clear()
        self._fetches.clear()
        self._asked_at.clear()
        self._on_change()

    async def close(self) -> None:
        """End the fetches under way."""
        tasks = list(self._fetches.values())
        self._fetches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fetch(self, model: str, version: str) -> asyncio.Task[ModelSignature]:
        key = (model, version)
        task = self._fetches.get(key)
        if task is None:
            task = self._fetches[key] = asyncio.get_running_loop().create_task(self._ask(model, version))
            task.add_done_callback(lambda done: self._fetched(key, done))
        return task

    def _fetched(self, key: tuple[str, str], task: asyncio.Task[ModelSignature]) -> None:
        error = None if task.cancelled() else task.exception()  # looked at: nobody may be waiting for it
        if self._fetches.get(key) is not task:
            return  # invalidated meanwhile
        del self._fetches[key]
        entry = self._entries.get(key)
        if isinstance(error, NotFound):
            self._asked(key, task.get_loop().time())
            if self._entries.pop(key, None) is not None:
                self._on_change()
        elif task.cancelled() or error is not None:
            if entry is not None:
                entry.stale_at = task.get_loop().time() + RETRY_SECONDS
            else:
                self._asked(key, task.get_loop().time())
        else:
            signature = task.result()
            if entry is not None and entry.signature == signature:
                signature = entry.signature
            self._entries.pop(key, None)
            self._entries[key] = _Entry(signature, task.get_loop().time())
            self._asked_at.pop(key, None)
            while len(self._entries) > MAX_ENTRIES:
                del self._entries[next(iter(self._entries))]
            if entry is None:
                self._on_change()

    def _asked(self, key: tuple[str, str], now: float) -> None:
        self._asked_at.pop(key, None)
        self._asked_at[key] = now
        while len(self._asked_at) > MAX_ENTRIES:
            del self._asked_at[next(iter(self._asked_at))]

    async def _ask(self, model: str, version: str) -> ModelSignature:
        metadata = await self._page(model, version, "")
        assert metadata is not None
        config = await self._page(model, version, "config")
        try:
            signature = ModelSignature.from_triton(metadata, config)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # a page of another shape
            raise BadGateway("the model's metadata could not be understood", detail=f"{model}: {error!r}") from None
        known = self._entries.get((model, version))
        return known.signature if known is not None and known.signature == signature else signature

    async def _page(self, model: str, version: str, page: str) -> dict[str, Any] | None:
        response = await self._pool.request("GET", model_target(model, version, page), _HEADERS, timeout=FETCH_SECONDS)
        if response.status == 200:
            try:
                return msgspec.json.decode(response.body, type=dict[str, Any])
            except msgspec.DecodeError as error:
                raise BadGateway("the model's metadata could not be understood", detail=f"{model}: {error}") from None
        if page and response.status in _NO_SUCH_PAGE:
            return None  # servers without Triton's configuration extension (MLServer, KServe)
        raise _refusal(error_of(response))


def _refusal(error: UpstreamError) -> TidegateError:
    unknown = error.status == 404 or (error.status == 400 and "unknown model" in error.message)
    if isinstance(error, UpstreamAnswered) and unknown:
        return NotFound(error.message)
    return error
