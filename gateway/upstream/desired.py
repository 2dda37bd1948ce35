"""What was asked of an upstream's replicas through the gateway, so that one that comes back can be asked again.

Contract: pure. `after` folds one request that was carried out into the entries, `in_order` and `..._as_wanted` say
what to ask of a replica to bring it there. Only what was asked is ever replayed; what is not mentioned is left alone.

One entry for each thing:
    model       its last load, with parameters, or its last unload. Triton keeps a model's overriding
                configuration over a later load without parameters, until it is unloaded: so does the entry.
    system_shm, cuda_shm
                a registered region; gone once it is unregistered.
    trace       the settings of all models (name "") or of one; a setting that is cleared (`null`) is gone.
    log         the log settings.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import msgspec

Kind: TypeAlias = Literal["model", "system_shm", "cuda_shm", "trace", "log"]

ORDER: Final[tuple[Kind, ...]] = ("log", "system_shm", "cuda_shm", "model", "trace")
"""Settings of a model's trace are taken only while it is loaded; the log should tell of what follows."""


class Wanted(msgspec.Struct, frozen=True):
    """One thing that was asked for."""

    kind: Kind
    name: str
    """Of the model or region; "" for all."""
    verb: str
    """`load`, `unload`, `register` or `set`."""
    body: dict[str, Any]
    """The JSON document of the request."""
    serial: int = 0
    """Order in which things were asked; what is asked again has another."""

    @property
    def key(self) -> tuple[str, str]:
        """There is one entry with this key."""
        return self.kind, self.name

    @property
    def target(self) -> str:
        """The page that it is asked by."""
        return target(self.kind, self.name, self.verb)


Entries: TypeAlias = tuple[Wanted, ...]


def target(kind: Kind, name: str, verb: str) -> str:
    """Path of the HTTP page."""
    quoted = quote(name, safe="")
    match kind:
        case "model":
            return f"/v2/repository/models/{quoted}/{verb}"
        case "system_shm" | "cuda_shm":
            family = "systemsharedmemory" if kind == "system_shm" else "cudasharedmemory"
            return f"/v2/{family}/region/{quoted}/{verb}" if name else f"/v2/{family}/{verb}"
        case "trace":
            return f"/v2/models/{quoted}/trace/setting" if name else "/v2/trace/setting"
        case "log":
            return "/v2/logging"


def after(entries: Entries, asked: Wanted) -> Entries:
    """The entries once `asked` was carried out; `unregister` without a name means every region of its kind."""
    before = {entry.key: entry for entry in entries}
    known = before.get(asked.key)
    if asked.verb == "unregister":
        return tuple(e for e in entries if e.kind != asked.kind or (asked.name and e.name != asked.name))
    kept = tuple(entry for entry in entries if entry.key != asked.key)
    body = asked.body
    if asked.kind in ("trace", "log"):
        merged = {**(known.body if known else {}), **body}
        body = {name: value for name, value in merged.items() if value is not None}
        if not body:
            return kept
    elif asked.verb == "load" and known is not None and known.verb == "load":
        body = _kept_overrides(known.body, body)
    serial = max(asked.serial, 1 + max((entry.serial for entry in entries), default=0))
    return (*kept, msgspec.structs.replace(asked, body=body, serial=serial))


def _kept_overrides(before: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    return body if body.get("parameters") else before


def in_order(entries: Entries) -> list[Wanted]:
    """As they have to be replayed."""
    return sorted(entries, key=lambda entry: (ORDER.index(entry.kind), bool(entry.name), entry.serial))


# -- whether a replica is as wanted ----------------------------------------------------------------------------


def model_as_wanted(wanted: Wanted, index: Iterable[Mapping[str, Any]]) -> bool:
    """By the rows of the replica's index.

    A load with parameters cannot be seen there: whether the model is loaded with them is not known.
    """
    states = {row.get("state", "") for row in index if row["name"] == wanted.name}
    if wanted.verb == "unload":
        return not states & {"READY", "LOADING"}
    return "READY" in states and not wanted.body.get("parameters")


def region_as_wanted(wanted: Wanted, regions: Iterable[Mapping[str, Any]]) -> bool:
    """By the rows of the replica's status page; a CUDA handle is not shown and is taken to be the same."""
    return any(
        row["name"] == wanted.name
        and all(row.get(field, 0) == wanted.body.get(field, 0) for field in ("key", "offset", "byte_size", "device_id"))
        for row in regions
    )


def settings_as_wanted(wanted: Wanted, settings: Mapping[str, Any]) -> bool:
    """By the replica's trace or log settings."""
    return all(_same(name, settings.get(name), value) for name, value in wanted.body.items())


def _same(name: str, is_: Any, wanted: Any) -> bool:
    if _texts(is_) == _texts(wanted):
        return True
    # Counts down with each trace; only -1 (no limit, what a server starts with) is not the rest of another number.
    return name == "trace_count" and str(is_) != "-1" and str(wanted) != "-1"


def _texts(value: Any) -> list[str]:
    """Triton shows numbers as text, and takes one text for a list of one."""
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


# -- gRPC messages as documents --------------------------------------------------------------------------------


def load_document(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The HTTP document of a load or unload with these gRPC parameters (values already plain)."""
    if not parameters:
        return {}
    plain = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in parameters.items()
    }
    return {"parameters": plain}
