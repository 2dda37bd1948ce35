"""`tidegate policy diff`, `replay` and `report`: what a change of a policy would do."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, emit, emit_json, not_judged, say
from gateway.settings.file import load
from governance.audit.checked import checked_records
from governance.audit.erasure import open_vault
from governance.audit.layout import Layout
from governance.audit.pruned import read_pruned
from governance.audit.show import read_checkpoint
from governance.audit.verify import read_keys
from governance.errors import AuditError
from governance.policy.cases import parse_cases
from governance.policy.compare import Changes, Replay, compare, replay
from governance.policy.report import Change, html
from governance.policy.snapshot import GATEWAY_FIELDS, PolicySnapshot, read_policy

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

One page, without any other file, for the person who approves: hashes, grants gained and lost, findings, tests,
recorded requests decided again, changed lines.
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
        with _records(args) as records:
            result = replay(policy, records)
    except (_NoLog, AuditError) as error:
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
            with _records(args) as records:
                again = replay(new, records)
        page = html(Change(old, new, texts[0], texts[1], tests, again))
        args.output.write_text(page, "utf-8")
    except (_NoLog, AuditError) as error:
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


class _NoLog(ValueError):
    """Recorded decisions cannot be read; the text says where and what to do."""


@contextmanager
def _records(args: argparse.Namespace) -> Iterator[Iterator[dict[str, Any]]]:
    """The records of `--log`. Raises _NoLog, AuditError; also while they are read."""
    path, key = args.log, args.key
    if not path.is_dir():
        yield _exported(path)
        return
    if key is None:
        key = path / "log.vkey"
        if not key.exists():
            raise _NoLog(f"{path}: there is no log.vkey in it: give the log's vkey file, `--key FILE`")
    keys = read_keys(key)
    if args.config is None:
        yield checked_records(path, keys)
        return
    settings, findings = load(args.config)
    if settings is None:
        error = next(finding for finding in findings if finding.severity == "error")
        raise _NoLog(f"{error}; `tidegate check {args.config}` lists them")
    with open_vault(Layout(settings.state_dir)) as vault:
        yield checked_records(path, keys, vault.reveal())


def _exported(path: Path) -> Iterator[dict[str, Any]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    yield decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    message = (
                        f"{path}:{number}: no record ({error}): a line is one JSON object, as `audit export` writes it"
                    )
                    raise _NoLog(message) from None
    except OSError as error:
        raise _NoLog(f"{path}: cannot be read ({error.strerror}): check the path and its rights") from None
