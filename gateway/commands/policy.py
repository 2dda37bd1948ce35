"""`tidegate policy ...`: a policy judged, asked, tested and compared outside of the gateway."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from gateway.commands import policy_ask, policy_judge
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


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        return run(args)
    except PolicyError as error:
        policy = getattr(args, "policy", None)
        model = f" --model {args.model}" if getattr(args, "model", None) is not None else ""
        more = "" if policy is None else f"; `tidegate policy lint --policy {policy}{model}` lists them"
        return not_judged(error.findings, more)
