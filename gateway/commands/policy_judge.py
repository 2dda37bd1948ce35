"""`tidegate policy lint` and `tidegate policy test`: is a policy well written, and does it do what it should."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, as_json, count, emit, emit_json, not_judged, say
from gateway.commands.policy_records import NoLogError, records, settings_of
from gateway.settings.policy import registered
from gateway.settings.policy_names import unknown_names
from governance.errors import AuditError, PolicyError
from governance.policy.cases import CaseFile, parse_cases, undecided
from governance.policy.engine import Engine
from governance.policy.lint import lint
from governance.policy.parse import ParsedPolicy, parse
from governance.policy.repair import repaired
from governance.policy.snapshot import GATEWAY_FIELDS, PolicySnapshot, definition_of, read_policy
from governance.policy.usage import usage
from governance.types import Finding

LINT = """\
examples:
  tidegate policy lint --policy policy.csv
  tidegate policy lint --policy policy.csv --format json
  tidegate policy lint --policy policy.csv --fix
  tidegate policy lint --policy policy.csv --model model.conf
  tidegate policy lint --policy policy.csv --config tidegate.yaml
  tidegate policy lint --policy policy.csv --log state/audit --config tidegate.yaml

`--fix` undoes what a spreadsheet or an editor did (byte order mark, quotes, other separators, empty columns)
and what can be meant in one way alone (`Deny`, `P`); every other line stays byte for byte as it is.
With `--model` syntax, arity and effects are judged; what words mean is known for the built-in model alone.
With `--config` names that the settings and the registry do not know are warnings: users, tenants, models, routes.
With `--log` rules that match no recorded decision are, too: the audit log, or records as `audit export` writes them.
exit status: 0 no errors (warnings may stand), 1 errors, 2 a file cannot be opened, or the log does not verify
"""
TEST = """\
examples:
  tidegate policy test --policy policy.csv --tests policy_tests.yaml

The tests:
  tests:
    - {name: alice scores, request: [user:alice, acme, model:credit, infer], allow: true}
    - {name: guests do not, request: [user:guest, acme, model:credit, infer], allow: false}

exit status: 0 all pass, 1 one fails, 2 the policy or the tests cannot be read
"""


def run_lint(args: argparse.Namespace) -> int:
    """Judges a policy; its exit status."""
    data = read_policy(args.policy)
    if args.fix:
        data = _fixed(args.policy, data, args.model)
    policy = judged(data, str(args.policy), args.model)
    try:
        if args.config is not None and args.model is None:
            settings = settings_of(args.config)
            policy.findings += unknown_names(policy, settings, registered(settings))
        if args.log is not None and not policy.broken:
            policy.findings += _unused(data, args)
    except (NoLogError, AuditError) as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    policy.findings.sort(key=lambda finding: (finding.line, finding.column))
    if args.format == "json":
        emit_json({"findings": as_json(policy.findings)})
    else:
        for finding in policy.findings:
            emit(str(finding))
            if finding.fix is not None:
                emit("    write: " + (finding.fix.replace("\n", "\n           ") or "(nothing: remove the line)"))
            if finding.witness is not None:
                emit(f"    for example: [{', '.join(finding.witness)}]")
        say(f"{args.policy}: {count(policy.findings)}")
    return DOES_NOT_HOLD if policy.broken else HOLDS


def _unused(data: bytes, args: argparse.Namespace) -> Iterator[Finding]:
    """Rules that no recorded decision needed. Raises NoLogError, AuditError."""
    model = None if args.model is None else (read_policy(args.model), str(args.model))
    policy = PolicySnapshot.compile(data, str(args.policy), model=model, fields=GATEWAY_FIELDS, judge=False)
    with records(args) as found:
        result = usage(policy, found)
    say(f"{args.log}: {result.replayed} recorded decisions asked again, {result.unreplayable} cannot be")
    for rule in result.unused:
        message = f"matches none of {result.replayed} recorded decisions: nothing would have changed without it"
        yield Finding(policy.file, rule.line, 1, "warning", "unused", message)


def judged(data: bytes, file: str, model: Path | None) -> ParsedPolicy:
    """A policy with all its findings; those of a model that is refused stand for them."""
    if model is None:
        policy = parse(data, file)
        lint(policy)
        return policy
    try:
        policy = parse(data, file, definition_of(read_policy(model), str(model)))
        if not policy.broken:
            Engine(policy)
    except PolicyError as error:
        if any(finding.code == "unreadable" for finding in error.findings):
            raise
        policy = ParsedPolicy(file, findings=list(error.findings))
    return policy


def _fixed(path: Path, data: bytes, model: Path | None) -> bytes:
    """The policy's bytes after the sure repairs, which are written in place. Raises PolicyError."""
    definition = None if model is None else definition_of(read_policy(model), str(model))
    better, lines = repaired(data, lambda one: parse(one, str(path), definition).repairs)
    if better != data:
        try:
            aside = path.with_name(path.name + ".fixed")
            aside.write_bytes(better)
            aside.chmod(path.stat().st_mode & 0o777)
            aside.replace(path)
        except OSError as error:
            message = f"cannot be written ({error.strerror}): check the rights of the file and its folder"
            raise PolicyError([Finding(str(path), 1, 1, "error", "unwritable", message)]) from None
        what = "byte order mark removed" if not lines else f"lines {', '.join(map(str, lines))}"
        say(f"{path}: repaired ({what})")
    return better


def run_test(args: argparse.Namespace) -> int:
    """Runs policy tests; its exit status."""
    policy = PolicySnapshot.load(args.policy, model=args.model, judge=False)
    fields = len(policy.engine.definition.request)
    tests, problems = parse_cases(read_policy(args.tests), str(args.tests), fields)
    if tests is None:
        return not_judged(problems)
    result = tested(policy, tests)
    if args.format == "json":
        emit_json(result)
    else:
        for case in result["cases"]:
            got = "allowed" if case["got"] else "denied"
            emit(f"{'pass' if case['passed'] else 'FAIL'} {case['name']}" + ("" if case["passed"] else f": was {got}"))
        if result["undecided_lines"]:
            lines = ", ".join(map(str, result["undecided_lines"]))
            say(f"rules that decide no test: {args.policy} lines {lines}")
        say(f"{result['passed']} passed, {result['failed']} failed")
    return DOES_NOT_HOLD if result["failed"] else HOLDS


def tested(policy: PolicySnapshot, tests: CaseFile) -> dict[str, Any]:
    """The result of a policy's tests, as it is printed."""
    decisions = [policy.answer(case.request) for case in tests.cases]
    cases = [
        {"name": case.name, "passed": decision.allow is case.allow, "got": decision.allow}
        for case, decision in zip(tests.cases, decisions, strict=True)
    ]
    passed = sum(case["passed"] is True for case in cases)
    return {
        "passed": passed,
        "failed": len(cases) - passed,
        "cases": cases,
        "undecided_lines": undecided([rule.line for rule in policy.rules], decisions),
    }
