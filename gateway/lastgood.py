"""The settings and policy that were last in force, kept for the life of a gateway.

Contract: one file in the run directory, replaced in one step. A worker that takes a dead one's place while a
broken edit lies in the files starts from it, so that a bad edit never costs a worker. The supervisor writes
it first; each worker writes it again when it takes a new snapshot (all write the same). It holds what the
settings hold (of API keys their digests), and the certificates and private keys in force: like a key file
only its owner may read it. It is gone with the run directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from gateway.identity.reading import read_key_sets
from gateway.plans import read_plans
from gateway.settings import Settings
from gateway.settings.profiles import watched
from gateway.tls import Material, read_material
from governance.documents.convert import Places
from governance.policy import policy_digest

FILE = "last-good"
"""Its name in the run directory."""


class LastGood(msgspec.Struct, frozen=True):
    """Settings as they were understood, the policy's bytes (None: they name no policy), certificates and keys."""

    settings: Settings
    policy: bytes | None
    tls: Material = Material()
    jwks: dict[str, bytes] = {}
    """The key sets of tokens' issuers, by their files' paths."""
    plans: dict[str, bytes] = {}
    """The feature plans of routes, by their files' paths."""
    model: bytes | None = None
    """The policy's Casbin model (None: the built-in one)."""
    profiles: dict[str, bytes] = {}
    """What routes' monitors hold their traffic against, by their files' paths."""


def keep(
    run_dir: Path,
    settings: Settings,
    policy_hash: str | None = None,
    tls: Material | None = None,
    jwks: dict[str, bytes] | None = None,
    plans: dict[str, bytes] | None = None,
    profiles: dict[str, bytes] | None = None,
) -> None:
    """Remember what is in force. Raises OSError.

    Args:
        run_dir: of this run.
        settings: in force.
        policy_hash: hash of the policy in force (`policy_digest`). When the file no longer holds that policy, what was
            kept before stays: the edit is judged on its own.
        tls: in force; None: what the files hold now.
        jwks: in force; None: what the files hold now.
        plans: in force; None: what the files hold now.
        profiles: in force; None: what the files hold now.
    """
    policy = None if settings.policy is None else settings.policy.file.read_bytes()
    named = None if settings.policy is None else settings.policy.model
    model = None if named is None else named.read_bytes()
    if policy is not None and policy_hash not in (None, policy_digest(policy, model)):
        return
    good = LastGood(
        settings,
        policy,
        read_material(settings)[0] if tls is None else tls,
        read_key_sets(settings, "", Places())[0] if jwks is None else jwks,
        read_plans(settings, "", Places())[0] if plans is None else plans,
        model,
        {str(path): path.read_bytes() for path in watched(settings)} if profiles is None else profiles,
    )
    restore(run_dir, msgspec.msgpack.encode(good, enc_hook=str))


def restore(run_dir: Path, content: bytes) -> None:
    """Put back what the file held. Raises OSError."""
    # One name a process: workers that swap at the same time do not write into each other's file.
    aside = run_dir / f"{FILE}.{os.getpid()}"
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as stream:
        stream.write(content)
    aside.replace(run_dir / FILE)


def load(run_dir: Path) -> LastGood:
    """What was last in force. Raises OSError."""
    return msgspec.msgpack.decode((run_dir / FILE).read_bytes(), type=LastGood, dec_hook=_path)


def canonical(settings: Settings) -> bytes:
    """One text for settings that mean the same, as they are in the files or as they were kept."""
    # A default may be the integer 3 where 3.0 comes back.
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(settings, enc_hook=str), type=Settings, dec_hook=_path)
    return msgspec.json.encode(kept, order="deterministic", enc_hook=str)


def _path(kind: type[Any], value: object) -> Any:
    return kind(value)
