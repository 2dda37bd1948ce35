"""`tidegate check`: settings and the policy that they name, judged without serving."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.commands.output import (
    DOES_NOT_HOLD,
    HOLDS,
    add_format,
    as_json,
    count,
    emit,
    emit_json,
    not_judged,
    say,
)
from gateway.settings.file import UNREADABLE, load

_EPILOG = """\
examples:
  tidegate check tidegate.yaml
  tidegate check tidegate.yaml --format json

Judges the settings, the policy and the policy tests that they name; `${NAME}` is taken from the environment.
A finding is FILE:LINE:COLUMN: severity: what is wrong and what to write instead [code].
exit status: 0 no errors (warnings may stand), 1 errors, 2 the file cannot be opened
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "check",
        help="judge settings and policy without serving",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="settings (tidegate.yaml)")
    add_format(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Judges a settings file; its exit status."""
    settings, findings = load(args.file)
    if any(finding.code == UNREADABLE for finding in findings):
        return not_judged(findings)
    ok = settings is not None
    if args.format == "json":
        emit_json({"ok": ok, "findings": as_json(findings)})
    else:
        for finding in findings:
            emit(str(finding))
        say(f"{args.file}: {'ok' if ok else 'not ok'}" + (f", {count(findings)}" if findings else ""))
    return HOLDS if ok else DOES_NOT_HOLD
