"""Messages of the pages as plain documents in the form of the HTTP pages, and back.

Contract: pure. A field that is not set is absent. Numbers stay numbers (protobuf's own JSON form turns those of 64
bits into text). `..._wanted` is what a change asks for, as `gateway.upstream.desired` keeps it: the HTTP document of
the same request.
"""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from gateway.upstream import merge
from gateway.upstream.desired import Kind, Wanted, load_document
from gateway.upstream.fanout import Told


def plain(told: Told[Any], field: str) -> Told[list[merge.Row]]:
    """Each answer's rows, which are in this field."""
    other: Told[list[merge.Row]] = Told()
    other.done = {label: [document(row) for row in getattr(answer, field)] for label, answer in told.done.items()}
    other.failed = told.failed
    return other


def document(message: Any) -> merge.Row:
    """The fields that are set."""
    return {descriptor.name: _value(descriptor, value) for descriptor, value in message.ListFields()}


def _value(descriptor: Any, value: Any) -> Any:
    kind = descriptor.message_type
    if kind is None:
        return list(value) if _repeated(value) else value
    if kind.GetOptions().map_entry:
        # A map's values are messages or not.
        return {name: document(each) if isinstance(each, Message) else each for name, each in value.items()}
    return [document(each) for each in value] if _repeated(value) else document(value)


def _repeated(value: Any) -> bool:
    return not isinstance(value, str | bytes | Message) and hasattr(value, "__len__")


def message(kind: Any, field: str, rows: list[merge.Row]) -> bytes:
    """The answer with these rows in this field."""
    return bytes(ParseDict({field: rows}, kind()).SerializeToString())


def regions(answer: Any) -> list[merge.Row]:
    """Rows of a shared-memory status, in the order of names."""
    return [document(answer.regions[name]) for name in sorted(answer.regions)]


def regions_message(kind: Any, rows: list[merge.Row]) -> bytes:
    """The status with these rows."""
    return bytes(ParseDict({"regions": {row["name"]: row for row in rows}}, kind()).SerializeToString())


def model_wanted(request: Any) -> Wanted:
    """Of a load or unload."""
    verb = "load" if type(request).__name__ == "RepositoryModelLoadRequest" else "unload"
    given = {name: _parameter(value) for name, value in request.parameters.items()}
    return Wanted("model", request.model_name, verb, load_document(given))


def region_wanted(operation: str, request: Any) -> Wanted:
    """Of a registration or its end."""
    kind: Kind = "system_shm" if operation.startswith("system") else "cuda_shm"
    if operation.endswith("_unregister"):
        return Wanted(kind, request.name, "unregister", {})
    if kind == "system_shm":
        body = {"key": request.key, "offset": request.offset, "byte_size": request.byte_size}
    else:
        handle = {"b64": base64.b64encode(request.raw_handle).decode()}
        body = {"raw_handle": handle, "device_id": request.device_id, "byte_size": request.byte_size}
    return Wanted(kind, request.name, "register", body)


def settings_wanted(operation: str, request: Any) -> Wanted:
    """Of trace or log settings."""
    if operation == "log_settings":
        return Wanted("log", "", "set", {name: _parameter(value) for name, value in request.settings.items()})
    given = {name: _trace_value(value.value) for name, value in request.settings.items()}
    return Wanted("trace", request.model_name, "set", given)


def _trace_value(values: Any) -> Any:
    """No value clears the setting; one is told apart from several, as in HTTP."""
    several = list(values)
    return None if not several else several[0] if len(several) == 1 else several


def _parameter(value: Any) -> Any:
    chosen = value.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(value, chosen)
