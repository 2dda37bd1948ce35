"""Edits of a policy that nobody has to approve (`policy.approvals: 0`): kept, so that webhooks tell of them.

Contract: `state_dir/policy/edits.jsonl` has a line for each policy that took force, while there are `webhooks`. Workers
append it, durably and under a lock, each policy once; what the last line does not say when the gateway starts was
edited while it stood still, or just before it was killed. The first line is where it all begins, and is not told.
A torn last line was never written.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import msgspec

from gateway import logs
from gateway.policy_in_force import ledger_of
from gateway.settings import Settings
from governance.audit.files import locked, make_folder, sync_folder, write_all
from governance.policy.changes import Edit

_log = logs.get("policy")
_decoder = msgspec.json.Decoder(Edit)


def edits_file(settings: Settings) -> Path | None:
    """Where they are; None: edits are not told of."""
    policy = settings.policy
    if settings.webhooks is None or policy is None or policy.approvals:
        return None
    return ledger_of(settings).file.with_name("edits.jsonl")


def took_force(settings: Settings, hashed: str) -> None:
    """A worker serves by this policy from now on. Blocks, never raises."""
    path = edits_file(settings)
    if path is None:
        return
    try:
        make_folder(path.parent)
        with locked(path.with_suffix(".lock")):
            _append(path, hashed)
    except OSError as error:
        why = error.strerror or str(error)
        _log.error("webhooks may not be told of an edit, %s: %s", path, why, extra={"fields": {"policy": hashed}})


def _append(path: Path, hashed: str) -> None:
    found, end = _parsed(path)
    before = found[-1].hash if found else None
    if before == hashed:
        return
    line = msgspec.json.encode(Edit(len(found), dt.datetime.now(dt.UTC), hashed, before)) + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.ftruncate(descriptor, end)
        os.lseek(descriptor, end, os.SEEK_SET)
        write_all(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def edits(path: Path) -> list[Edit]:
    """All of them, in order. Raises OSError: also when a line is none, which then has to be restored or removed."""
    return _parsed(path)[0]


def _parsed(path: Path) -> tuple[list[Edit], int]:
    """With where the next line begins."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    end = data.rfind(b"\n") + 1
    found = []
    for number, line in enumerate(data[:end].splitlines()):
        try:
            found.append(_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise OSError(f"{path}:{number + 1}: damaged: restore it from a backup, or remove it") from None
    return found, end
