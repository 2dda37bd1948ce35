"""What a pack's checks say of a log and of what was handed in: it holds, it fails, or it is not shown.

Contract: pure. `fails` is said of what was looked at and is not so; what could not be looked at is `not shown`, and
never passes. Nothing here is a judgement of law.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from governance.audit.verify import Report as LogReport
from governance.cards.complete import missing
from governance.compliance.given import Given
from governance.compliance.pack import Check
from governance.compliance.scan import Scan
from governance.compliance.times import Period, of_record, short

Status = Literal["holds", "fails", "not shown"]
_MOST_NAMED = 10


class Result(msgspec.Struct, frozen=True):
    """What one check came to."""

    kind: str
    says: str
    """What is true when it holds."""
    status: Status
    why: str
    """What was seen."""
    records: tuple[int, ...] = ()
    """Indices of records that show why it fails."""


class Subject(msgspec.Struct, frozen=True):
    """What is judged."""

    scan: Scan
    log: LogReport
    period: Period
    given: Given


def judge(check: Check, subject: Subject) -> Result:
    """What a check comes to."""
    status, why, *records = _JUDGES[check.kind](check, subject)
    return Result(check.kind, check.says, status, why, tuple(records[0]) if records else ())


_Outcome = tuple[Status, str] | tuple[Status, str, list[int]]


def _log_verifies(_check: Check, subject: Subject) -> _Outcome:
    findings = subject.log.findings
    if findings:
        return "fails", f"{len(findings)} findings, the first: {findings[0]}"
    return "holds", f"all {subject.log.size} entries lead to the signed root"


def _log_kept(check: Check, subject: Subject) -> _Outcome:
    began = subject.scan.first and of_record(subject.scan.first)
    if not began:
        return "not shown", "the log has no record with a time"
    days = (subject.period.end - began).days
    pruned = subject.log.pruned
    entry = 0 if pruned is None else pruned.before
    reach = f"it begins at {short(began)}, {max(days, 0)} days before the end of the period, with its entry {entry}"
    assert check.days is not None
    return ("holds" if days >= check.days else "not shown"), reach


def _some(check: Check, subject: Subject) -> _Outcome:
    found = subject.scan.found[check.query or ""]
    return ("holds" if found.records else "fails"), _count(found.records)


def _none(check: Check, subject: Subject) -> _Outcome:
    found = subject.scan.found[check.query or ""]
    if not subject.scan.records:
        return "not shown", "no record in the period"
    return ("fails" if found.records else "holds"), _count(found.records)


def _filled(check: Check, subject: Subject) -> _Outcome:
    found = subject.scan.found[check.query or ""]
    lacking = found.lacking[check.fields]
    if not found.records:
        return "not shown", "no record in the period"
    if not lacking.records:
        return "holds", f"all {found.records} records have {', '.join(check.fields)}"
    which = ", ".join(f"{name} ({count})" for name, count in lacking.fields.items())
    return "fails", f"{lacking.records} of {found.records} records lack {which}", lacking.indices


def _card(check: Check, subject: Subject) -> _Outcome:
    if not subject.given.cards:
        return "not shown", "no card was handed in"
    gaps = [f"{name}: {path}" for name, card in subject.given.cards for path in missing(card, check.fields)]
    if gaps:
        return "fails", f"missing: {_named(gaps)}"
    return "holds", f"looked at: {', '.join(name for name, _ in subject.given.cards)}"


def _policy_lint(check: Check, subject: Subject) -> _Outcome:
    policy = subject.given.policy
    if policy is None:
        return "not shown", "no policy was handed in"
    findings = [
        one for one in policy.parsed.findings if (one.code in check.codes if check.codes else one.severity == "error")
    ]
    if findings:
        return "fails", _named([f"line {one.line}: {one.message} [{one.code}]" for one in findings])
    if policy.parsed.broken:
        return "not shown", "the policy has errors, so that its words could not be judged"
    if not policy.linted:
        return "not shown", "what words mean is known for the built-in model alone"
    return "holds", f"{len(policy.parsed.rules)} rules and {len(policy.parsed.memberships)} memberships"


def _policy_in_force(_check: Check, subject: Subject) -> _Outcome:
    policy = subject.given.policy
    if policy is None:
        return "not shown", "no policy was handed in"
    seen = subject.scan.policies
    if not seen:
        return "not shown", "no record of the period names a policy"
    one = seen.get(policy.digest)
    if one is None:
        return "fails", f"its hash {policy.digest} is none of those in force: {_named(list(seen))}"
    return "holds", f"{one.records} records from {one.first} to {one.last} were decided by it"


def _fairness(_check: Check, subject: Subject) -> _Outcome:
    report = subject.given.fairness
    if report is None or report.groups is None:
        return "not shown", "no report of groups was handed in"
    metrics = {name for group in report.groups for name in group.metrics}
    large = {
        name: sum(group.metrics[name].status == "ok" for group in report.groups if name in group.metrics)
        for name in metrics
    }
    enough = sorted(name for name, count in large.items() if count > 1)
    unknown = report.unknown.get("n", 0)
    if not enough:
        return "fails", f"in no metric are two of the {len(report.groups)} groups large enough; {unknown} rows unknown"
    return "holds", f"{', '.join(enough)}; {unknown} rows without an attribute, {len(report.excluded)} exclusions"


def _ll144(_check: Check, subject: Subject) -> _Outcome:
    report = subject.given.fairness
    if report is None or report.ll144 is None:
        return "not shown", "no report of the form `--ll144` was handed in"
    sizes = sorted(len(table.by) for table in report.ll144.tables)
    if sizes != [1, 1, 2]:
        return "fails", "there are not three tables: for each attribute, and for both together"
    empty = [" x ".join(table.by) for table in report.ll144.tables if not table.rows]
    if empty:
        return "fails", f"without a row: {', '.join(empty)}"
    unknown = ", ".join(f"{' x '.join(table.by)} {table.unknown}" for table in report.ll144.tables)
    return "holds", f"{report.ll144.kind} tables; unknown: {unknown}"


def _count(records: int) -> str:
    return f"{records} record{'s' * (records != 1)} in the period"


def _named(items: list[str]) -> str:
    more = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return "; ".join(items[:_MOST_NAMED]) + more


_JUDGES: dict[str, Callable[[Check, Subject], _Outcome]] = {
    "log-verifies": _log_verifies,
    "log-kept": _log_kept,
    "some": _some,
    "none": _none,
    "filled": _filled,
    "card": _card,
    "policy-lint": _policy_lint,
    "policy-in-force": _policy_in_force,
    "fairness": _fairness,
    "ll144": _ll144,
}
