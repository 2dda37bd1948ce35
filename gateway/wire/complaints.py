"""Triton's words for what is wrong with an HTTP inference request.

Contract: cold path only. A request that the narrow decoder of `wire.http` refused is read again in general
form and walked in Triton's order (id, parameters, inputs, outputs), so that a client reads the message that
Triton itself would have sent.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.errors import BadRequest
from gateway.wire.types import MAX_RANK, Buffer

NOT_UNSIGNED: Final = "attempt to access JSON non-unsigned-integer as unsigned-integer"
NOT_BOOLEAN: Final = "attempt to access JSON non-boolean as boolean"
NOT_STRING: Final = "attempt to access JSON non-string as string"
NOT_ARRAY: Final = "attempt to access JSON non-array as array"
SHAPE: Final = f"Unable to parse 'shape': {NOT_UNSIGNED}"
RANK: Final = f"Unable to parse 'shape': more than {MAX_RANK} dimensions"
RESERVED: Final = "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."


def too_many(limit: int) -> BadRequest:
    """More inputs and outputs than `limits.tensors`."""
    return BadRequest(f"the request has more than {limit} inputs and outputs")


def named(error: BadRequest, kind: str, name: str) -> BadRequest:
    """The same complaint, which names the tensor: Triton's words do not always."""
    return error if name in error.message else BadRequest(f"{error.message} ({kind} '{name[:100]}')")


def content_type(*, has_data: bool, parameters: dict[str, Any]) -> str:
    """An input that sets none or several of the three forms of content."""
    found = [
        name
        for name, is_set in (
            ("data", has_data),
            ("binary_data_size", "binary_data_size" in parameters),
            ("shared_memory_region", "shared_memory_region" in parameters),
        )
        if is_set
    ]
    listed = " set" + "".join(f" '{name}'" for name in found) if found else " no field is set"
    return (
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
        f"'shared_memory_region' in 'parameters'. But{listed}"
    )


def of_request(envelope: Buffer, fallback: str) -> BadRequest:
    """What is wrong with this JSON, which is sound JSON but no request.

    Args:
        envelope: the request's JSON, tensor data cut out.
        fallback: the message when this walk finds nothing (a number that fits no type).
    """
    try:
        root: object = msgspec.json.decode(envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return BadRequest(f"failed to parse the request JSON buffer: {error}")
    if not isinstance(root, dict):
        return BadRequest(f"Unable to parse 'inputs': {_missing('inputs')}")
    complaint = _of_root(root) or _of_list(root, "inputs", _of_input) or _of_list(root, "outputs", _of_output)
    return BadRequest(complaint or f"failed to parse the request JSON buffer: {fallback[:200]}")


def _missing(key: str) -> str:
    return f"attempt to access non-existing object member '{key}'"


def _of_root(root: dict[str, Any]) -> str | None:
    if not isinstance(root.get("id", ""), str):
        return f"Unable to parse 'id': {NOT_STRING}"
    parameters = root.get("parameters", {})
    if not isinstance(parameters, dict):
        return "failed to get request params.: attempt to get members for non-object"
    return _of_parameters(parameters)


def _of_parameters(parameters: dict[str, Any]) -> str | None:
    for key, value in parameters.items():
        if not isinstance(value, (str, int, float, bool)):
            return f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'."
    return None


def _of_list(root: dict[str, Any], key: str, judge: Any) -> str | None:
    if key not in root:
        return None if key == "outputs" else f"Unable to parse '{key}': {_missing(key)}"
    items = root[key]
    if not isinstance(items, list):
        return f"Unable to parse '{key}': {NOT_ARRAY}"
    for item in items:
        complaint = judge(item if isinstance(item, dict) else {})
        if complaint is not None:
            name = item.get("name") if isinstance(item, dict) else None
            return named(BadRequest(complaint), key[:-1], name).message if isinstance(name, str) else str(complaint)
    return None


def _of_input(item: dict[str, Any]) -> str | None:
    parameters = item.get("parameters", {})
    known: dict[str, Any] = parameters if isinstance(parameters, dict) else {}
    if ("data" in item) + ("binary_data_size" in known) + ("shared_memory_region" in known) != 1:
        return content_type(has_data="data" in item, parameters=known)
    for key in ("name", "datatype"):
        complaint = _of_string(item, key)
        if complaint is not None:
            return complaint
    shape = item.get("shape")
    if "shape" not in item:
        return f"Unable to parse 'shape': {_missing('shape')}"
    if not isinstance(shape, list):
        return f"Unable to parse 'shape': {NOT_ARRAY}"
    if not all(type(dim) is int and dim >= 0 for dim in shape):
        return SHAPE
    return _of_tensor_parameters(item)


def _of_output(item: dict[str, Any]) -> str | None:
    return _of_string(item, "name") or _of_tensor_parameters(item)


def _of_string(item: dict[str, Any], key: str) -> str | None:
    if key not in item:
        return f"Unable to parse '{key}': {_missing(key)}"
    return None if isinstance(item[key], str) else f"Unable to parse '{key}': {NOT_STRING}"


def _of_tensor_parameters(item: dict[str, Any]) -> str | None:
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        return f"Unable to parse 'parameters' of '{item.get('name', '')}': attempt to get members for non-object"
    return _of_parameters(parameters)
