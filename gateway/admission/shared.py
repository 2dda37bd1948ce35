"""Quotas that all gateways on one Redis or Valkey share.

Contract: one task a worker owns the connection. While one round trip is under way, what is asked meanwhile is
gathered for the next, so that a request costs one round trip and many requests share one. The same task settles
and renews, so that a slot is never renewed after it was given back. What the server cannot answer within
`TIMEOUT_S` is `Away`; from then on nobody waits for it, until it answers again in the background. Slots are
leased: those of a gateway that was killed come back after `LEASE_S`.

Never in a log or message: the URL, which may hold a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from gateway import logs
from gateway.admission.away import Away
from gateway.admission.redis_script import DECIDE, DECIDE_SHA, RENEW, RENEW_SHA, keys_of
from gateway.settings import BackendTls
from gateway.tls.contexts import CIPHERS

TIMEOUT_S: Final = 0.25
"""A round trip in one data centre takes less than a millisecond; beyond this a request must not wait."""
LEASE_S: Final = 10.0
"""After which the slots of a gateway that was killed come back."""
_RENEW_S: Final = 3.0
"""Two renewals may fail before a slot runs out."""
_RETRY_S: Final = 0.5
_PROBE_S: Final = 2.0
"""For connecting, while no request waits: at the start, and when it was away."""
_MOST_AT_ONCE: Final = 256
"""Requests in one round trip: some milliseconds of the server's time."""

_log = logs.get("limits")


Asked: TypeAlias = tuple[int, int, int, int, int]
"""A tenant's limits in the units of the script: emission (ns), burst (ns), most in flight, bytes a day; then the
bytes of this request."""


class Question:
    """What one request asks."""

    __slots__ = ("answer", "asked", "tenant", "ticket")

    def __init__(self, tenant: str, ticket: str, asked: Asked) -> None:
        self.tenant = tenant
        self.ticket = ticket
        self.asked = asked
        self.answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()


class _Owed:
    """What is to be settled for one tenant."""

    __slots__ = ("nbytes", "tickets")

    def __init__(self) -> None:
        self.tickets: list[str] = []
        self.nbytes = 0


class SharedQuotas:
    """One worker's side of the shared counters.

    Args:
        url: `redis://` or `rediss://`.
        changed: is told whether the server can be asked, at each change.
        tls: certificates for `rediss://`; None: the system's CAs.
    """

    def __init__(
        self, url: str, changed: Callable[[bool], None] = lambda _: None, tls: BackendTls | None = None
    ) -> None:
        self._options: dict[str, Any] = {**parse_url(url)}
        if self._options.get("connection_class") is SSLConnection:
            self._options |= {"ssl_min_version": ssl.TLSVersion.TLSv1_2, "ssl_ciphers": CIPHERS}
            for name, file in (
                () if tls is None else (("ca_certs", tls.ca), ("certfile", tls.cert), ("keyfile", tls.key))
            ):
                self._options[f"ssl_{name}"] = None if file is None else str(file)
        self._pool = self._new_pool()
        self._connection: AbstractConnection | None = None
        """Out of the pool for good; opened again when it broke."""
        self._changed = changed
        self.here = True
        """Whether it answered when it was last asked; at first taken on trust."""
        self._said: set[str] = set()
        """The reasons that were logged since it answered last."""
        self._first = asyncio.Event()
        """It has been asked once, whatever came of it."""
        self._asked: list[Question] = []
        self._owed: dict[str, _Owed] = {}
        self._held: dict[str, set[str]] = {}
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._renew_at = 0.0
        self._leave = asyncio.Event()

    def _new_pool(self) -> BlockingConnectionPool:
        """Of one connection, which reads the certificates' files when it is made."""
        options = dict(self._options)
        return BlockingConnectionPool(
            connection_class=options.pop("connection_class", Connection),
            max_connections=1,
            timeout=TIMEOUT_S,
            socket_timeout=_PROBE_S,  # what a request waits is bounded by `_turn`
            socket_connect_timeout=_PROBE_S,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            retry=Retry(NoBackoff(), 0),  # sending a decision twice would count it twice
            decode_responses=False,
            **options,
        )

    def start(self) -> None:
        """Connect in the background. Needs a running loop; a second time does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="shared-quotas")
            self._work.set()

    async def begin(self) -> None:
        """Connects; waits until it is known whether the server can be asked."""
        self.start()
        await self._first.wait()

    async def ask(self, tenant: str, ticket: str, asked: Asked) -> tuple[int, int]:
        """The script's answer: `(0, 0)` admitted, else which limit and the microseconds to wait.

        Raises:
            Away: it did not answer in time, or is known to be away.
        """
        if not self.here:
            raise Away
        self.start()
        question = Question(tenant, ticket, asked)
        self._asked.append(question)
        self._work.set()
        try:
            return await question.answer
        except asyncio.CancelledError:
            # Whoever asked has gone; if it was sent, it may have been granted.
            if question in self._asked:
                self._asked.remove(question)
            else:
                self.settle(question.tenant, question.ticket, 0)
            raise

    def settle(self, tenant: str, ticket: str, nbytes: int) -> None:
        """Gives a slot back and counts the bytes of an answer; does not wait."""
        held = self._held.get(tenant)
        if held is not None:
            held.discard(ticket)
            if not held:
                del self._held[tenant]
        owed = self._owed.get(tenant)
        if owed is None:
            owed = self._owed[tenant] = _Owed()
        owed.tickets.append(ticket)
        owed.nbytes += nbytes
        self._work.set()

    async def close(self) -> None:
        """Settles what is owed, as far as the server takes it, and lets go."""
        if self._task is not None:
            # Told rather than cancelled: a cancellation in the middle of the client's reading may get lost there.
            self._leave.set()
            self._work.set()
            await asyncio.wait({self._task}, timeout=4 * TIMEOUT_S)
            if self.here and self._owed:
                try:
                    await asyncio.wait_for(self._send([], list(self._owed)), TIMEOUT_S)
                except (RedisError, OSError, TimeoutError):
                    _log.warning("limits.backend: what the last requests used could not be settled")
        for question in self._asked:
            question.answer.cancel()
        await self._pool.disconnect()

    async def _run(self) -> None:
        while not self._leave.is_set():
            # While it is away, a probe a while apart, however much there is to settle.
            wanted, patience = (self._work, _RENEW_S) if self.here else (self._leave, _RETRY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await wanted.wait()
            self._work.clear()
            if not self._leave.is_set():
                await self._turn()

    async def _turn(self) -> None:
        batch, self._asked = self._asked[:_MOST_AT_ONCE], self._asked[_MOST_AT_ONCE:]
        if self._asked:
            self._work.set()
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(TIMEOUT_S if self.here and self._first.is_set() else _PROBE_S):
                await self._send(batch, list(self._owed)[:_MOST_AT_ONCE])
                if now >= self._renew_at:
                    self._renew_at = now + _RENEW_S
                    await self._renew()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for an answer that never comes
            self._is(here=False, why=type(error).__name__)
            await self._pool.disconnect()
            self._pool, self._connection = self._new_pool(), None
            for question in (*batch, *self._asked):
                if not question.answer.done():
                    question.answer.set_exception(Away())
            self._asked = []
        else:
            self._is(here=True)

    def _is(self, *, here: bool, why: str = "") -> None:
        if here != self.here or not self._first.is_set():
            if here:
                _log.info("limits.backend answers: quotas are counted there")
            self._changed(here)
        if here:
            self._said.clear()
        elif why not in self._said:  # of one outage there may be several: it is back, but refuses the login
            self._said.add(why)
            _log.warning("limits.backend cannot be asked (%s): `limits.away` decides", why)
        self.here = here
        self._first.set()

    async def _send(self, batch: list[Question], tenants: list[str]) -> None:
        """One round trip: settles of `tenants`, which ride along with the first question of each; questions."""
        owed = {tenant: self._owed.pop(tenant) for tenant in tenants}
        try:
            answers = await self._execute(batch, owed)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        except BaseException:
            # Kept for when it answers; what it did take meanwhile counts twice at worst, never not at all.
            for tenant, one in owed.items():
                again = self._owed.setdefault(tenant, _Owed())
                again.nbytes += one.nbytes
                again.tickets += one.tickets
            raise
        for question, (verdict, wait) in zip(batch, answers, strict=False):
            if verdict == 0 and question.asked[2]:
                self._held.setdefault(question.tenant, set()).add(question.ticket)
            if not question.answer.done():
                question.answer.set_result((verdict, wait))
            elif verdict == 0:
                self.settle(question.tenant, question.ticket, 0)

    async def _execute(self, batch: list[Question], owed: dict[str, _Owed]) -> list[Any]:
        riding = dict(owed)
        asked = [_decide(question, riding.pop(question.tenant, None)) for question in batch]
        asked += [
            (2, *keys_of(tenant), 0, 0, 0, 0, -1, 0, "", one.nbytes, *one.tickets) for tenant, one in riding.items()
        ]
        if asked:
            return await self._run_script(DECIDE_SHA, DECIDE, asked)
        if not (self.here and self._first.is_set()):
            await self._talk([("PING",)])  # nothing to say, but whether it is there is not known
        return []

    async def _renew(self) -> None:
        if self._held:
            # What is given back while this is under way is settled in a later turn, so after it.
            lease = int(LEASE_S * 1e6)
            asked = [(1, keys_of(tenant)[1], lease, *tickets) for tenant, tickets in self._held.items()]
            await self._run_script(RENEW_SHA, RENEW, asked)

    async def _run_script(self, sha: str, text: str, asked: list[tuple[Any, ...]]) -> list[Any]:
        """A script's answers, or errors, one for each of its `asked` keys and arguments."""
        answers = await self._talk([("EVALSHA", sha, *each) for each in asked])
        while unknown := [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]:
            # It has been restarted, or its scripts were flushed, maybe amid these: what ran must not run twice. The
            # first goes with the text, so that it runs whatever happens meanwhile; the others find the script there.
            first, *rest = unknown
            again = [("EVAL", text, *asked[first]), *(("EVALSHA", sha, *asked[at]) for at in rest)]
            for at, answer in zip(unknown, await self._talk(again), strict=True):
                answers[at] = answer
        return answers

    async def _talk(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Their answers or errors, in one round trip.

        By the connection itself: the client's `Pipeline` and pool would cost as much again as the whole rest, for
        what one task that owns one connection does not need.
        """
        connection = self._connection
        if connection is None:
            connection = self._connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        elif not connection.is_connected:
            await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                answers.append(error)
        return answers


def _decide(question: Question, owed: _Owed | None) -> tuple[Any, ...]:
    """The script's keys and arguments."""
    emission_ns, burst_ns, concurrent, quota, nbytes = question.asked
    return (
        2,
        *keys_of(question.tenant),
        emission_ns,
        burst_ns,
        concurrent,
        int(LEASE_S * 1e6),
        quota,
        nbytes,
        question.ticket,
        0 if owed is None else owed.nbytes,
        *(() if owed is None else owed.tickets),
    )
