"""Who may see a control page."""

from __future__ import annotations

from typing import Any

from litestar import Request

from gateway.headers import from_asgi
from gateway.snapshot import Snapshot
from gateway.tls import certificate_of_scope


def authorised(request: Request[Any, Any, Any], object_: str, action: str) -> Snapshot:
    """The snapshot in force, once the caller may do `action` on `object_` by it.

    Raises:
        Unauthenticated, Forbidden.
    """
    snapshot: Snapshot = request.app.state.application.snapshot
    subject = snapshot.identifier.identify(from_asgi(request.scope["headers"]), certificate_of_scope(request.scope))
    snapshot.authorise(subject, object_, action)
    return snapshot
