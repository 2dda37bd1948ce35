"""A witness of other gateways' logs: C2SP tlog-witness, the side that is asked.

Contract: of each log it knows, the latest checkpoint that it cosigned is kept in `audit-private/witness/`, and it
cosigns nothing that does not continue it, nor anything smaller: comparing and keeping are one step under a file
lock, which is on the disk before the cosignature leaves. A checkpoint that its log has signed and that does not
continue what was seen is kept beside it, once: two signatures that contradict each other are evidence. Everything
here blocks for the disk.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from governance.audit.checkpoint import Checkpoint, parse_checkpoint, unverified
from governance.audit.cosignature import Cosigner, parse_cosigner, vkeys
from governance.audit.files import create_private, make_folder, read_private, replace
from governance.audit.layout import Layout
from governance.audit.note import NoteError, Verifier, decode_base64, open_note, split_note
from governance.audit.secrets import signing_keys
from governance.errors import AuditBroken, AuditInputError
from kernels import merkle

MOST_BYTES = 64 << 10
"""Of a request: a proof has up to 63 hashes, a checkpoint a few signatures."""
_MOST_HASHES = 63
_MOST_KEPT = 64
"""Checkpoints that contradict what was cosigned."""
_SIZE_TYPE = "text/x.tlog.size"


class AddCheckpoint(msgspec.Struct, frozen=True):
    """What a witness is asked: to cosign a checkpoint."""

    old: int
    """Size of the latest one that it cosigned."""
    proof: tuple[bytes, ...]
    """RFC 6962, section 2.1.2, from there to the checkpoint."""
    note: bytes
    """The checkpoint."""

    def encode(self) -> bytes:
        """The body of the request."""
        lines = [f"old {self.old}", *(base64.b64encode(part).decode() for part in self.proof)]
        return "".join(line + "\n" for line in lines).encode() + b"\n" + self.note


def parse_request(body: bytes) -> AddCheckpoint:
    """The body of a request. Raises ValueError."""
    head, gap, note = body.partition(b"\n\n")
    first, *hashes = head.decode("ascii").split("\n")
    word, _, number = first.partition(" ")
    if word != "old" or not number.isdigit() or number != str(int(number[:20])):
        raise ValueError("its first line is not `old N`")
    proof = tuple(map(decode_base64, hashes))
    if not gap or len(proof) > _MOST_HASHES or any(len(part) != 32 for part in proof):
        raise ValueError("not a proof of hashes, an empty line and a checkpoint")
    return AddCheckpoint(int(number), proof, note)


class Suspicion(msgspec.Struct, frozen=True):
    """A checkpoint that a log has signed, and that does not continue the one that was cosigned."""

    origin: str
    cosigned: int
    """Size of that one."""
    shown: int
    """Size of what was shown now."""
    proved: bool
    """Two signed roots of one size: nothing else explains it. Else whoever asked may have sent a wrong proof."""


class Answer(msgspec.Struct, frozen=True):
    """What the witness says: an HTTP answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    suspicion: Suspicion | None = None
    """What somebody has to look at, the first time that it is seen."""


def cosigner_of(layout: Layout, origin: str = "") -> Cosigner:
    """The key with which a gateway cosigns, made at first use. Raises AuditInputError, OSError."""
    path = layout.witness_key
    if not path.exists():
        name = f"{signing_keys(layout, origin)[0].name}/witness"
        create_private(path, Cosigner(name, os.urandom(32)).skey.encode() + b"\n")
    try:
        cosigner = parse_cosigner(read_private(path).decode().strip())
    except (NoteError, UnicodeDecodeError) as error:
        raise AuditInputError(f"{path}: not a cosigner's key ({error}); restore it from a copy") from None
    make_folder(layout.log)
    content = vkeys([cosigner.key])
    if not layout.witness_vkey.exists() or layout.witness_vkey.read_bytes() != content:
        replace(layout.witness_vkey, content, alone=False)
    return cosigner


class Witness:
    """One gateway as a witness; every worker has one, and they share what they have seen."""

    def __init__(
        self, layout: Layout, logs: Sequence[Verifier], origin: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        """Open it, or make its key.

        Args:
            layout: of the gateway's own state directory.
            logs: keys of the logs that it cosigns.
            origin: of the gateway's own log, which names the cosigner when its key is made.
            clock: seconds since 1970.

        Raises:
            AuditInputError: the key file cannot be used.
            OSError: the folder cannot be written.
        """
        layout.make_private()
        self._folder = layout.private / "witness"
        make_folder(self._folder, 0o700)
        self._cosigner = cosigner_of(layout, origin)
        self._logs: Mapping[str, list[Verifier]] = {
            name: [key for key in logs if key.name == name] for name in {key.name for key in logs}
        }
        self._clock = clock

    def add_checkpoint(self, body: bytes) -> Answer:
        """Cosign a checkpoint, or say why not. Blocks.

        Raises:
            AuditBroken: what is kept of that log cannot be read.
            OSError: it cannot be kept.
        """
        try:
            request = parse_request(body)
            text, _ = split_note(request.note)
            checkpoint = parse_checkpoint(text)
        except (NoteError, ValueError) as error:
            return Answer(400, f"{error}\n".encode())
        keys = self._logs.get(checkpoint.origin)
        if keys is None:
            return Answer(404, b"no log of this origin is known here\n")
        try:
            open_note(request.note, keys)
        except NoteError as error:
            return Answer(403, f"{error}\n".encode())
        if request.old > checkpoint.size:
            return Answer(400, b"the old size is beyond the checkpoint's\n")
        path = self._folder / hashlib.sha256(checkpoint.origin.encode()).hexdigest()
        with _lock(path.with_suffix(".lock")):
            latest = self._latest(path, checkpoint.origin)
            if request.old != latest.size:
                return Answer(409, b"%d\n" % latest.size, _SIZE_TYPE)
            refused = self._continues(path, latest, checkpoint, request)
            if refused is not None:
                return refused
            replace(path, request.note, 0o600)
        return Answer(200, self._cosigner.line(text, int(self._clock())))

    def _latest(self, path: Path, origin: str) -> Checkpoint:
        try:
            return unverified(path.read_bytes())
        except FileNotFoundError:
            return Checkpoint(origin, 0, merkle.EMPTY_ROOT)
        except NoteError as error:
            # To begin anew would be to forget what was seen, which is all that a witness is for.
            raise AuditBroken(f"{path}: damaged ({error}): restore it from a copy") from None

    def _continues(
        self, path: Path, latest: Checkpoint, checkpoint: Checkpoint, request: AddCheckpoint
    ) -> Answer | None:
        """None: the checkpoint continues the latest one."""
        if checkpoint.size == 0 and checkpoint.root != merkle.EMPTY_ROOT:
            return Answer(422, b"not the root of the empty tree\n")
        if checkpoint.size == latest.size:
            if checkpoint.root != latest.root:
                return self._suspect(409, path, latest, request, checkpoint)
            return Answer(422, b"a proof between equal sizes is empty\n") if request.proof else None
        if latest.size == 0:
            return Answer(422, b"a proof from size 0 is empty\n") if request.proof else None
        if merkle.verify_consistency(latest.size, checkpoint.size, latest.root, checkpoint.root, request.proof):
            return None
        return self._suspect(422, path, latest, request, checkpoint)

    @staticmethod
    def _suspect(status: int, path: Path, latest: Checkpoint, request: AddCheckpoint, shown: Checkpoint) -> Answer:
        kept = path.with_suffix(f".contradicts-{shown.root.hex()[:16]}")
        suspicion = None
        # Anyone may send a wrong proof beside a checkpoint that is as it should be, again and again.
        if not kept.exists() and len(list(path.parent.glob("*.contradicts-*"))) < _MOST_KEPT:
            replace(kept, request.note, 0o600)
            suspicion = Suspicion(shown.origin, latest.size, shown.size, proved=status == 409)
        return Answer(status, b"it does not continue what was cosigned\n", suspicion=suspicion)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
