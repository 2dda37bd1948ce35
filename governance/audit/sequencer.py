"""From write-ahead segments to a signed log: one sequencer a state directory, held by a file lock.

`Sequencer.integrate` is one straight function. What a crash leaves at each step:

    1 read      nothing
    2 tiles     files beyond the size of the checkpoint, which nobody looks at; the next step writes over them
    3 head      THE COMMIT: one rename says size, root, signature and how far each segment was taken
    4 publish   a checkpoint that is one step behind; whoever opens the log next publishes the head's
    5 tidy      segments that were taken to their end; they are known by name and not taken again

No signature leaves memory before step 3, and after it there is one tree of that size: a fork would need two
renames. Whatever fails in a step, the next one begins by reading the head from the disk: recovery is the normal
path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Sequence

import msgspec

from governance.audit.checkpoint import Checkpoint, unverified
from governance.audit.edge import Edge, edge_from, edge_tiles
from governance.audit.files import ASIDE, make_folder, replace, replace_many, sync_folder, try_lock
from governance.audit.layout import Layout
from governance.audit.note import NoteError, Signer, sign_note
from governance.audit.segments import SUFFIX, is_final, read_segment
from governance.audit.tiles import WIDTH, bundle, bundle_path, split
from governance.audit.treefiles import TreeFiles
from governance.errors import AuditBroken
from kernels import merkle

_log = logging.getLogger("tidegate.audit")

STEP_BYTES = 8 << 20
"""Entries taken in one step, in bytes: bounds memory, and how long a step takes (some 100 ms)."""


class Head(msgspec.Struct):
    """What the file `head` holds, as JSON."""

    checkpoint: str
    """The signed note, verbatim."""
    consumed: dict[str, int]
    """By segment, the offset up to which it is in the log. A segment that is gone needs none."""


class Sequencer:
    """The one that writes `audit/`. Not for several threads at once."""

    def __init__(self, layout: Layout, signers: Sequence[Signer]) -> None:
        self._layout = layout
        self._signers = signers
        self._lock: int | None = None
        self._head: Head | None = None
        self._edge = Edge()
        self._tail: list[bytes] = []
        """Entries of the last, partial bundle, each with its length before it."""
        self.behind = False
        """Whether the last step left something for the next one."""

    @property
    def size(self) -> int:
        """Entries in the log, as of the last step."""
        return self._edge.size

    @property
    def holds(self) -> bool:
        """Whether it is the sequencer of its state directory."""
        return self._lock is not None

    def acquire(self) -> bool:
        """Become the sequencer, if nobody is. Raises OSError."""
        if self._lock is None:
            self._lock = try_lock(self._layout.lock)
        return self.holds

    def release(self) -> None:
        """Let another process be it."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = self._head = None

    def integrate(self) -> int:
        """Take what the segments hold into the log; how many entries were new.

        Raises:
            OSError: a step failed; nothing is lost, try again.
            AuditBroken: the files contradict each other; a person has to look.
        """
        assert self.holds
        head = self._head or self.load()
        batches: list[tuple[int, bytes]] = []
        consumed: dict[str, int] = {}
        budget = STEP_BYTES
        self.behind = False
        paths = sorted(self._layout.wal.glob("*" + SUFFIX))
        final = {path for path in paths if is_final(path)}
        # What one process wrote after another's record was acknowledged comes behind that record: batches are taken in
        # the order of their stamps, and those later than this moment wait, since what they follow may be unread.
        until = time.time_ns()
        finished = []
        for path in paths:  # 1
            begin = consumed[path.name] = head.consumed.get(path.name, 0)
            if budget <= 0:
                self.behind = True
                continue
            read = read_segment(path, begin, budget, None if path in final else until)
            batches += read.batches
            budget -= read.end - begin
            consumed[path.name] = read.end
            self.behind |= read.more
            if path in final and not read.more:
                if read.rest:
                    _log.warning("%s: the last %d bytes were never acknowledged and are dropped", path, read.rest)
                finished.append(path)
        batches.sort(key=_stamp)
        # Each with its length before it, as it stands in bundles.
        entries = [entry for _, body in batches for entry in split(body)]
        if entries:
            self._head = None  # until every step is done, only the disk knows what holds
            head = self._commit(entries, consumed)
        for path in finished:  # 5
            path.unlink()
        if finished:
            sync_folder(self._layout.wal)
        self._head = head
        return len(entries)

    def _commit(self, entries: Sequence[bytes], consumed: dict[str, int]) -> Head:
        edge, files = self._edge.extended([merkle.leaf_hash(entry[2:]) for entry in entries])
        bundles, tail = self._bundled(entries)
        log = self._layout.log
        replace_many((log / path, content) for path, content in [*bundles, *files])  # 2
        checkpoint = Checkpoint(self._signers[0].name, edge.size, edge.root)
        note = sign_note(checkpoint.text, self._signers)
        head = Head(note.decode(), consumed)
        replace(self._layout.head, msgspec.json.encode(head), 0o600)  # 3
        replace(self._layout.checkpoint, note)  # 4
        self._edge, self._tail = edge, tail
        for path, _ in (*bundles, *files):
            if ".p/" not in path:
                # Partial tiles may go once the full one is there (tlog-tiles); one that stays does no harm.
                shutil.rmtree(log / (path + ".p"), ignore_errors=True)
        return head

    def _bundled(self, entries: Sequence[bytes]) -> tuple[list[tuple[str, bytes]], list[bytes]]:
        waiting = [*self._tail, *entries]
        first = self._edge.size // WIDTH
        full = len(waiting) // WIDTH
        bundles = [(bundle_path(first + i), b"".join(waiting[WIDTH * i : WIDTH * (i + 1)])) for i in range(full)]
        tail = waiting[WIDTH * full :]
        if tail:
            bundles.append((bundle_path(first + full, len(tail)), b"".join(tail)))
        return bundles, tail

    def load(self) -> Head:
        """Read the head and the edge of the tree; make them when there is no log yet.

        Raises:
            OSError: something cannot be read or written now.
            AuditBroken: they contradict each other.
        """
        layout = self._layout
        make_folder(layout.log)
        # What was removed before a crash must not come back after the head has forgotten it.
        sync_folder(layout.wal)
        self._sweep()
        try:
            head = msgspec.json.decode(layout.head.read_bytes(), type=Head)
            checkpoint = unverified(head.checkpoint.encode())
        except FileNotFoundError:
            if layout.checkpoint.exists():
                raise AuditBroken(
                    f"{layout.head}: missing, though there is a log: restore it, or run `tidegate audit fsck --repair`"
                ) from None
            head, checkpoint = self._first()
        except (msgspec.DecodeError, NoteError) as error:
            raise AuditBroken(f"{layout.head}: damaged ({error}): run `tidegate audit fsck`") from None
        if checkpoint.origin != self._signers[0].name:
            raise AuditBroken(f"{layout.head}: of the log {checkpoint.origin!r}, and the key is another's")
        self._read_edge(checkpoint)
        signed = sign_note(checkpoint.text, self._signers).decode()
        if head.checkpoint != signed:  # a key was added or taken out
            head = Head(signed, head.consumed)
            replace(layout.head, msgspec.json.encode(head), 0o600)
        self._publish(head, checkpoint)
        self._head = head
        return head

    def _first(self) -> tuple[Head, Checkpoint]:
        checkpoint = Checkpoint(self._signers[0].name, 0, merkle.EMPTY_ROOT)
        head = Head(sign_note(checkpoint.text, self._signers).decode(), {})
        replace(self._layout.head, msgspec.json.encode(head), 0o600)
        return head, checkpoint

    def _read_edge(self, checkpoint: Checkpoint) -> None:
        files = TreeFiles(self._layout.log, checkpoint.size)
        try:
            contents = [
                files.tile(level, index, width) if width else b"" for level, index, width in edge_tiles(checkpoint.size)
            ]
            edge = edge_from(checkpoint.size, contents)
            width = checkpoint.size % WIDTH
            tail = list(files.bundle(checkpoint.size // WIDTH, width)) if width else []
            pieces = split(bundle(tail))
        except (FileNotFoundError, ValueError) as error:
            raise AuditBroken(f"{self._layout.log}: {error}: run `tidegate audit fsck`") from None
        leaves = list(edge.rows[0]) if tail else []
        if edge.root != checkpoint.root or [merkle.leaf_hash(entry) for entry in tail] != leaves:
            raise AuditBroken(f"{self._layout.log}: its tiles are not those of its head: run `tidegate audit fsck`")
        self._edge, self._tail = edge, pieces

    def _publish(self, head: Head, checkpoint: Checkpoint) -> None:
        """Bring the published checkpoint to the head, which must be its future and not its past."""
        note = head.checkpoint.encode()
        path = self._layout.checkpoint
        try:
            published = path.read_bytes()
            if published == note:
                return
            before = unverified(published)
        except FileNotFoundError:
            before = Checkpoint(checkpoint.origin, 0, merkle.EMPTY_ROOT)
        except NoteError as error:
            raise AuditBroken(f"{path}: damaged ({error}): run `tidegate audit fsck`") from None
        if before.size > checkpoint.size:
            raise AuditBroken(
                f"{path}: of size {before.size}, and the state is of size {checkpoint.size}: audit-private was "
                "restored from an older copy; going on would fork the log"
            )
        files = TreeFiles(self._layout.log, checkpoint.size)
        if merkle.root(before.size, files.node) != before.root:
            raise AuditBroken(f"{path}: not of this tree: the log was forked")
        # The head's rename may not be on the disk yet, and what is published must never be taken back.
        sync_folder(self._layout.head.parent)
        replace(path, note)

    def _sweep(self) -> None:
        for path in self._layout.wal.glob("*" + SUFFIX + ASIDE):
            with contextlib.suppress(OSError):
                if is_final(path):
                    path.unlink()


def _stamp(batch: tuple[int, bytes]) -> int:
    return batch[0]
