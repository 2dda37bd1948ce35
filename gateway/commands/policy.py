"""`tidegate policy lint|decide|test`: a policy judged, asked and tested outside of the gateway."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.commands.output import (
    DOES_NOT_HOLD,
    HOLDS,
    NOT_JUDGED,
    add_format,
    as_json,
    count,
    emit,
    emit_json,
    not_judged,
    say,
)
from governance.errors import PolicyError
from governance.policy.cases import CaseFile, parse_cases, run, undecided
from governance.policy.lint import lint
from governance.policy.parse import parse
from governance.policy.snapshot import PolicySnapshot, read_policy
from governance.types import Decision

_LINT = """\
examples:
  tidegate policy lint --policy policy.csv
  tidegate policy lint --policy policy.csv --format json

exit status: 0 no errors (warnings may stand), 1 errors, 2 the file cannot be opened
"""
_DECIDE = """\
examples:
  echo '["user:alice", "acme", "model:credit", "infer"]' | tidegate policy decide --policy policy.csv
  tidegate policy decide --policy policy.csv --requests requests.jsonl

Reads one JSON array a line: subject, tenant, object, action. Writes one object a line, in the same order:
{"allow": true, "line": 3}. `line` is the deciding rule's line in the policy, null where no rule decided.
Governance objects (registry:, route:, policy, audit, server) are asked in tenant `*`.
exit status: 0 all were decided, 2 the policy or a request cannot be read
"""
_TEST = """\
examples:
  tidegate policy test --policy policy.csv --tests policy_tests.yaml

The tests:
  tests:
    - {name: alice scores, request: [user:alice, acme, model:credit, infer], allow: true}
    - {name: guests do not, request: [user:guest, acme, model:credit, infer], allow: false}

exit status: 0 all pass, 1 one fails, 2 the policy or the tests cannot be read
"""
_REQUEST = msgspec.json.Decoder(tuple[str, str, str, str])


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the commands."""
    policy = subparsers.add_parser("policy", help="judge, ask and test a policy")
    commands = policy.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _command(commands, "lint", "judge a policy line by line", _LINT, run_lint, "text")
    decide = _command(commands, "decide", "answer requests", _DECIDE, run_decide, "json")
    decide.add_argument("--requests", type=Path, metavar="JSONL", help="requests (default: standard input)")
    test = _command(commands, "test", "run policy tests", _TEST, run_test, "text")
    test.add_argument("--tests", type=Path, required=True, metavar="YAML", help="policy tests")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    epilog: str,
    run: Callable[[argparse.Namespace], int],
    default: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, metavar="CSV", help="the policy")
    parser.add_argument("--model", type=Path, metavar="CONF", help="another Casbin model: not in this version")
    add_format(parser, default)
    parser.set_defaults(run=lambda args: _guarded(run, args))
    return parser


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    if args.model is not None:
        say(f"tidegate: {args.model}: other models are not in this version; leave --model out")
        return NOT_JUDGED
    try:
        return run(args)
    except PolicyError as error:
        more = f"; `tidegate policy lint --policy {args.policy}` lists them"
        return not_judged(error.findings, more)


def run_lint(args: argparse.Namespace) -> int:
    """Judges a policy; its exit status."""
    policy = parse(read_policy(args.policy), str(args.policy))
    lint(policy)
    if args.format == "json":
        emit_json({"findings": as_json(policy.findings)})
    else:
        for finding in policy.findings:
            emit(str(finding))
        say(f"{args.policy}: {count(policy.findings)}")
    return DOES_NOT_HOLD if policy.broken else HOLDS


def run_decide(args: argparse.Namespace) -> int:
    """Answers requests; its exit status."""
    policy = PolicySnapshot.load(args.policy, judge=False)
    name = "standard input" if args.requests is None else str(args.requests)
    try:
        for number, line in enumerate(_lines(args.requests), 1):
            if not line.strip():
                continue
            try:
                request = _REQUEST.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                say(
                    f"tidegate: {name}:{number}: not a request ({error}): write "
                    '["user:NAME", "TENANT", "OBJECT", "ACTION"]'
                )
                return NOT_JUDGED
            _print_decision(policy.decide(*request), args.format)
    except OSError as error:
        say(f"tidegate: {name}: cannot be read ({error.strerror}): check the path and its rights")
        return NOT_JUDGED
    return HOLDS


def _lines(path: Path | None) -> Iterator[bytes]:
    if path is None:
        yield from sys.stdin.buffer
    else:
        with path.open("rb") as stream:
            yield from stream


def _print_decision(decision: Decision, form: str) -> None:
    if form == "json":
        emit_json({"allow": decision.allow, "line": decision.line})
    else:
        by = "by default" if decision.line is None else f"by line {decision.line}"
        emit(f"{'allow' if decision.allow else 'deny'} {by}")


def run_test(args: argparse.Namespace) -> int:
    """Runs policy tests; its exit status."""
    policy = PolicySnapshot.load(args.policy, judge=False)
    tests, problems = parse_cases(read_policy(args.tests), str(args.tests))
    if tests is None:
        return not_judged(problems)
    result = _tested(policy, tests)
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


def _tested(policy: PolicySnapshot, tests: CaseFile) -> dict[str, Any]:
    decisions = [run(case, policy.decide) for case in tests.cases]
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
