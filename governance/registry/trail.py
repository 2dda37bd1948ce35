"""The record of a step, and of a refusal, in the audit log of a state directory.

Contract: works beside a gateway that runs, and makes the log where there is none yet. A record is on the disk when
`write` returns. A step that is recorded twice, after a crash between the log and the store, has the same `id`.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Literal, Protocol

from governance.audit.erasure import append_record, make_public
from governance.audit.layout import Layout
from governance.audit.log import AuditLog
from governance.audit.people import open_people
from governance.audit.record import Record
from governance.errors import AuditUnavailable
from governance.registry.events import Event, Kind, encode, text_digest

ACTIONS: dict[Kind, Literal["edit", "approve", "promote"]] = {
    "registered": "edit",
    "submitted": "edit",
    "approved": "approve",
    "rejected": "approve",
    "voided": "edit",
    "promoted": "promote",
    "deprecated": "promote",
    "retired": "promote",
}
"""What the policy is asked for on `registry:MODEL`; `voided` is nobody's wish."""


class Trail(Protocol):
    """Where steps are recorded."""

    def write(self, records: list[Record]) -> None:
        """Put these on the disk. Raises AuditError, OSError."""


class AuditTrail:
    """The audit log of a state directory."""

    def __init__(
        self, state_dir: Path, *, mode: Literal["async", "strict"], erasure: bool, pseudonyms: bool, origin: str
    ) -> None:
        self._state_dir = state_dir
        self._mode: Literal["async", "strict"] = mode
        self._erasure = erasure
        self._pseudonyms = pseudonyms
        self._origin = origin

    def write(self, records: list[Record]) -> None:
        """See `Trail`."""
        layout = Layout(self._state_dir)
        if not layout.checkpoint.exists():
            asyncio.run(self._make())
        with contextlib.closing(open_people(layout, erasure=self._erasure, pseudonyms=self._pseudonyms)) as people:
            for record in records:
                append_record(layout, people, record)
        try:
            make_public(layout)
        except OSError as error:  # the records are on the disk, and the next sequencer publishes them
            raise AuditUnavailable(f"{layout.log}: {error.strerror}") from error

    async def _make(self) -> None:
        log = AuditLog(
            self._state_dir,
            mode=self._mode,
            erasure=self._erasure,
            pseudonyms=self._pseudonyms,
            origin=self._origin,
        )
        await asyncio.to_thread(log.close)


def record_id(step: Event) -> str:
    """The `id` of a step's record: the same whoever writes it, and of its webhooks, too."""
    return f"registry-{text_digest(encode(step))[:32]}"


def record_of(step: Event) -> Record:
    """The record of a step that was made."""
    details: dict[str, Any] = {
        "step": step.kind,
        "number": step.number,
        "time": step.time.isoformat(),
        "previous": step.previous,
        "proof": step.proof,
    }
    if step.reason:
        details["reason"] = step.reason
    if step.binding is not None:
        details |= {
            "binding": step.binding.digest,
            "files": step.binding.files,
            "card": step.binding.card,
            "evidence": dict(step.binding.evidence),
            "requirements": step.binding.requirements or None,
        }
    if step.kind == "submitted":
        details["risk"] = step.risk
        details["needs"] = {need.role: need.count for need in step.needs}
        details["gates"] = [
            {"gate": one.gate, "ok": one.ok, "wanted": one.wanted, "measured": one.measured, "evidence": one.evidence}
            for one in step.gates
        ]
    if step.kind == "approved":
        details |= {"binding": step.digest, "roles": list(step.roles)}
    if step.kind == "deprecated":
        details |= {"sunset": None if step.sunset is None else step.sunset.isoformat(), "link": step.link or None}
    record = _record(step.kind, step.model, step.version, step.by, "served", step.policy)
    record.id = record_id(step)
    record.details = details
    return record


def refusal(kind: Kind, model: str, version: str, by: str, policy: str, why: str) -> Record:
    """The record of a step that was refused."""
    record = _record(kind, model, version, by, "refused", policy)
    record.details = {"step": kind, "why": why}
    return record


def _record(
    kind: Kind, model: str, version: str, by: str, outcome: Literal["served", "refused"], policy: str
) -> Record:
    return Record(
        kind="approval" if kind in ("approved", "rejected") else "registry",
        action=ACTIONS[kind],
        object=f"registry:{model}",
        model=model,
        version=version,
        subject=by,
        outcome=outcome,
        policy=policy,
    )
