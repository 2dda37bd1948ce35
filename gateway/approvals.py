"""Which versions may serve, by the registry as this machine last saw it: `state_dir/registry/view.json`.

Contract: workers read that file and never the database, so that they serve while the store is away. A file that is not
there is a registry without versions: under `enforce: true` nothing then serves. Immutable; a part of the snapshot.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from gateway.errors import Forbidden
from governance.registry.machine import SERVABLE
from governance.registry.view import Known, View, decode

if TYPE_CHECKING:
    from gateway.routing.route import CompiledRoute
    from gateway.settings import Settings

Notices: TypeAlias = tuple[tuple[str, str], ...]
"""Headers that tell of a version's end: RFC 9745, RFC 8594."""
_NONE: Notices = ()


def view_file(state_dir: Path) -> Path:
    """Where the supervisor puts what it saw."""
    return state_dir / "registry" / "view.json"


class Approvals:
    """What the registry says, ready to be asked for each request."""

    def __init__(self, view: View, enforce: Literal["true", "warn"]) -> None:
        self.enforcing = enforce == "true"
        """Else what would be refused is counted."""
        self.view = view
        self._known = {(one.model, one.version): one for one in view.versions}
        self._notices = {key: _notices(one) for key, one in self._known.items() if one.deprecated is not None}
        newest: dict[str, Known] = {}
        for one in view.versions:
            if one.state == "live" and (one.model not in newest or _since(one) > _since(newest[one.model])):
                newest[one.model] = one
        self._live = {model: one.version for model, one in newest.items()}

    def live(self, model: str) -> str:
        """The version that became live last; empty: none is live."""
        return self._live.get(model, "")

    def why_not(self, model: str, version: str) -> str:
        """Why a version may not serve; empty: it may. An empty version is the live one."""
        version = version or self.live(model)
        if not version:
            return "no version is live"
        known = self._known.get((model, version))
        if known is None:
            return "it is not registered"
        if known.state not in SERVABLE:
            return f"it is {known.state}"
        if known.expires is not None and time.time() >= known.expires:
            return "its approval has ended"
        return ""

    def notices(self, model: str, version: str) -> Notices:
        """What callers of a version are told of its end."""
        return self._notices.get((model, version), _NONE)

    def admit(self, route: CompiledRoute, version: str) -> None:
        """Before anything else is done for a request: some variant may serve it. Raises Forbidden."""
        if not self.enforcing:
            return
        why = ""
        for variant in route.variants:
            asked = version if version and route.any_version else variant.version
            why = self.why_not(variant.model, asked)
            if not why:
                return
        raise refused(route.name, why)


def refused(name: str, why: str, variant: str = "") -> Forbidden:
    """What a client is told of a version that may not serve."""
    which = f" variant '{variant}' of" if variant else ""
    return Forbidden(f"the registry does not allow{which} '{name}' to serve: {why}")


def _since(one: Known) -> float:
    return one.promoted or 0.0


def _notices(one: Known) -> Notices:
    assert one.deprecated is not None
    found = [("deprecation", f"@{int(one.deprecated)}")]
    if one.sunset is not None:
        found.append(("sunset", formatdate(one.sunset, usegmt=True)))
    if one.link:
        found.append(("link", f'<{one.link}>; rel="deprecation"'))
    return tuple(found)


def read_view(settings: Settings) -> View:
    """What this machine last saw of the registry. Raises ValueError: the file is damaged."""
    path = view_file(settings.state_dir)
    try:
        return decode(path.read_bytes())
    except OSError:
        return View()
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: damaged ({error}): remove it; the gateway makes it again from the store") from None


def load_approvals(settings: Settings) -> Approvals | None:
    """What the settings put in force; None: nobody looks. Raises ValueError: the file is damaged."""
    registry = settings.registry
    if registry is None or registry.enforce == "false":
        return None
    return Approvals(read_view(settings), registry.enforce)


def pulse(settings: Settings) -> tuple[int, ...]:
    """What changes with a step of the registry, or when an approval ends."""
    if settings.registry is None or settings.registry.enforce == "false":
        return ()
    try:
        found = view_file(settings.state_dir).stat()
    except OSError:
        return (0,)
    return found.st_ino, found.st_size, found.st_mtime_ns
