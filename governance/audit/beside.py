"""One record written by a command, beside a gateway that may be running.

Contract: the record is on the disk when it returns, and in the log too unless a running gateway will take it there,
which it does within a second.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from governance.audit.erasure import append_record, make_public
from governance.audit.layout import Layout
from governance.audit.people import open_people
from governance.audit.record import Record
from governance.audit.secrets import publish_vkeys, signing_keys


def record_beside(
    state_dir: Path, record: Record, *, erasure: bool = False, pseudonyms: bool = False, origin: str = ""
) -> None:
    """Record one decision. Blocks.

    Args:
        state_dir: of the gateway.
        record: as for `DecisionLog.record`.
        erasure: whether subjects are sealed, as the settings say.
        pseudonyms: whether they have pseudonyms, likewise.
        origin: the log's name, as the settings say, for one that is yet to be made.

    Raises:
        AuditInputError: a key file cannot be used.
        AuditUnavailable: it is not on the disk.
        AuditBroken: it is, and the log's files contradict each other.
        OSError: the folder cannot be written.
    """
    layout = Layout(state_dir)
    layout.make_private()
    publish_vkeys(layout, signing_keys(layout, origin))
    with contextlib.closing(open_people(layout, erasure=erasure, pseudonyms=pseudonyms)) as people:
        append_record(layout, people, record)
    make_public(layout)
