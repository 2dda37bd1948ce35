"""`tidegate policy decide`: what a policy says to requests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.commands.output import HOLDS, NOT_JUDGED, emit, emit_json, say
from governance.policy.snapshot import PolicySnapshot
from governance.types import Decision

DECIDE = """\
examples:
  echo '["user:alice", "acme", "model:credit", "infer"]' | tidegate policy decide --policy policy.csv
  tidegate policy decide --policy policy.csv --requests requests.jsonl
  tidegate policy decide --policy policy.csv --model model.conf --requests requests.jsonl

Reads one JSON array a line: subject, tenant, object, action (with `--model` the fields of its `r`). Writes one
object a line, in the same order: {"allow": true, "line": 3}. `line` is the deciding rule's line in the policy,
null where no rule decided. Governance objects (registry:, route:, policy, audit, server) are asked in tenant `*`.
exit status: 0 all were decided, 2 the policy, its model or a request cannot be read
"""
_REQUEST = msgspec.json.Decoder(tuple[str, ...])


def run_decide(args: argparse.Namespace) -> int:
    """Answers requests; its exit status."""
    policy = PolicySnapshot.load(args.policy, model=args.model, judge=False)
    fields = policy.engine.definition.request
    form = '["user:NAME", "TENANT", "OBJECT", "ACTION"]'
    if args.model is not None:
        form = "[" + ", ".join(f'"{name.upper()}"' for name in fields) + "]"
    name = "standard input" if args.requests is None else str(args.requests)
    try:
        for number, line in enumerate(_lines(args.requests), 1):
            if not line.strip():
                continue
            try:
                request = _REQUEST.decode(line)
                problem = f"{len(request)} fields" if len(request) != len(fields) else ""
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                problem = str(error)
            if problem:
                say(f"tidegate: {name}:{number}: not a request ({problem}): write {form}")
                return NOT_JUDGED
            _print_decision(policy.answer(request), args.format)
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
