"""The feature plans that routes name: read, judged, watched.

Contract: as for key sets: what is judged is what is used, so the bytes go into the snapshot and its hash. A plan that
is as it was is not compiled again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gateway.settings import Settings
from gateway.transform import RouteFeatures
from governance.documents.convert import Place, Places, dotted
from governance.features.reading import LARGEST, Loaded, parse
from governance.types import Finding

_read: dict[tuple[str, bytes], tuple[Loaded | None, list[Finding]]] = {}
"""Of the last readings."""
_MOST_KEPT = 64


def watched(settings: Settings) -> Iterator[Path]:
    """The plans' files."""
    yield from (route.features.plan for route in settings.routes.values() if route.features is not None)


def read_plans(settings: Settings, file: str, places: Places) -> tuple[dict[str, bytes], list[Finding]]:
    """The bytes of every plan's file, and what is wrong with them.

    Args:
        settings: well-formed.
        file: the settings file's name in findings.
        places: where everything stands in it.
    """
    found: dict[str, bytes] = {}
    findings: list[Finding] = []
    for name, route in settings.routes.items():
        if route.features is None or str(route.features.plan) in found:
            continue
        path = route.features.plan
        try:
            with path.open("rb") as stream:
                data = stream.read(LARGEST + 1)
        except (OSError, ValueError) as error:
            place: Place = ("routes", name, "features")
            why = error.strerror if isinstance(error, OSError) else "no path"
            message = f"`{dotted(place)}` {path} cannot be read ({why}): check the path and its rights"
            findings.append(Finding(file, *places.of(place), "error", "unreadable-plan", message))
            continue
        found[str(path)] = data
        findings += _parsed(data, str(path))[1]
    return found, findings


def _parsed(data: bytes, file: str) -> tuple[Loaded | None, list[Finding]]:
    key = (file, data)
    if key not in _read:
        if len(_read) >= _MOST_KEPT:
            _read.clear()
        _read[key] = parse(data, file)
    return _read[key]


def features_of(settings: Settings, plans: Mapping[str, bytes]) -> dict[str, RouteFeatures]:
    """What each route that has a plan makes of its calls, by the route's name; the plans hold."""
    found = {}
    for name, route in settings.routes.items():
        if route.features is not None:
            file = str(route.features.plan)
            loaded, _ = _parsed(plans[file], file)
            assert loaded is not None
            found[name] = RouteFeatures(loaded, frozenset(route.features.accept))
    return found
