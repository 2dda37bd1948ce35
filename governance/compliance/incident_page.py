"""The dossier of an incident as a page, for those who have to tell an authority.

Contract: a pure function of the dossier. The clocks stand first. Nothing is said about what caused it.
"""

from __future__ import annotations

from collections.abc import Iterator

from governance.compliance.incident import Dossier
from governance.compliance.markup import document, facts, items, labelled, paragraph, table
from governance.compliance.page import (
    PEOPLE,
    SAMPLE,
    cited_table,
    given_table,
    log_section,
    query_section,
    verify_section,
)

_BEFORE_ANYTHING = (
    "Tell whoever answers for the system, and the provider if you only deploy it (EU AI Act, Article 26(5)).",
    "Do nothing to the system that could hinder finding the cause before the authority was told (Article 73(6)).",
    "A first report may be incomplete (Article 73(5); GDPR, Article 33(4)). Late is worse than incomplete.",
    "Keep this folder as it is, and a second copy elsewhere.",
)


def write(dossier: Dossier) -> bytes:
    """The page, in UTF-8."""
    return document(f"Incident dossier, {dossier.period['from'][:19]}Z", _parts(dossier))


def _parts(dossier: Dossier) -> Iterator[str]:
    yield "<h1>Incident dossier</h1>"
    yield paragraph(
        "What the log of a gateway has of an incident. Whether it is a serious incident, which clock it is under and "
        "what caused it is for people to say, with a lawyer."
    )
    yield paragraph(PEOPLE)
    yield facts([
        ("Became known", dossier.aware),
        ("Period looked at", f"{dossier.period['from']} to {dossier.period['to']}"),
        ("Requests named", ", ".join(dossier.requests) or "none: named by its time"),
        ("Made", f"{dossier.made} by {dossier.tool}"),
    ])  # fmt: skip
    yield '<section class="first"><h2>Clocks</h2>'
    yield table(
        "Counted from when it became known, the first to end first",
        ("Ends", "Left when this was made", "Of", "If", "Tell", "Source"),
        [(one.due, one.left, one.name, one.when, one.tell, f"{one.text}, {one.citation}") for one in dossier.clocks],
    )
    yield paragraph(
        "Hours and days are counted from the moment, without weekends and holidays. A law may count so that its period "
        "ends later. Most ask for a report at once, and set these as the latest."
    )
    yield labelled("Before anything else", _BEFORE_ANYTHING)
    yield labelled("Missing from this dossier", dossier.missing)
    yield "</section>"
    yield from _freeze(dossier)
    yield from _in_force(dossier)
    yield "<section><h2>Records</h2>"
    yield paragraph(SAMPLE)
    for name, query in dossier.queries.items():
        yield from query_section(name, query)
    yield cited_table(dossier.cited)
    yield "</section>"
    yield from log_section(dossier.log, dossier.records)
    yield table("Findings in the log", ("Finding",), [(finding,) for finding in dossier.log.findings])
    yield given_table([(one.file, one.source, one.sha256) for one in dossier.given])
    yield from verify_section(dossier.cited)


def _freeze(dossier: Dossier) -> Iterator[str]:
    yield "<section><h2>Kept from change</h2>"
    hold = dossier.hold
    if hold is not None:
        rows = [(one, "held from now on") for one in hold.new]
        rows += [(one, f"held already: {reason}") for one, reason in hold.before.items()]
        rows += [(one, "no key in this vault: erased, or another gateway's") for one in hold.without_key]
        yield table("Legal hold: these people's keys cannot be destroyed", ("Pseudonym", "Is"), rows)
        yield paragraph(
            "Each new hold is a record of the log. `tidegate audit release` ends one, by the name of the person, and "
            "is recorded too."
        )
    kept = ["The checkpoint in log/checkpoint binds every entry of the log up to it: none can be changed unseen."]
    if dossier.whole_log:
        kept.append("The whole log up to this checkpoint is in log/. `tidegate audit verify log --key ...` checks it.")
    yield items(kept)
    yield "</section>"


def _in_force(dossier: Dossier) -> Iterator[str]:
    yield "<section><h2>In force</h2>"
    rows = []
    for one in dossier.cited:
        if one.index in dossier.in_force.values():
            details = one.record.get("details")
            after = details.get("after") if isinstance(details, dict) else None
            kind, time = str(one.record.get("kind")), str(one.record.get("time"))
            rows.append((kind, str(after or ""), time, str(one.index)))
    yield table("Came into force last before it", ("What", "SHA-256", "Since", "Entry"), rows)
    yield table(
        "Policies that decided in the period",
        ("SHA-256", "Records", "First", "Last"),
        [(one["policy"], str(one["records"]), one["first"], one["last"]) for one in dossier.policies],
    )
    if dossier.policy is not None:
        yield paragraph(f"The policy that was handed in: {dossier.policy.status}: {dossier.policy.why}.")
    yield "</section>"
