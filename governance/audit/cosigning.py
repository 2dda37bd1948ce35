"""Having one's own checkpoints cosigned: C2SP tlog-witness, the side that asks.

Contract: a thread of its own, in one process of a state directory (a file lock), apart from the sequencer: a witness
that is slow or away delays nothing. What a witness has cosigned last is in `audit/witnessed/KEY-ID`, the checkpoint
with the log's signature and its own. A witness that says that this log was rewritten is logged as critical; nothing is
stopped for it, since it may be the one that is wrong.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from governance.audit.checkpoint import Checkpoint, unverified
from governance.audit.cosignature import CosignerKey, cosignature_lines, cosigned
from governance.audit.files import make_folder, replace, try_lock
from governance.audit.layout import Layout
from governance.audit.note import NoteError, split_note
from governance.audit.treefiles import TreeFiles
from governance.audit.witness import MOST_BYTES, AddCheckpoint
from kernels import merkle

_log = logging.getLogger("tidegate.audit")

INTERVAL_S = 2.0
"""Between two looks at the checkpoint: what was rewritten since the last cosignature is not found."""
_TIMEOUT_S = 5.0
_MOST_TRIES = 3
"""Times that one checkpoint is offered in a row: another process may be told a newer size in between."""


class WitnessAddress(msgspec.Struct, frozen=True):
    """A witness that is asked."""

    url: str
    """Its submission prefix."""
    key: CosignerKey
    ca: Path | None = None
    """Authorities that its certificate must come from (PEM); None: the system's."""


class WitnessTrouble(Exception):
    """A witness did not cosign. `grave`: it says, or shows, that this log does not continue what it has seen."""

    def __init__(self, message: str, *, grave: bool = False) -> None:
        super().__init__(message)
        self.grave = grave


class Cosigning:
    """Asks witnesses, while the gateway runs. Without any it does nothing."""

    def __init__(self, layout: Layout, witnesses: Sequence[WitnessAddress]) -> None:
        self._layout = layout
        self._witnesses = witnesses
        self._sizes: dict[CosignerKey, int] = {}
        self._texts: dict[CosignerKey, bytes] = {}
        self._trouble: dict[CosignerKey, str] = {}
        self._lock: int | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-witnesses", daemon=True)

    def start(self) -> None:
        """Begin to ask. Never waits."""
        if self._witnesses:
            self._thread.start()

    def close(self) -> None:
        """End it. Waits a little for the answer of a witness."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT_S)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL_S):
            with contextlib.suppress(OSError):  # the disk is the sequencer's to complain about
                self.step()

    def step(self) -> None:
        """Have the published checkpoint cosigned by every witness that has not yet. Raises OSError."""
        if self._lock is None:
            self._lock = try_lock(self._layout.private / "cosigning.lock")
        if self._lock is None:
            return
        note = self._layout.checkpoint.read_bytes()
        text, _ = split_note(note)
        for witness in self._witnesses:
            if self._closing.is_set() or self._texts.get(witness.key) == text:
                continue
            try:
                line = self._ask(witness, note)
            except WitnessTrouble as error:
                self._told(witness, error)
                continue
            path = self._layout.witnessed(witness.key.id)
            make_folder(path.parent)
            replace(path, note + line)
            self._texts[witness.key] = text
            self._told(witness, None)

    def _told(self, witness: WitnessAddress, error: WitnessTrouble | None) -> None:
        before = self._trouble.get(witness.key, "")
        now = "" if error is None else str(error)
        self._trouble[witness.key] = now
        if now == before:
            return
        if error is None:
            _log.info("the witness %s cosigns again", witness.key.name)
        else:
            _log.log(logging.CRITICAL if error.grave else logging.WARNING, "the witness %s %s", witness.key.name, now)

    def _ask(self, witness: WitnessAddress, note: bytes) -> bytes:
        """The witness's cosignature of a checkpoint. Raises WitnessTrouble, OSError."""
        checkpoint = unverified(note)
        files = TreeFiles(self._layout.log, checkpoint.size)
        old = self._sizes.get(witness.key)
        if old is None:
            old = self._remembered(witness, checkpoint)
        for _ in range(_MOST_TRIES):
            if old > checkpoint.size:
                raise WitnessTrouble(
                    f"has seen a log of size {old}, and this one is of size {checkpoint.size}: it was taken back",
                    grave=True,
                )
            proof = tuple(merkle.consistency_proof(old, checkpoint.size, files.node))
            status, kind, body = _post(witness, AddCheckpoint(old, proof, note).encode())
            if status == 200:
                line = _cosignature(note, body, witness.key)
                self._sizes[witness.key] = checkpoint.size
                return line
            if status == 409 and kind == "text/x.tlog.size" and body.strip().isdigit():
                # Its body has a bound, and a size that no log can have is a larger one.
                old = self._sizes[witness.key] = int(body[:20])
                continue
            if status in (409, 422):
                raise WitnessTrouble(
                    f"has cosigned another history: its size {old} is not the beginning of this log", grave=True
                )
            raise WitnessTrouble(f"does not cosign: it answers {status}")
        raise WitnessTrouble("does not cosign: what it has seen changes with each answer")

    def _remembered(self, witness: WitnessAddress, checkpoint: Checkpoint) -> int:
        """The size that it is thought to have seen; it corrects a wrong one."""
        try:
            return min(unverified(self._layout.witnessed(witness.key.id).read_bytes()).size, checkpoint.size)
        except (FileNotFoundError, NoteError):
            return 0


def _cosignature(note: bytes, body: bytes, key: CosignerKey) -> bytes:
    try:
        whole = note + body
        if cosigned(whole, key) is None:
            raise WitnessTrouble("signs with another key than the settings name")
        return cosignature_lines(whole, key)
    except NoteError as error:
        raise WitnessTrouble(f"answers what is no cosignature ({error})") from None


def _post(witness: WitnessAddress, body: bytes) -> tuple[int, str, bytes]:
    """Status, content type and body. Raises WitnessTrouble."""
    url = urlsplit(witness.url)
    host = url.hostname or ""
    try:
        made = http.client.HTTPConnection(host, url.port, timeout=_TIMEOUT_S)
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=witness.ca)
            made = http.client.HTTPSConnection(host, url.port, timeout=_TIMEOUT_S, context=context)
        with contextlib.closing(made):
            made.request("POST", url.path.rstrip("/") + "/add-checkpoint", body, {"Content-Type": "text/plain"})
            answer = made.getresponse()
            kind = (answer.getheader("content-type") or "").partition(";")[0].strip()
            return answer.status, kind, answer.read(MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise WitnessTrouble(f"cannot be asked: {type(error).__name__}") from None
