"""`tidegate policy diff`, `replay` and `report`: what a change of a policy would do."""

from __future__ import annotations

import argparse

import msgspec

from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, emit, emit_json, not_judged, say
from gateway.commands.policy_records import NoLogError, records, settings_of
from gateway.settings.policy import registered
from gateway.settings.policy_names import unknown_names
from governance.audit.pruned import read_pruned
from governance.audit.show import read_checkpoint
from governance.errors import AuditError
from governance.policy.cases import parse_cases
from governance.policy.compare import Changes, Replay, compare, replay
from governance.policy.report import Change, html
from governance.policy.snapshot import GATEWAY_FIELDS, PolicySnapshot, read_policy
from governance.types import Finding

DIFF = """\
examples:
  tidegate policy diff policy.csv draft.csv
  tidegate policy diff policy.csv draft.csv --format json --exit-code

Who gains and who loses what, over the users, tenants, objects and actions that either file names; what gives
power over the gateway itself, or without bounds, comes first.
exit status: 0, with `--exit-code` 1 when the policies grant differently; 2 a policy cannot be read
"""
REPLAY = """\
examples:
  tidegate policy replay --policy draft.csv --log state/audit
  tidegate policy replay --policy draft.csv --log audit-copy --key log.vkey
  tidegate policy replay --policy draft.csv --log state/audit --config tidegate.yaml
  tidegate policy replay --policy draft.csv --log decisions.jsonl

Decides recorded requests again, each with the roles that its credential carried. The log is a folder, of which
every entry is verified against its signed checkpoint (`--key`: the log's vkey file; without, the one that lies in
the folder), or a file of one record a line, as `tidegate audit export` writes it. `was` and `now` say whether it is
allowed. Records of requests that the policy was not asked about (401, settings, erasures, ...) cannot be replayed,
nor those whose subject is a pseudonym, save with `--config` and the person's key still in its state_dir. Of a log
whose beginning was pruned the rest is replayed, and `pruned` says where it begins.
exit status: 0, or 2 when the policy or the log cannot be read or does not verify
"""
REPORT = """\
examples:
  tidegate policy report policy.csv draft.csv --output change.html
  tidegate policy report policy.csv draft.csv --tests policy_tests.yaml --log state/audit --output change.html
  tidegate policy report policy.csv draft.csv --config tidegate.yaml --output change.html

One page, without any other file, for the person who approves: hashes, grants gained and lost, findings, tests,
recorded requests decided again, changed lines. With `--config` the findings hold names that the settings and the
registry do not know, too.
exit status: 0 it was written, 2 a file cannot be read or written
"""


def run_diff(args: argparse.Namespace) -> int:
    """Compares two policies; the exit status."""
    old, new = (PolicySnapshot.load(path, judge=False) for path in (args.old, args.new))
    changes = compare(old, new)
    if args.format == "json":
        emit_json(msgspec.to_builtins(changes))
    else:
        _print(changes)
    return DOES_NOT_HOLD if args.exit_code and (changes.gained or changes.lost) else HOLDS


def _print(changes: Changes) -> None:
    for subject, (gained, lost) in changes.by_subject.items():
        emit(subject)
        for sign, grants in (("+", gained), ("-", lost)):
            for one in grants:
                note = "   (look at it first)" if one.escalates and sign == "+" else ""
                emit(f"  {sign} {one.action} on {one.object} in {one.tenant}{note}")
    say(f"{len(changes.gained)} gained, {len(changes.lost)} lost")


def run_replay(args: argparse.Namespace) -> int:
    """Decides recorded requests again; the exit status."""
    policy = PolicySnapshot.load(args.policy, model=args.model, fields=GATEWAY_FIELDS, judge=False)
    try:
        with records(args) as found:
            result = replay(policy, found)
    except (NoLogError, AuditError) as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    pruned = read_pruned(args.log, read_checkpoint(args.log).size) if args.log.is_dir() else None
    if args.format == "json":
        shown = msgspec.to_builtins(result)
        emit_json(shown if pruned is None else {**shown, "pruned": pruned.before})
    else:
        for one in result.changed:
            was, now = ("allowed" if verdict else "denied" for verdict in (one.was, one.now))
            by = "by default" if one.line is None else f"by line {one.line}"
            emit(f"{one.index} {one.id}: was {was}, now {now} {by}")
        say(f"{result.replayed} replayed, {result.unreplayable} cannot be, {len(result.changed)} decided otherwise")
    if pruned is not None:
        say(f"{pruned}: they could not be replayed")
    return HOLDS


def run_report(args: argparse.Namespace) -> int:
    """Writes the page of a change; the exit status."""
    texts = [read_policy(path) for path in (args.old, args.new)]
    old, new = (
        PolicySnapshot.compile(text, str(path), judge=path is args.new)
        for text, path in zip(texts, (args.old, args.new), strict=True)
    )
    tests = None
    if args.tests is not None:
        tests, problems = parse_cases(read_policy(args.tests), str(args.tests))
        if tests is None:
            return not_judged(problems)
    again: Replay | None = None
    try:
        if args.log is not None:
            with records(args) as found:
                again = replay(new, found)
        names: list[Finding] = []
        if args.config is not None:
            settings = settings_of(args.config)
            names = list(unknown_names(new, settings, registered(settings)))
        page = html(Change(old, new, texts[0], texts[1], tests, again, names))
        args.output.write_text(page, "utf-8")
    except (NoLogError, AuditError) as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    except OSError as error:
        say(f"tidegate: {args.output}: cannot be written ({error.strerror}): check the path and its rights")
        return NOT_JUDGED
    if args.format == "json":
        emit_json({"old": old.hash, "new": new.hash, "report": str(args.output)})
    else:
        say(f"{args.output}: {old.hash[:12]} to {new.hash[:12]}")
    return HOLDS
