"""The registry's state, written back as tags of MLflow's model versions.

Contract: tags `tidegate.*` of versions that were imported from this MLflow, and no other; only what differs is
written, and what no longer holds is taken away. The alias, when one is asked for, is at the version that serves where a
route names none. MLflow decides nothing here: its tags are a copy, for people and pipelines that look there.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import msgspec

from governance.errors import RegistryInputError
from governance.mlflow.documents import OWN
from governance.mlflow.rest import Tracking
from governance.registry.digests import file_digest
from governance.registry.machine import Standing


class Origin(msgspec.Struct, frozen=True):
    """Whence a version was imported, by its evidence `mlflow`."""

    registry: str
    model: str
    version: str


def origin(standing: Standing, base: Path) -> Origin | None:
    """Of a version; None: it is not from MLflow, or the file is not the one that the version is bound to.

    Args:
        standing: what its steps amount to.
        base: the folder that stored paths start from.
    """
    bound, sources = standing.binding, standing.sources
    if bound is None or sources is None or "mlflow" not in sources.evidence:
        return None
    path = base / sources.evidence["mlflow"]
    try:
        if file_digest(path) != bound.evidence.get("mlflow"):
            return None
        return msgspec.json.decode(path.read_bytes(), type=Origin)
    except (RegistryInputError, OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def tags(standing: Standing, now: dt.datetime) -> dict[str, str]:
    """What a version's tags say."""
    said = {
        "state": standing.state or "",
        "serves": "true" if standing.serves(now) else "false",
        "binding": "" if standing.binding is None else standing.binding.digest,
        "risk_class": standing.risk,
        "approved_by": ", ".join(step.by for step in standing.approvals),
        "expires": _day(standing.expires),
        "review": _day(standing.review),
        "sunset": _day(standing.sunset),
    }
    return {OWN + key: value for key, value in said.items() if value}


def push(tracking: Tracking, to: Origin, wanted: Mapping[str, str]) -> list[str]:
    """Make a version's tags what they should be; those that were changed. Raises RegistryInputError."""
    listed = tracking.version(to.model, to.version).get("tags") or []
    there = {str(one.get("key")): str(one.get("value", "")) for one in listed if isinstance(one, dict)}
    changed = []
    for key, value in wanted.items():
        if there.get(key) != value:
            tracking.set_tag(to.model, to.version, key, value)
            changed.append(key)
    ours = {key for key in there if key in OURS and key not in wanted}
    for key in sorted(ours):
        tracking.delete_tag(to.model, to.version, key)
        changed.append(key)
    return changed


OURS = frozenset(
    OWN + key for key in ("state", "serves", "binding", "risk_class", "approved_by", "expires", "review", "sunset")
)
"""`tidegate.risk` is not among them: people set it, and an import reads it."""


def point(tracking: Tracking, model: str, alias: str, version: str | None) -> bool:
    """Put an alias at a version, or take it away; whether anything was changed. Raises RegistryInputError."""
    pairs = tracking.model(model).get("aliases") or []
    there = next((str(one.get("version")) for one in pairs if one.get("alias") == alias), None)
    if there == version:
        return False
    if version is None:
        tracking.delete_alias(model, alias)
    else:
        tracking.set_alias(model, alias, version)
    return True


def _day(time: dt.datetime | None) -> str:
    return "" if time is None else time.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
