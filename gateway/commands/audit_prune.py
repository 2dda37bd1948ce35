"""`tidegate audit prune`: the beginning of a log taken off, under the retention policy that the settings state."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from gateway.auditing import retention
from gateway.commands.output import DOES_NOT_HOLD, HOLDS, add_format, emit, emit_json, not_judged, progress, say
from gateway.settings.file import load
from governance.audit.layout import Layout
from governance.audit.people import open_people
from governance.audit.prune import Outcome, prune
from governance.errors import AuditInputError

_PRUNE = """\
examples:
  tidegate audit prune --config tidegate.yaml
  tidegate audit prune --config tidegate.yaml --yes

Takes the oldest entries off the log that `audit.retention` in the settings lets go, 256 at a time, up to the first
that has to stay; says what would go, and does it with --yes. Their hashes stay: every proof and every checkpoint
holds as before. First a record states in the log what goes and under which policy, and only when that is public
does anything go. The whole log is verified before: of one that does not hold nothing goes. The gateway may run.
It cannot be undone. Export first what you want to keep (`tidegate audit export`).
exit status: 0 done, or nothing is old enough; 1 a legal hold is on it, or the log does not verify;
2 the settings state no policy, or the log cannot be read or written
"""
Declare: TypeAlias = Callable[..., argparse.ArgumentParser]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], declare: Declare) -> None:
    """Declares the command; `declare` makes its parser."""
    parser = declare(commands, "prune", "take off what need not be kept any more", _PRUNE, run)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (tidegate.yaml)")
    parser.add_argument("--yes", action="store_true", help="do it; without, only say what would go")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prunes a log; its exit status."""
    settings, findings = load(args.config)
    if settings is None:
        return not_judged(findings, f"; `tidegate check {args.config}` lists them")
    policy = retention(settings)
    if policy is None:
        raise AuditInputError(
            f"{args.config}: no `audit.retention`: a log is pruned under a stated policy or not at all"
        )
    layout, audit = Layout(settings.state_dir), settings.audit
    if not layout.signing_key.exists():
        raise AuditInputError(f"{layout.signing_key}: no such file: there is no log in this state_dir")
    people = open_people(layout, erasure=audit.erasure, pseudonyms=audit.pseudonyms)
    with contextlib.closing(people):
        result = prune(settings.state_dir, policy, people, do=args.yes, progress=progress())
    _said(result, args)
    return DOES_NOT_HOLD if result.refused or result.plan.held else HOLDS


def _said(result: Outcome, args: argparse.Namespace) -> None:
    plan = result.plan
    if args.format == "json":
        emit_json({
            "pruned": result.pruned,
            "begin": plan.begin,
            "before": plan.before,
            "size": plan.size,
            "classes": msgspec.to_builtins(plan.parts),
            "bytes": result.freed,
            "record": result.statement,
            "stays": {"index": plan.stays, "why": plan.why},
            "refused": result.refused or None,
        })  # fmt: skip
        return
    for part in plan.parts:
        emit(f"{part.entries} of class {part.name!r}, kept for {part.days} days ({part.duty}), until {part.latest}")
    emit(f"entry {plan.stays} stays: {plan.why}")
    some = f"entries {plan.begin} to {plan.before - 1}"
    if result.refused:
        emit(f"nothing was pruned: {result.refused}")
    elif plan.before == plan.begin:
        emit("nothing to prune")
    elif result.pruned:
        emit(f"pruned: {some}, {result.freed} bytes")
    else:
        emit(f"would be pruned: {some}, {result.freed} bytes")
        say("nothing was changed: `--yes` does it")
