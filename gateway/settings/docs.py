"""`docs/settings.md`, made from the Structs of `gateway/settings` and the docstrings under their fields.

Contract: `render` is a pure function of those modules, so a test can compare the page with it. To renew the
page:

    python -m gateway.settings.docs > docs/settings.md
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as types

from gateway import settings
from gateway.settings import access, audit, registry, routes, upstreams, webhooks
from governance.documents.convert import SHORT

_INTRO = """\
# Settings: `tidegate.yaml`

This page is made from the docstrings in `gateway/settings/` (`python -m gateway.settings.docs`).

- The file is YAML 1.2: only `true` and `false` are booleans; `on`, `off`, `yes` and `no` are strings.
- Unknown keys, impossible values and duplicate keys are errors with file, line, column and the nearest valid
  key. `tidegate check FILE` lists them all.
- `${NAME}` inside a value takes an environment variable; an unset one is an error; `$${` is a literal `${`.
- Relative paths are relative to the file.
- Settings, policy and keys are read again on SIGHUP and within 5 s of a change, all together or not at all.

| form | written | means |
|---|---|---|
| duration | `250ms`, `2s`, `5m`, `1h` | time; a unit is always needed |
| size | `64MiB`, `10KiB`, `1000` | bytes; 1 KiB is 1024 bytes |
| rate | `1000/s`, `60/m`, `5/h` | requests |
| quota | `10GiB/day` | bytes in a day (UTC) |
| budget | `1/month`, `2/week` | times in a day, week, month (a twelfth of a year) or year |
| address | `127.0.0.1:8080`, `[::1]:8080` | host and port |
| target | `127.0.0.1:8000`, `dns://triton:8000` | the same, or every address of a name |

The least that works:

```yaml
upstreams:
  triton: {http: 127.0.0.1:8000, grpc: 127.0.0.1:8001}
```
"""

_WORDS = {
    types.StrType: "text",
    types.IntType: "whole number",
    types.FloatType: "number",
    types.BoolType: "`true` or `false`",
    types.NoneType: "`null`",
}
_BOUNDS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))


def render() -> str:
    """The whole page."""
    modules = (settings, access, audit, registry, routes, upstreams, webhooks)
    docs = _docstrings("".join(map(inspect.getsource, modules)))
    parts = [_INTRO]
    for place, kind in _sections(types.type_info(settings.Settings), ""):
        parts.append("\n".join(_section(place, kind, docs)))
    return "\n".join(parts)


def _docstrings(source: str) -> Mapping[tuple[str, str], str]:
    """(Struct, field) -> the string under it; (Struct, "") -> the Struct's own."""
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        found[node.name, ""] = " ".join((ast.get_docstring(node) or "").split())
        for field, below in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[node.name, field.target.id] = " ".join(below.value.value.split())
    return found


def _sections(kind: types.Type, place: str) -> Iterator[tuple[str, types.StructType]]:
    """Every Struct of the tree with where it stands, in the order of the file."""
    inner, suffix = _inner(kind)
    if not isinstance(inner, types.StructType):
        return
    here = place + suffix
    yield here, inner
    for field in inner.fields:
        yield from _sections(field.type, f"{here}.{field.encode_name}".removeprefix("."))


def _inner(kind: types.Type) -> tuple[types.Type, str]:
    """What a list, mapping or optional holds, and how its place is written."""
    if isinstance(kind, types.UnionType):
        return _inner(next(one for one in kind.types if not isinstance(one, types.NoneType)))
    if isinstance(kind, types.VarTupleType):
        inner, suffix = _inner(kind.item_type)
        return inner, "[]" + suffix
    if isinstance(kind, types.DictType):
        inner, suffix = _inner(kind.value_type)
        return inner, ".NAME" + suffix
    return kind, ""


def _section(place: str, kind: types.StructType, docs: Mapping[tuple[str, str], str]) -> Iterator[str]:
    yield f"## {'`' + place + '`' if place else 'The file'}"
    yield ""
    yield docs[kind.cls.__name__, ""]
    yield ""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for field in kind.fields:
        meaning = docs[kind.cls.__name__, field.name]
        row = (f"`{field.encode_name}`", _value(field.type), _default(field), meaning)
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
    yield ""


def _value(kind: types.Type) -> str:
    if isinstance(kind, types.Metadata):
        form = (kind.extra_json_schema or {}).get("x-form")
        return str(form) if form else _value(kind.type)
    if isinstance(kind, types.UnionType):
        return _value(next(one for one in kind.types if not isinstance(one, types.NoneType)))
    if isinstance(kind, types.LiteralType):
        return ", ".join(f"`{value}`" for value in kind.values)
    if isinstance(kind, types.VarTupleType):
        return f"list of {_value(kind.item_type)}"
    if isinstance(kind, types.DictType):
        return f"name: {_value(kind.value_type)}"
    if isinstance(kind, types.StructType):
        short = getattr(kind.cls, SHORT, None)
        return "section" if short is None else f"section, or its `{short}`"
    bounds = [f"{words} {getattr(kind, name)}" for name, words in _BOUNDS if getattr(kind, name, None) is not None]
    pattern = getattr(kind, "pattern", None)
    if pattern is not None:
        bounds.append(f"like `{pattern}`")
    return ", ".join([_WORDS[type(kind)], *bounds])


def _default(field: types.Field) -> str:
    if field.required:
        return "needed"
    value: Any = field.default
    if value is msgspec.NODEFAULT or value is None or value == () or isinstance(value, msgspec.Struct):
        return ""
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    form = field.type.extra_json_schema if isinstance(field.type, types.Metadata) else None
    return f"`{_written(value, str((form or {}).get('x-form')))}`"


def _written(value: Any, form: str) -> str:
    """A default as the file would say it."""
    if form == "duration":
        return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"
    if form == "size":
        for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value and value % factor == 0:
                return f"{value // factor}{unit}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.as_posix() if isinstance(value, Path) else value)


if __name__ == "__main__":
    sys.stdout.write(render() + "\n")
