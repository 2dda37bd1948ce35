"""What the data plane needs to know of the registry: one small JSON document, made from the steps.

Contract: pure. A version that is not in it is not registered. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from governance.registry.events import Event
from governance.registry.machine import Standing, State, fold


class Known(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version."""

    model: str
    version: str
    state: State
    expires: float | None = None
    """End of its approval."""
    promoted: float | None = None
    """When it last became live."""
    deprecated: float | None = None
    sunset: float | None = None
    link: str = ""


class View(msgspec.Struct, frozen=True):
    """All versions, by model and version."""

    versions: tuple[Known, ...] = ()


def view_of(steps: Sequence[Event]) -> View:
    """The view of a store's steps. Raises RegistryBroken."""
    return View(tuple(_known(model, version, one) for (model, version), one in fold(steps).items()))


def _known(model: str, version: str, one: Standing) -> Known:
    assert one.state is not None
    times = {name: getattr(one, name) for name in ("expires", "promoted", "deprecated", "sunset")}
    seconds = {name: None if time is None else time.timestamp() for name, time in times.items()}
    return Known(model, version, one.state, **seconds, link=one.link)


def encode(view: View) -> bytes:
    """As a file."""
    return msgspec.json.encode(view)


def decode(data: bytes) -> View:
    """From a file. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=View)
