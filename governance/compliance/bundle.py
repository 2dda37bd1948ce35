"""A folder of evidence that is verified offline, with the log's public key and nothing of the gateway's.

    index.html, report.json          for people, for programs
    records/N.json, N.tlog-proof     the raw entry N of the log, and that it stands there (c2sp.org/tlog-proof@v1)
    log/checkpoint, log/log.vkey     what the log says of itself, and its public keys
    given/...                        what was handed in, as it came
    SHA256SUMS                       of every file but itself, as sha256sum(1) writes and checks it

Contract: the folder is there whole or not at all: it is made aside and renamed. It may name people, so that nobody but
its owner can read it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from governance.audit.files import sync_folder
from governance.audit.proof import Proof
from governance.audit.show import as_object
from governance.audit.treefiles import TreeFiles
from governance.compliance.report import Cited, Source
from governance.errors import AuditInputError
from kernels import merkle

SUMS = "SHA256SUMS"
_READ = 1 << 20


class Bundle:
    """A bundle that is being made.

    Args:
        output: where it is to be; nothing may be there but an empty folder.

    Raises:
        AuditInputError: something is there.
        OSError: it cannot be written.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        if (
            output.is_symlink()
            or (output.exists() and not output.is_dir())
            or (output.is_dir() and any(output.iterdir()))
        ):
            raise AuditInputError(f"{output}: is there already: name a folder that is not, or an empty one")
        output.parent.mkdir(parents=True, exist_ok=True)
        self._aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._aside, ignore_errors=True)

    def put(self, name: str, content: bytes) -> None:
        """One file. Raises OSError."""
        path = self._aside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    def put_json(self, name: str, value: Any) -> None:
        """One file of JSON, indented. Raises OSError."""
        self.put(name, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")

    def put_log(self, log: Source) -> None:
        """The checkpoint and the keys. Raises OSError."""
        self.put("log/checkpoint", log.note)
        self.put("log/log.vkey", "".join(key.vkey + "\n" for key in log.keys).encode())

    def copy(self, folder: Path, names: Sequence[str], below: str) -> None:
        """Files of another folder, as they are. Raises OSError."""
        for name in names:
            to = self._aside / below / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, to)

    def cite(self, log: Source, wanted: Mapping[int, Sequence[str]]) -> tuple[list[Cited], list[str]]:
        """Records with their proofs: what is in the bundle of each, and what could not be.

        Args:
            log: at one size.
            wanted: index of each record, and the names of the queries that cite it.

        Raises:
            OSError: the bundle cannot be written.
            AuditInputError: an entry cannot be read.
        """
        files = TreeFiles(log.folder, log.checkpoint.size)
        cited, gaps = [], []
        for index in sorted(wanted):
            try:
                entry = files.entry(index)
            except (OSError, ValueError) as error:
                raise AuditInputError(f"{log.folder}: {error}: `tidegate audit verify` says more") from None
            name = f"records/{index}"
            self.put(f"{name}.json", entry)
            proof = _proof(log, files, index, entry)
            if proof is None:
                gaps.append(f"Record {index}: no proof can be made, since the log does not lead from it to its root.")
            else:
                self.put(f"{name}.tlog-proof", proof)
            cited.append(
                Cited(
                    index=index,
                    entry=f"{name}.json",
                    proof=None if proof is None else f"{name}.tlog-proof",
                    record=as_object(index, entry),
                    queries=sorted(wanted[index]),
                )
            )
        return cited, gaps

    def seal(self) -> None:
        """Sum up every file and put the folder in its place. Raises OSError."""
        files = sorted(path for path in self._aside.rglob("*") if path.is_file())
        lines = [f"{_sum(path)}  {path.relative_to(self._aside).as_posix()}\n" for path in files]
        self.put(SUMS, "".join(lines).encode())
        for folder in (self._aside, *(path for path in self._aside.rglob("*") if path.is_dir())):
            sync_folder(folder)
        self._aside.rename(self._output)
        sync_folder(self._output.parent)


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def _proof(log: Source, files: TreeFiles, index: int, entry: bytes) -> bytes | None:
    """The proof of an entry; None: the log's tiles do not lead from it to the root."""
    size = log.checkpoint.size
    try:
        hashes = merkle.inclusion_proof(index, size, files.node)
    except (OSError, ValueError):
        return None
    if not merkle.verify_inclusion(index, size, merkle.leaf_hash(entry), hashes, log.checkpoint.root):
        return None
    return Proof(index, tuple(hashes), log.note).encode()
