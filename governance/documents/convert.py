"""YAML nodes to a tree of `msgspec` Structs, with a place for every key and value.

Contract: driven by the types alone (`msgspec.inspect`), so a new field needs no change here: Structs, tuples,
dicts with string keys, Optional, Literal, str, int, float, bool, the constraints of `msgspec.Meta`, and the
forms that its `extra_json_schema` names as `x-form`: `path` here, others through the readers in `Forms`. A union
of scalars takes what the value is written as; a Struct with `SHORT` may be written as one value.
Every fault is a finding and the rest is still read; the value is given only when there is none. A value that
came from an environment variable, or that must match a pattern (a digest), is never repeated in a message: it
may be a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import inspect
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from governance.documents.nodes import BOOL, FLOAT, INT, NULL, STR, Document
from governance.documents.words import suggest
from governance.types import Finding

Place: TypeAlias = tuple[str | int, ...]
"""Where something stands in the tree: `("routes", "credit", "variants", 0, "weight")`."""

T = TypeVar("T", bound=msgspec.Struct)
SHORT: Final = "__short__"
"""Name of a Struct's class attribute: the one key for which a single value may stand in place of the mapping."""
_BAD: Final = object()
"""Stands for a value that has a finding already."""
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MOST_NODES = 200_000
"""Most values after aliases are followed; thousands of routes and tenants stay far below."""
_WORDS: dict[type[inspect.Type], str] = {
    inspect.StrType: "text",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.BoolType: "true or false",
    inspect.NoneType: "null",
    inspect.VarTupleType: "a list",
}
_WRITTEN: dict[str, type[inspect.Type]] = {BOOL: inspect.BoolType, INT: inspect.FloatType, FLOAT: inspect.FloatType}
_YAML_1_1 = {"on": "true", "yes": "true", "y": "true", "off": "false", "no": "false", "n": "false"}
_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("ge", lambda value, bound: value >= bound, "at least"),
    ("gt", lambda value, bound: value > bound, "more than"),
    ("le", lambda value, bound: value <= bound, "at most"),
    ("lt", lambda value, bound: value < bound, "less than"),
)


def dotted(place: Place) -> str:
    """A place as messages write it: `routes.credit.variants[0].weight`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


@dataclass(slots=True)
class Places:
    """Line and column, from 1, of what the file says."""

    keys: dict[Place, tuple[int, int]] = field(default_factory=dict)
    values: dict[Place, tuple[int, int]] = field(default_factory=dict)

    def of(self, place: Place) -> tuple[int, int]:
        """Where the value at a place stands; where it is a default, the nearest thing around it."""
        while place not in self.values:
            if not place:
                return 1, 1
            place = place[:-1]
        return self.values[place]

    def of_key(self, place: Place) -> tuple[int, int]:
        """Where the key of a place stands; for list items, the item."""
        return self.keys.get(place) or self.of(place)


@dataclass(frozen=True, slots=True)
class Forms:
    """What a kind of document writes in its own way. The tables go by names of Structs and their keys."""

    readers: Mapping[str, tuple[Callable[[str], object], str]] = field(default_factory=dict)
    """By `x-form`: text to value (ValueError says what to write), and what is expected in words."""


_NO_FORMS = Forms()


class _Converter:
    def __init__(self, document: Document, file: str, base: Path, forms: Forms) -> None:
        self.document = document
        self.forms = forms
        self.file = file
        self.base = base
        self.findings: list[Finding] = []
        self.places = Places()
        self.nodes = 0

    def error(self, node: Node, code: str, message: str) -> object:
        mark = node.start_mark
        self.findings.append(Finding(self.file, mark.line + 1, mark.column + 1, "error", code, message))
        return _BAD

    def convert(self, node: Node, kind: inspect.Type, place: Place) -> Any:
        """The value of a node as a type wants it, or `_BAD`."""
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            if self.nodes == _MOST_NODES + 1:
                self.error(node, "too-large", f"more than {_MOST_NODES} values: do not let aliases multiply lists")
            return _BAD
        mark = node.start_mark
        self.places.values[place] = (mark.line + 1, mark.column + 1)
        if id(node) in self.document.broken:
            return _BAD
        if isinstance(kind, inspect.UnionType):
            return self.optional(node, kind, place)
        if _is_null(node, self.document):
            return self.error(node, "missing-value", self.nothing(kind, place))
        if isinstance(kind, inspect.Metadata):
            return self.form(node, kind, place)
        if isinstance(kind, inspect.StructType):
            return self.struct(node, kind, place)
        if isinstance(kind, inspect.VarTupleType):
            return self.items(node, kind, place)
        if isinstance(kind, inspect.DictType):
            return self.mapping(node, kind, place)
        return self.scalar(node, kind, place)

    def nothing(self, kind: inspect.Type, place: Place) -> str:
        what = f"`{dotted(place)}`" if place else "the file"
        if isinstance(kind, inspect.StructType | inspect.DictType):
            return f"{what} is empty: write its keys under it, `{{}}` for the defaults, or leave the key out"
        return f"{what} has no value: expected {self.expected(kind)}"

    def optional(self, node: Node, kind: inspect.UnionType, place: Place) -> Any:
        some, *others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        if others:
            return self.either(node, kind, place)
        if _is_null(node, self.document):
            assert isinstance(node, ScalarNode)
            # Only a null that somebody wrote turns a thing off: `identity:` with all its lines commented out
            # must not open the door.
            return self.error(node, "missing-value", self.nothing(some, place)) if node.value == "" else None
        return self.convert(node, some, place)

    def either(self, node: Node, kind: inspect.UnionType, place: Place) -> Any:
        """One of several kinds of scalar: what the value is written as decides."""
        if _is_null(node, self.document):
            return self.error(node, "missing-value", self.nothing(kind, place))
        tag = node.tag if isinstance(node, ScalarNode) else ""
        wanted = _WRITTEN.get(tag, inspect.StrType)
        for one in kind.types:
            if isinstance(one, wanted):
                return self.scalar(node, one, place)
        expected = self.expected(kind)
        said = self.said(node) if isinstance(node, ScalarNode) else f", not a {_kind(node)}"
        return self.error(node, "wrong-type", f"`{dotted(place)}` must be {expected}{said}")

    def form(self, node: Node, kind: inspect.Metadata, place: Place) -> Any:
        name = (kind.extra_json_schema or {}).get("x-form")
        if name in ("path", "path-or-url"):
            return self.path(node, place, or_url=name == "path-or-url")
        reader = self.forms.readers.get(name) if isinstance(name, str) else None
        if reader is None:
            return self.convert(node, kind.type, place)
        if not isinstance(node, ScalarNode):
            return self.error(node, "wrong-type", f"`{dotted(place)}` must be one value, not a {_kind(node)}")
        try:
            value = reader[0](node.value)
        except ValueError as error:
            said = "" if self.secret(node) else f" `{_short(node.value)}`"
            return self.error(node, "wrong-value", f"`{dotted(place)}`{said}: {error}")
        return self.bounded(node, value, kind.type, place)

    def path(self, node: Node, place: Place, *, or_url: bool) -> Any:
        """A path below the file's folder (Path); with `or_url` a path or an http(s) URL (str)."""
        text = self.scalar(node, inspect.StrType(min_length=1), place)
        if not isinstance(text, str):
            return _BAD
        if "\0" in text:
            return self.error(node, "wrong-value", f"`{dotted(place)}`: a path cannot hold a NUL character")
        if not or_url:
            return self.base / text
        if text.startswith(("http://", "https://")):
            return text
        if _SCHEME.match(text):
            message = f"`{dotted(place)}`: only http:// and https:// URLs are read: write one, or a path"
            return self.error(node, "wrong-value", message)
        return str(self.base / text)

    def struct(self, node: Node, kind: inspect.StructType, place: Place) -> Any:
        short = getattr(kind.cls, SHORT, None)
        if short is not None and isinstance(node, ScalarNode):
            one = next(one for one in kind.fields if one.encode_name == short)
            value = self.convert(node, one.type, (*place, short))
            return _BAD if value is _BAD else kind.cls(**{one.name: value})
        if not isinstance(node, MappingNode):
            what = f"`{dotted(place)}`" if place else "the file"
            return self.error(node, "wrong-type", f"{what} must be a mapping (`key: value` lines), not a {_kind(node)}")
        fields = {one.encode_name: one for one in kind.fields}
        values: dict[str, Any] = {}
        for key, child in node.value:
            name = self.key(key)
            if name is not None and name in fields:
                self.places.keys[(*place, name)] = (key.start_mark.line + 1, key.start_mark.column + 1)
                values[fields[name].name] = self.convert(child, fields[name].type, (*place, name))
            elif name is not None:
                self.unknown(key, name, kind, place)
        for one in kind.fields:
            if one.required and one.name not in values:
                what = f"`{dotted(place)}`" if place else "the file"
                self.error(
                    node,
                    "missing-key",
                    f"{what} needs `{one.encode_name}`: expected {self.expected(one.type)}",
                )
                values[one.name] = _BAD
            elif one.name not in values and one.default is not msgspec.NODEFAULT:
                values[one.name] = _rebased(one.default, self.base)
        return _BAD if any(value is _BAD for value in values.values()) else kind.cls(**values)

    def unknown(self, key: Node, name: str, kind: inspect.StructType, place: Place) -> None:
        where = f" in `{dotted(place)}`" if place else ""
        hint = suggest(name, [one.encode_name for one in kind.fields], "keys here")
        if name == "<<":
            hint = "YAML 1.2 has no merge keys, write the keys out"
        self.error(key, "unknown-key", f"unknown key `{_short(name)}`{where}: {hint}")

    def key(self, key: Node) -> str | None:
        if not isinstance(key, ScalarNode):
            self.error(key, "wrong-key", "a key must be one word, not a list or mapping")
            return None
        if id(key) in self.document.broken:
            return None
        if key.tag != STR and id(key) not in self.document.from_environment:
            self.error(key, "wrong-key", f'the key `{key.value}` is not text: write "{key.value}" in quotes')
            return None
        return str(key.value)

    def items(self, node: Node, kind: inspect.VarTupleType, place: Place) -> Any:
        if not isinstance(node, SequenceNode):
            return self.error(
                node,
                "wrong-type",
                f"`{dotted(place)}` must be a list (`[a, b]` or `- a` lines), not a {_kind(node)}",
            )
        values = [self.convert(child, kind.item_type, (*place, at)) for at, child in enumerate(node.value)]
        if any(value is _BAD for value in values):
            return _BAD
        return self.sized(node, tuple(values), kind, place)

    def mapping(self, node: Node, kind: inspect.DictType, place: Place) -> Any:
        if not isinstance(node, MappingNode):
            return self.error(
                node,
                "wrong-type",
                f"`{dotted(place)}` must be a mapping (`name: ...` lines), not a {_kind(node)}",
            )
        values: dict[str, Any] = {}
        bad = False
        for key, child in node.value:
            name = self.key(key)
            if name is None:
                bad = True
                continue
            self.places.keys[(*place, name)] = (key.start_mark.line + 1, key.start_mark.column + 1)
            values[name] = self.convert(child, kind.value_type, (*place, name))
        if bad or any(value is _BAD for value in values.values()):
            return _BAD
        return self.sized(node, values, kind, place)

    def sized(self, node: Node, values: Any, kind: inspect.VarTupleType | inspect.DictType, place: Place) -> Any:
        if kind.min_length is not None and len(values) < kind.min_length:
            return self.error(node, "wrong-value", f"`{dotted(place)}` needs at least {kind.min_length} entries")
        if kind.max_length is not None and len(values) > kind.max_length:
            return self.error(node, "wrong-value", f"`{dotted(place)}` takes at most {kind.max_length} entries")
        return values

    def scalar(self, node: Node, kind: inspect.Type, place: Place) -> Any:
        if not isinstance(node, ScalarNode):
            message = f"`{dotted(place)}` must be {self.expected(kind)}, not a {_kind(node)}"
            return self.error(node, "wrong-type", message)
        if isinstance(kind, inspect.StrType):
            return self.text(node, kind, place)
        if isinstance(kind, inspect.LiteralType):
            return self.choice(node, kind, place)
        if isinstance(kind, inspect.BoolType):
            return self.boolean(node, place)
        if isinstance(kind, inspect.IntType | inspect.FloatType):
            return self.number(node, kind, place)
        # A type that nobody taught this file to read is the author's fault, not the user's.
        raise TypeError(f"field {dotted(place)} has a type that cannot be read: {kind}")

    def choice(self, node: ScalarNode, kind: inspect.LiteralType, place: Place) -> Any:
        if node.value in kind.values:
            return node.value
        hint = suggest(node.value, [str(value) for value in kind.values], "valid values")
        return self.error(node, "wrong-value", f"`{dotted(place)}` cannot be that{self.said(node)}: {hint}")

    def boolean(self, node: ScalarNode, place: Place) -> Any:
        if node.tag == BOOL:
            return node.value.lower() == "true"
        right = _YAML_1_1.get(node.value.lower()) if node.tag == STR else None
        hint = f" (in YAML 1.2 it is a string): write {right}" if right else ""
        return self.error(node, "wrong-type", f"`{dotted(place)}` must be true or false{self.said(node)}{hint}")

    def number(self, node: ScalarNode, kind: inspect.IntType | inspect.FloatType, place: Place) -> Any:
        value = _number(node)
        if value is None or (isinstance(kind, inspect.IntType) and not isinstance(value, int)):
            message = f"`{dotted(place)}` must be {self.expected(kind)}{self.said(node)}"
            return self.error(node, "wrong-type", message)
        if isinstance(kind, inspect.FloatType):
            value = _float(value)
            if not math.isfinite(value):
                message = f"`{dotted(place)}` must be a finite number{self.said(node)}"
                return self.error(node, "wrong-value", message)
        return self.bounded(node, value, kind, place)

    def text(self, node: ScalarNode, kind: inspect.StrType, place: Place) -> Any:
        if node.tag != STR and id(node) not in self.document.from_environment:
            message = f'`{dotted(place)}` must be text: write "{_short(node.value)}" in quotes'
            return self.error(node, "wrong-type", message)
        if kind.pattern is not None and not re.fullmatch(kind.pattern, node.value):
            found = re.fullmatch(r"\^\[0-9a-f\]\{(\d+)\}\$", kind.pattern)
            what = f"{found[1]} hexadecimal digits in lower case" if found else f"text like {kind.pattern}"
            return self.error(
                node,
                "wrong-value",
                f"`{dotted(place)}` must be {what} (this one has {len(node.value)} characters)",
            )
        if kind.min_length is not None and len(node.value) < kind.min_length:
            return self.error(node, "wrong-value", f"`{dotted(place)}` must not be empty")
        if kind.max_length is not None and len(node.value) > kind.max_length:
            return self.error(node, "wrong-value", f"`{dotted(place)}` is longer than {kind.max_length} characters")
        return node.value

    def bounded(self, node: ScalarNode, value: Any, kind: inspect.Type, place: Place) -> Any:
        for name, holds, words in _BOUNDS:
            bound = getattr(kind, name, None)
            if bound is not None and not holds(value, bound):
                return self.error(node, "wrong-value", f"`{dotted(place)}` must be {words} {bound:g}{self.said(node)}")
        return value

    def expected(self, kind: inspect.Type) -> str:
        if isinstance(kind, inspect.Metadata):
            name = str((kind.extra_json_schema or {}).get("x-form"))
            reader = self.forms.readers.get(name)
            return "a path" if name == "path" else reader[1] if reader else self.expected(kind.type)
        if isinstance(kind, inspect.UnionType):
            return " or ".join(self.expected(one) for one in kind.types)
        if isinstance(kind, inspect.LiteralType):
            return " or ".join(f"`{value}`" for value in kind.values)
        return _WORDS.get(type(kind), "a mapping")

    def secret(self, node: Node) -> bool:
        return id(node) in self.document.from_environment

    def said(self, node: ScalarNode) -> str:
        return "" if self.secret(node) else f", not `{_short(node.value)}`"


def _is_null(node: Node, document: Document) -> bool:
    return isinstance(node, ScalarNode) and node.tag == NULL and id(node) not in document.from_environment


def _number(node: ScalarNode) -> int | float | None:
    if len(node.value) > 400:  # no number that fits is longer, and Python refuses to read very long ones
        return None
    if node.tag == INT:
        text = node.value.lower()
        return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)
    if node.tag == FLOAT:
        return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return None


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _rebased(value: Any, base: Path) -> Any:
    """A default with its relative paths made relative to the settings file."""
    if isinstance(value, Path):
        return base / value
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **{
            name: _rebased(getattr(value, name), base) for name in value.__struct_fields__
        })  # fmt: skip
    return value


def _kind(node: Node) -> str:
    if isinstance(node, SequenceNode):
        return "list"
    return "mapping" if isinstance(node, MappingNode) else "single value"


def _short(text: str) -> str:
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 60 else text[:57] + "..."


# Of a few Structs, whose annotations msgspec evaluates anew each time: 4 ms of CPU for the settings.
_type_info = cache(inspect.type_info)


def convert(
    document: Document, cls: type[T], file: str, base: Path, forms: Forms = _NO_FORMS
) -> tuple[T | None, Places, list[Finding]]:
    """A document as a Struct.

    Args:
        document: what `settings_yaml.compose` gave.
        cls: the Struct of the whole file.
        file: the file's name in findings.
        base: the folder that relative paths start from.
        forms: how this kind of document writes its values.

    Returns:
        The Struct, or None where there is a finding; where everything stands; the findings in file order.
    """
    converter = _Converter(document, file, base, forms)
    value = converter.convert(document.root, _type_info(cls), ())
    findings = sorted(converter.findings, key=lambda finding: (finding.line, finding.column))
    return (None if value is _BAD else value), converter.places, findings
