"""The profiles that the settings name: read, judged, watched.

Contract: as for certificates: what is judged is what is used, so a profile's hash goes into the snapshot's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.settings import Settings
from governance.documents.convert import Place, Places, dotted
from governance.documents.words import suggest
from governance.errors import DataError
from governance.types import Finding

if TYPE_CHECKING:
    from gateway.settings.routes import Alarms, Quality
    from governance.monitor.profile import Profile


def watched(settings: Settings) -> Iterator[Path]:
    """The profiles' files."""
    yield from (route.monitor.profile for route in settings.routes.values() if route.monitor is not None)


def read_profiles(settings: Settings, file: str, places: Places) -> tuple[dict[str, Profile], list[Finding]]:
    """The profile of each route that has a monitor, and what is wrong with them.

    Args:
        settings: well-formed.
        file: the settings file's name in findings.
        places: where everything stands in it.
    """
    found: dict[str, Profile] = {}
    findings: list[Finding] = []
    for name, route in settings.routes.items():
        if route.monitor is None:
            continue
        from governance.monitor.profile import load  # noqa: PLC0415 - numpy, for those that have a monitor

        place: Place = ("routes", name, "monitor", "profile")
        try:
            profile = load(route.monitor.profile)
        except DataError as error:
            message = f"`{dotted(place)}`: {error}"
        else:
            made_for = profile.head.route
            if made_for is None or made_for == name:
                found[name] = profile
                findings += _unknown_outputs(route.monitor.outputs, profile, place[:-1], file, places)
                findings += _alarms(route.monitor.alarms, profile, place[:-1], file, places)
                findings += _quality(route.monitor.quality, profile, place[:-1], file, places)
                continue
            message = (
                f"`{dotted(place)}`: {route.monitor.profile} was made for route `{made_for}`: name the profile of "
                f"`{name}`, or build it without --route"
            )
        findings.append(Finding(file, *places.of(place), "error", "profile", message))
    return found, findings


def _unknown_outputs(
    outputs: Sequence[str], profile: Profile, monitor: Place, file: str, places: Places
) -> Iterator[Finding]:
    """Outputs that are no column of the profile."""
    names = {column.name for column in profile.columns}
    for at, output in enumerate(outputs):
        place = (*monitor, "outputs", at)
        if output in outputs[:at]:
            message = f"`{dotted(place)}`: `{output}` is there already"
        elif output not in names and f"{output}_0" not in names:
            hint = suggest(output, sorted(names), "columns")
            message = f"`{dotted(place)}`: the profile has no column `{output}`: {hint}"
        else:
            continue
        yield Finding(file, *places.of(place), "error", "profile", message)


def _alarms(alarms: Alarms | None, profile: Profile, monitor: Place, file: str, places: Places) -> Iterator[Finding]:
    """Alarms that the profile has no thresholds for."""
    if alarms is None:
        return
    place = (*monitor, "alarms")
    if profile.head.alarms is None:
        message = f"`{dotted(place)}`: the profile has no thresholds: make it with `tidegate profile build --alarms`"
    elif not profile.head.alarms.looks[0] <= 1 / (alarms.budget * alarms.every) <= profile.head.alarms.looks[-1]:
        message = (
            f"`{dotted(place)}`: `budget` is one false alarm in {1 / (alarms.budget * alarms.every):.4g} windows of "
            f"`every`; thresholds are of one in {profile.head.alarms.looks[0]} to {profile.head.alarms.looks[-1]}"
        )
    else:
        return
    yield Finding(file, *places.of(place), "error", "profile", message)


def _quality(quality: Quality | None, profile: Profile, monitor: Place, file: str, places: Places) -> Iterator[Finding]:
    """Constraints that cannot be of the profile's columns."""
    if quality is None:
        return
    from governance.monitor.quality import faults  # noqa: PLC0415 - numpy, for those that have a monitor

    known = [column.name for column in profile.columns]
    for name, key, why in faults(profile, quality.columns):
        place = (*monitor, "quality", "columns", name, *([key] if key else []))
        hint = "" if name in known else f": {suggest(name, known, 'columns')}"
        yield Finding(file, *places.of(place), "error", "profile", f"`{dotted(place)}`: {why}{hint}")
