"""`tidegate policy ...`: a policy judged, asked, tested and compared outside of the gateway."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from gateway.commands import policy_approve, policy_ask, policy_change, policy_judge
from gateway.commands.output import add_format, not_judged
from governance.errors import PolicyError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the commands."""
    policy = subparsers.add_parser("policy", help="judge, ask, test and compare policies")
    commands = policy.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, text: str, epilog: str, run: Callable[[argparse.Namespace], int], default: str = "text"
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            name, help=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        add_format(parser, default)
        parser.set_defaults(run=lambda args: _guarded(run, args))
        return parser

    def asked(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument("--policy", type=Path, required=True, metavar="CSV", help="the policy")
        parser.add_argument("--model", type=Path, metavar="CONF", help="its Casbin model (default: the built-in one)")
        return parser

    lint = asked(command("lint", "judge a policy line by line", policy_judge.LINT, policy_judge.run_lint))
    lint.add_argument("--fix", action="store_true", help="repair what can be meant in one way alone, in place")
    test = asked(command("test", "run policy tests", policy_judge.TEST, policy_judge.run_test))
    test.add_argument("--tests", type=Path, required=True, metavar="YAML", help="policy tests")
    decide = asked(command("decide", "answer requests", policy_ask.DECIDE, policy_ask.run_decide, "json"))
    decide.add_argument("--requests", type=Path, metavar="JSONL", help="requests (default: standard input)")
    explain = command("explain", "say why, and what is missing", policy_ask.EXPLAIN, policy_ask.run_explain)
    explain.add_argument("--policy", type=Path, required=True, metavar="CSV", help="the policy")
    explain.add_argument("--role", action="append", default=[], help="a role of the credential, without `role:`")
    for name, text in policy_ask.REQUEST:
        explain.add_argument(name, metavar=name.upper(), help=text)
    diff = command("diff", "who gains and loses what", policy_change.DIFF, policy_change.run_diff)
    report = command("report", "a page for who approves", policy_change.REPORT, policy_change.run_report)
    for parser in (diff, report):
        parser.add_argument("old", type=Path, metavar="OLD", help="the policy in force")
        parser.add_argument("new", type=Path, metavar="NEW", help="the proposed policy")
    diff.add_argument("--exit-code", action="store_true", help="exit 1 when they grant differently")
    report.add_argument("--output", type=Path, required=True, metavar="HTML", help="the page")
    report.add_argument("--tests", type=Path, metavar="YAML", help="policy tests")
    replay = asked(command("replay", "decide recorded requests again", policy_change.REPLAY, policy_change.run_replay))
    for name, text, epilog in policy_approve.COMMANDS:
        step = command(name, text, epilog, policy_approve.run)
        step.set_defaults(step=name)
        step.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (tidegate.yaml)")
        if name in ("approve", "reject", "rollback"):
            step.add_argument("hash", metavar="HASH", help="of the policy, in full")
        if name == "history":
            step.add_argument("--diffs", action="store_true", help="with the lines that each step changed")
        else:
            needed = name in ("reject", "emergency", "rollback")
            step.add_argument("--reason", default="", required=needed, help="why, for the record")
        if name == "emergency":
            step.add_argument("--hours", type=float, required=True, help="how long it lasts, up to 168")
    for parser in (lint, report, replay):
        wanted = parser is replay
        parser.add_argument(
            "--log", type=Path, required=wanted, metavar="DIR", help="the audit log, or records exported"
        )
        parser.add_argument("--key", type=Path, metavar="FILE", help="the log's vkey file (default: DIR/log.vkey)")
        what = "settings, whose names the policy's are held against" if parser is not replay else "settings"
        help_ = f"{what}; their state_dir has people's keys"
        parser.add_argument("--config", type=Path, metavar="FILE", help=help_)


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        return run(args)
    except PolicyError as error:
        policy = getattr(args, "policy", None)
        model = f" --model {args.model}" if getattr(args, "model", None) is not None else ""
        more = "" if policy is None else f"; `tidegate policy lint --policy {policy}{model}` lists them"
        return not_judged(error.findings, more)
