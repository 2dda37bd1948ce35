"""A pack: the duties of one text, each with the log queries, reports and checks that say something about it.

Contract: data, dated and versioned, that a lawyer can read and correct without reading code. The reader is strict:
an unknown key, an impossible value, a name that nothing declares are findings with file and line. A pack speaks in
its own words about a text, cites it, and says of every duty what the gateway cannot show.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import msgspec

from governance.audit.record import FIELDS, Kind, Outcome
from governance.cards.card import Card
from governance.documents.convert import Place, Places, convert
from governance.documents.nodes import compose, decode
from governance.documents.words import suggest
from governance.errors import PackError
from governance.types import Finding

FOLDER = Path(__file__).parent / "packs"
_SUFFIX = ".yaml"

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Date: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\d$")]
Url: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^https?://\S+$")]
Words: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
Field: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
CheckKind: TypeAlias = Literal[
    "log-verifies",
    "log-kept",
    "some",
    "none",
    "filled",
    "card",
    "policy-lint",
    "policy-in-force",
    "fairness",
    "ll144",
]
ReportKind: TypeAlias = Literal["card", "policy", "fairness"]

MOST_CITED = 200
"""Records that one query may cite: each is two files in the bundle."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a pack."""


class Text(_Part, frozen=True):
    """The law, guidance or standard that the duties are of."""

    citation: Words
    url: Url
    dated: Date
    """Of the version that the pack was written from."""
    force: Literal["binding", "guidance", "voluntary"]
    notes: tuple[Words, ...] = ()
    """When it applies, what changed it, and what the writer of the pack could not check."""


class Select(_Part, frozen=True):
    """Records of the log. Every key that is there must hold; of the values in a list, one."""

    kind: tuple[Kind, ...] = ()
    outcome: tuple[Outcome, ...] = ()
    action: tuple[Words, ...] = ()
    status: tuple[Words, ...] = ()
    has: tuple[Field, ...] = ()
    """Fields that are not null."""
    lacks: tuple[Field, ...] = ()
    """Fields that are null."""


class Query(_Part, frozen=True):
    """A question to the log."""

    what: Words
    """What the records are, in words."""
    select: Select = Select()
    by: tuple[Field, ...] = ()
    """Fields whose combinations are counted apart."""
    cite: Annotated[int, msgspec.Meta(ge=0, le=MOST_CITED)] = 5
    """How many records are put into the bundle with their proofs; of more, those with the smallest leaf hashes."""


class Check(_Part, frozen=True):
    """Something that can be judged, and does or does not hold."""

    kind: CheckKind
    says: Words
    """What is true when it holds."""
    query: Name | None = None
    fields: tuple[Field, ...] = ()
    """Of `filled`: what every record of the query must have. Of `card`: the paths that the card must fill."""
    days: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Of `log-kept`."""
    codes: tuple[Words, ...] = ()
    """Of `policy-lint`: which findings count; none named: every error."""


class Clock(_Part, frozen=True):
    """A time within which somebody has to be told, from when the incident became known."""

    name: Words
    citation: Words
    when: Words
    """Which incidents it is for."""
    tell: Words
    """Who has to be told what."""
    hours: Annotated[int, msgspec.Meta(ge=1)] | None = None
    days: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Duty(_Part, frozen=True):
    """One duty."""

    id: Name
    citation: Words
    title: Words
    who: tuple[Words, ...]
    """On whom it falls."""
    asks: Words
    """What it asks for, in our own words."""
    evidence: Words
    """What counts as evidence here, and of what."""
    cannot_show: tuple[Words, ...]
    """What the gateway cannot show. Never empty."""
    queries: tuple[Name, ...] = ()
    reports: tuple[ReportKind, ...] = ()
    """What people hand in that belongs to it."""
    checks: tuple[Check, ...] = ()
    clocks: tuple[Clock, ...] = ()
    lawyer: tuple[Words, ...] = ()
    """Questions that only a lawyer can answer."""


class Pack(_Part, frozen=True):
    """The whole file."""

    schema_version: Literal["tidegate.compliance/1"]
    name: Name
    version: Date
    """When the pack was written or last corrected."""
    title: Words
    jurisdiction: Words
    text: Text
    queries: dict[str, Query]
    duties: tuple[Duty, ...]


_NEEDS: dict[str, tuple[str, ...]] = {
    "log-kept": ("days",),
    "some": ("query",),
    "none": ("query",),
    "filled": ("query", "fields"),
    "card": ("fields",),
}
_TAKES: dict[str, tuple[str, ...]] = {**_NEEDS, "policy-lint": ("codes",)}
_REPORT_OF: dict[str, ReportKind] = {
    "card": "card",
    "policy-lint": "policy",
    "policy-in-force": "policy",
    "fairness": "fairness",
    "ll144": "fairness",
}


def shipped() -> list[str]:
    """Names of the packs that come with the gateway."""
    return sorted(path.stem for path in FOLDER.glob("*" + _SUFFIX))


def load(name: str) -> Pack:
    """A pack by its name, or by the path of a file of one's own.

    Raises:
        PackError: there is none of that name, or the file is no pack.
    """
    return read(path_of(name))


def path_of(name: str) -> Path:
    """The file of a pack, by its name or by its path. Raises PackError: there is none of that name."""
    if name.endswith((_SUFFIX, ".yml")) or "/" in name:
        return Path(name)
    if name not in shipped():
        message = f"no pack of that name: {suggest(name, shipped(), 'packs')}; a file is given by its path"
        raise PackError([Finding(name, 1, 1, "error", "unknown-pack", message)])
    return FOLDER / (name + _SUFFIX)


def read(path: Path) -> Pack:
    """The pack in a file.

    Raises:
        PackError: it cannot be read, has a key that is none, a value that cannot be, or a name that leads nowhere.
    """
    return parse(content_of(path), path)


def content_of(path: Path) -> bytes:
    """The bytes of a pack. Raises PackError: it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        message = f"cannot be read ({why}): check the path and its rights"
        raise PackError([Finding(str(path), 1, 1, "error", "unreadable", message)]) from None


def parse(data: bytes, path: Path) -> Pack:
    """The pack in a file's bytes. Raises PackError."""
    file = str(path)
    text, findings = decode(data, file)
    if text is None:
        raise PackError(findings)
    document, findings = compose(text, file, None)
    if document is None or findings:
        raise PackError(findings)
    pack, places, findings = convert(document, Pack, file, path.parent)
    if pack is None or findings:
        raise PackError(findings)
    findings = [Finding(file, *_at(places, place), "error", code, message) for place, code, message in _wrong(pack)]
    if findings:
        raise PackError(sorted(findings, key=lambda finding: (finding.line, finding.column)))
    return pack


def _at(places: Places, place: Place) -> tuple[int, int]:
    return places.of(place) if isinstance(place[-1], int) else places.of_key(place)


def _wrong(pack: Pack) -> Iterator[tuple[Place, str, str]]:
    """What is wrong between the parts: where, which code, what to do."""
    for name, query in pack.queries.items():
        for key, fields in (("has", query.select.has), ("lacks", query.select.lacks)):
            yield from _unknown_fields(("queries", name, "select", key), fields)
        yield from _unknown_fields(("queries", name, "by"), query.by)
    seen: dict[str, int] = {}
    for at, duty in enumerate(pack.duties):
        if duty.id in seen:
            message = f"`{duty.id}` is the id of duty {seen[duty.id] + 1} already: choose another"
            yield ("duties", at, "id"), "duplicate-duty", message
        seen.setdefault(duty.id, at)
        yield from _wrong_duty(pack, duty, ("duties", at))
    used = {name for duty in pack.duties for name in (*duty.queries, *(one.query for one in duty.checks))}
    for name in pack.queries:
        if name not in used:
            yield ("queries", name), "unused-query", f"no duty asks `{name}`: remove it, or name it in a duty"


def _wrong_duty(pack: Pack, duty: Duty, place: Place) -> Iterator[tuple[Place, str, str]]:
    if not duty.cannot_show:
        yield (*place, "cannot_show"), "no-limits", "say what the gateway cannot show: there is always something"
    for number, name in enumerate(duty.queries):
        if name not in pack.queries:
            yield (*place, "queries", number), "unknown-query", _no_query(pack, name)
    for number, check in enumerate(duty.checks):
        yield from _wrong_check(pack, duty, check, (*place, "checks", number))
    for number, clock in enumerate(duty.clocks):
        if (clock.hours is None) == (clock.days is None):
            yield (*place, "clocks", number), "clock", "give either `hours` or `days`"


def _wrong_check(pack: Pack, duty: Duty, check: Check, place: Place) -> Iterator[tuple[Place, str, str]]:
    for key in ("query", "fields", "days", "codes"):
        given = getattr(check, key) not in (None, ())
        if given and key not in _TAKES.get(check.kind, ()):
            yield (*place, key), "check", f"a check of the kind `{check.kind}` has no `{key}`: remove it"
        if not given and key in _NEEDS.get(check.kind, ()):
            yield place, "check", f"a check of the kind `{check.kind}` needs `{key}`"
    if check.query is not None and check.query not in pack.queries:
        yield (*place, "query"), "unknown-query", _no_query(pack, check.query)
    if check.kind == "filled":
        yield from _unknown_fields((*place, "fields"), check.fields)
    if check.kind == "card":
        for at, path in enumerate(check.fields):
            yield from (((*place, "fields", at), "unknown-path", wrong) for wrong in _wrong_path(path))
    report = _REPORT_OF.get(check.kind)
    if report is not None and report not in duty.reports:
        yield place, "check", f"it judges a {report}: add `{report}` to `reports` of this duty"


def _unknown_fields(place: Place, fields: tuple[str, ...]) -> Iterator[tuple[Place, str, str]]:
    for at, name in enumerate(fields):
        if name not in FIELDS:
            message = f"records have no field `{name}`: {suggest(name, list(FIELDS), 'fields')}"
            yield (*place, at), "unknown-field", message


def _wrong_path(path: str) -> Iterator[str]:
    """Why a dotted path (`complete.missing`) leads to nothing in a card, if it does not."""
    kind: Any = Card
    for part in path.split("."):
        name, many = part.removesuffix("[]"), part.endswith("[]")
        fields = (
            {one.name: one.type for one in msgspec.structs.fields(kind)}
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
            else {}
        )
        if name not in fields:
            yield f"cards have no `{path}`: {suggest(name, list(fields), 'keys there')}"
            return
        kind = fields[name]
        if many and get_origin(kind) is not tuple:
            yield f"`{path}`: `{name}` of a card is no list"
            return
        if many:
            kind = get_args(kind)[0]


def _no_query(pack: Pack, name: str) -> str:
    return f"`queries` has no `{name}`: {suggest(name, list(pack.queries), 'queries')}"
