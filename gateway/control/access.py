"""Who may see a control page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from litestar import Request

from gateway.errors import TidegateError
from gateway.headers import from_asgi, request_id
from gateway.snapshot import Admitted, Snapshot
from gateway.tls import certificate_of_scope

if TYPE_CHECKING:
    from gateway.core import Core

REFUSED_KEY: Final = "tidegate.refused"
"""In the scope of a refused request: its id, and what its answer waits for (`gateway.decisions`)."""


def authorised(request: Request[Any, Any, Any], object_: str, action: str) -> Snapshot:
    """The snapshot in force, once the caller may do `action` on `object_` by it. Raises as `admitted`."""
    return admitted(request, object_, action)[0]


def admitted(request: Request[Any, Any, Any], object_: str, action: str) -> tuple[Snapshot, Admitted]:
    """As `authorised`, with who it is and the rule that allows it.

    Raises:
        Unauthenticated, Forbidden.
    """
    application: Core = request.app.state.application
    snapshot = application.snapshot
    headers = from_asgi(request.scope["headers"])
    try:
        subject = snapshot.identifier.identify(headers, certificate_of_scope(request.scope))
        line = snapshot.authorise(subject, object_, action)
    except TidegateError as error:
        rid = request_id(headers)
        cast("dict[str, Any]", request.scope)[REFUSED_KEY] = (
            rid,
            application.decisions.denied(snapshot, rid, object_, action, error),
        )
        raise
    return snapshot, Admitted(subject, asked=True, line=line)
