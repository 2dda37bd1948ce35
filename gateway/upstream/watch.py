"""Looks after one model server: whether it answers, what it is, and which models it has.

Contract: `start` looks once and then every `health.interval`, at once after `look_soon`. A server that answers
again is checked before it counts as up (`health.py` says when): it says what it is, is brought to what was asked
for, and its models are looked at. The replica hears of each rise (`rose`) and fall (`settle`). Nothing here sends
inference. `start` must be called in the event loop that serves; `close` ends everything that was begun.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway import logs, settings
from gateway.errors import DeadlineExceeded, TidegateError, Unreachable
from gateway.upstream.answers import error_of
from gateway.upstream.capabilities import TRITON, Capabilities, capabilities_of
from gateway.upstream.events import Counters
from gateway.upstream.health import Health, Phase
from gateway.upstream.http_response import TOO_LATE, Response
from gateway.upstream.index import READY_INDEX, ReadyModels
from gateway.upstream.lives import Lives
from gateway.upstream.pool import Pool
from gateway.upstream.signatures import Signatures

LEARN_TIMEOUT = 5.0
"""Longest time for the server's metadata."""
_SOON = 0.05  # seconds

_log = logs.get("upstream")


class Watched(Protocol):
    """Whose server it is: the replica."""

    name: str
    """Of its upstream."""
    number: int
    label: str
    """Its name in logs, which must not carry addresses."""
    life_key: int
    settings: settings.Upstream
    wanted: Callable[[], Sequence[tuple[str, str]]]
    """(model, version) that callers ask the upstream for."""
    siblings: Callable[[], bool]
    """Whether other replicas serve: then its models are looked at."""

    def rose(self) -> None:
        """It is up from now on."""

    def settle(self) -> None:
        """It is down from now on."""

    async def restored(self) -> None:
        """Bring it to what was asked for. Raises TidegateError when that cannot be done now."""


class Watch:
    """The looks at one server.

    Args:
        of: whose server it is.
        pool: the looks' own connection: under load they must not queue behind the calls.
        signatures: what is known of its models.
        lives: where the lives of replicas are agreed on.
        counters: where events go.
    """

    def __init__(self, of: Watched, pool: Pool, signatures: Signatures, lives: Lives, counters: Counters) -> None:
        self._of = of
        self._pool = pool
        self._signatures = signatures
        self._lives = lives
        self._counters = counters
        self._health = Health(of.settings.health.unhealthy_after, of.settings.health.healthy_after)
        self.capabilities: Capabilities | None = None
        """What it said of itself; None until it answered once."""
        self._seen_well = 0  # Unix ns
        self._connects_seen = 0  # connections that the looks had opened when it was last well
        self._index: ReadyModels | None = None
        self._looking: asyncio.Task[None] | None = None
        self._learning: asyncio.Task[Capabilities] | None = None
        self._look_now = asyncio.Event()
        pool.on_gone = self._let_go

    async def start(self) -> None:
        """Look once whether it answers, then regularly. Never fails: a server may come later."""
        if self._looking is None:
            # Its life must have begun before anyone saw it well: a fall is told from one that another worker saw
            # by that order.
            self._lives.current(self._of.life_key)
            await self._look()
            self._looking = asyncio.get_running_loop().create_task(self._look_on())

    async def close(self) -> None:
        """End the looks, and their connection."""
        tasks = [task for task in (self._looking, self._learning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()

    def reconfigure(self) -> None:
        """The replica has other settings."""
        self._health.unhealthy_after = self._of.settings.health.unhealthy_after
        self._health.healthy_after = self._of.settings.health.healthy_after

    @property
    def phase(self) -> Phase:
        """What the looks and failed calls made of it."""
        return self._health.phase

    @property
    def models(self) -> tuple[tuple[str, str], ...]:
        """(model, version) that it has, as far as is known; "" is its own choice of version."""
        return self._signatures.known if self._index is None else self._index.listed

    def lists(self, model: str, version: str) -> bool:
        """Whether its index had the model version as ready when it was last looked at."""
        return self._index is not None and self._index.has(model, version)

    def look_soon(self) -> None:
        """A call found something wrong."""
        self._look_now.set()

    def refused(self) -> None:
        """A connection to it was refused: no process listens there."""
        if self._health.refused():
            self._fell()

    def _let_go(self) -> None:
        """The server has closed the looks' connection, which was idle. So does no Triton that lives (`_began_anew`).

        Every worker's kernel tells it in the moment in which the process ends, so that none sends a call to the
        next process, however soon it is there, before that was checked and restored.
        """
        if self.capabilities is not None and self.capabilities.name == TRITON:
            self.refused()
        self.look_soon()

    # -- what it is ------------------------------------------------------------------------------------------

    async def learn_within(self, timeout: float) -> tuple[Capabilities, float]:
        """What it can, and what is left of a call's `timeout` (seconds).

        Raises:
            DeadlineExceeded: it did not say so in time.
            Unreachable, UpstreamError: it does not say so at all.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(timeout):
                known = await self._learn()
        except TimeoutError:
            raise DeadlineExceeded(TOO_LATE, detail=f"{self._of.label}: GET /v2") from None
        return known, max(timeout - (loop.time() - began), 0.0)

    async def _learn(self) -> Capabilities:
        if self._learning is None:
            self._learning = asyncio.get_running_loop().create_task(self._ask_capabilities())
            self._learning.add_done_callback(self._learned)
        return await asyncio.shield(self._learning)

    def _learned(self, task: asyncio.Task[Capabilities]) -> None:
        self._learning = None
        if not task.cancelled() and task.exception() is None:
            self.capabilities = task.result()

    async def _ask_capabilities(self) -> Capabilities:
        response = await self._request("GET", "/v2", b"", timeout=LEARN_TIMEOUT)
        if response.status != 200:
            raise error_of(response)
        return capabilities_of(response.body, self._of.settings)

    # -- looking ---------------------------------------------------------------------------------------------

    async def _look_on(self) -> None:
        while True:
            interval = self._of.settings.health.interval
            try:
                # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes in the same turn.
                async with asyncio.timeout(interval):
                    await self._look_now.wait()
                # After a broken connection look soon, but not once for each of a thousand.
                await asyncio.sleep(min(_SOON, interval))
            except TimeoutError:
                pass
            self._look_now.clear()
            try:
                await self._look()
            except Exception:  # noqa: BLE001 - whatever it is, the next look must be taken
                _log.exception("a defect", extra={"fields": self._fields()})

    async def _look(self) -> None:
        """One look, and the check when one is due by it."""
        try:
            well = await self._answers()
        except TidegateError as error:
            well = False
            if isinstance(error, Unreachable) and not error.sent:
                self.refused()
        if not well:
            self._counters.on_event("probe_failed", upstream=self._of.name)
            if self._health.bad():
                self._fell()
            return
        if self._health.phase == "up" and self._began_anew():
            self.refused()
        due = self._health.good()
        if due:
            whole = await self._check()
            if self._health.checked(whole=whole):
                self._rose()
        elif self._health.phase == "up":
            self._well()
            if self._of.siblings():
                await self._see_models()

    async def _see_models(self) -> None:
        try:
            await self._look_at_models()
        except Unreachable:
            self._look_now.set()  # it went within this look: the next one says what of it

    async def _request(
        self, method: str, target: str, headers: bytes, parts: Sequence[bytes] = (), *, timeout: float
    ) -> Response:
        try:
            return await self._pool.request(method, target, headers, parts, timeout=timeout)
        except DeadlineExceeded:
            # Its connection was closed here: that the next look opens one says nothing of the server.
            self._connects_seen = self._pool.connects + 1
            raise

    async def _answers(self) -> bool:
        timeout = self._of.settings.health.timeout
        response = await self._request("GET", "/v2/health/ready", b"", timeout=timeout)
        if response.status != 200:
            # Triton is "not ready" while any one model is loaded or unloaded, and serves all the others.
            response = await self._request("GET", "/v2/health/live", b"", timeout=timeout)
        return response.status == 200

    def _began_anew(self) -> bool:
        """Whether the server was started again between two looks.

        The looks keep one connection. Triton closes none that is idle, so that a new one means a new process, unless
        the old one was closed here; other servers may.
        """
        known = self.capabilities
        return known is not None and known.name == TRITON and self._pool.connects != self._connects_seen

    def _well(self) -> None:
        self._seen_well = time.time_ns()
        self._connects_seen = self._pool.connects

    async def _check(self) -> bool:
        """What it is, what it must be brought to, and what it has; whether all of it could be done."""
        known = self.capabilities is not None
        try:
            await self._learn()  # it may be another version now
            await self._of.restored()
            if known or self._of.siblings():
                self._signatures.invalidate_all()
                await self._look_at_models()
                # Warm before it gets weight: connections, and what its models take.
                await asyncio.gather(*(self._known_again(*each) for each in self._of.wanted()))
        except TidegateError as error:
            text = "%s answers, but its check failed: %s"
            _log.warning(text, self._of.label, error.message, extra={"fields": self._fields()})
            return False
        return True

    async def _known_again(self, model: str, version: str) -> None:
        if self._index is None or self._index.has(model, version):
            try:
                await self._signatures.get(model, version)
            except TidegateError as error:
                if isinstance(error, Unreachable):
                    raise
                # It does not have it, or not yet: it is up for the others.

    async def _look_at_models(self) -> None:
        """Which models are ready there; forget those that are gone, ask about those that callers want."""
        timeout = self._of.settings.health.timeout
        try:
            response = await self._request(
                "POST", READY_INDEX.target, READY_INDEX.headers, (READY_INDEX.body,), timeout=timeout
            )
            self._index = ReadyModels.of(response)
        except Unreachable:
            raise
        except TidegateError:
            return  # what was known stays; the next look is soon
        index = self._index
        if index is not None:
            for model, version in self._signatures.known:
                if not index.has(model, version):
                    self._signatures.invalidate(model)
        for model, version in self._of.wanted():
            if (index is None or index.has(model, version)) and self._signatures.is_due(model, version):
                self._signatures.ask(model, version)

    def _rose(self) -> None:
        self._well()
        self._counters.on_event("replica_up", upstream=self._of.name, replica=str(self._of.number))
        _log.info("%s is up", self._of.label, extra={"fields": self._fields()})
        self._of.rose()

    def _fell(self) -> None:
        self._lives.fell(self._of.life_key, self._seen_well)
        self._counters.on_event("replica_down", upstream=self._of.name, replica=str(self._of.number))
        _log.warning("%s is down", self._of.label, extra={"fields": self._fields()})
        self._of.settle()

    def _fields(self) -> dict[str, str]:
        return {"upstream": self._of.name, "replica": self._of.label}
