"""The `tidegate` command: reads arguments, calls one module a command, returns its exit status.

Exit status: 0 it holds; 1 it was judged and does not hold; 2 it could not be judged (bad usage, unreadable
input: one line with file, line and remedy, never a traceback). JSON goes to standard output alone; progress
and messages to standard error.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from typing import NoReturn

from gateway.commands import (
    audit,
    backfill,
    card,
    check,
    compliance,
    drift,
    fairness,
    features,
    keys,
    policy,
    profile,
    registry,
    serve,
    webhooks,
)
from gateway.triton import cli as triton

_EPILOG = """\
examples:
  tidegate up                              a real Triton and the gateway, with deploy/local
  tidegate serve --config tidegate.yaml    the gateway alone, in front of running Tritons
  tidegate check tidegate.yaml             judge settings and policy without serving
  tidegate keys new --user alice --tenant acme
  tidegate policy test --policy policy.csv --tests policy_tests.yaml
  tidegate audit verify state/audit --key state/audit/log.vkey

`tidegate COMMAND --help` teaches each command by example.
exit status: 0 it holds, 1 it was judged and does not hold, 2 it could not be judged
"""

# One module a command: each has `add_parser(subparsers)` and the parser's default `run`.
_COMMANDS = (
    serve, check, keys, policy, registry, webhooks, audit, features, profile, drift, backfill, fairness, card,
    compliance, triton,
)  # fmt: skip


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, and where to read more. Subcommands take it over."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = OneLineParser(
        prog="tidegate",
        description="A governed front door for NVIDIA Triton.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tidegate {version('tidegate')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `tidegate ... | head`: the reader has seen enough.
        sys.stderr.close()
        return 0
