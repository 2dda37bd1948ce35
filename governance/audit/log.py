"""The audit log of one process: what stands behind `governance.ports.DecisionLog`.

Contract: `record` makes the log's entry of a small request on the spot, some 5 us, and hands it to a thread that
never asks for the interpreter (`native.py`; its specification is `wal.py`). What has to wait for more than that, the
digests of large bodies and subjects whose keys are not at hand, goes by way of a thread of Python. Another thread
tries to be the sequencer of the state directory, and one of all processes is. In a strict log `record` gives a future
that is done when the record is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from governance.audit import record as records
from governance.audit.entry import SMALL, Form, form_of
from governance.audit.layout import Layout
from governance.audit.people import People, Person, open_people
from governance.audit.record import Record, RecordError
from governance.audit.secrets import publish_vkeys, signing_keys
from governance.audit.sequencer import Sequencer
from governance.audit.sequencing import Sequencing
from governance.errors import AuditError, AuditUnavailable
from governance.ports import Body

# The only place that chooses between the native writer and its specification.
if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from governance.audit.wal import Journal
else:
    from governance.audit.native import NativeJournal as Journal

_log = logging.getLogger("tidegate.audit")

_SMALL = SMALL
_MOST_HELD = 64 << 20
"""Bytes of bodies that wait for their digests; beyond it they are taken on the spot."""


class Pending(msgspec.Struct):
    """A record on its way to the disk: without its entry yet, or somebody waits for it."""

    record: Record
    time_ns: int
    inputs: Body | None
    outputs: Body | None
    nbytes: int
    waiter: asyncio.Future[None] | None
    entry: bytes | None = None
    """The log's entry, once it is made."""


class Scribe:
    """Turns decisions into log entries."""

    def __init__(self, people: People) -> None:
        self._people = people
        self._lock = threading.Lock()

    def entries(self, batch: Sequence[Pending | bytes]) -> list[bytes]:
        """The entries of a batch. Raises AuditUnavailable: nothing was changed, try again."""
        rest = [item for item in batch if isinstance(item, Pending) and item.entry is None]
        persons = self._of(pending.record.subject for pending in rest) if rest else {}
        for number, pending in enumerate(rest):
            if number % 32 == 31:
                time.sleep(0)  # gives up the interpreter: the event loop waits for 0.2 ms and not for the whole batch
            person = persons[pending.record.subject]
            self._digest(pending, person)
            pending.entry = self._written(pending.record, pending.time_ns, person)
        return [entry for item in batch if (entry := item.entry if isinstance(item, Pending) else item) is not None]

    def _of(self, subjects: Iterable[str | None]) -> dict[str | None, Person]:
        with self._lock:
            return self._people.of(subjects)

    def entry_now(self, record: Record, time_ns: int, inputs: Body | None, outputs: Body | None) -> bytes | None:
        """The entry of one decision; None: its subject has to be looked up."""
        person = self._people.at_hand(record.subject)
        if person is None:
            return None
        if inputs is not None:
            record.input_digest = person.mac.hexdigest(inputs)
        if outputs is not None:
            record.output_digest = person.mac.hexdigest(outputs)
        return self._written(record, time_ns, person)

    def form(self, record: Record) -> Form | None:
        """See `DecisionLog.form`."""
        person = self._people.at_hand(record.subject) if self._people.lasting else None
        if person is None:
            return None
        record.subject, record.sealed = person.subject, person.sealed
        return form_of(record, person.mac)

    def digest_now(self, pending: Pending) -> None:
        """Take the digests of one record, and let its bodies go. Raises AuditUnavailable."""
        subject = pending.record.subject
        self._digest(pending, self._of([subject])[subject])

    @staticmethod
    def _digest(pending: Pending, person: Person) -> None:
        record = pending.record
        if pending.inputs is not None:
            record.input_digest = person.mac.hexdigest(pending.inputs)
        if pending.outputs is not None:
            record.output_digest = person.mac.hexdigest(pending.outputs)
        pending.inputs = pending.outputs = None

    @staticmethod
    def _written(record: Record, time_ns: int, person: Person) -> bytes:
        record.subject, record.sealed = person.subject, person.sealed
        record.time = records.timestamp(time_ns)
        try:
            return records.encode(record, person.mac.hex)
        except RecordError as error:
            # Whoever made it has a defect; the decision is recorded all the same.
            _log.exception("a record that cannot be written as it is")
            record.details, record.latency_us = {"defect": str(error)}, None
            return records.encode(record, person.mac.hex)


class AuditLog:
    """One process's part of the log of a state directory."""

    def __init__(
        self,
        state_dir: Path,
        *,
        mode: Literal["async", "strict"],
        erasure: bool = False,
        pseudonyms: bool = False,
        origin: str = "",
        on_failure: Literal["refuse", "serve"] = "refuse",
        standby: bool = False,
    ) -> None:
        """Open it, or make it: origin, vkey and a checkpoint are there when it returns. Blocks.

        Args:
            state_dir: the folder.
            mode: whether answers wait for their records.
            erasure: seal subjects under keys that can be destroyed.
            pseudonyms: of subjects stand in records, and not their names.
            origin: the log's name; empty: that which it has, or a new one.
            on_failure: what becomes of requests while the log cannot be written; strict always refuses.
            standby: the parent process is the sequencer as long as it lives.

        Raises:
            AuditInputError: a key file cannot be used.
            AuditBroken: the log's files contradict each other.
            OSError: the folder cannot be written.
        """
        layout = self.layout = Layout(state_dir)
        layout.make_private()
        signers = signing_keys(layout, origin)
        publish_vkeys(layout, signers)
        self._people = open_people(layout, erasure=erasure, pseudonyms=pseudonyms)
        self._strict = mode == "strict"
        self._refuse = self._strict or on_failure == "refuse"
        self._scribe = Scribe(self._people)
        self._journal = Journal(layout.wal, self._entries, self._done, strict=self._strict)
        self._sequencing = Sequencing(Sequencer(layout, signers), layout, standby=standby)
        self._held = self._freed = 0
        self._served = 0
        """Decisions without a record, because the log could not be written and the settings say to serve."""
        self._given_up = 0
        """Decisions without one that nobody waits to hear of: of defects, or left over at the end."""
        self._sequencing.start()
        self._journal.start()

    @property
    def origin(self) -> str:
        """The log's name."""
        return signing_keys(self.layout)[0].name

    @property
    def recorded(self) -> int:
        """Records that are on the disk."""
        return self._journal.written

    @property
    def dropped(self) -> int:
        """Decisions that are in no record although they were served."""
        return self._served + self._given_up

    @property
    def failing(self) -> str:
        """Why nothing can be recorded now; empty: it can."""
        return self._journal.failing or self._sequencing.broken

    def admit(self) -> None:
        """See `DecisionLog`."""
        if self._refuse and (self._journal.failing or self._sequencing.broken):
            raise AuditUnavailable(self.failing)

    def record(
        self, record: Record, inputs: Body | None = None, outputs: Body | None = None
    ) -> asyncio.Future[None] | None:
        """See `DecisionLog`."""
        now, waiter = time.time_ns(), asyncio.get_running_loop().create_future() if self._strict else None
        nbytes, entry = 0, None
        for body in (inputs, outputs):
            if body is not None:
                nbytes += sum(map(len, body))
        try:
            if nbytes <= _SMALL:
                entry = self._scribe.entry_now(record, now, inputs, outputs)
            if entry is not None and waiter is None:
                self._journal.put(entry)
                return None
            pending = Pending(record, now, inputs, outputs, nbytes, waiter, entry)
            if entry is not None:
                pending.inputs = pending.outputs = None
                pending.nbytes = nbytes = 0
            elif self._held - self._freed > _MOST_HELD:
                self._scribe.digest_now(pending)
            self._journal.put(pending)
        except AuditUnavailable as error:
            self._unrecorded(error)
            return None
        self._held += nbytes
        return waiter

    def form(self, record: Record) -> Form | None:
        """See `DecisionLog`. A strict log has none: its records are waited for one by one."""
        return None if self._strict else self._scribe.form(record)

    def record_as(
        self,
        form: Form,
        request_id: str,
        latency_us: int,
        inputs: Body | None,
        outputs: Body | None,
    ) -> bool:
        """See `DecisionLog`."""
        entry = form.entry(request_id, latency_us, time.time_ns(), inputs, outputs)
        if entry is None:
            return False
        try:
            self._journal.put(entry)
        except AuditUnavailable as error:
            self._unrecorded(error)
        return True

    def _unrecorded(self, error: AuditUnavailable) -> None:
        """A decision is in no record. Raises the error where its answer must not go out then."""
        if self._refuse:
            raise error
        self._served += 1
        if self._served & (self._served - 1) == 0:  # the first, and each time it has doubled
            _log.error("%d decisions are in no record: %s", self._served, error)

    def _entries(self, batch: Sequence[Pending | bytes]) -> list[bytes]:
        """On the journal's thread: see `Scribe.entries`."""
        entries = self._scribe.entries(batch)
        self._free(batch)
        return entries

    def _free(self, batch: Sequence[Pending | bytes]) -> None:
        for item in batch:
            if isinstance(item, Pending):
                self._freed += item.nbytes
                item.nbytes = 0

    def _done(self, batch: Sequence[Pending | bytes], error: AuditError | None) -> None:
        """On the journal's thread or the loop: a group is on the disk, or never will be."""
        self._free(batch)
        if error is not None and not self._strict:
            self._given_up += len(batch)
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for item in batch:
            if isinstance(item, Pending) and item.waiter is not None:
                loops.setdefault(item.waiter.get_loop(), []).append(item.waiter)
        here = asyncio._get_running_loop()  # noqa: SLF001  documented, and asks without raising
        for loop, waiters in loops.items():
            if loop is here:
                _resolve(waiters, error)
                continue
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(_resolve, waiters, error)

    def close(self) -> None:
        """See `DecisionLog`."""
        self._journal.close()
        self._sequencing.close()
        self._people.close()


def _resolve(waiters: Sequence[asyncio.Future[None]], error: AuditError | None) -> None:
    for waiter in waiters:
        if waiter.done():  # whoever waited was cancelled
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
