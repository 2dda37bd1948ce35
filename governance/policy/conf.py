r"""Casbin's model file format, read strictly: sections, keys and values, each with its place.

Contract: a pure function from bytes to `Conf` and findings. Casbin's own reader drops what it does not know (a
section, a key, the whole file's first line after a byte order mark) and lets a later key replace an earlier
one; here each of those is a finding at its line and column. What a value means is for `definition.py`.

The format: `[section]`, `key = value`, lines that start with `#` or `;` are comments, a `\` at the end of a
line continues the value on the next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from governance.documents.nodes import decode
from governance.documents.words import suggest
from governance.types import Finding

SECTIONS = {
    "request_definition": "r",
    "policy_definition": "p",
    "role_definition": "g",
    "policy_effect": "e",
    "matchers": "m",
}
"""Section -> the letter that its keys start with."""

_KEY = re.compile(r"([a-z])([0-9]*)")


@dataclass(frozen=True, slots=True)
class Value:
    """A value's text, and where each of its characters stands."""

    text: str
    pieces: tuple[tuple[int, int, int], ...]
    """(offset in `text`, line, column) of each stretch that stands in one piece in the file."""

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of a character, both from 1."""
        start, line, column = max(piece for piece in self.pieces if piece[0] <= max(offset, 0))
        return line, column + max(offset, 0) - start


@dataclass(slots=True)
class Conf:
    """What a model file says."""

    file: str
    values: dict[str, Value] = field(default_factory=dict)
    """By key: `r`, `p`, `g`, `g2`, `e`, `m`."""
    findings: list[Finding] = field(default_factory=list)

    def error(self, place: tuple[int, int], code: str, message: str) -> None:
        """Adds an error."""
        self.findings.append(Finding(self.file, *place, "error", code, message))


def read(data: bytes, file: str) -> Conf:
    """The sections of a model file.

    Args:
        data: its bytes.
        file: its name in findings.
    """
    conf = Conf(file)
    text, conf.findings = decode(data, file)
    if text is None:
        return conf
    if data.startswith(b"\xef\xbb\xbf"):
        conf.error((1, 1), "bom", "byte order mark: Casbin would not see the first section; save the file without one")
    reader = _Reader(conf)
    for number, line in enumerate(text.split("\n"), 1):
        reader.line(number, line.removesuffix("\r"))
    reader.end()
    return conf


class _Reader:
    """Joins continued lines and hands on whole entries."""

    def __init__(self, conf: Conf) -> None:
        self._conf = conf
        self._letter: str | None = None
        self._known = False
        self._seen: dict[str, int] = {}
        self._text = ""
        self._pieces: list[tuple[int, int, int]] = []
        self._open = False

    def line(self, number: int, raw: str) -> None:
        text = raw.strip(" \t")
        start = raw.find(text) + 1 if text else 1
        if not text or text[0] in "#;":
            if self._open:
                self._conf.error((number, start), "continued", "the line above ends in `\\`: its value must go on here")
                self._drop()
            return
        for at, character in enumerate(raw):
            if character != "\t" and not character.isprintable():
                place = (number, at + 1)
                self._conf.error(place, "character", f"invisible character U+{ord(character):04X}: remove it")
                self._drop()
                return
        if text[0] == "[" and not self._open:
            self._section(number, start, text)
            return
        self._pieces.append((len(self._text), number, start))
        if text.endswith("\\"):
            self._text += text[:-1].strip(" \t") + " "
            self._open = True
            return
        self._text += text
        self._entry()

    def end(self) -> None:
        if self._open:
            place = self._pieces[-1][1:]
            self._conf.error(place, "continued", "the last line ends in `\\`: remove it, or go on")

    def _drop(self) -> None:
        self._text, self._pieces, self._open = "", [], False

    def _section(self, number: int, start: int, text: str) -> None:
        place = (number, start)
        name = text[1:-1]
        self._letter, self._known = None, False
        if not text.endswith("]"):
            self._conf.error(place, "section", f"`{text}` is never closed: write `{text.rstrip()}]`")
            name = text[1:]
        elif name == "constraint_definition":
            message = "constraints are Go Casbin's and no part of pycasbin: remove the section, write `# sod:` lines"
            self._conf.error(place, "unsupported", message)
            return
        elif name not in SECTIONS:
            hint = suggest(name, list(SECTIONS), "sections")
            self._conf.error(place, "unknown-section", f"unknown section `{name}`, which Casbin would drop: {hint}")
            return
        elif name in self._seen:
            message = f"section `{name}` stands on line {self._seen[name]} already: join them"
            self._conf.error(place, "duplicate-section", message)
        self._seen.setdefault(name, number)
        self._letter, self._known = SECTIONS.get(name), True

    def _entry(self) -> None:
        text, pieces = self._text, tuple(self._pieces)
        self._drop()
        place = pieces[0][1:]
        if self._letter is None:
            if not self._known and not self._seen:
                self._conf.error(
                    place, "section", "stands before the first section: write `[request_definition]` above"
                )
            return
        name, equals, value = text.partition("=")
        key = name.strip()
        if not equals:
            self._conf.error(place, "syntax", f"no `=` in `{text[:40]}`: a line is `{self._letter} = ...`")
            return
        match = _KEY.fullmatch(key)
        if match is None or match[1] != self._letter or match[2] in ("0", "1") or match[2].startswith("0"):
            hint = f"write `{self._letter}`" + (" or `g2`, `g3`" if self._letter == "g" else "")
            self._conf.error(place, "unknown-key", f"unknown key `{key}`, which Casbin would drop: {hint}")
            return
        if match[2] and self._letter != "g":
            message = (
                f"`{key}` is a second definition, which only Casbin's EnforceContext asks for and a gateway never "
                f"does: keep one `{self._letter}`"
            )
            self._conf.error(place, "unsupported", message)
            return
        if key in self._conf.values:
            line = self._conf.values[key].place(0)[0]
            self._conf.error(place, "duplicate-key", f"`{key}` stands on line {line} already: remove one")
            return
        kept = value.strip()
        if not kept:
            self._conf.error(place, "empty", f"`{key}` has no value")
            return
        offset = len(name) + 1 + value.find(kept)
        self._conf.values[key] = Value(kept, tuple((at - offset, line, column) for at, line, column in pieces))
