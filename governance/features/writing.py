"""A plan as text: YAML that people read, one column a line, and that `reading.py` reads back to the same values."""

from __future__ import annotations

import json
from typing import Any

from governance.features.plan import OF_COLUMNS


def text_of(document: dict[str, Any], comment: str = "") -> str:
    """The YAML of a plan that is plain data; floats come back to the last bit."""
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += [f"schema_version: {document['schema_version']}", "inputs:"]
    lines += [f"  {_scalar(name)}: {_flow(kind)}" for name, kind in document["inputs"].items()]
    if document["steps"]:
        lines.append("steps:")
    for step in document["steps"]:
        ((name, parameters),) = step.items()
        if name in OF_COLUMNS:
            lines.append(f"  - {name}: {_flow(parameters)}")
            continue
        lines.append(f"  - {name}:")
        lines += [f"      {_scalar(column)}: {_flow(one)}" for column, one in parameters.items()]
    lines.append("outputs:")
    for name, output in document["outputs"].items():
        lines += [f"  {_scalar(name)}:", f"    datatype: {output['datatype']}", "    columns:"]
        lines += [f"      - {_scalar(column)}" for column in output["columns"]]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_INSIDE = _PLAIN | frozenset("0123456789-")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number(float(value)) if isinstance(value, float) else str(value)
    text = str(value)
    if text and text[0] in _PLAIN and set(text) <= _INSIDE and text.lower() not in _WORDS:
        return text
    return "".join(one if one.isprintable() else _escape(one) for one in json.dumps(text, ensure_ascii=False))


def _escape(one: str) -> str:
    code = ord(one)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _number(value: float) -> str:
    text = repr(value)
    return text.removesuffix(".0") if "e" not in text else text
