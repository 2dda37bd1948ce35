"""`tidegate policy decide` and `tidegate policy explain`: what a policy says to requests, and why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.commands.output import HOLDS, NOT_JUDGED, emit, emit_json, say
from governance.policy.explain import Explanation, explain
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
EXPLAIN = """\
examples:
  tidegate policy explain --policy policy.csv user:alice acme model:credit infer
  tidegate policy explain --policy policy.csv user:bob "*" policy approve
  tidegate policy explain --policy policy.csv --role scorer user:carol acme model:credit infer

Says which lines decided, through which roles, and what is nearest to the contrary: what is missing, and the lines
that would make up for it. Governance objects (registry:, route:, policy, audit, server) are asked in tenant `*`.
exit status: 0 whatever the decision, 2 the policy cannot be read
"""
REQUEST = (
    ("subject", "user:NAME"),
    ("tenant", "where; `*` for governance objects"),
    ("object", "model:NAME, registry:NAME, route:NAME, fairness:NAME, policy, audit or server"),
    ("action", "infer, read, load, ..."),
)
"""The arguments of `explain`."""
_MOST_SHOWN = 2
"""Of `nearest`, for a person; JSON has them all."""
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


def run_explain(args: argparse.Namespace) -> int:
    """Explains a decision; the exit status."""
    policy = PolicySnapshot.load(args.policy, judge=False)
    request = args.subject, args.tenant, args.object, args.action
    found = explain(policy, request, tuple(role.removeprefix("role:") for role in args.role))
    if args.format == "json":
        emit_json(msgspec.to_builtins(found))
    else:
        _print_explanation(found, request)
    return HOLDS


def _print_explanation(found: Explanation, request: tuple[str, str, str, str]) -> None:
    emit(f"{'allow' if found.allow else 'deny'}: [{', '.join(request)}]")
    for rule in found.matched:
        emit(f"  line {rule.line}: {rule.rule}")
    if not found.matched:
        emit("  by default: no line allows it")
    for path in found.roles:
        emit(f"  {' is '.join(path)}")
    if found.nearest:
        emit(f"nearest to {'deny' if found.allow else 'allow'}:")
    for near in found.nearest[:_MOST_SHOWN]:
        total = len(near.held) + len(near.missing)
        emit(f"  line {near.line}: {len(near.held)} of {total} hold; missing: {'; '.join(near.missing)}")
        for line in near.grant:
            emit(f"    add: {line}")
        for number in near.remove:
            emit(f"    remove: line {number}")
