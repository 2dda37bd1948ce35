"""Collects what is wrong at places of one settings file, in the words that all checks share."""

from __future__ import annotations

import re
from collections.abc import Iterable

from governance.documents.convert import Place, Places, dotted
from governance.documents.words import suggest
from governance.types import Finding

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name (RFC 9110, `token`)."""


class Checker:
    """Collects findings at places of one settings file."""

    def __init__(self, file: str, places: Places) -> None:
        self.file = file
        self.places = places
        self.findings: list[Finding] = []

    def error(self, place: Place, code: str, message: str, *, key: bool = False) -> None:
        """Adds an error where a value (`key`: its key) stands."""
        self._add("error", place, code, message, key)

    def warn(self, place: Place, code: str, message: str, *, key: bool = False) -> None:
        """Adds a warning where a value (`key`: its key) stands."""
        self._add("warning", place, code, message, key)

    def _add(self, severity: str, place: Place, code: str, message: str, key: bool) -> None:
        line, column = self.places.of_key(place) if key else self.places.of(place)
        self.findings.append(Finding(self.file, line, column, severity, code, message))

    def name(self, text: str, place: Place, *, key: bool = False) -> None:
        """A name that people and records have to tell apart."""
        if not text.strip():
            self.error(place, "empty-name", f"`{dotted(place)}`: a name must not be empty", key=key)
        elif text != text.strip() or not text.isprintable():
            message = f"`{dotted(place)}`: a name has no blanks around it and no control characters"
            self.error(place, "wrong-name", message, key=key)

    def travels(self, text: str, place: Place) -> None:
        """A name that is sent as a header's value (`x-tidegate-variant`, `x-tidegate-shadow`)."""
        if text.isprintable() and not text.isascii():
            message = f"`{dotted(place)}`: this name travels in a header, so it must be ASCII"
            self.error(place, "wrong-name", message)

    def once(self, names: Iterable[tuple[str, Place]], kind: str) -> None:
        """Names that must differ."""
        first: dict[str, Place] = {}
        for name, place in names:
            if name in first:
                line, _ = self.places.of(first[name])
                self.error(place, "duplicate-name", f"{kind} `{name}` is on line {line} already")
            first.setdefault(name, place)

    def known(self, name: str, valid: list[str], place: Place, kind: str) -> None:
        """A name that must be one of those defined elsewhere."""
        if name not in valid:
            plural = kind + "s"
            message = f"unknown {kind} `{name}` in `{dotted(place)}`: {suggest(name, valid, plural)}"
            self.error(place, "unknown-name", message)

    def header(self, name: str, place: Place) -> None:
        """A header's name."""
        if not _TOKEN.fullmatch(name):
            self.error(place, "wrong-header", f"`{name}` cannot be a header's name (letters, digits and dashes)")
