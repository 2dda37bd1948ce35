"""A plan for people: its lines, and a picture of how columns become tensors."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, Final

import msgspec

from governance.features.expression import columns_of, parse
from governance.features.plan import OF_COLUMNS, Plan, Step
from governance.features.reading import Loaded

_ROW, _LEFT, _CELL, _GAP = 26, 190, 150, 24
_MOST_ROWS: Final = 400
"""Columns drawn; beyond it a picture says nothing to anyone."""


def _steps(plan: Plan) -> Iterator[tuple[str, list[str], str, str]]:
    """Each thing done: the step's name, its columns, the result's name, its parameters in short."""
    for step in plan.steps:
        name = next(one for one in Step.__struct_fields__ if getattr(step, one) is not None)
        what = getattr(step, name)
        if name in OF_COLUMNS:
            yield name, list(what.columns), what.into, _short(what)
        elif name == "compute":
            for into, text in what.items():
                yield name, columns_of(parse(text)), into, text
        else:
            for column, one in what.items():
                yield name, [column], getattr(one, "into", None) or column, _short(one)


def _short(one: msgspec.Struct) -> str:
    """Parameters in a few words: numbers as they are, lists by their length."""
    parts = []
    for field in msgspec.structs.fields(one):
        value = getattr(one, field.name)
        if value == field.default or field.name in ("into", "columns"):
            continue
        if isinstance(value, (tuple, dict)):
            parts.append(f"{len(value)} {field.encode_name}")
        else:
            parts.append(
                f"{field.encode_name} {value:.6g}" if isinstance(value, float) else f"{field.encode_name} {value}"
            )
    return ", ".join(parts)


def lines(loaded: Loaded) -> Iterator[str]:
    """What the plan does, a line each."""
    yield f"plan {loaded.file} (SHA-256 {loaded.digest[:16]})"
    yield "columns"
    width = max(map(len, loaded.plan.inputs))
    for name, one in loaded.plan.inputs.items():
        yield f"  {name:{width}}  {one.type}" + ("" if one.missing == "allow" else ", never missing")
    yield "steps"
    for name, columns, into, short in _steps(loaded.plan):
        result = "" if columns == [into] else f" -> {into}"
        yield f"  {name:12}  {', '.join(columns)}{result}" + (f"  ({short})" if short else "")
    yield "tensors"
    for tensor in loaded.compiled.program.tensors:
        yield f"  {tensor.name}  {tensor.datatype} [n, {tensor.width}]"
        for at, column in enumerate(loaded.compiled.columns[tensor.name]):
            yield f"    {at:4}  {column}"


def document(loaded: Loaded) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "digest": loaded.digest,
        "inputs": {name: column.type for name, column in loaded.plan.inputs.items()},
        "steps": [
            {"step": name, "columns": columns, "into": into, "parameters": short}
            for name, columns, into, short in _steps(loaded.plan)
        ],
        "outputs": [
            {"tensor": tensor.name, "datatype": tensor.datatype, "columns": list(loaded.compiled.columns[tensor.name])}
            for tensor in loaded.compiled.program.tensors
        ],
    }


def svg(loaded: Loaded) -> str:
    """A picture: a line for each input column, its steps from left to right, then what it is in the tensors."""
    plan = loaded.plan
    rows = list(plan.inputs)[:_MOST_ROWS]
    line = {name: at for at, name in enumerate(rows)}
    done: list[list[tuple[str, str]]] = [[] for _ in rows]
    own = dict(line)  # whose line a name is on
    for name, columns, into, short in _steps(plan):
        at = next((own[column] for column in columns if column in own), None)
        if at is None:
            continue
        done[at].append(
            (name if columns == [into] else f"{name}: {into}", short if len(columns) == 1 else ", ".join(columns))
        )
        own.setdefault(into, at)
    most = max((len(steps) for steps in done), default=0)
    right = _LEFT + most * (_CELL + _GAP) + 30
    width, height = right + 240, (len(rows) + 2) * _ROW + 20
    bold = 'y="18" font-weight="bold"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(loaded.file)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" {bold}>columns</text><text x="{right}" {bold}>tensors</text>',
    ]
    for at, name in enumerate(rows):
        parts += _line(at, name, plan.inputs[name].type, done[at], right)
    for at, tensor in enumerate(loaded.compiled.program.tensors):
        y = _ROW + at * _ROW * 2
        parts.append(
            f'<rect x="{right}" y="{y}" width="220" height="{_ROW * 2 - 8}" rx="4" fill="#e8f0e4" stroke="#5b7a4b"/>'
            f'<text x="{right + 8}" y="{y + 17}" font-weight="bold">{escape(tensor.name)}</text>'
            f'<text x="{right + 8}" y="{y + 34}">{tensor.datatype} [n, {tensor.width}]</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(at: int, name: str, kind: str, steps: list[tuple[str, str]], right: int) -> Iterator[str]:
    y = _ROW + at * _ROW
    middle = y + _ROW / 2
    yield f'<path d="M{_LEFT - 20} {middle}H{right}" stroke="#99a3ad" fill="none"/>'
    yield f'<text x="10" y="{middle + 4}">{escape(_cut(name, 18))} <tspan fill="#66707a">{kind}</tspan></text>'
    for place, (step, short) in enumerate(steps):
        x = _LEFT + place * (_CELL + _GAP)
        yield (
            f"<g><title>{escape(f'{step} {short}'.strip())}</title>"
            f'<rect x="{x}" y="{y + 3}" width="{_CELL}" height="{_ROW - 6}" rx="4" fill="#eaf1f8" stroke="#4b6a8a"/>'
            f'<text x="{x + 6}" y="{middle + 4}">{escape(_cut(step, 22))}</text></g>'
        )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\u2026"
