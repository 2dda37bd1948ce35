"""YAML 1.2 with a place for everything: text to nodes, and a finding for whatever is wrong with it.

Contract: the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `true` and `false` are
the only booleans, `off`, `on`, `yes` and `no` are strings, there are no merge keys and no tags beyond the
core's. Duplicate keys, several documents and unset variables are findings. `${NAME}` inside a scalar takes an
environment variable as text, after the structure has been read, so no value can add keys or lists; `$${` is a
literal `${`. PyYAML reads the syntax (its pure Python parser, whose marks are exact); the schema is ours, as
PyYAML's own is YAML 1.1.

Nothing here knows any keys, and nothing here reads files but through `decode`, which takes their bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from yaml.composer import Composer, ComposerError
from yaml.error import MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.scanner import Scanner

from governance.types import Finding

_TAG = "tag:yaml.org,2002:"
NULL, BOOL, INT, FLOAT, STR, MAP = (_TAG + name for name in ("null", "bool", "int", "float", "str", "map"))
_CORE = (
    (NULL, re.compile(r"null|Null|NULL|~|")),
    (BOOL, re.compile(r"true|True|TRUE|false|False|FALSE")),
    (INT, re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    (FLOAT, re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")),
    (FLOAT, re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")),
)  # fmt: skip
_KNOWN_TAGS = frozenset({NULL, BOOL, INT, FLOAT, STR, MAP, _TAG + "seq"})
_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_VARIABLE = re.compile(rf"\$\$\{{(?P<kept>{_NAME}\}})?|\$\{{(?P<name>{_NAME})\}}|(?P<wrong>\$\{{)")
_DEPTH = 64
"""Deepest nesting; settings need 8. PyYAML composes by recursion, so a bound must stand before Python's."""

_HINTS = (
    ("'\\t' that cannot start any token", "indent with spaces: YAML does not allow tabs there"),
    ("while scanning an alias", 'a value or key that starts with `*` needs quotes: write "*"'),
    ("expected a single document", "only one document is allowed: remove the `---` between them"),
    (
        "mapping values are not allowed here",
        "check the indentation, or put a value that contains `: ` in quotes",
    ),
    ("found character '%'", "a value that starts with `%` needs quotes"),
    ("found character '@'", "a value that starts with `@` needs quotes"),
    ("found character '`'", "a value that starts with a backquote needs quotes"),
    ("could not find expected ':'", "a key needs `: ` (colon and blank) after it"),
    ("expected <block end>", "check the indentation of this line and the ones before it"),
)


def decode(data: bytes, file: str) -> tuple[str | None, list[Finding]]:
    """The text of a file's bytes, or why there is none. A UTF-8 byte order mark is dropped."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None, [Finding(file, 1, 1, "error", "encoding", "saved as UTF-16: save it as UTF-8")]
    try:
        return data.decode("utf-8").removeprefix("\ufeff"), []
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        message = f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        return None, [Finding(file, before.count(b"\n") + 1, column, "error", "encoding", message)]


def core_tag(text: str) -> str:
    """The core schema's tag of a plain scalar."""
    for tag, pattern in _CORE:
        if pattern.fullmatch(text):
            return tag
    return STR


@dataclass(frozen=True, slots=True)
class Document:
    """One composed document: its root, and which of its scalars an environment variable went into."""

    root: Node
    from_environment: frozenset[int]
    """`id` of those nodes; the root keeps them alive. Each is a string as well as what it looks like."""
    broken: frozenset[int]
    """`id` of the scalars whose variables could not be filled in; what is wrong with them has been said."""


class _Loader(Reader, Scanner, Parser, Composer):
    """PyYAML's reader, scanner, parser and composer under the core schema."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        self._depth = 0

    def descend_resolver(self, *_: object) -> None:
        """Path resolvers are not used."""

    def ascend_resolver(self) -> None:
        """Path resolvers are not used."""

    def resolve(self, kind: type[Node], value: str, implicit: tuple[bool, bool]) -> str:
        """The tag of a node that has none; `implicit[0]` says that a scalar is plain."""
        if kind is ScalarNode:
            return core_tag(value) if implicit[0] else STR
        return _TAG + ("seq" if kind is SequenceNode else "map")

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Composes one node, to a bounded depth."""
        self._depth += 1
        if self._depth > _DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, f"nested deeper than {_DEPTH} levels", mark)
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


@dataclass(slots=True)
class _Reading:
    text: str
    """As it stands, save that variables are masked where there is an environment: braces mean something else
    in YAML, so `{http: 127.0.0.1:${PORT}}` would not be read. Masked text is as long as the text."""
    file: str
    environment: Mapping[str, str] | None
    variable: re.Pattern[str]
    """Finds a masked variable (`name`), a masked `$${` (`kept`: what was masked with it), and a bare `${`
    (`wrong`)."""
    findings: list[Finding] = field(default_factory=list)
    from_environment: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)

    def error(self, line: int, column: int, code: str, message: str) -> None:
        self.findings.append(Finding(self.file, line, column, "error", code, message))

    def at_offset(self, offset: int) -> tuple[int, int]:
        before = self.text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1

    def substitute(self, node: ScalarNode) -> None:
        """Puts environment variables into a scalar; each that cannot be is a finding where it stands."""
        environment = self.environment
        if environment is None or not self.variable.search(node.value):
            return
        places = self.variable.finditer(self.text, node.start_mark.index, node.end_mark.index)

        def value(found: re.Match[str]) -> str:
            place = next(places, None)
            line, column = self.at_offset(place.start() if place else node.start_mark.index)
            name = found["name"]
            if found["wrong"] is not None:
                self.broken.add(id(node))
                self.error(line, column, "variable", "expected ${NAME}; a literal ${ is written $${")
            elif name is None:
                kept = found["kept"]
                return "${" + (f"{kept[:-1]}}}" if kept else "")
            elif name not in environment:
                self.broken.add(id(node))
                message = f"the environment variable {name} is not set: set it, or write $${{ for a literal ${{"
                self.error(line, column, "unset-variable", message)
            else:
                self.from_environment.add(id(node))
                return environment[name]
            return ""

        node.value = self.variable.sub(value, node.value)
        if node.style is None and id(node) in self.from_environment:
            node.tag = core_tag(node.value)

    def visit(self, root: Node) -> None:
        """Variables, duplicate keys and tags of every node, each once however many aliases name it."""
        seen: set[int] = set()
        todo: list[Node] = [root]
        while todo:
            node = todo.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.tag not in _KNOWN_TAGS:
                mark = node.start_mark
                self.error(
                    mark.line + 1,
                    mark.column + 1,
                    "tag",
                    f"the tag `{node.tag}` means nothing here: remove it",
                )
            if isinstance(node, ScalarNode):
                self.substitute(node)
            elif isinstance(node, SequenceNode):
                todo.extend(reversed(node.value))
            elif isinstance(node, MappingNode):
                # Keys first: duplicates are judged by what the keys become.
                for key, _ in node.value:
                    if isinstance(key, ScalarNode) and id(key) not in seen:
                        seen.add(id(key))
                        self.substitute(key)
                self.duplicates(node)
                todo.extend(value for _, value in reversed(node.value))

    def duplicates(self, node: MappingNode) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            mark = key.start_mark
            if key.value in first:
                message = f"duplicate key `{key.value}`: it stands on line {first[key.value]} already"
                self.error(mark.line + 1, mark.column + 1, "duplicate-key", message)
            else:
                first[key.value] = mark.line + 1


def _mask(text: str) -> tuple[str, re.Pattern[str]]:
    """The text with its variables masked by characters that it does not hold, and what finds them again."""
    private = (chr(code) for code in range(0xE000, 0xF900))
    unused = list(islice((one for one in private if one not in text), 3))
    if len(unused) < 3:
        return text, _VARIABLE  # a file of private-use characters: its variables need quotes
    opening, closing, literal = unused

    def masked(found: re.Match[str]) -> str:
        if found["name"] is not None:
            return f"{opening * 2}{found['name']}{closing}"
        if found["wrong"] is not None:
            return found[0]
        return literal * 3 + (found["kept"] or "").replace("}", closing)

    return _VARIABLE.sub(masked, text), re.compile(
        rf"{literal}{{3}}(?P<kept>{_NAME}{closing})?|{opening}{{2}}(?P<name>{_NAME}){closing}|(?P<wrong>\$\{{)"
    )


def _syntax_message(error: MarkedYAMLError) -> str:
    whole = f"{error.context or ''} {error.problem or ''}".strip()
    for sign, hint in _HINTS:
        if sign in whole:
            return f"{hint} ({error.problem})" if error.problem else hint
    return whole or "not YAML"


def compose(text: str, file: str, environment: Mapping[str, str] | None) -> tuple[Document | None, list[Finding]]:
    """The document of a YAML text, or None where the syntax is broken, and what is wrong with it.

    Args:
        text: the file's text, without byte order mark.
        file: its name in the findings.
        environment: where `${NAME}` is looked up; None leaves it as it stands.
    """
    variable = _VARIABLE
    if environment is not None:
        text, variable = _mask(text)
    reading = _Reading(text, file, environment, variable)
    try:
        root = _Loader(text).get_single_node()
    except ReaderError as error:
        line, column = reading.at_offset(error.position)
        code = error.character if isinstance(error.character, int) else ord(error.character)
        reading.error(line, column, "yaml", f"the character U+{code:04X} is not allowed in YAML: remove it")
        return None, reading.findings
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        end = len(text.rstrip())
        if mark is not None and mark.index >= end and error.context_mark is not None:
            mark = error.context_mark  # what was opened and never closed, not the end of the file
        if mark is not None and mark.index < end:
            line, column = mark.line + 1, mark.column + 1
        else:
            line, column = reading.at_offset(max(end - 1, 0))
        reading.error(line, column, "yaml", _syntax_message(error))
        return None, reading.findings
    if root is None:
        reading.error(1, 1, "empty", "the file is empty")
        return None, reading.findings
    reading.visit(root)
    reading.findings.sort(key=lambda finding: (finding.line, finding.column))
    return Document(root, frozenset(reading.from_environment), frozenset(reading.broken)), reading.findings
