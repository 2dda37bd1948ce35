"""Whether a log is what its checkpoints say, from its files and a public key alone.

Contract: takes any tlog-tiles log, whatever its entries. Every entry is hashed, every tile is compared, and each
difference is named by file and, where one can say so, by entry. Nothing beyond the checkpoint's size is looked at.
A fault of the log is a finding; AuditInputError is for what the auditor gave: the folder, the key, a remembered
checkpoint.

Bundles that are gone are no fault where the log itself states it (`pruned`): their leaf hashes are then the tiles',
which lead to the same root.

How a fault is told from its traces: a leaf hash comes from three sides, the entry, the tile that lists it, and the
parent of that tile. Where two of them agree, the third was changed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from governance.audit.checkpoint import Checkpoint, parse_checkpoint, unverified
from governance.audit.cosignature import CosignerKey, cosigned, parse_cosigner_key
from governance.audit.edge import Edge
from governance.audit.note import NoteError, Verifier, open_note, parse_vkey
from governance.audit.pruned import Pruned, statement
from governance.audit.tiles import HASH, WIDTH, bundle_path, hashes_of, levels, tile_path, widths
from governance.audit.treefiles import TreeFiles
from governance.errors import AuditInputError
from kernels import merkle

K = TypeVar("K")

MOST_FINDINGS = 1000
"""Of one kind of fault; how many more there are is said."""


class LogFinding(msgspec.Struct, frozen=True):
    """Something wrong with a log, and where."""

    file: str
    """Below the log's folder."""
    index: int | None
    """The entry, or the first one that is affected; None: not one entry's."""
    code: str
    """`unreadable`, `note`, `checkpoint`, `signature`, `unsigned`, `unwitnessed`, `origin`, `root`, `entry`,
    `missing-entry`, `moved-entry`, `tile`, `retention`, `rolled-back`, `forked` or `more`."""
    message: str

    def __str__(self) -> str:
        """`FILE: entry N: message [code]`."""
        entry = "" if self.index is None else f"entry {self.index}: "
        return f"{self.file}: {entry}{self.message} [{self.code}]"


class Report(msgspec.Struct):
    """What verification found."""

    size: int | None = None
    root: bytes | None = None
    """As the checkpoint says; None: it says nothing that can be read."""
    witnessed: int | None = None
    """Entries that every given witness has cosigned; None: none was given, or one has cosigned nothing."""
    pruned: Pruned | None = None
    """What states the entries to be gone that are not there; None: all are there, or nothing does."""
    findings: list[LogFinding] = []

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.findings

    def add(self, file: str, code: str, message: str, index: int | None = None) -> None:
        """One more finding."""
        self.findings.append(LogFinding(file, index, code, message))


def read_keys(path: Path) -> list[Verifier]:
    """The verifier keys of a file, one a line.

    Raises:
        AuditInputError: there is none, or one is no key.
    """
    return _read_keys(path, parse_vkey, "the log's vkey file")


def _read_keys(path: Path, parse: Callable[[str], K], what: str) -> list[K]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AuditInputError(f"{path}: cannot be read ({_why(error)}): give {what}") from None
    keys = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                keys.append(parse(line.strip()))
            except NoteError as error:
                raise AuditInputError(f"{path}:{number}: not a verifier key: {error}") from None
    if not keys:
        raise AuditInputError(f"{path}:1: no key in it: a verifier key is one line, NAME+HEX+BASE64")
    return keys


def read_witness_keys(path: Path) -> list[CosignerKey]:
    """The verifier keys of witnesses in a file, one a line. Raises AuditInputError."""
    return _read_keys(path, parse_cosigner_key, "a witness's vkey file")


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_checkpoint(note: bytes, keys: Sequence[Verifier], file: str, report: Report) -> Checkpoint | None:
    """What a checkpoint says. What is wrong with it goes into the report; None: nothing can be read."""
    try:
        found = parse_checkpoint(open_note(note, keys))
    except NoteError as error:
        report.add(file, error.code, str(error))
        try:
            found = unverified(note)
        except NoteError:
            return None
    if found.origin not in {key.name for key in keys}:
        report.add(file, "origin", f"of the log {found.origin!r}, and the key is of {keys[0].name!r}")
    return found


def verify(
    folder: Path,
    keys: Sequence[Verifier],
    remembered: Sequence[Path] = (),
    progress: Callable[[int, int], None] = lambda _done, _size: None,
    checkpoint: Checkpoint | None = None,
    witnesses: Sequence[CosignerKey] = (),
) -> Report:
    """Verify a whole log.

    Args:
        folder: the log.
        keys: those that its checkpoint may be signed with.
        remembered: checkpoints that were seen before, which this log must be a continuation of.
        progress: told `(entries done, entries in all)` after each bundle.
        checkpoint: to verify against, trusted; None: the one that is published.
        witnesses: keys of those who must have cosigned a checkpoint that this log is a continuation of.

    Raises:
        AuditInputError: the folder or a remembered checkpoint cannot be read.
    """
    try:
        list(folder.iterdir())
    except OSError as error:
        raise AuditInputError(f"{folder}: cannot be read ({_why(error)}): give the folder of the log") from None
    report = Report()
    before = [(path, _remembered(path, keys, report)) for path in remembered]
    vouched = [(path, found) for path, found in (_witnessed(folder, key, keys, report) for key in witnesses) if found]
    if witnesses and len(vouched) == len(witnesses):
        report.witnessed = min(found.size for _, found in vouched)
    before += vouched
    if checkpoint is None:
        try:
            note = (folder / "checkpoint").read_bytes()
        except OSError as error:
            report.add("checkpoint", "unreadable", f"cannot be read ({_why(error)})")
            return report
        checkpoint = open_checkpoint(note, keys, "checkpoint", report)
    if checkpoint is None:
        return report
    report.size, report.root = checkpoint.size, checkpoint.root
    for path, old in before:
        if old.size > checkpoint.size:
            report.add("checkpoint", "rolled-back", f"of size {checkpoint.size}, and {path} of size {old.size}")
    wanted = sorted({old.size for _, old in before if old.size <= checkpoint.size})
    roots = _Walk(folder, checkpoint, report).run(wanted, progress)
    for path, old in before:
        if old.size in roots and roots[old.size] != old.root:
            report.add(
                "checkpoint", "forked", f"its first {old.size} entries are not those of {path}: history was rewritten"
            )
    return report


def _remembered(path: Path, keys: Sequence[Verifier], report: Report) -> Checkpoint:
    try:
        note = path.read_bytes()
        found = unverified(note)
    except OSError as error:
        raise AuditInputError(f"{path}: cannot be read ({_why(error)}): give a checkpoint that was kept") from None
    except NoteError as error:
        raise AuditInputError(f"{path}: not a checkpoint: {error}") from None
    open_checkpoint(note, keys, str(path), report)
    return found


def _witnessed(
    folder: Path, key: CosignerKey, keys: Sequence[Verifier], report: Report
) -> tuple[Path, Checkpoint | None]:
    """The latest checkpoint that a witness has cosigned; None: there is none that holds."""
    file = f"witnessed/{key.id.hex()}"
    try:
        note = (folder / file).read_bytes()
        cosigned_at = cosigned(note, key)
    except OSError as error:
        report.add(file, "unwitnessed", f"no checkpoint that {key.name} has cosigned ({_why(error)})")
        return folder / file, None
    except NoteError as error:
        report.add(file, error.code, str(error))
        return folder / file, None
    if cosigned_at is None:
        report.add(file, "unwitnessed", f"not cosigned by {key.name}")
        return folder / file, None
    return folder / file, open_checkpoint(note, keys, file, report)


class _Walk:
    """One pass over all bundles and tiles of a log."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, report: Report) -> None:
        self._files = TreeFiles(folder, checkpoint.size)
        self._checkpoint = checkpoint
        self._report = report
        self._counts: dict[str, int] = {}
        self._gone: list[tuple[int, str]] = []
        """Full bundles that are missing, and why: faults, unless an entry behind them states that they were pruned."""
        self._stated: Pruned | None = None

    def _add(self, file: str, code: str, message: str, index: int | None = None) -> None:
        count = self._counts[code] = self._counts.get(code, 0) + 1
        if count <= MOST_FINDINGS:
            self._report.add(file, code, message, index)

    def run(self, wanted: Sequence[int], progress: Callable[[int, int], None]) -> dict[int, bytes]:
        """Check everything; the roots of the first so many entries, for each size that is wanted."""
        size = self._checkpoint.size
        roots = {0: merkle.EMPTY_ROOT}
        pending = [at for at in wanted if at]
        edge = Edge()
        computed: list[list[bytes]] = [[] for _ in range(levels(size))]
        for index, width in widths(size, 0):
            leaves = self._leaves(index, width)
            begin = index * WIDTH
            while pending and pending[0] <= begin + width:
                at = pending.pop(0)
                roots[at] = edge.extended(leaves[: at - begin])[0].root
            edge, _ = edge.extended(leaves)
            if width == WIDTH:
                self._add_row(computed, 1, merkle.fold(leaves))
            progress(begin + width, size)
        self._judge_gone()
        whole = edge.root == self._checkpoint.root
        for level in range(1, len(computed)):
            self._compare_level(level, computed[level], whole=whole)
        if not whole:
            self._add(
                "checkpoint",
                "root",
                f"its root is not that of the {size} entries, which is {base64.b64encode(edge.root).decode()}",
            )
        for code, count in self._counts.items():
            if count > MOST_FINDINGS:
                self._report.add("", "more", f"{count - MOST_FINDINGS} more findings of the kind `{code}`")
        return roots

    @staticmethod
    def _add_row(computed: list[list[bytes]], level: int, value: bytes) -> None:
        while level < len(computed):
            row = computed[level]
            row.append(value)
            if len(row) % WIDTH:
                return
            level, value = level + 1, merkle.fold(row[-WIDTH:])

    def _leaves(self, index: int, width: int) -> list[bytes]:
        """The leaf hashes below one tile of level 0: from the entries where they can be read, else from the tile."""
        gone = width == WIDTH and self._is_gone(index)  # whatever else keeps it from being read is a fault
        entries = None if gone else self._entries(index, width)
        tile = self._tile(0, index, width)
        if entries is None:
            if tile is not None and gone and self._vouched(index, width, tile) is False:
                self._add(tile_path(0, index), "tile", "its hashes are not those of the tile above", index * WIDTH)
            return tile or [bytes(HASH)] * width
        leaves = [merkle.leaf_hash(entry) for entry in entries]
        if self._gone and tile == leaves:
            for at, entry in enumerate(entries, index * WIDTH):
                found = statement(entry, at)
                if found is not None and (self._stated is None or found.before >= self._stated.before):
                    self._stated = found
        if tile is not None and tile != leaves:
            return self._judge(index, width, leaves, tile)
        return leaves

    def _entries(self, index: int, width: int) -> Sequence[bytes] | None:
        return self._read(lambda: self._files.bundle(index, width), bundle_path(index, width), index * WIDTH)

    def _is_gone(self, index: int) -> bool:
        """Whether there is no such bundle, which is judged at the end."""
        try:
            self._files.present(index)
        except FileNotFoundError as error:
            self._gone.append((index, _why(error)))
            return True
        return False

    def _judge_gone(self) -> None:
        """Tell bundles that were pruned from those that are missing."""
        stated = self._stated
        before = 0 if stated is None else stated.before
        for index, why in self._gone:
            if (index + 1) * WIDTH > before:
                self._add(bundle_path(index), "unreadable", f"cannot be read ({why})", index * WIDTH)
            else:
                self._report.pruned = stated
        if stated is not None and self._report.pruned is not None:
            for why in stated.too_early:
                self._add(bundle_path(stated.index // WIDTH), "retention", f"pruned too early: {why}", stated.index)

    def _read(self, read: Callable[[], Sequence[bytes]], file: str, first: int) -> Sequence[bytes] | None:
        try:
            return read()
        except OSError as error:
            self._add(file, "unreadable", f"cannot be read ({_why(error)})", first)
        except ValueError as error:
            self._add(file, "unreadable", str(error).removeprefix(f"{file}: "), first)
        return None

    def _tile(self, level: int, index: int, width: int) -> list[bytes] | None:
        content = self._read(
            lambda: [self._files.tile(level, index, width)],
            tile_path(level, index, width),
            (index * WIDTH) << (8 * level),
        )
        return None if content is None else hashes_of(content[0])

    def _vouched(self, index: int, width: int, leaves: Sequence[bytes]) -> bool | None:
        """Whether the tree above has these leaves; None: it cannot be told."""
        if self._checkpoint.size <= WIDTH:
            return merkle.root(width, lambda level, at: merkle.fold(leaves[at << level : (at + 1) << level])) == (
                self._checkpoint.root
            )
        if width < WIDTH:
            return self._vouched_by_root(leaves)
        try:
            parent = self._files.tile(1, index // WIDTH, self._files.width(1, index // WIDTH))
        except (OSError, ValueError):
            return None
        return hashes_of(parent)[index % WIDTH] == merkle.fold(leaves)

    def _vouched_by_root(self, leaves: Sequence[bytes]) -> bool | None:
        def node(level: int, index: int) -> bytes:
            first = index << level
            if first >= self._checkpoint.size - len(leaves):
                at = first % WIDTH
                return merkle.fold(leaves[at : at + (1 << level)])
            return self._files.node(level, index)

        try:
            return merkle.root(self._checkpoint.size, node) == self._checkpoint.root
        except (OSError, ValueError):
            return None

    def _judge(self, index: int, width: int, leaves: list[bytes], tile: list[bytes]) -> list[bytes]:
        """Say what is wrong where entries and their tile differ; the leaf hashes to go on with."""
        file = bundle_path(index, width)
        begin = index * WIDTH
        if self._vouched(index, width, leaves):
            for at in _differing(leaves, tile):
                self._add(tile_path(0, index, width), "tile", "its hash is not that of the entry", begin + at)
            return leaves
        sure = self._vouched(index, width, tile)
        differing = list(_differing(leaves, tile))
        first = differing[0]
        # One entry taken out: what follows has moved up by one.
        if len(differing) > 1 and leaves[first:-1] == tile[first + 1 :] and first + 1 < width:
            self._add(file, "missing-entry", "is gone, and those that follow have moved up", begin + first)
            return tile if sure else leaves
        where = {value: at for at, value in enumerate(tile)}
        for at in differing:
            other = where.get(leaves[at])
            if other is not None:
                self._add(file, "moved-entry", f"stands here, and the log has it as entry {begin + other}", begin + at)
            else:
                which = "is not what was logged" if sure else "and its hash in the tile differ"
                self._add(file, "entry", which, begin + at)
        return tile if sure else leaves

    def _compare_level(self, level: int, computed: Sequence[bytes], *, whole: bool) -> None:
        """Hold the tiles of a level against the entries; `whole`: the entries are those of the root."""
        for index, width in widths(self._checkpoint.size, level):
            tile = self._tile(level, index, width)
            if tile is None:
                continue
            file = tile_path(level, index, width)
            for at in _differing(tile, computed[index * WIDTH : index * WIDTH + width]):
                first = ((index * WIDTH) + at) << (8 * level)
                last = first + (1 << (8 * level)) - 1
                if whole:
                    self._add(file, "tile", f"its hash {at} is not that of the entries {first} to {last}", first)
                elif self._tiles_hold():
                    self._add(file, "entry", f"entries {first} to {last} are not those that were logged", first)
                else:
                    self._add(file, "tile", f"its hash {at} and the entries {first} to {last} differ", first)

    def _tiles_hold(self) -> bool:
        """Whether the tiles at the right edge lead to the root by themselves."""
        try:
            return merkle.root(self._checkpoint.size, self._files.node) == self._checkpoint.root
        except (OSError, ValueError):
            return False


def _differing(left: Sequence[bytes], right: Sequence[bytes]) -> Iterator[int]:
    return (at for at, (one, other) in enumerate(zip(left, right, strict=True)) if one != other)
