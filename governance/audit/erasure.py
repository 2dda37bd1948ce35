"""Erasure of a person from a log that nothing can be taken out of: their keys are destroyed.

Contract: two records bracket an erasure, before and after the keys are gone, so that a crash in between shows.
They name the person by pseudonym alone. Entries, tiles and proofs stay as they are and go on verifying. A legal
hold is recorded too, and blocks it.
"""

from __future__ import annotations

import contextlib
import getpass
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from governance.audit.files import locked, replace, sync_folder
from governance.audit.layout import Layout
from governance.audit.log import Pending, Scribe
from governance.audit.people import HeldError, People, Vault
from governance.audit.record import Record
from governance.audit.secrets import secret_key, signing_keys
from governance.audit.segments import Segment
from governance.audit.sequencer import Sequencer
from governance.audit.tiles import bundle
from governance.errors import AuditInputError, AuditUnavailable


class Erased(msgspec.Struct):
    """What became of it."""

    subject: str
    """The pseudonym; empty: nobody of that name was in the log."""
    held: str = ""
    """Why not: the legal hold."""


def operator() -> str:
    """Who runs this command, as records name them."""
    try:
        return f"local:{getpass.getuser()}"
    except (KeyError, OSError):
        return "local:unknown"


@contextlib.contextmanager
def open_vault(layout: Layout) -> Iterator[Vault]:
    """The vault of a state directory.

    Raises:
        AuditInputError: there is none, or it cannot be used.
        AuditUnavailable: it cannot be read or written now.
    """
    if not layout.vault.exists():
        raise AuditInputError(f"{layout.vault}: no such file: subjects are sealed only with `audit.erasure: true`")
    vault = Vault(layout.vault, secret_key(layout.master_key), secret_key(layout.digest_key))
    try:
        yield vault
    except sqlite3.Error as error:
        raise AuditUnavailable(f"{layout.vault}: {error}") from error
    finally:
        vault.close()


def append_record(layout: Layout, people: People, record: Record) -> None:
    """Put one record on the disk beside a gateway that may be running, and in the log if none is. Blocks.

    Raises:
        AuditUnavailable: it is not on the disk.
    """
    append_records(layout, people, (record,))


def append_records(layout: Layout, people: People, records: Sequence[Record]) -> None:
    """As `append_record`, several at once: all of them or none."""
    entries = Scribe(people).entries([Pending(record, time.time_ns(), None, None, 0, None) for record in records])
    try:
        segment = Segment.create(layout.wal)
        segment.append(bundle(entries))
        segment.sync()
        segment.seal()
    except OSError as error:
        raise AuditUnavailable(f"{layout.wal}: {error.strerror}: nothing was changed") from error


def make_public(layout: Layout) -> None:
    """Take what is written into the log, unless a running gateway will. Raises OSError, AuditBroken."""
    sequencer = Sequencer(layout, signing_keys(layout))
    if sequencer.acquire():
        try:
            sequencer.integrate()
        finally:
            sequencer.release()


def _record(action: str, about: str, phase: str | None = None, **details: str) -> Record:
    return msgspec.convert(
        {
            "kind": "erasure",
            "outcome": "served",
            "action": action,
            "object": about,
            "subject": operator(),
            "phase": phase,
            "details": details or None,
        },
        Record,
    )


def erase(state_dir: Path, subject: str, reason: str = "") -> Erased:
    """Destroy the keys of a subject, as the policy writes it: `user:NAME`.

    Raises:
        AuditInputError: there is no vault.
        AuditUnavailable: a record or the vault could not be written; before the keys are gone nothing has changed.
    """
    layout = Layout(state_dir)
    details = {"reason": reason} if reason else {}
    with open_vault(layout) as vault:
        pseudonym = vault.pseudonym(subject)
        if pseudonym is None:
            return Erased("")
        held = vault.held(subject)
        if held is None:
            append_record(layout, vault, _record("erase", pseudonym, "start", **details))
            try:
                vault.erase(subject)
            except HeldError as error:
                held = error.reason
        if held is not None:
            refused = _record("erase", pseudonym, None, hold=held)
            refused.outcome = "refused"
            append_record(layout, vault, refused)
            make_public(layout)
            return Erased(pseudonym, held)
        append_record(layout, vault, _record("erase", pseudonym, "end", **details))
    make_public(layout)
    return Erased(pseudonym)


def hold(state_dir: Path, subject: str, reason: str | None) -> str:
    """Put a legal hold on a subject, or take it off (None); the pseudonym, empty when there is nobody to hold.

    Raises:
        AuditInputError: there is no vault.
        AuditUnavailable: as `erase`.
    """
    layout = Layout(state_dir)
    with open_vault(layout) as vault, locked(layout.prune_lock):
        pseudonym = vault.pseudonym(subject)
        if pseudonym is None:
            return ""
        action, details = ("release", {}) if reason is None else ("hold", {"reason": reason})
        append_record(layout, vault, _record(action, pseudonym, None, **details))
        vault.hold(subject, reason)
    make_public(layout)
    return pseudonym


def hold_log(state_dir: Path, people: People, reason: str | None) -> None:
    """Put a legal hold on everything that is in the log, or take it off (None): nothing is pruned under it.

    Args:
        state_dir: of the log.
        people: as whom the operator is recorded.
        reason: of the hold; a later one takes the place of an earlier.

    Raises:
        AuditInputError: there is no log.
        AuditUnavailable: the record is not on the disk; nothing has changed.
        AuditBroken: the hold has changed, and the log's files contradict each other.
        OSError: the hold cannot be written.
    """
    layout = Layout(state_dir)
    if not layout.signing_key.exists():
        raise AuditInputError(f"{layout.signing_key}: no such file: there is no log in this state_dir")
    action, details = ("release", {}) if reason is None else ("hold", {"reason": reason})
    with locked(layout.prune_lock):
        append_record(layout, people, _record(action, "audit", None, **details))
        if reason is None:
            layout.hold.unlink(missing_ok=True)
            sync_folder(layout.private)
        else:
            replace(layout.hold, reason.encode(), 0o600)
    make_public(layout)


class Held(msgspec.Struct, frozen=True):
    """What became of a hold on several people. By pseudonym."""

    new: list[str]
    """Held from now on."""
    before: dict[str, str]
    """Held already, each for its reason, which stays."""
    without_key: list[str]
    """Not in this vault: erased, or another's."""


def hold_people(state_dir: Path, pseudonyms: Collection[str], reason: str) -> Held:
    """Put a legal hold on people by their pseudonyms, so that nobody has to know their names.

    Raises:
        AuditInputError: there is no vault.
        AuditUnavailable: as `erase`.
    """
    layout = Layout(state_dir)
    with open_vault(layout) as vault, locked(layout.prune_lock):
        before = dict(sorted(vault.held_of(pseudonyms).items()))
        wanted = [pseudonym for pseudonym, hold in before.items() if hold is None]
        new: set[str] = set()
        if wanted:
            append_records(layout, vault, [_record("hold", pseudonym, None, reason=reason) for pseudonym in wanted])
            new = vault.hold_people(wanted, reason)
    make_public(layout)
    held = {pseudonym: hold for pseudonym, hold in before.items() if hold is not None}
    return Held(sorted(new), held, sorted(set(pseudonyms) - new - held.keys()))
