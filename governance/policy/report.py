"""A change of a policy as one page, for the person who approves it.

Contract: `html` is a pure function; the page needs no other file, no script and no network, and reads well
aloud (headings, captions, row headers; nothing is said by colour alone). Everything that comes from a file is
escaped. What gives power over the gateway itself, or without bounds, stands first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from html import escape

import msgspec

from governance.policy.cases import CaseFile
from governance.policy.compare import Grant, Replay, compare
from governance.policy.snapshot import PolicySnapshot
from governance.types import Finding

_MOST_ROWS = 500
"""Rows of one table; how many were left out is said."""
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
caption { text-align: left; font-weight: 600; padding: .3rem 0 }
th, td { text-align: left; padding: .25rem .6rem; vertical-align: top }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent) }
code, pre { font: 14px/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
pre { white-space: pre-wrap; padding: .6rem; border: 1px solid color-mix(in srgb, currentColor 25%, transparent) }
.first { border-left: .4rem solid; padding-left: .6rem }
ins, del { text-decoration: none } ins { font-weight: 600 } del { opacity: .75 }
@media print { body { max-width: none } }
"""


class Change(msgspec.Struct, frozen=True):
    """What the page is made from."""

    old: PolicySnapshot
    new: PolicySnapshot
    old_text: bytes
    new_text: bytes
    tests: CaseFile | None = None
    replay: Replay | None = None
    names: Sequence[Finding] = ()
    """Names of the new policy that nothing else has."""


def html(change: Change) -> str:
    """The page."""
    grants = compare(change.old, change.new)
    first = [one for one in grants.gained if one.escalates]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Policy change {change.new.hash[:12]}</title><style>{_STYLE}</style></head><body><main>",
        "<h1>Policy change</h1>",
        _hashes(change),
        f"<p>{len(grants.gained)} grants gained, {len(grants.lost)} lost; {len(first)} of those gained give power "
        "over the gateway itself or have no bounds.</p>",
        '<section class="first"><h2>Look at first</h2>',
        _grants("Power over the gateway, or without bounds, that is gained", first),
        "</section><section><h2>Grants</h2>",
        _grants("Gained", [one for one in grants.gained if not one.escalates]),
        _grants("Lost", grants.lost),
        "</section>",
        _findings([*change.new.findings, *change.names]),
        _tests(change),
        _replay(change.replay),
        _lines(change),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _hashes(change: Change) -> str:
    rows = [("In force", change.old), ("Proposed", change.new)]
    return _table(
        "Approving speaks of exactly these bytes (SHA-256)",
        ("Policy", "File", "Hash"),
        [(name, policy.file, policy.hash) for name, policy in rows],
    )


def _grants(caption: str, grants: Sequence[Grant]) -> str:
    rows = [(one.subject, one.action, one.object, one.tenant) for one in grants]
    return _table(caption, ("Who", "May", "On", "In tenant"), rows)


def _findings(findings: Sequence[Finding]) -> str:
    rows = [(str(one.line), one.severity, one.message) for one in sorted(findings, key=lambda one: one.line)]
    table = _table("What lint says of the proposed policy", ("Line", "Is", "Says"), rows)
    return f"<section><h2>Findings</h2>{table}</section>"


def _tests(change: Change) -> str:
    if change.tests is None:
        return "<section><h2>Tests</h2><p>No tests were given.</p></section>"
    rows = []
    for case in change.tests.cases:
        got = change.new.answer(case.request).allow
        wanted, given = ("allowed" if verdict else "denied" for verdict in (case.allow, got))
        rows.append(("passes" if got is case.allow else "FAILS", case.name, ", ".join(case.request), wanted, given))
    rows.sort(key=lambda row: row[0])
    table = _table("Policy tests against the proposed policy", ("Result", "Test", "Request", "Wanted", "Given"), rows)
    return f"<section><h2>Tests</h2>{table}</section>"


def _replay(replay: Replay | None) -> str:
    if replay is None:
        return ""
    words = {True: "allowed", False: "denied"}
    rows = [
        (str(one.index), one.id, words[one.was], words[one.now], "default" if one.line is None else f"line {one.line}")
        for one in replay.changed
    ]
    table = _table("Decided otherwise", ("Record", "Request", "Was", "Would be", "By"), rows)
    return (
        f"<section><h2>Recorded requests</h2><p>{replay.replayed} were decided again; {replay.unreplayable} could not "
        f"be.</p>{table}</section>"
    )


def _lines(change: Change) -> str:
    old, new = (text.decode("utf-8", "replace").splitlines() for text in (change.old_text, change.new_text))
    shown = []
    for line in difflib.unified_diff(old, new, "in force", "proposed", lineterm="", n=2):
        tag = "ins" if line.startswith("+") else "del" if line.startswith("-") else ""
        text = escape(line)
        shown.append(f"<{tag}>{text}</{tag}>" if tag else text)
    body = "<pre>" + "\n".join(shown) + "</pre>" if shown else "<p>No line differs.</p>"
    return f"<section><h2>Changed lines</h2>{body}</section>"


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return f"<p><strong>{escape(caption)}:</strong> none.</p>"
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(_row(row) for row in rows[:_MOST_ROWS])
    more = f"<p>{len(rows) - _MOST_ROWS} more are not shown.</p>" if len(rows) > _MOST_ROWS else ""
    title = f"{escape(caption)} ({len(rows)})"
    return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _row(cells: Iterable[str]) -> str:
    first, *rest = (escape(cell) for cell in cells)
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
