"""That one entry stands in a log, as a file of its own: C2SP tlog-proof v1.

Contract: the proof holds the checkpoint, so that a public key and the entry are all that it takes to check it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import msgspec

from governance.audit.checkpoint import unverified
from governance.audit.note import NoteError, Verifier, decode_base64
from governance.audit.tiles import HASH
from governance.audit.treefiles import TreeFiles
from governance.audit.verify import Report, open_checkpoint
from governance.errors import AuditInputError
from kernels import merkle

_FIRST = b"c2sp.org/tlog-proof@v1\n"
_MOST_BYTES = 1 << 21
_MOST_HASHES = 64


class ProofError(ValueError):
    """A file that is no proof."""


class Proof(msgspec.Struct, frozen=True):
    """What a proof file says."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    """The signed note, verbatim."""

    def encode(self) -> bytes:
        """The file's content."""
        lines = [f"index {self.index}", *(base64.b64encode(part).decode() for part in self.hashes)]
        return _FIRST + "".join(line + "\n" for line in lines).encode() + b"\n" + self.checkpoint


def parse_proof(content: bytes) -> Proof:
    """A proof file. Raises ProofError."""
    if len(content) > _MOST_BYTES:
        raise ProofError("too long for a proof")
    if not content.startswith(_FIRST):
        raise ProofError("its first line is not `c2sp.org/tlog-proof@v1`")
    head, gap, checkpoint = content[len(_FIRST) :].partition(b"\n\n")
    try:
        lines = head.decode().split("\n")
        if lines[0].startswith("extra "):
            decode_base64(lines.pop(0)[6:])
        index = lines.pop(0) if lines else ""
        hashes = tuple(map(decode_base64, lines))
    except ValueError as error:
        raise ProofError(str(error)) from None
    word, _, number = index.partition(" ")
    if word != "index" or not (number.isascii() and number.isdigit()) or (number != "0" and number.startswith("0")):
        raise ProofError("no line `index N`")
    if not gap or len(number) > 20 or len(hashes) > _MOST_HASHES or any(len(part) != HASH for part in hashes):
        raise ProofError("not hashes of 32 bytes, an empty line and a checkpoint")
    return Proof(int(number), hashes, checkpoint)


def prove(folder: Path, index: int) -> Proof:
    """The proof of one entry of a log.

    Raises:
        AuditInputError: the log cannot be read, has no such entry, or does not lead to its own root.
    """
    path = folder / "checkpoint"
    try:
        note = path.read_bytes()
        checkpoint = unverified(note)
    except OSError as error:
        raise AuditInputError(f"{path}: cannot be read ({error.strerror}): give the folder of a log") from None
    except NoteError as error:
        raise AuditInputError(f"{path}: not a checkpoint ({error}): `tidegate audit verify` says more") from None
    if not 0 <= index < checkpoint.size:
        most = f"the last is {checkpoint.size - 1}" if checkpoint.size else "it is empty"
        raise AuditInputError(f"{folder}: no entry {index}: {most}")
    files = TreeFiles(folder, checkpoint.size)
    try:
        hashes = merkle.inclusion_proof(index, checkpoint.size, files.node)
        leaf = files.node(0, index)
    except (OSError, ValueError) as error:
        raise AuditInputError(f"{folder}: {error}: `tidegate audit verify` says more") from None
    if not merkle.verify_inclusion(index, checkpoint.size, leaf, hashes, checkpoint.root):
        raise AuditInputError(f"{folder}: its tiles do not lead to its root: `tidegate audit verify` says more")
    return Proof(index, tuple(hashes), note)


def verify_proof(content: bytes, keys: Sequence[Verifier], entry: bytes, file: str) -> tuple[Report, int | None]:
    """What is wrong with a proof, if anything, and the index that it is about.

    Args:
        content: of the proof file.
        keys: those that its checkpoint may be signed with.
        entry: the raw entry; one newline behind it is passed over, as `audit show --raw` prints one.
        file: the proof's name, for the findings.
    """
    report = Report()
    try:
        proof = parse_proof(content)
    except ProofError as error:
        report.add(file, "proof", f"not a proof: {error}")
        return report, None
    checkpoint = open_checkpoint(proof.checkpoint, keys, file, report)
    if checkpoint is None:
        return report, proof.index
    report.size, report.root = checkpoint.size, checkpoint.root
    candidates = {entry, entry.removesuffix(b"\n")}
    if not any(
        merkle.verify_inclusion(proof.index, checkpoint.size, merkle.leaf_hash(one), proof.hashes, checkpoint.root)
        for one in candidates
    ):
        report.add(file, "inclusion", "does not show that the entry stands there", proof.index)
    return report, proof.index
