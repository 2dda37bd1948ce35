"""Reading a log as one who will act on what it says: the entries that its signed checkpoint vouches for.

Contract: the entries in log order, in one pass, from the first one that was not pruned. They are what was logged when
the iteration has come to its end; where something does not hold it ends with an error instead, so nothing may be told
before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from governance.audit.checkpoint import Checkpoint
from governance.audit.edge import Edge
from governance.audit.note import Verifier
from governance.audit.pruned import statement
from governance.audit.show import as_object
from governance.audit.tiles import WIDTH, hashes_of, widths
from governance.audit.treefiles import TreeFiles
from governance.audit.verify import Report, open_checkpoint
from governance.errors import AuditInputError
from kernels import merkle

Reveal: TypeAlias = Callable[[str, str], str | None]
"""From a pseudonym and the name sealed beside it to the name; None: its key is gone, or elsewhere."""


def signed_checkpoint(folder: Path, keys: Sequence[Verifier]) -> Checkpoint:
    """What the log says of itself, signed by one of the keys. Raises AuditInputError."""
    path = folder / "checkpoint"
    try:
        note = path.read_bytes()
    except OSError as error:
        raise AuditInputError(f"{path}: cannot be read ({error.strerror}): give the folder of a log") from None
    report = Report()
    found = open_checkpoint(note, keys, "checkpoint", report)
    if found is None or not report.ok:
        raise AuditInputError(f"{folder}: {report.findings[0]}: `tidegate audit verify` says more")
    return found


def checked_entries(folder: Path, keys: Sequence[Verifier]) -> Iterator[tuple[int, bytes]]:
    """The entries `(index, raw)` of a log.

    Raises:
        AuditInputError: something cannot be read, or is not what was logged.
    """
    checkpoint = signed_checkpoint(folder, keys)
    files = TreeFiles(folder, checkpoint.size)
    edge = Edge()
    gone = stated = 0
    for index, width in widths(checkpoint.size, 0):
        first = edge.size
        try:
            entries = _bundle(files, index, width)
            if entries is None:
                edge, _ = edge.extended(hashes_of(files.tile(0, index, width)))
                gone = edge.size
                continue
        except (OSError, ValueError) as error:
            raise AuditInputError(f"{folder}: {error}: `tidegate audit verify` says more") from None
        edge, _ = edge.extended([merkle.leaf_hash(entry) for entry in entries])
        for at, entry in enumerate(entries, first):
            if gone > stated and (found := statement(entry, at)) is not None:
                stated = max(stated, found.before)
            yield at, entry
    if gone > stated:
        raise AuditInputError(
            f"{folder}: entries up to {gone - 1} are missing, and nothing states that they were pruned: "
            "`tidegate audit verify` says more"
        )
    if edge.root != checkpoint.root:
        raise AuditInputError(f"{folder}: not what was logged: `tidegate audit verify {folder}` says where")


def _bundle(files: TreeFiles, index: int, width: int) -> Sequence[bytes] | None:
    """The entries of a bundle; None: it is full, and gone. Raises OSError, ValueError."""
    try:
        return files.bundle(index, width)
    except FileNotFoundError:
        if width < WIDTH:
            raise
        return None


def checked_records(folder: Path, keys: Sequence[Verifier], reveal: Reveal | None = None) -> Iterator[dict[str, Any]]:
    """The entries as JSON objects with their index, and names where they can be revealed. Raises as the above."""
    for index, entry in checked_entries(folder, keys):
        record = as_object(index, entry)
        yield record if reveal is None else _revealed(record, reveal)


def _revealed(record: Mapping[str, Any], reveal: Reveal) -> dict[str, Any]:
    subject, sealed = record.get("subject"), record.get("sealed")
    name = reveal(subject, sealed) if isinstance(subject, str) and isinstance(sealed, str) else None
    return dict(record) if name is None else {**record, "subject": name, "sealed": None}
