"""The files of a state directory judged against each other, and what can be mended, mended.

Contract: without `repair` nothing is changed. What is repaired follows from what was signed: tiles from entries that
lead to the signed root, the published checkpoint from the head, the head from a checkpoint that its own key signed.
Damaged stretches of write-ahead files are cut out, and the file as it was is kept beside them. An entry of the log
that is not what was logged is never touched: a copy of the log has to bring it back. Nobody may write meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from governance.audit.checkpoint import Checkpoint, parse_checkpoint, unverified
from governance.audit.edge import Edge
from governance.audit.files import replace, replace_many, sync_folder, try_lock
from governance.audit.layout import Layout
from governance.audit.note import NoteError, Signer, open_note
from governance.audit.pruned import Hint, Pruned, read_pruned
from governance.audit.secrets import signing_keys
from governance.audit.segments import SUFFIX, read_segment, salvage
from governance.audit.sequencer import Head, Sequencer
from governance.audit.tiles import WIDTH, bundle_path, entries_of, hashes_of, levels, tile_path, widths
from governance.audit.treefiles import TreeFiles
from governance.audit.verify import LogFinding, verify
from governance.errors import AuditBroken, AuditInputError
from kernels import merkle

_RECENT = 1 << 20
"""Entries at the end of a log among which those of a write-ahead file are looked for: more than it can hold."""


class Fsck(msgspec.Struct):
    """What was found and done."""

    findings: list[LogFinding] = []
    repaired: list[str] = []
    """What was done, one line each."""
    size: int = 0

    @property
    def ok(self) -> bool:
        """Whether the log can be continued: nothing was found, or all of it was repaired."""
        return not self.findings

    def add(self, file: Path, code: str, message: str) -> None:
        """One more finding."""
        self.findings.append(LogFinding(str(file), None, code, message))


def fsck(state_dir: Path, *, repair: bool) -> Fsck:
    """Judge a state directory; mend it with `repair`.

    Raises:
        AuditInputError: there is no log, its key cannot be used, or somebody is writing it.
        OSError: a file cannot be read, or not be written.
    """
    layout = Layout(state_dir)
    if not layout.signing_key.exists():
        raise AuditInputError(
            f"{layout.signing_key}: no such file: there is no log in this state_dir, or its key is lost"
        )
    signers = signing_keys(layout)
    sequencer = Sequencer(layout, signers)
    if not sequencer.acquire():
        raise AuditInputError(f"{layout.lock}: another process writes the log: stop the gateway first")
    try:
        with _no_pruning(layout):
            return _Fsck(layout, signers, repair=repair).run(sequencer)
    finally:
        sequencer.release()


@contextlib.contextmanager
def _no_pruning(layout: Layout) -> Iterator[None]:
    # Where there was none yet, the first cannot delete anything before a sequencer has made its statement public.
    if not layout.prune_lock.exists():
        yield
        return
    lock = try_lock(layout.prune_lock)
    if lock is None:
        raise AuditInputError(f"{layout.prune_lock}: a pruning or a legal hold is under way: wait until it is done")
    try:
        yield
    finally:
        os.close(lock)


class _Fsck:
    def __init__(self, layout: Layout, signers: Sequence[Signer], *, repair: bool) -> None:
        self._layout = layout
        self._signers = signers
        self._repair = repair
        self._result = Fsck()
        self._pruned: Pruned | None = None

    def run(self, sequencer: Sequencer) -> Fsck:
        head = self._head()
        checkpoint = self._checkpoint(head)
        if checkpoint is not None:
            self._log(checkpoint)
            if head is None:
                head = self._new_head(checkpoint)
        self._segments(head)
        if self._repair and self._result.ok:
            self._layout.broken.unlink(missing_ok=True)
            try:
                sequencer.load()
                sequencer.integrate()
            except AuditBroken as error:
                self._result.add(self._layout.private, "broken", str(error))
            self._result.size = sequencer.size
        return self._result

    def _found(self, file: Path, code: str, message: str, done: str) -> bool:
        """Report what can be repaired; whether to do it."""
        if self._repair:
            self._result.repaired.append(f"{file}: {message}: {done}")
        else:
            self._result.add(file, code, f"{message}; `--repair`: {done}")
        return self._repair

    def _head(self) -> Head | None:
        path = self._layout.head
        try:
            head = msgspec.json.decode(path.read_bytes(), type=Head)
            unverified(head.checkpoint.encode())
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, NoteError):
            return None
        return head

    def _checkpoint(self, head: Head | None) -> Checkpoint | None:
        """The newest checkpoint that this log's key signed; the published one is mended from the head."""
        path = self._layout.checkpoint
        keys = [signer.verifier for signer in self._signers]
        published = None
        try:
            note = path.read_bytes()
            published = parse_checkpoint(open_note(note, keys))
        except FileNotFoundError:
            why = "missing"
        except NoteError as error:
            why = str(error)
        if head is None:
            if published is None:
                self._result.add(path, "checkpoint", f"{why}, and there is no head: restore audit/ from a copy")
            return published
        mine = unverified(head.checkpoint.encode())
        if published is None:
            if self._found(path, "checkpoint", why, "the head's is published again"):
                replace(path, head.checkpoint.encode())
        elif published.size > mine.size or (published.size == mine.size and published.root != mine.root):
            self._result.add(
                self._layout.head,
                "rolled-back",
                f"of size {mine.size}, and {path} of size {published.size}: audit-private is an older copy; going on "
                "would fork the log: restore the newer one, or begin another log",
            )
            return published
        return mine

    def _log(self, checkpoint: Checkpoint) -> None:
        """Entries and tiles, as of a checkpoint that may not be published yet."""
        keys = [signer.verifier for signer in self._signers]
        report = verify(self._layout.log, keys, checkpoint=checkpoint)
        pruned = self._pruned = report.pruned
        if pruned is not None and read_pruned(self._layout.log, checkpoint.size) != pruned:
            why = f"does not say that {pruned}"
            if self._found(self._layout.pruned, "pruned", why, "written again"):
                replace(self._layout.pruned, msgspec.json.encode(Hint(pruned.before, pruned.index)))
        bad_tiles = [f for f in report.findings if f.file.startswith("tile/") and not f.file.startswith("tile/entries")]
        rest = [finding for finding in report.findings if finding not in bad_tiles]
        self._result.findings += rest
        if not bad_tiles:
            return
        files = sorted({finding.file for finding in bad_tiles})
        if rest:
            self._result.findings += bad_tiles
        elif self._found(
            self._layout.log, "tile", f"{len(files)} tiles are not those of the entries ({files[0]} ...)", "made again"
        ):
            self._make_tiles(checkpoint)

    def _make_tiles(self, checkpoint: Checkpoint) -> None:
        size = checkpoint.size
        files = TreeFiles(self._layout.log, size)
        # The partial tiles that smaller trees had on the way are not wanted.
        wanted = {tile_path(level, *tile) for level in range(levels(size)) for tile in widths(size, level)}
        edge = Edge()
        for index, width in widths(size, 0):
            # The tiles of what was pruned are all that is left of it, and were found to lead to the root.
            leaves = (
                hashes_of(files.tile(0, index, width))
                if self._is_gone(index)
                else [merkle.leaf_hash(entry) for entry in files.bundle(index, width)]
            )
            edge, tiles = edge.extended(leaves)
            replace_many((self._layout.log / path, content) for path, content in tiles if path in wanted)

    def _is_gone(self, index: int) -> bool:
        """Whether a bundle was pruned."""
        stated = self._pruned
        return stated is not None and (index + 1) * WIDTH <= stated.before and not self._exists(index)

    def _exists(self, index: int) -> bool:
        return (self._layout.log / bundle_path(index)).exists()

    def _new_head(self, checkpoint: Checkpoint) -> Head:
        """A head for a checkpoint: how far the segments were taken is seen by what is in the log."""
        files = TreeFiles(self._layout.log, checkpoint.size)
        first = max(0, checkpoint.size - _RECENT) // WIDTH
        logged = {
            merkle.leaf_hash(entry)
            for index, width in widths(checkpoint.size, 0)
            if index >= first and not self._is_gone(index)
            for entry in files.bundle(index, width)
        }
        consumed = {}
        for path in sorted(self._layout.wal.glob("*" + SUFFIX)):
            kept, _ = salvage(path.read_bytes())
            aside = path.with_name(path.name + ".read")
            aside.write_bytes(kept)
            try:
                consumed[path.name] = _taken(aside, logged)
            finally:
                aside.unlink()
        head = Head(self._layout.checkpoint.read_text(), consumed)
        if self._found(self._layout.head, "head", "missing or damaged", "made again from checkpoint and entries"):
            replace(self._layout.head, msgspec.json.encode(head), 0o600)
        return head

    def _segments(self, head: Head | None) -> None:
        for path in sorted(self._layout.wal.glob("*" + SUFFIX)):
            begin = head.consumed.get(path.name, 0) if head is not None else 0
            try:
                read_segment(path, begin, 1 << 30)
            except AuditBroken:
                self._mend(path)

    def _mend(self, path: Path) -> None:
        kept, holes = salvage(path.read_bytes())
        lost = ", ".join(f"{length} bytes at {at}" for at, length in holes)
        if self._found(path, "segment", f"damaged ({lost}): the records in them are lost", "cut out"):
            # As it was it stays, for those who want to know; one rename then puts the other in its place.
            damaged = self._layout.private / f"damaged-{path.name}"
            if not damaged.exists():
                os.link(path, damaged)
                sync_folder(damaged.parent)
            replace(path, kept, 0o600)


def _taken(path: Path, logged: set[bytes]) -> int:
    """The offset up to which a segment's batches are all in the log."""
    end = 0
    while True:
        read = read_segment(path, end, 1)  # one batch
        entries = [entry for _, body in read.batches for entry in entries_of(body)]
        if read.end == end or not all(merkle.leaf_hash(entry) in logged for entry in entries):
            return end
        end = read.end
