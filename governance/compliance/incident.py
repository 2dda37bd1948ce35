"""The dossier of one incident: what the log has of it, what was in force, and what is kept from being erased.

Contract: an incident is named by request ids, or by a moment and a span around it. Two passes, in bounded memory: one
for what is named and what came before, one for what happened around it. Whether it was an incident, how serious it
was and what caused it, a log cannot say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from governance.audit.erasure import Held
from governance.audit.pruned import FILE as PRUNED
from governance.audit.pruned import read_pruned
from governance.audit.tiles import WIDTH, bundle_path, levels, tile_path, widths
from governance.audit.verify import Report as LogReport
from governance.compliance.checks import Result, Subject, judge
from governance.compliance.clocks import Due
from governance.compliance.given import Given
from governance.compliance.pack import MOST_CITED, Check, Duty, Pack, Query, Select, Text
from governance.compliance.report import Cited, FileFacts, LogFacts, QueryFacts, Source
from governance.compliance.scan import Progress, Scan, rows, scan
from governance.compliance.times import Period, is_record_time, of_record, text_of
from governance.errors import AuditInputError

SCHEMA = "tidegate.incident/1"
MOST_SUBJECTS = 10_000
"""Subjects that are looked at for a hold."""
_MOST_BEFORE = 50
"""Changes before the incident that are cited, the latest ones."""
_INFERENCE = "inference"

_AROUND = {
    "around": Query(
        "Everything that was recorded around it",
        Select(),
        ("kind", "model", "version", "outcome", "status"),
        MOST_CITED // 2,
    ),
    "not-served": Query(
        "What failed, was shed, refused or cancelled around it",
        Select(outcome=("failed", "shed", "refused", "cancelled")),
        ("kind", "model", "version", "outcome", "status"),
        MOST_CITED // 2,
    ),
    "changes": Query(
        "Changes around it: settings, policies, model servers, approvals, erasures and holds",
        Select(kind=("policy", "settings", "control", "approval", "registry", "erasure")),
        ("kind", "action", "outcome"),
        MOST_CITED,
    ),
}
_PACK = Pack(
    "tidegate.compliance/1",
    "incident",
    "2026-11-30",
    "Incident",
    "",
    Text("", "https://", "2026-11-30", "voluntary"),
    _AROUND,
    (Duty("incident", "", "", (), "", "", (), tuple(_AROUND)),),
)


class Named(msgspec.Struct):
    """What the first pass found."""

    indices: list[int] = []
    """Of records of the named requests, at most `MOST_CITED`."""
    records: int = 0
    absent: list[str] = []
    """Requests of which the log has no record."""
    first: str | None = None
    last: str | None = None
    before: list[int] = []
    """The last changes before it."""
    in_force: dict[str, int] = {}
    """The latest records of `policy` and `settings` before it: what was in force when it began."""
    subjects: list[str] = []
    """Sealed subjects concerned, at most `MOST_SUBJECTS`."""
    more_subjects: bool = False

    def span(self, window: timedelta) -> Period | None:
        """The time of the named records and a span on both sides; None: there are none."""
        first, last = (time and of_record(time) for time in (self.first, self.last))
        if not first or not last:
            return None
        return Period(first - window, last + window + timedelta(seconds=1))


class Dossier(msgspec.Struct):
    """All of it."""

    schema: str
    made: str
    tool: str
    aware: str
    requests: list[str]
    period: dict[str, str]
    clocks: list[Due]
    log: LogFacts
    records: dict[str, int]
    policies: list[dict[str, Any]]
    in_force: dict[str, int]
    """Index of the latest record of `policy` and of `settings` before the period."""
    queries: dict[str, QueryFacts]
    policy: Result | None
    """Whether the policy that was handed in was in force; None: none was."""
    hold: Held | None
    """None: no hold was asked for, or there is nobody to hold."""
    whole_log: bool
    given: list[FileFacts]
    missing: list[str]
    cited: list[Cited] = []
    ok: bool = True
    """The log verifies, and every request that was named is in it."""


def find(log: Source, requests: Sequence[str], period: Period | None, progress: Progress) -> Named:
    """The first pass: what is named, whom it is about, and what came before.

    Args:
        log: the log.
        requests: request ids.
        period: of the incident; None: it is that of the requests.
        progress: told `(entries done, entries in all)` now and then.

    Raises:
        AuditInputError: something cannot be read.
    """
    found, wanted, seen = Named(), set(requests), set[str]()
    subjects: dict[str, None] = {}
    before: deque[tuple[str, int, str]] = deque(maxlen=_MOST_BEFORE)
    begin, end = period.texts if period is not None else ("", "")
    for index, _, row in rows(log.folder, log.checkpoint.size, ("subject", "sealed"), progress):
        time = None if row is None else row.time
        if row is None or time is None or not is_record_time(time):
            continue
        mine = row.id in wanted if wanted else begin <= time < end
        if mine and row.id in wanted:
            seen.add(row.id or "")
            found.records += 1
            if len(found.indices) < MOST_CITED:
                found.indices.append(index)
            found.first = time if found.first is None else min(found.first, time)
            found.last = time if found.last is None else max(found.last, time)
        subject = getattr(row, "subject", None)
        if mine and isinstance(subject, str) and getattr(row, "sealed", None) is not None:
            if len(subjects) < MOST_SUBJECTS:
                subjects[subject] = None
            elif subject not in subjects:
                found.more_subjects = True
        # What came before the incident: in the log's order, which is that of writing, to within some milliseconds.
        if row.kind != _INFERENCE and (not begin or time < begin) and (found.first is None or time <= found.first):
            before.append((time, index, row.kind or ""))
            if row.kind in ("policy", "settings"):
                found.in_force[row.kind] = index
    found.before = [index for _, index, _ in before]
    found.absent = [one for one in requests if one not in seen]
    found.subjects = list(subjects)
    return found


def around(log: Source, period: Period, progress: Progress) -> Scan:
    """The second pass: what happened in the period. Raises AuditInputError."""
    return scan(log.folder, log.checkpoint.size, period, _PACK, progress)


def period_around(time: datetime, window: timedelta) -> Period:
    """A span on both sides of a moment."""
    return Period(time - window, time + window)


def texts(period: Period) -> dict[str, str]:
    """As the dossier has it."""
    return {"from": text_of(period.begin), "to": text_of(period.end)}


def facts_of(what: str, records: int, cited: Sequence[int]) -> QueryFacts:
    """Records that were chosen by what they are, and not by a query."""
    return QueryFacts(what, records, [], [], 0, list(cited), records - len(cited))


def policy_in_force(found: Scan, judged: LogReport, period: Period, given: Given) -> Result | None:
    """Whether the policy that was handed in decided in the period; None: none was."""
    if given.policy is None:
        return None
    check = Check("policy-in-force", "The policy that was handed in decided in the period")
    return judge(check, Subject(found, judged, period, given))


def files_of(log: Source) -> list[str]:
    """The files of the log up to its checkpoint, below its folder; a full one stands in for its partial.

    Bundles that the log states to be pruned are not among them; where it states that is.

    Raises:
        AuditInputError: one is missing.
    """
    found = []
    size = log.checkpoint.size
    pruned = read_pruned(log.folder, size)
    gone = 0
    if pruned is not None:
        found.append(PRUNED)
        gone = pruned.before // WIDTH
    wanted = [(bundle_path(index), bundle_path(index, width)) for index, width in widths(size, 0) if index >= gone]
    for level in range(levels(size)):
        wanted += [(tile_path(level, index), tile_path(level, index, width)) for index, width in widths(size, level)]
    for full, partial in wanted:
        name = next((name for name in (partial, full) if (log.folder / name).is_file()), None)
        if name is None:
            raise AuditInputError(f"{log.folder / partial}: no such file: `tidegate audit verify` says more")
        found.append(name)
    return found
