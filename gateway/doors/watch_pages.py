"""`GET /healthz`, `/readyz` and `/metrics`: what restarts, routes and scrapes a gateway asks for.

Contract: a plain ASGI application, without Litestar, whose import takes a new worker most of a second (and, where
the processor is short, the patience of a probe): these pages answer as soon as the door is open. Health pages are
open, tiny and without the model servers' names. Errors have the one body of every error; every answer carries
`x-request-id`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway import logs
from gateway.decisions import durable
from gateway.doors.reply import JSON_TYPE, Reply, error_reply, served_headers
from gateway.errors import Defect, MethodNotAllowed, NotFound, Overloaded, TidegateError
from gateway.headers import from_asgi, request_id
from gateway.tls import certificate_of_scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.core import Core
    from gateway.decisions import Written

Rest = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]

_ALLOW: Final = "GET, OPTIONS"
_log = logs.get("http")


class WatchPages:
    """ASGI application of these pages.

    Args:
        app: the worker.
        health: whether `/healthz` and `/readyz` are here.
        metrics: whether `/metrics` is.
        rest: answers every other path; None: there is no other page here (404).
    """

    def __init__(self, app: Core, *, health: bool, metrics: bool, rest: Rest | None) -> None:
        self._app = app
        self._rest = rest
        self._pages: dict[str, Callable[[Any, Mapping[str, str], str], Awaitable[Reply]]] = {}
        if health:
            self._pages |= {"/healthz": self._alive, "/readyz": self._ready}
        if metrics:
            self._pages["/metrics"] = self._metrics

    def __call__(self, scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, None]:
        """Serve one request."""
        # As everywhere outside of `/v2`: a slash more at either end is the same page.
        page = self._pages.get("/" + scope["path"].strip("/"))
        if page is None and self._rest is not None:
            return self._rest(scope, receive, send)
        return self._serve(page, scope, send)

    async def _serve(
        self, page: Callable[[Any, Mapping[str, str], str], Awaitable[Reply]] | None, scope: Any, send: Any
    ) -> None:
        headers = from_asgi(scope["headers"])
        rid = request_id(headers)
        try:
            if page is None:
                raise NotFound("Not Found")
            if scope["method"] == "OPTIONS":
                reply = Reply(204, [(b"allow", _ALLOW.encode())])
            elif scope["method"] != "GET":
                raise MethodNotAllowed(_ALLOW)
            else:
                reply = await page(scope, headers, rid)
        except TidegateError as error:
            reply = error_reply(error)
        except Exception as error:  # noqa: BLE001 - the last line of defence: no internals get out
            _log.exception("a defect", extra={"fields": {"request_id": rid}})
            reply = error_reply(Defect(repr(error)))
        lines = reply.headers + served_headers({"x-request-id": rid})
        if reply.status != 204:  # RFC 9110, section 8.6
            lines.append((b"content-length", b"%d" % len(reply.body)))
        # By ASGI's two messages: a body that was sent with the request has not been read, which the server sees to.
        await send({"type": "http.response.start", "status": reply.status, "headers": lines})
        await send({"type": "http.response.body", "body": bytes(reply.body)})

    async def _alive(self, _scope: Any, _headers: Mapping[str, str], _rid: str) -> Reply:
        """This process answers."""
        return Reply(200, [JSON_TYPE], b'{"status":"ok"}')

    async def _ready(self, _scope: Any, _headers: Mapping[str, str], _rid: str) -> Reply:
        """Requests can be answered: a snapshot is in force, an upstream is ready, and nothing is draining."""
        ready = self._app.ready
        body = msgspec.json.encode({"status": "ready" if ready else "not ready"})
        return Reply(200 if ready else 503, [JSON_TYPE], body)

    async def _metrics(self, scope: Any, headers: Mapping[str, str], rid: str) -> Reply:
        """Counters of all workers, merged, as Prometheus text or OpenMetrics.

        Open like the health pages, unless `metrics.credentials` asks for `read` on `server`.
        """
        if self._app.snapshot.settings.metrics.credentials:
            await self._authorise(scope, headers, rid)
        content_type, body = await asyncio.to_thread(self._app.page.render, headers.get("accept", ""))
        return Reply(200, [(b"content-type", content_type.encode())], body)

    async def _authorise(self, scope: Any, headers: Mapping[str, str], rid: str) -> None:
        """Raises Unauthenticated and Forbidden, recorded as every control page's."""
        snapshot = self._app.snapshot
        try:
            subject = await snapshot.identifier.identified(headers, certificate_of_scope(scope))
            snapshot.authorise(subject, "server", "read")
        except TidegateError as error:
            written: Written = self._app.decisions.denied(snapshot, rid, "server", "read", error)
            with contextlib.suppress(Overloaded):  # nothing was done that would need the record
                await durable(written)
            raise
