"""Checkpoints: C2SP tlog-checkpoint v1.0.0, what a log says of itself at one size. No I/O."""

from __future__ import annotations

import base64

import msgspec

from governance.audit.note import NoteError, decode_base64, split_note


class Checkpoint(msgspec.Struct, frozen=True):
    """Origin, size and root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> bytes:
        """The note's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


def parse_checkpoint(text: bytes) -> Checkpoint:
    """A checkpoint from the text of its note, extension lines passed over.

    Raises:
        NoteError: code `checkpoint`.
    """
    lines = text.decode().split("\n")
    # The text ends with a newline, so that the last of them is empty.
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise NoteError("checkpoint", "a checkpoint is origin, size and root, each on its line")
    origin, size, root = lines[:3]
    if not (size.isascii() and size.isdigit()) or (size != "0" and size.startswith("0")) or int(size) >= 1 << 63:
        raise NoteError("checkpoint", f"not a tree size: {size[:40]!r}")
    try:
        digest = decode_base64(root)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise NoteError("checkpoint", f"not a root hash: {root[:80]!r}")
    return Checkpoint(origin, int(size), digest)


def unverified(note: bytes) -> Checkpoint:
    """What a signed checkpoint says, whoever signed it. Raises NoteError."""
    return parse_checkpoint(split_note(note)[0])
