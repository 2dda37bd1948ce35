"""Control API and its OpenAPI description. Litestar, one file per resource.

Contract: each control page names the object and action that the policy is asked for. Errors have the one body of
every error. The inference door is mounted at `/v2`, and what Litestar does not know is answered as Triton answers
unknown pages. Health and metrics are `gateway.doors.watch_pages`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request, Router, asgi
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.response import Response

from gateway import logs
from gateway.control.access import REFUSED_KEY
from gateway.control.audit import AuditController
from gateway.control.fairness import FairnessController
from gateway.control.monitors import MonitorController
from gateway.control.registry import RegistryController
from gateway.control.routes import RouteController
from gateway.control.snapshot import SnapshotController
from gateway.control.upstreams import UpstreamController
from gateway.decisions import durable
from gateway.doors.reply import error_reply
from gateway.errors import Overloaded, TidegateError, Unauthenticated
from gateway.headers import from_asgi, request_id
from gateway.tls import certificate_of_scope

if TYPE_CHECKING:
    from gateway.core import Core

_log = logs.get("control")


def build_litestar(application: Core, http_door: Any) -> Litestar:
    """The ASGI application of the control pages; `http_door` serves all below `/v2`."""
    return Litestar(
        route_handlers=[
            AuditController,
            RouteController,
            RegistryController,
            MonitorController,
            FairnessController,
            SnapshotController,
            UpstreamController,
            asgi("/v2", is_mount=True, copy_scope=False)(http_door),
        ],
        state=State({"application": application}),
        before_request=_keys_ready,
        before_send=[_name_request],
        exception_handlers={
            TidegateError: _tidegate_error,
            HTTPException: _http_error,
            Exception: _internal_error,
        },
        openapi_config=OpenAPIConfig(
            title="Tidegate control API",
            version=application.version,
            # The page is the whole of Litestar's documentation site: a site at /gateway/v1 would answer unknown
            # control pages itself, in HTML.
            path="/gateway/v1/openapi.json",
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
            openapi_router=Router(
                "/gateway/v1/openapi.json", route_handlers=[], guards=[_known_caller], include_in_schema=False
            ),
        ),
        logging_config=None,
        debug=False,
    )


async def _keys_ready(request: Request[Any, Any, Any]) -> None:
    """Ask the issuer of a token whose key is not known yet, so that the page can judge it without waiting."""
    with contextlib.suppress(Unauthenticated):  # the page says so itself, or is open
        await request.app.state.application.snapshot.identifier.identified(
            from_asgi(request.scope["headers"]), certificate_of_scope(request.scope)
        )


async def _name_request(message: Any, scope: Any) -> None:
    """Every answer carries the `x-request-id`, as those below `/v2` do; the door in the mount has written its own.

    That of a refusal goes out when it is recorded.
    """
    if message["type"] != "http.response.start":
        return
    made, written = scope.get(REFUSED_KEY, (None, None))
    with contextlib.suppress(Overloaded):  # nothing was done that would need the record
        await durable(written)
    headers = message["headers"]
    if not any(name == b"x-request-id" for name, _ in headers):
        made = made or request_id(from_asgi(scope["headers"]))
        message["headers"] = [*headers, (b"x-request-id", made.encode())]


def _known_caller(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """What pages there are is told to whoever is accepted at all."""
    connection.app.state.application.snapshot.identifier.identify(
        from_asgi(connection.scope["headers"]), certificate_of_scope(connection.scope)
    )


def _respond(error: TidegateError) -> Response[bytes]:
    reply = error_reply(error)
    headers = {name.decode(): value.decode() for name, value in reply.headers if name != b"content-type"}
    return Response(bytes(reply.body), status_code=reply.status, media_type="application/json", headers=headers)


def _tidegate_error(_: Request[Any, Any, Any], error: TidegateError) -> Response[bytes]:
    return _respond(error)


def _http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's own refusals: unknown page, wrong method, bad parameter."""
    own = TidegateError({404: "Not Found", 405: "Method Not Allowed"}.get(error.status_code, error.detail))
    own.status = error.status_code
    answer = _respond(own)
    if allow := (error.headers or {}).get("allow"):
        answer.set_header("allow", allow)
    return answer


def _internal_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A defect: the log gets the traceback, the client does not."""
    _log.error("unexpected error on %s", request.url.path, exc_info=error)
    return _respond(TidegateError("internal error"))
