"""The report as a page, for the person who has to judge it.

Contract: a pure function of the report. What fails and what is missing stand first; what the gateway cannot show
stands at each duty, and nowhere is it said that a law is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from governance.compliance.markup import Safe, code, document, facts, items, labelled, link, paragraph, table
from governance.compliance.markup import text as escaped
from governance.compliance.report import Cited, DutyFacts, LogFacts, QueryFacts, Report

_WORDS = {"holds": "holds", "fails": "FAILS", "not shown": "not shown"}
SAMPLE = (
    "Of more records than a query may cite, those with the smallest leaf hashes are in this folder: nobody can choose "
    "them by hand, and whoever has the log can find them again."
)
PEOPLE = "This folder may name people: hand it on as you would the log itself."


def write(report: Report) -> bytes:
    """The page, in UTF-8."""
    title = f"{report.pack['title']}: evidence from {report.period['from'][:10]} to {report.period['to'][:10]}"
    return document(title, _parts(report, title))


def _parts(report: Report, title: str) -> Iterator[str]:
    yield f"<h1>{escaped(title)}</h1>"
    yield paragraph(
        "What the log of a gateway shows of the duties below, what it does not show, and what is missing. It is "
        "evidence to judge by, and no judgement: whether a duty is met is for people to say, and for lawyers to check."
    )
    yield paragraph(PEOPLE)
    yield '<section class="first"><h2>Look at first</h2>'
    failing = [
        (duty.citation, result.says, result.why)
        for duty in report.duties
        for result in duty.checks
        if result.status == "fails"
    ]
    yield table("Checks that fail", ("Duty", "Should be so", "What was seen"), failing)
    yield table("Findings in the log", ("Finding",), [(finding,) for finding in report.log.findings])
    yield labelled("Missing from this report", report.missing)
    yield "</section>"
    yield from _summary(report)
    yield "<section><h2>Duties</h2>"
    for duty in report.duties:
        yield from _duty(duty, report)
    yield "</section>"
    yield from _text(report)
    yield from log_section(report.log, report.records)
    yield table(
        "Policies in force in the period",
        ("SHA-256", "Records", "First", "Last"),
        [(code(one["policy"]), str(one["records"]), one["first"], one["last"]) for one in report.policies],
    )
    yield "<section><h2>Records</h2>"
    yield paragraph(SAMPLE)
    for name, query in report.queries.items():
        yield from query_section(name, query)
    yield cited_table(report.cited)
    yield "</section>"
    yield given_table([(one.file, one.source, one.sha256) for one in report.given])
    yield from verify_section(report.cited)
    yield paragraph(f"Made {report.made} by {report.tool}.")


def _summary(report: Report) -> Iterator[str]:
    yield "<section><h2>Summary</h2>"
    rows = []
    for duty in report.duties:
        statuses = [result.status for result in duty.checks]
        shown = ", ".join(f"{statuses.count(status)} {word}" for status, word in _WORDS.items() if status in statuses)
        at = link(f"#{duty.id}", duty.citation)
        rows.append((at, duty.title, shown or "no check", str(sum(duty.queries.values())), str(len(duty.missing))))
    yield table("Duties", ("Duty", "Title", "Checks", "Records found", "Missing"), rows)
    yield paragraph(
        "A check says what can be judged from a log and from what was handed in. “Not shown” means that it could not "
        "be looked at. A record may be found by several queries and is then counted with each."
    )
    yield "</section>"


def _duty(duty: DutyFacts, report: Report) -> Iterator[str]:
    yield f'<h3 id="{duty.id}">{escaped(f"{duty.citation}: {duty.title}")}</h3>'
    yield facts([("Falls on", ", ".join(duty.who)), ("Asks for", duty.asks), ("Evidence here", duty.evidence)])
    if duty.checks:
        rows = [
            (result.says, _WORDS[result.status], result.why, ", ".join(map(str, result.records)))
            for result in duty.checks
        ]
        yield table("Checks", ("Should be so", "Result", "What was seen", "Records"), rows)
    if duty.queries:
        counted = [
            (report.queries[name].what, str(count), link(f"#query-{name}", name))
            for name, count in duty.queries.items()
        ]
        yield table("Records in the period", ("What", "Records", "Query"), counted)
    if duty.clocks:
        clocks = [
            (clock.name, f"{clock.days} days" if clock.days else f"{clock.hours} hours", clock.when, clock.citation)
            for clock in duty.clocks
        ]
        yield table("Clocks, from becoming aware", ("Of", "At the latest", "When", "Source"), clocks)
    yield labelled("Missing here", duty.missing)
    yield labelled("What the gateway cannot show", duty.cannot_show)
    yield labelled("For a lawyer", duty.lawyer)


def _text(report: Report) -> Iterator[str]:
    text = report.pack["text"]
    yield "<section><h2>The text</h2>"
    yield facts([
        ("Text", text["citation"]),
        ("Of", text["dated"]),
        ("Force", text["force"]),
        ("Jurisdiction", report.pack["jurisdiction"]),
        ("At", link(text["url"], text["url"])),
        ("Pack", f"{report.pack['name']}, version {report.pack['version']}"),
    ])  # fmt: skip
    yield paragraph("Duties are in the words of the pack's writer, not in those of the text. Read the text.")
    yield items(text["notes"])
    yield "</section>"


def log_section(log: LogFacts, records: dict[str, int]) -> Iterator[str]:
    """What the log is, and what of it was looked at."""
    yield "<section><h2>The log</h2>"
    yield facts([
        ("Origin", log.origin),
        ("Size", f"{log.size} entries"),
        ("Root", code(log.root)),
        ("Verifies", "yes, every entry and tile" if log.verifies else f"NO: {len(log.findings)} findings"),
        ("Public key", "from the log's own folder" if log.own_key else "handed in"),
        ("Older checkpoints held against it", str(log.remembered)),
        ("Earliest and latest record", f"{log.first or 'none'} to {log.last or 'none'}"),
        *((name.replace("_", " ").capitalize(), str(count)) for name, count in records.items()),
    ])  # fmt: skip
    yield "</section>"


def query_section(name: str, query: QueryFacts) -> Iterator[str]:
    """What a query found."""
    yield f'<h3 id="query-{name}">{escaped(query.what)}</h3>'
    yield paragraph(
        f"{query.records} records in the period; {len(query.cited)} are in this folder with their proofs, "
        f"{query.left_out} are not."
    )
    if query.by:
        rows = [
            (*("none" if one[field] is None else str(one[field]) for field in query.by), str(one["records"]))
            for one in query.counts
        ]
        yield table(f"By {', '.join(query.by)}", (*query.by, "records"), rows)
        if query.other:
            yield paragraph(f"{query.other} records of further combinations are not counted apart.")


def cited_table(cited: list[Cited]) -> str:
    """The records in the bundle."""
    rows = []
    for one in cited:
        record = one.record
        kept = [str(record.get(name) or "") for name in ("time", "kind", "action", "outcome", "model", "version", "id")]
        proof = link(one.proof, "proof") if one.proof else Safe("no proof")
        rows.append((link(one.entry, str(one.index)), *kept, proof, ", ".join(one.queries)))
    columns = ("Entry", "Time", "Kind", "Action", "Outcome", "Model", "Version", "Id", "Proof", "Cited by")
    return table("Records in this folder", columns, rows)


def given_table(rows: list[tuple[str, str, str]]) -> str:
    """What was handed in."""
    shown = [(link(file, file), source, code(digest)) for file, source, digest in rows]
    return "<section><h2>Handed in</h2>" + table("Files", ("File", "From", "SHA-256"), shown) + "</section>"


def verify_section(cited: list[Cited]) -> Iterator[str]:
    """How to check the bundle without a gateway."""
    one = next((one.index for one in cited if one.proof), None)
    proof = f"tidegate audit verify-proof records/{one}.tlog-proof --key log/log.vkey --entry records/{one}.json"
    yield "<section><h2>Check it yourself</h2>"
    yield paragraph("In this folder, on any machine, with no gateway and no network:")
    yield "<pre>sha256sum --check SHA256SUMS" + ("" if one is None else f"\n{proof}") + "</pre>"
    yield paragraph(
        "The first line shows that no file changed since this was made; a proof that an entry stands in the log "
        "that the key signed. Take the key from where you trust it, not from here. Proofs are of the form "
        "c2sp.org/tlog-proof@v1, which other programs check too."
    )
    yield "</section>"
