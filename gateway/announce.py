"""What the policy has to tell webhooks: from its ledger, or where nobody approves from its edits, to the outbox.

Contract: `state_dir/policy/announced` says how many of the ledger's entries are in the outbox, `edits.announced` how
many of its edits. It is there before the first step that has to be told (`begin`; the first edit is none), and moves on
only when the messages are durable; so a crash anywhere makes a message again, which the outbox knows by its id, and
loses none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.edits import edits, edits_file
from gateway.policy_in_force import ledger_of
from gateway.settings import Settings
from governance.audit.files import make_folder, replace
from governance.webhooks.messages import Subscriber, of_edits, of_entries

if TYPE_CHECKING:
    from governance.store.outbox import Outbox  # SQLModel takes a second to import


def subscribers(settings: Settings) -> list[Subscriber]:
    """Who is told of what."""
    section = settings.webhooks
    return [] if section is None else [Subscriber(name, one.events) for name, one in section.endpoints.items()]


def begin(settings: Settings) -> None:
    """From now on the steps of the policy are told, not those before. Raises ChangeError, OSError."""
    path = _file(settings)
    if path is not None and not path.exists():
        make_folder(path.parent)
        replace(path, str(len(ledger_of(settings).entries())).encode(), alone=False)


def announce(settings: Settings, outbox: Outbox, to: Sequence[Subscriber]) -> None:
    """Put in what has not been. Raises ChangeError, OSError, StoreError."""
    edited = edits_file(settings)
    if edited is not None:
        mark = edited.with_suffix(".announced")
        found = edits(edited)
        told = max(_told(mark), 1)  # the first one is where it began
        if len(found) > told:
            outbox.put(to, of_edits(found[told:]), time.time())
        _mark(mark, told, len(found))
    path = _file(settings)
    if path is None:
        return
    begin(settings)
    told = _told(path)
    entries = ledger_of(settings).entries()
    if len(entries) > told:
        outbox.put(to, of_entries(entries, told), time.time())
    _mark(path, told, len(entries))


def _told(mark: Path) -> int:
    # A file that is none: what was put in before is known by its id.
    with contextlib.suppress(ValueError, FileNotFoundError):
        return int(mark.read_bytes())
    return 0


def _mark(mark: Path, told: int, now: int) -> None:
    if now and now != told:
        replace(mark, str(now).encode(), alone=False)


def pulse(settings: Settings) -> tuple[int, int]:
    """What changes with a step or an edit of the policy."""
    try:
        found = (edits_file(settings) or ledger_of(settings).file).stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size


def _file(settings: Settings) -> Path | None:
    """None: steps of the policy's change control are not told, or there are none."""
    if settings.webhooks is None or settings.policy is None or not settings.policy.approvals:
        return None
    return ledger_of(settings).file.with_name("announced")
