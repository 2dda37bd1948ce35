"""Where everything of the audit log lies below a state directory.

`audit/` is the log that anyone may copy. `audit-private/` (0700) is what makes it: keys, write-ahead files, and
`head`, the one file whose renaming commits a step of the sequencer.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from governance.audit.files import make_folder


class Layout(msgspec.Struct, frozen=True):
    """The paths."""

    state_dir: Path

    @property
    def log(self) -> Path:
        """The C2SP tlog-tiles log."""
        return self.state_dir / "audit"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that is published."""
        return self.log / "checkpoint"

    @property
    def vkey(self) -> Path:
        """The public keys, one a line."""
        return self.log / "log.vkey"

    @property
    def pruned(self) -> Path:
        """Where the record is that states how much of the log is gone."""
        return self.log / "pruned"

    @property
    def private(self) -> Path:
        """What is nobody else's."""
        return self.state_dir / "audit-private"

    @property
    def head(self) -> Path:
        """The state of the sequencer."""
        return self.private / "head"

    @property
    def lock(self) -> Path:
        """Held by the sequencer."""
        return self.private / "sequencer.lock"

    @property
    def prune_lock(self) -> Path:
        """Held while entries are pruned or a legal hold is put on: one waits for the other."""
        return self.private / "prune.lock"

    @property
    def hold(self) -> Path:
        """Why nothing may be pruned, while it is there: a legal hold on the whole log."""
        return self.private / "hold"

    @property
    def broken(self) -> Path:
        """Says, while it is there, why the sequencer stopped for good."""
        return self.private / "broken"

    @property
    def wal(self) -> Path:
        """The write-ahead files."""
        return self.private / "wal"

    @property
    def signing_key(self) -> Path:
        """The keys that sign checkpoints, one a line."""
        return self.private / "log.key"

    @property
    def witness_key(self) -> Path:
        """The key that cosigns other logs' checkpoints."""
        return self.private / "witness.key"

    @property
    def witness_vkey(self) -> Path:
        """Its public half."""
        return self.log / "witness.vkey"

    def witnessed(self, key_id: bytes) -> Path:
        """The latest checkpoint of this log that a witness has cosigned, with its cosignature."""
        return self.log / "witnessed" / key_id.hex()

    @property
    def digest_key(self) -> Path:
        """The key of the digests, hexadecimal."""
        return self.private / "digest.key"

    @property
    def master_key(self) -> Path:
        """The key that wraps the keys of the vault, hexadecimal."""
        return self.private / "master.key"

    @property
    def vault(self) -> Path:
        """The key of each subject, wrapped."""
        return self.private / "vault.db"

    def make_private(self) -> None:
        """Make the folders that nobody else may look into. Raises OSError."""
        make_folder(self.state_dir)
        make_folder(self.private, 0o700)
        make_folder(self.wal, 0o700)
