"""One pack over one log and one period, as a value: what `report.json` holds and the page shows.

Contract: `make` reads the log and nothing else. Whatever it could not look at is in `missing`, in words: a report
without that list would say more than it knows.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from governance.audit.checkpoint import Checkpoint
from governance.audit.note import Verifier
from governance.audit.pruned import read_pruned
from governance.audit.verify import Report as LogReport
from governance.audit.verify import open_checkpoint, verify
from governance.compliance.checks import Result, Subject, judge
from governance.compliance.given import Given
from governance.compliance.pack import Clock, Duty, Pack
from governance.compliance.scan import Found, Progress, Scan, scan
from governance.compliance.times import Period, of_record, short
from governance.errors import AuditInputError

SCHEMA = "tidegate.compliance-report/1"
_MOST_FINDINGS = 100


class Source(msgspec.Struct, frozen=True):
    """A log at one size, with the keys that it is judged by."""

    folder: Path
    note: bytes
    """The checkpoint, verbatim: everything in a bundle is of this one, however the log grows meanwhile."""
    checkpoint: Checkpoint
    keys: tuple[Verifier, ...]
    own_key: bool
    """Whether the key came from the log's own folder, and not from the auditor."""
    remembered: tuple[Path, ...] = ()


class LogFacts(msgspec.Struct, frozen=True):
    """What the log is."""

    origin: str
    size: int
    root: str
    """Base64."""
    verifies: bool
    findings: list[str]
    first: str | None
    """Time of its earliest record."""
    last: str | None
    own_key: bool
    remembered: int
    """How many older checkpoints it was held against."""


class QueryFacts(msgspec.Struct, frozen=True):
    """What a query found."""

    what: str
    records: int
    by: list[str]
    counts: list[dict[str, Any]]
    """One a combination of `by`, the most frequent first: the fields and `records`."""
    other: int
    """Records of combinations that were too many to count apart."""
    cited: list[int]
    left_out: int
    """Records that are not in the bundle."""


class DutyFacts(msgspec.Struct, frozen=True):
    """What there is to a duty."""

    id: str
    citation: str
    title: str
    who: list[str]
    asks: str
    evidence: str
    queries: dict[str, int]
    """How many records each found."""
    checks: list[Result]
    clocks: list[Clock]
    missing: list[str]
    cannot_show: list[str]
    lawyer: list[str]


class FileFacts(msgspec.Struct, frozen=True):
    """A file that was handed in."""

    file: str
    source: str
    sha256: str


class Cited(msgspec.Struct, frozen=True):
    """A record in the bundle."""

    index: int
    entry: str
    proof: str | None
    """None: no proof could be made; `missing` says why."""
    record: dict[str, Any]
    queries: list[str]


class Report(msgspec.Struct):
    """All of it."""

    schema: str
    made: str
    tool: str
    pack: dict[str, Any]
    period: dict[str, str]
    log: LogFacts
    records: dict[str, int]
    policies: list[dict[str, Any]]
    queries: dict[str, QueryFacts]
    duties: list[DutyFacts]
    given: list[FileFacts]
    missing: list[str]
    summary: dict[str, int]
    cited: list[Cited] = []
    """Filled in by the bundle."""

    @property
    def holds(self) -> bool:
        """Whether the log verifies and no check fails."""
        return self.log.verifies and not self.summary["fails"]


def source(folder: Path, keys: tuple[Verifier, ...], *, own_key: bool, remembered: tuple[Path, ...] = ()) -> Source:
    """A log as it is now. Raises AuditInputError: there is none."""
    path = folder / "checkpoint"
    try:
        note = path.read_bytes()
    except OSError as error:
        raise AuditInputError(f"{path}: cannot be read ({error.strerror}): give the folder of a log") from None
    checkpoint = open_checkpoint(note, keys, "checkpoint", LogReport())
    if checkpoint is None:
        raise AuditInputError(f"{path}: not a checkpoint: `tidegate audit verify` says more")
    return Source(folder, note, checkpoint, keys, own_key, remembered)


def verified(log: Source, progress: Progress) -> LogReport:
    """Whether the log is what its checkpoint says. Raises AuditInputError."""
    judged = LogReport()
    open_checkpoint(log.note, log.keys, "checkpoint", judged)
    whole = verify(log.folder, log.keys, log.remembered, progress, log.checkpoint)
    whole.findings = [*judged.findings, *whole.findings]
    return whole


def make(log: Source, pack: Pack, period: Period, given: Given, *, made: str, tool: str, progress: Progress) -> Report:
    """What a pack says of a log.

    Args:
        log: the log.
        pack: the duties.
        period: which records.
        given: what was handed in.
        made: when, as text.
        tool: what made it, with its version.
        progress: told `(entries done, entries in all)` now and then, over both passes.

    Raises:
        AuditInputError: the log cannot be read.
    """
    size = log.checkpoint.size
    judged = verified(log, lambda done, _size: progress(done, 2 * size))
    found = scan(log.folder, size, period, pack, lambda done, _size: progress(size + done, 2 * size))
    subject = Subject(found, judged, period, given)
    duties = [_duty(duty, subject) for duty in pack.duties]
    results = [result for duty in duties for result in duty.checks]
    return Report(
        schema=SCHEMA,
        made=made,
        tool=tool,
        pack={
            "name": pack.name,
            "version": pack.version,
            "title": pack.title,
            "jurisdiction": pack.jurisdiction,
            "text": msgspec.to_builtins(pack.text),
        },
        period=dict(zip(("from", "to"), period.texts, strict=True)),
        log=facts(log, judged, found.first, found.last),
        records={
            "in_period": found.records,
            "outside": found.outside,
            "no_record": found.unreadable,
            "no_time": found.untimed,
        },
        policies=[{"policy": policy, **msgspec.structs.asdict(one)} for policy, one in found.policies.items()],
        queries={name: query_facts(one) for name, one in found.found.items()},
        duties=duties,
        given=[FileFacts(f"given/{one.name}", one.source, one.sha256) for one in given.files],
        missing=list(_missing(log, found, period, pack, given)),
        summary={
            name.replace(" ", "_"): sum(result.status == name for result in results)
            for name in ("holds", "fails", "not shown")
        },
    )


def facts(log: Source, judged: LogReport, first: str | None, last: str | None) -> LogFacts:
    """What a log is."""
    findings = [str(finding) for finding in judged.findings]
    return LogFacts(
        origin=log.checkpoint.origin,
        size=log.checkpoint.size,
        root=base64.b64encode(log.checkpoint.root).decode(),
        verifies=judged.ok,
        findings=findings[:_MOST_FINDINGS],
        first=first,
        last=last,
        own_key=log.own_key,
        remembered=len(log.remembered),
    )


def query_facts(found: Found) -> QueryFacts:
    """What a query found; among what it cites are the records that show why a check fails."""
    lacking = {index for one in found.lacking.values() for index in one.indices}
    by = list(found.query.by)
    cells = sorted(found.cells.items(), key=lambda item: (-item[1], [value or "" for value in item[0]]))
    cited = sorted({*found.cited.indices, *lacking})
    return QueryFacts(
        what=found.query.what,
        records=found.records,
        by=by,
        counts=[{**dict(zip(by, cell, strict=True)), "records": count} for cell, count in cells],
        other=found.other,
        cited=cited,
        left_out=found.records - len(cited),
    )


def _duty(duty: Duty, subject: Subject) -> DutyFacts:
    results = [judge(check, subject) for check in duty.checks]
    return DutyFacts(
        id=duty.id,
        citation=duty.citation,
        title=duty.title,
        who=list(duty.who),
        asks=duty.asks,
        evidence=duty.evidence,
        queries={name: subject.scan.found[name].records for name in duty.queries},
        checks=results,
        clocks=list(duty.clocks),
        missing=list(_missing_of(duty, subject)),
        cannot_show=list(duty.cannot_show),
        lawyer=list(duty.lawyer),
    )


_NOT_GIVEN = {
    "card": "No model card was handed in (--card FILE).",
    "policy": "No policy was handed in (--policy CSV).",
    "fairness": "No fairness report was handed in (--fairness JSON).",
}


def _absent(given: Given) -> set[str]:
    there = {"card": bool(given.cards), "policy": given.policy is not None, "fairness": given.fairness is not None}
    return {name for name, is_there in there.items() if not is_there}


def _missing_of(duty: Duty, subject: Subject) -> Iterator[str]:
    absent = _absent(subject.given)
    yield from (_NOT_GIVEN[name] for name in duty.reports if name in absent)
    for name in duty.queries:
        found = subject.scan.found[name]
        if not found.records:
            yield f"No record in the period: {found.query.what[0].lower()}{found.query.what[1:]}."


def _missing(log: Source, found: Scan, period: Period, pack: Pack, given: Given) -> Iterator[str]:
    wanted: Iterable[str] = dict.fromkeys(name for duty in pack.duties for name in duty.reports)
    absent = _absent(given)
    yield from (_NOT_GIVEN[name] for name in wanted if name in absent)
    yield from missing_of_log(log)
    first, last = (time and of_record(time) for time in (found.first, found.last))
    if first and first > period.begin:
        yield f"The log begins at {short(first)}: nothing is shown of the time before."
    if last and last < period.end:
        yield f"The last record is of {short(last)}: nothing is shown of the time after."
    if found.unreadable:
        yield f"{found.unreadable} entries are no records of this schema and are in no count."
    if found.untimed:
        yield f"{found.untimed} records have no time that can be placed and are in no count."


def missing_of_log(log: Source) -> Iterator[str]:
    """What is not known of a log: what was pruned, and for want of a key or a checkpoint from elsewhere."""
    pruned = read_pruned(log.folder, log.checkpoint.size)
    if pruned is not None:
        said = str(pruned)
        yield f"{said[0].upper()}{said[1:]}: nothing is shown of them."
    if log.own_key:
        yield (
            "The public key was taken from the log's own folder: whoever forges a log forges that too. Hold "
            "log/log.vkey against the key that you were given (--key FILE)."
        )
    if not log.remembered:
        yield (
            "No older checkpoint was given (--remembered FILE): a history that was rewritten and signed again with the "
            "log's own key would not show."
        )
