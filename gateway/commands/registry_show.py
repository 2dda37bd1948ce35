"""How `tidegate registry` prints a version: as JSON, as one line, and in full."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from governance.registry.events import Event
from governance.registry.machine import Standing


def as_json(model: str, version: str, one: Standing, now: dt.datetime, *, history: bool = True) -> dict[str, Any]:
    """State, digests, approvals, and the steps."""
    binding = one.binding
    found: dict[str, Any] = {
        "model": model,
        "version": version,
        "state": one.state,
        "serves": one.serves(now),
        "risk": one.risk or None,
        "digests": None if binding is None else {"binding": binding.digest, **msgspec.to_builtins(binding)},
        "sources": msgspec.to_builtins(one.sources),
        "approvals": [
            {"by": step.by, "time": _time(step.time), "roles": list(step.roles), "reason": step.reason}
            for step in one.approvals
        ],
        "missing": one.missing,
        "gates": msgspec.to_builtins(one.gates),
        "expires": _time(one.expires),
        "review": _time(one.review),
        "review_due": one.review is not None and now >= one.review,
        "promoted": _time(one.promoted),
        "deprecated": _time(one.deprecated),
        "sunset": _time(one.sunset),
        "link": one.link or None,
    }
    if history:
        found["history"] = [_step(step) for step in one.history]
    return found


def _step(step: Event) -> dict[str, Any]:
    return {
        "number": step.number,
        "time": _time(step.time),
        "step": step.kind,
        "by": step.by,
        "proof": step.proof,
        "reason": step.reason,
        "policy": step.policy,
    }


def summary(model: str, version: str, one: Standing, now: dt.datetime) -> str:
    """One line."""
    parts = [f"{model} {version}: {one.state}"]
    if one.state == "in review":
        parts.append(f"needs {', '.join(one.missing)}")
    if one.expired(now):
        parts.append("its approval has ended")
    elif one.expires is not None:
        parts.append(f"approved until {one.expires:%Y-%m-%d}")
    if one.review is not None:
        parts.append(f"review {'was due' if now >= one.review else 'due'} {one.review:%Y-%m-%d}")
    if one.state == "deprecated" and one.sunset is not None:
        parts.append(f"sunset {one.sunset:%Y-%m-%d}")
    return "; ".join(parts)


def lines(model: str, version: str, one: Standing, now: dt.datetime, changed: Sequence[str]) -> Iterator[str]:
    """All of it."""
    yield summary(model, version, one, now)
    if one.binding is not None and one.sources is not None:
        yield f"  binding {one.binding.digest}"
        yield f"  files   {one.binding.files}  {one.sources.files}"
        yield f"  card    {one.binding.card}  {one.sources.card}"
        for name, digest in one.binding.evidence.items():
            yield f"  {name}  {digest}  {one.sources.evidence[name]}"
    if changed:
        yield f"  CHANGED since: {', '.join(changed)}"
    for gate in one.gates:
        yield f"  gate {gate.gate}: {gate.wanted}: {gate.measured}"
    for step in one.history:
        reason = f" ({step.reason})" if step.reason else ""
        yield f"  {_time(step.time)} {step.kind} by {step.by}{reason}"


def _time(time: dt.datetime | None) -> str | None:
    return None if time is None else time.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
