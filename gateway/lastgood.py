"""The settings and policy that were last in force, kept for the life of a gateway.

Contract: one file in the run directory, replaced in one step. A worker that takes a dead one's place while a
broken edit lies in the files starts from it, so that a bad edit never costs a worker. The supervisor writes
it first; each worker writes it again when it takes a new snapshot (all write the same). It holds what the
settings hold, digests of keys and no secrets, and is gone with the run directory.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from gateway.settings import Settings

_FILE = "last-good"


class LastGood(msgspec.Struct, frozen=True):
    """Settings as they were understood, and the policy's bytes (None: they name no policy)."""

    settings: Settings
    policy: bytes | None


def keep(run_dir: Path, settings: Settings, policy_hash: str | None = None) -> None:
    """Remember what is in force. Raises OSError.

    Args:
        run_dir: of this run.
        settings: in force.
        policy_hash: SHA-256 of the policy's bytes in force. When the file no longer holds that policy, what was
            kept before stays: the edit is judged on its own.
    """
    policy = None if settings.policy is None else settings.policy.file.read_bytes()
    if policy is not None and policy_hash not in (None, hashlib.sha256(policy).hexdigest()):
        return
    # One name a process: workers that swap at the same time do not write into each other's file.
    aside = run_dir / f"{_FILE}.{os.getpid()}"
    aside.write_bytes(msgspec.msgpack.encode(LastGood(settings, policy), enc_hook=str))
    aside.replace(run_dir / _FILE)


def load(run_dir: Path) -> LastGood:
    """What was last in force. Raises OSError."""
    return msgspec.msgpack.decode((run_dir / _FILE).read_bytes(), type=LastGood, dec_hook=_path)


def _path(kind: type[Any], value: object) -> Any:
    return kind(value)
