"""What webhooks tell: one message a step of the registry or of the policy's change control.

Contract: pure. A step has one message, whose `id` is made from the step, so that whoever makes it again makes the same
one; of the registry's steps it is the `id` of their record in the audit log. A body is JSON with `type`, `timestamp`
(when it happened, RFC 3339) and `data` (Standard Webhooks 1.0.0, "Payload structure"), and never changes over retries.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import msgspec

from governance.policy.changes import Edit, Entry, State
from governance.registry.events import Event, Kind, encode, text_digest
from governance.registry.machine import SERVABLE, Standing
from governance.registry.trail import record_id

REGISTRY = tuple(f"registry.{kind}" for kind in get_args(Kind))
TIMED = ("registry.expired", "registry.review_due")
"""What time does: an approval ends, a version is to be looked at again."""
_STEPS = ("adopted", "proposed", "approved", "rejected", "emergency", "rolled-back", "edited")
POLICY = tuple(f"policy.{kind}" for kind in _STEPS)
TEST = "webhook.test"
"""What `tidegate webhooks test` sends, to endpoints of any filter."""
TYPES = (*REGISTRY, *TIMED, *POLICY)
FILTERS = ("*", "registry.*", "policy.*", *TYPES)
"""What `events` may list."""


class Message(msgspec.Struct, frozen=True):
    """One message, the same for every endpoint."""

    id: str
    """`webhook-id`: the same at every attempt; without a full stop, which separates what is signed."""
    type: str
    time: dt.datetime
    body: bytes


class Subscriber(msgspec.Struct, frozen=True):
    """An endpoint, and what it wants to hear."""

    name: str
    events: tuple[str, ...]

    def wants(self, kind: str) -> bool:
        """Whether it is told of messages of a type."""
        return any(one in ("*", kind, f"{kind.partition('.')[0]}.*") for one in self.events)


def of_step(step: Event, then: Standing) -> Message:
    """Of one step of the registry.

    Args:
        step: it.
        then: what the version's steps amount to with it.
    """
    data: dict[str, Any] = {
        "model": step.model,
        "version": step.version,
        "number": step.number,
        "state": then.state,
        "serves": then.serves(step.time),
        "by": step.by,
        "reason": step.reason,
        "policy": step.policy,
        "binding": None if then.binding is None else then.binding.digest,
        "risk": then.risk or None,
        "missing_approvals": then.missing,
        "expires": then.expires,
        "review": then.review,
        "sunset": then.sunset,
    }
    return _message(record_id(step), f"registry.{step.kind}", step.time, data)


def due(standings: Iterable[tuple[tuple[str, str], Standing]], now: dt.datetime) -> list[Message]:
    """Of what time has done by `now` to versions that serve or would: approvals that ended, reviews that are due."""
    found: list[Message] = []
    for (model, version), one in standings:
        if one.state not in SERVABLE:
            continue
        # The step that the times come from: later ones change neither, and nothing is told again for them.
        approved = next(step for step in reversed(one.history) if step.kind in ("approved", "submitted"))
        for kind, time in zip(TIMED, (one.expires, one.review), strict=True):
            if time is not None and time <= now:
                digest = text_digest(f"{kind} {time.isoformat()} ".encode() + encode(approved))[:32]
                data = {"model": model, "version": version, "state": one.state, "serves": one.serves(now)}
                found.append(_message(f"registry-{digest}", kind, time, data))
    return found


def of_entries(entries: Sequence[Entry], start: int) -> list[Message]:
    """Of the steps of the policy's change control from number `start` on."""
    return [_of_entry(entries[: at + 1]) for at in range(start, len(entries))]


def _of_entry(entries: Sequence[Entry]) -> Message:
    entry = entries[-1]
    data: dict[str, Any] = {
        "hash": entry.hash,
        "number": entry.number,
        "by": entry.by,
        "reason": entry.reason,
        "in_force": State(entries).in_force(entry.time),
        "expires": entry.expires,
        "commit": entry.commit,
    }
    digest = text_digest(msgspec.json.encode(entry))[:32]
    return _message(f"policy-{digest}", f"policy.{entry.kind}", entry.time, data)


def of_edits(edits: Iterable[Edit]) -> list[Message]:
    """Of edits that took force at once. Who made them is not known: a file says nothing of it."""
    found = []
    for one in edits:
        data = {
            "hash": one.hash,
            "before": one.before,
            "number": one.number,
            "by": None,
            "reason": "",
            "in_force": one.hash,
            "expires": None,
            "commit": None,
        }
        digest = text_digest(b"edited " + msgspec.json.encode(one))[:32]
        found.append(_message(f"policy-{digest}", "policy.edited", one.time, data))
    return found


def test_message(unique: str, now: dt.datetime) -> Message:
    """A message that says nothing."""
    return _message(f"test-{unique}", TEST, now, {})


def _message(name: str, kind: str, time: dt.datetime, data: dict[str, Any]) -> Message:
    body = msgspec.json.encode({"type": kind, "timestamp": time.astimezone(dt.UTC), "data": data})
    return Message(name, kind, time, body)
