"""What each worker has in force, told to all of them: `RUN_DIR/snapshot-SLOT`.

Contract: a worker writes its own file whole, when it starts, swaps, or refuses an edit; any worker reads all. So
that one page shows all of them, also one that lags. A dead worker's file counts for nothing.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.metrics import process
from governance.types import Finding

_PREFIX = "snapshot-"


class RefusedFinding(msgspec.Struct):
    """One reason against an edit."""

    file: str
    """Relative to the folder of the settings; its name alone when it lies elsewhere."""
    line: int
    column: int
    code: str
    message: str


class Refusal(msgspec.Struct):
    """The last edit that did not hold."""

    at: dt.datetime
    standing: bool
    """Whether it still lies in the files: nothing that holds has been read since."""
    findings: list[RefusedFinding]


class InForce(msgspec.Struct):
    """One worker's word."""

    worker: int
    """Its slot."""
    hash: str
    """Of settings, policy, certificates and keys."""
    policy: str
    since: dt.datetime
    refused: Refusal | None


class _Signed(msgspec.Struct):
    pid: int
    started: int
    """In clock ticks since boot: another process may have the id by now."""
    said: InForce


def refusal(folder: Path, findings: Sequence[Finding]) -> Refusal:
    """Of the errors among these findings, now."""
    errors = [finding for finding in findings if finding.severity == "error"]
    return Refusal(
        dt.datetime.now(dt.UTC),
        True,
        [RefusedFinding(_within(folder, f.file), f.line, f.column, f.code, f.message) for f in errors],
    )


def _within(folder: Path, file: str) -> str:
    path = Path(file)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name


def tell(run_dir: Path, said: InForce) -> None:
    """Say what this process has in force. Raises OSError."""
    path = run_dir / f"{_PREFIX}{said.worker}"
    aside = path.with_name(f".{path.name}")
    pid = os.getpid()
    aside.write_bytes(msgspec.json.encode(_Signed(pid, process.start_ticks(pid) or 0, said)))
    aside.replace(path)


def told(run_dir: Path) -> list[InForce]:
    """What every worker that lives has in force, by slot."""
    found = []
    for path in run_dir.glob(f"{_PREFIX}*"):
        try:
            signed = msgspec.json.decode(path.read_bytes(), type=_Signed)
        except (OSError, msgspec.DecodeError):
            continue  # gone since the listing
        if process.start_ticks(signed.pid) == signed.started:
            found.append(signed.said)
    return sorted(found, key=lambda said: said.worker)


def withdraw(run_dir: Path, worker: int) -> None:
    """This worker leaves."""
    (run_dir / f"{_PREFIX}{worker}").unlink(missing_ok=True)
