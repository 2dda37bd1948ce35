"""`tidegate registry at TIME`: what was live then, and why.

Contract: from the steps alone, which are chained and never change; each is named with the `id` of its record in the
audit log, where it can be verified. "Live" is what a route that names no version was served by.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.commands.output import HOLDS, add_format, emit, emit_json
from gateway.commands.registry_desk import guarded, versions_of
from gateway.settings import Settings
from governance.registry.events import Event
from governance.registry.machine import Standing
from governance.registry.trail import record_id

_HELP = """\
examples:
  tidegate registry at 2026-05-01T12:00:00Z --config tidegate.yaml
  tidegate registry at 2026-05-01 --config tidegate.yaml --model income --format json

For each model the version that was live at that time, since when, what it was bound to, and the steps that made it so:
who registered, submitted, approved and promoted it, why, and under which policy. Each step is named with the id of its
record: `tidegate audit show DIR --request ID` prints it, and `tidegate audit proof` proves that it is in the log.
exit status: 0, or 2 when the store cannot be read or trusted
"""
_MADE_IT_SO = ("registered", "submitted", "approved", "promoted")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], time: Any) -> None:
    """Declares it. `time` reads one."""
    parser = commands.add_parser(
        "at",
        help="what was live at a time, and why",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("at", type=time, metavar="TIME", help="RFC 3339, or a day")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (tidegate.yaml)")
    parser.add_argument("--model", metavar="MODEL", help="this one alone")
    add_format(parser)
    parser.set_defaults(run=lambda args: guarded(_at, args), version=None)


def _at(settings: Settings, args: argparse.Namespace) -> int:
    by_model: dict[str, dict[str, Standing]] = {}
    for (model, version), standing in versions_of(settings, args.at).items():
        if args.model in (None, model):
            by_model.setdefault(model, {})[version] = standing
    found = [_model(model, versions, args.at) for model, versions in by_model.items()]
    if args.format == "json":
        emit_json({"at": _text(args.at), "models": found})
        return HOLDS
    for one in found:
        for line in _lines(one):
            emit(line)
    return HOLDS


def _model(model: str, versions: dict[str, Standing], at: dt.datetime) -> dict[str, Any]:
    live = [(one.promoted, version) for version, one in versions.items() if one.state == "live" and one.promoted]
    serving = [version for version, one in versions.items() if one.serves(at)]
    if not live:
        return {"model": model, "version": None, "serving": serving}
    version = max(live)[1]
    one = versions[version]
    return {
        "model": model,
        "version": version,
        "serving": serving,
        "since": _text(one.promoted),
        "serves": one.serves(at),
        "expires": _text(one.expires),
        "review": _text(one.review),
        "risk": one.risk or None,
        "digests": None if one.binding is None else {"binding": one.binding.digest, **msgspec.to_builtins(one.binding)},
        "gates": msgspec.to_builtins(one.gates),
        "why": [_step(step) for step in _steps(one)],
    }


def _steps(one: Standing) -> list[Event]:
    """The last registration and submission, the approvals that counted, and the promotion."""
    last = {kind: max((step.number for step in one.history if step.kind == kind), default=-1) for kind in _MADE_IT_SO}
    counted = {step.number for step in one.approvals}
    wanted = {last["registered"], last["submitted"], last["promoted"], *counted}
    return [step for step in one.history if step.number in wanted]


def _step(step: Event) -> dict[str, Any]:
    return {
        "step": step.kind,
        "time": _text(step.time),
        "by": step.by,
        "proof": step.proof,
        "roles": list(step.roles),
        "reason": step.reason,
        "policy": step.policy,
        "record": record_id(step),
    }


def _lines(one: dict[str, Any]) -> Iterator[str]:
    others = ", ".join(one["serving"]) or "none"
    if one["version"] is None:
        yield f"{one['model']}: no version was live; might serve by number: {others}"
        return
    ended = "" if one["serves"] else "; its approval had ended"
    yield f"{one['model']} {one['version']}: live since {one['since']}{ended}; might serve: {others}"
    yield f"  binding {one['digests']['binding']}"
    for gate in one["gates"]:
        yield f"  gate {gate['gate']}: {gate['wanted']}: {gate['measured']}"
    for step in one["why"]:
        reason = f" ({step['reason']})" if step["reason"] else ""
        yield f"  {step['time']} {step['step']} by {step['by']}{reason}"
        yield f"    policy {step['policy']}, record {step['record']}"


def _text(time: dt.datetime | None) -> str | None:
    return None if time is None else time.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
