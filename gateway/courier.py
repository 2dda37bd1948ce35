"""Delivers webhooks: what lies in the store's outbox, from the gateway's parent process.

Contract: looks each second. A message is tried until its endpoint answers 2xx, over a bit more than three days
(`WAITS_S`, the schedule of Standard Webhooks 1.0.0); 410 ends it at once. Of several gateways that share a store one
makes an attempt. An endpoint that fails is left alone for a while, whatever else waits for it, and holds up no other.
`look` blocks and never raises; trouble is logged once.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway import logs
from gateway.announce import announce, begin, pulse, subscribers
from gateway.settings import Settings, WebhookEndpoint
from gateway.settings.file import load
from governance.audit.files import read_private
from governance.errors import AuditInputError, RegistryBroken, StoreError, WebhookError
from governance.policy.changes import ChangeError
from governance.webhooks.sending import LONGEST_S, Post
from governance.webhooks.signing import Signer, headers, signers

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from governance.store.outbox import Delivery, Outbox

_log = logs.get("webhooks")

WAITS_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""From one attempt to the next; with the first there are ten."""
_JITTER = 0.1
LOOK_S = 1.0
_AT_ONCE = 50
"""Messages of one endpoint that are tried in one look."""
_TURN_S = LONGEST_S
"""After so long an endpoint gets no other message in a look: the next look is everybody's."""
_THREADS = 8
_REST_S = (5.0, 60.0)
"""For how long an endpoint that failed is left alone, at first and at most."""
_TIMED_S = 60.0
"""How often it is looked what time has done."""


def secrets(endpoint: WebhookEndpoint) -> tuple[Signer, ...]:
    """What an endpoint's messages are signed by. Raises WebhookError."""
    if endpoint.secret_env is not None:
        text = os.environ.get(endpoint.secret_env, "")
        return signers(text, f"environment variable {endpoint.secret_env}")
    assert endpoint.secret_file is not None
    try:
        return signers(read_private(endpoint.secret_file).decode("ascii", "replace"), str(endpoint.secret_file))
    except AuditInputError as error:
        raise WebhookError(str(error)) from None


class Attempt(msgspec.Struct, frozen=True):
    """What came of one."""

    delivered: bool
    status: str
    gone: bool = False
    """The endpoint wants no more of it."""
    retry_after: int = 0


def attempt(
    endpoint: WebhookEndpoint, private: Sequence[str], message: str, body: bytes, begun: Callable[[Post], None]
) -> Attempt:
    """Tell an endpoint one message, now. Never raises.

    Args:
        endpoint: whom.
        private: `webhooks.private_hosts`.
        message: its id.
        body: as it was put in.
        begun: takes the attempt, which it may cut.
    """
    try:
        signed = headers(message, int(time.time()), body, secrets(endpoint))
        post = Post(endpoint.url, private, endpoint.ca)
        begun(post)
        answer = post.send(body, {**signed, "User-Agent": "tidegate"})
    except WebhookError as error:
        return Attempt(False, str(error))
    said = f"answered {answer.status}"
    wait = answer.retry_after or 0 if answer.status in (429, 503) else 0
    return Attempt(200 <= answer.status < 300, said, answer.status == 410, wait)


class Courier:
    """Of one gateway.

    Args:
        config: the settings file, read again when it changes.
        settings: those that it held.
        waits: seconds from one attempt to the next.
    """

    def __init__(self, config: Path, settings: Settings, waits: Sequence[float] = WAITS_S) -> None:
        self._config = config
        self._settings = settings
        self._config_seen = _stamp(config)
        self._waits = waits
        self._engine: Engine | None = None
        self._policy_seen: tuple[int, int] | None = None
        self._timed_at = 0.0
        self._rest: dict[str, tuple[float, float]] = {}
        """Of endpoints that failed: until when they are left alone (monotonic), and for how long the next time."""
        self._posts: set[Post] = set()
        self._closing = threading.Event()
        self._trouble = ""
        with contextlib.suppress(ChangeError, OSError):  # `look` does it again, and says why it cannot
            begin(settings)

    def look(self) -> None:
        """Once."""
        self._reread()
        section = self._settings.webhooks
        if section is None or not section.endpoints:
            return
        try:
            outbox = self._outbox()
            self._put_in(outbox)
            now = time.monotonic()
            ready = [name for name in section.endpoints if self._rest.get(name, (0.0, 0.0))[0] <= now]
            # Each for itself: what waits for one must not keep another's out.
            batches = [batch for name in ready if (batch := outbox.due([name], time.time(), _AT_ONCE))]
            if batches:
                with ThreadPoolExecutor(min(_THREADS, len(batches))) as pool:
                    list(pool.map(lambda batch: self._deliver(outbox, batch), batches))
            self._told("")
        except (StoreError, RegistryBroken, ChangeError, OSError) as error:
            self._told(str(error))

    def _deliver(self, outbox: Outbox, batch: Sequence[Delivery]) -> None:
        """What waits for one endpoint, until it fails or its turn is over. Raises StoreError."""
        end = time.monotonic() + _TURN_S
        for one in batch:
            if self._closing.is_set() or not self._deliver_one(outbox, one) or time.monotonic() >= end:
                return

    def _deliver_one(self, outbox: Outbox, one: Delivery) -> bool:
        """Whether the endpoint took it."""
        section = self._settings.webhooks
        assert section is not None
        if not outbox.claim(one, time.time()):
            return True  # another gateway's
        came: list[Post] = []

        def begun(post: Post) -> None:
            came.append(post)
            self._posts.add(post)
            if self._closing.is_set():
                post.cut()

        done = attempt(section.endpoints[one.endpoint], section.private_hosts, one.message, one.body.encode(), begun)
        self._posts.difference_update(came)
        fields = {"endpoint": one.endpoint, "id": one.message, "type": one.type, "attempt": one.attempts + 1}
        if done.delivered:
            outbox.delivered(one, done.status)
            if self._rest.pop(one.endpoint, None):
                _log.info("the endpoint takes webhooks again", extra={"fields": fields})
            return True
        if self._closing.is_set():
            return False  # cut by us: due again when the claim ends
        if done.gone or one.attempts >= len(self._waits):
            outbox.failed(one, done.status)
            _log.error("a webhook is given up: %s", done.status, extra={"fields": fields})
        else:
            wait = self._waits[one.attempts] * (1 + _JITTER * random.random())  # noqa: S311 - spreads load
            outbox.again(one, done.status, time.time() + max(wait, done.retry_after))
            _log.warning("a webhook was not taken: %s", done.status, extra={"fields": fields})
        rest = self._rest.get(one.endpoint, (0.0, _REST_S[0]))[1]
        self._rest[one.endpoint] = (time.monotonic() + min(rest, self._waits[0]), min(2 * rest, _REST_S[1]))
        return False

    def _put_in(self, outbox: Outbox) -> None:
        """What others than the registry's steps tell."""
        to = subscribers(self._settings)
        seen = pulse(self._settings)
        if seen != self._policy_seen:
            announce(self._settings, outbox, to)
            self._policy_seen = seen
        if time.monotonic() - self._timed_at >= _TIMED_S or not self._timed_at:
            self._put_in_timed(outbox)
            self._timed_at = time.monotonic()

    def _put_in_timed(self, outbox: Outbox) -> None:
        from governance.registry.machine import fold  # noqa: PLC0415
        from governance.store.steps import Steps  # noqa: PLC0415
        from governance.webhooks.messages import due  # noqa: PLC0415

        assert self._engine is not None
        standings = fold(Steps(self._engine).all())
        outbox.put(subscribers(self._settings), due(standings.items(), dt.datetime.now(dt.UTC)), time.time())

    def _outbox(self) -> Outbox:
        # Here, since they take a second and 30 MiB, which no gateway without webhooks should spend.
        from governance.store.database import open_database  # noqa: PLC0415
        from governance.store.outbox import Outbox  # noqa: PLC0415

        if self._engine is None:
            self._engine = open_database(self._settings.store.url or "", self._settings.state_dir)
        return Outbox(self._engine)

    def _reread(self) -> None:
        """Follow the settings file; a broken edit changes nothing."""
        seen = _stamp(self._config)
        if seen == self._config_seen:
            return
        self._config_seen = seen
        found, _ = load(self._config)
        if found is not None:
            # Where it all lies is fixed while the gateway runs.
            kept = self._settings
            self._settings = msgspec.structs.replace(found, state_dir=kept.state_dir, store=kept.store)
            self._policy_seen = None

    def _told(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            _log.error("webhooks wait, nothing is lost: %s", trouble)
        if self._trouble and not trouble:
            _log.info("webhooks are delivered again")
        self._trouble = trouble

    async def follow(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await asyncio.to_thread(self.look)
                await asyncio.sleep(LOOK_S)
        finally:
            self.close()

    def close(self) -> None:
        """Cut what is under way and let go of the database."""
        self._closing.set()
        for post in list(self._posts):
            post.cut()
        if self._engine is not None:
            self._engine.dispose()


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns
