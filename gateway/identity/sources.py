"""Where an issuer's keys come from: a file, read with the snapshot, or a URL, asked in the background.

Contract of a URL: asked at the start, again every `_REFRESH_S`, and when a token names a key that is not known,
then at most once in `_LEAST_PAUSE_S` however many tokens do so: they wait for the one answer. What an answer says
replaces the keys only if it is a good key set; else the last good ones stay. Redirects are not followed. A source
outlives snapshots that name the same URL. Nothing of an answer ends in a log.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, Final

from gateway import logs
from gateway.errors import Unauthenticated
from gateway.identity.credentials import WRONG
from gateway.identity.jwks import MOST_BYTES, KeySet, KeySetError, parse

_REFRESH_S: Final = 300.0
"""How long a key that was withdrawn is still taken, at most."""
_LEAST_PAUSE_S: Final = 10.0
_TIMEOUT_S: Final = 3.0
"""For the whole answer. A request that waits for it has a timeout of its own besides."""

_log = logs.get("identity")


class KeysNeeded(Unauthenticated):
    """A key is not known and its issuer is being asked. A refusal, for whoever cannot wait for `ready`."""

    def __init__(self, ready: asyncio.Future[None]) -> None:
        super().__init__(WRONG)
        self._ready = ready

    async def ready(self) -> None:
        """Until the issuer has been asked, whatever came of it."""
        await asyncio.shield(self._ready)


class KeySource:
    """Keys that do not change: those of a file."""

    def __init__(self, keys: KeySet) -> None:
        self.keys = keys
        self.generation = 0
        """Another number, other keys."""

    def ask(self) -> None:
        """Ask the issuer for newer keys, if that can be.

        Raises:
            KeysNeeded: it is being asked.
        """


class UrlSource(KeySource):
    """Keys behind a URL.

    Args:
        url: `http://` or `https://`.
        fetch: the bytes at a URL; blocks, raises OSError or ValueError.
        clock: monotonic seconds.
    """

    def __init__(
        self, url: str, fetch: Callable[[str], bytes] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(KeySet())
        self._url = url
        self._fetch = fetch_url if fetch is None else fetch
        self._clock = clock
        self._asked: float | None = None
        self._asking: asyncio.Future[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._failing = False

    def ask(self) -> None:
        """See `KeySource`. Within the pause after the last time nobody is asked."""
        if self._asking is None:
            if self._asked is not None and self._clock() - self._asked < _LEAST_PAUSE_S:
                return
            self._asking = asyncio.ensure_future(self._ask())
        raise KeysNeeded(self._asking)

    async def start(self) -> None:
        """Ask once and keep asking in the background; a second time does nothing."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(), name="jwks")
            try:
                self.ask()
            except KeysNeeded as asked:
                await asked.ready()

    def stop(self) -> None:
        """No snapshot names it any more."""
        for task in (self._refreshing, self._asking):
            if task is not None:
                task.cancel()
        self._refreshing = None

    async def _refresh(self) -> None:
        while True:
            # Without any key every token waits for the next answer.
            await asyncio.sleep(_REFRESH_S if self.keys.keys else _LEAST_PAUSE_S)
            try:
                self.ask()
            except KeysNeeded as asked:
                await asked.ready()

    async def _ask(self) -> None:
        try:
            keys = parse(await asyncio.to_thread(self._fetch, self._url))
        except (OSError, HTTPException, ValueError) as error:
            if not self._failing:
                why = str(error) if isinstance(error, KeySetError) else type(error).__name__
                _log.warning("identity.jwt: the keys at %s could not be read (%s)", _shown(self._url), why)
            self._failing = True
        else:
            if self._failing:
                _log.info("identity.jwt: the keys at %s can be read again", _shown(self._url))
            self._failing = False
            if keys.material != self.keys.material:
                self.keys = keys
                self.generation += 1
        finally:
            self._asked = self._clock()
            self._asking = None


class Sources:
    """The URL sources of a worker, which outlive its snapshots."""

    def __init__(self) -> None:
        self._known: dict[str, UrlSource] = {}

    def of(self, url: str) -> UrlSource:
        """The source of a URL; made when there is none yet."""
        return self._known.setdefault(url, UrlSource(url))

    async def start(self, urls: set[str]) -> None:
        """Ask those that are new, all at once, and wait for their answers or their time limits."""
        await asyncio.gather(*(self.of(url).start() for url in urls))

    def retain(self, urls: set[str]) -> None:
        """Forget all others."""
        for url in [url for url in self._known if url not in urls]:
            self._known.pop(url).stop()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: the answer is taken as it is, an error."""
        return None  # noqa: RET501 - the base class means something by it


def fetch_url(url: str) -> bytes:
    """The bytes at a URL, within `_TIMEOUT_S` and `MOST_BYTES`; for a thread.

    Raises:
        OSError: no answer in time, or one that is not 200.
        ValueError: too much.
    """
    over = time.monotonic() + _TIMEOUT_S
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _NoRedirects(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("Accept", "application/jwk-set+json, application/json"), ("User-Agent", "tidegate")]
    with opener.open(url, timeout=_TIMEOUT_S) as response:
        if response.status != 200:
            raise OSError(f"answered {response.status}")
        data = b""
        while chunk := response.read1(65536):
            data += chunk
            if len(data) > MOST_BYTES:
                raise KeySetError(f"larger than {MOST_BYTES >> 10} KiB")
            if time.monotonic() > over:
                raise TimeoutError("the whole answer did not come in time")
        return data


def _shown(url: str) -> str:
    """A URL without what may be secret in it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}/..."
