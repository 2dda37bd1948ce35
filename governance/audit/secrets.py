"""The keys of an audit log that are nobody else's, and what is computed with them.

Contract: a key is made at first use, 0600, and refused when others may read it. Digests are HMAC-SHA-256
(RFC 2104): without the key nobody can find out by trying whether some input was asked about.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from governance.audit.files import create_private, make_folder, read_private, replace
from governance.audit.layout import Layout
from governance.audit.note import NoteError, Signer, parse_skey, valid_name
from governance.errors import AuditInputError


def secret_key(path: Path) -> bytes:
    """The 32 bytes of a key file, which is made when there is none.

    Raises:
        AuditInputError: it is no such file, or others may read it.
        OSError: it cannot be made.
    """
    if not path.exists():
        create_private(path, os.urandom(32).hex().encode() + b"\n")
    try:
        key = bytes.fromhex(read_private(path).decode())
    except (ValueError, UnicodeDecodeError):
        key = b""
    if len(key) != 32:
        raise AuditInputError(f"{path}: not a key: 64 hexadecimal digits; restore it from a copy")
    return key


def new_origin() -> str:
    """A name for a log that no other has: the host's, and a random part."""
    host = "".join(char for char in socket.gethostname() if char.isalnum() or char in ".-") or "localhost"
    return f"{host}/tidegate/{os.urandom(4).hex()}"


def signing_keys(layout: Layout, origin: str = "") -> tuple[Signer, ...]:
    """The keys that sign the log's checkpoints, the first of which names it.

    Args:
        layout: of the log.
        origin: the log's name when it is made; empty: one is made up.

    Raises:
        AuditInputError: the file is not one of keys, others may read it, or the log has another name.
        OSError: it cannot be made.
    """
    path = layout.signing_key
    if not path.exists():
        name = origin or new_origin()
        if not valid_name(name):
            raise AuditInputError(f"audit.origin: {name!r} is no name: no blanks, no `+`, not empty")
        create_private(path, Signer(name, os.urandom(32)).skey.encode() + b"\n")
    try:
        lines = read_private(path).decode().splitlines()
        signers = tuple(parse_skey(line.strip()) for line in lines if line.strip())
    except (NoteError, UnicodeDecodeError) as error:
        raise AuditInputError(f"{path}: not a signing key ({error}); restore it from a copy") from None
    names = {signer.name for signer in signers}
    if len(names) != 1:
        raise AuditInputError(f"{path}: it holds keys of {len(names)} names and not of one log")
    if origin and origin not in names:
        raise AuditInputError(
            f"{path}: the log of this state_dir is named {signers[0].name!r} and not {origin!r}: "
            "a log keeps its name; set `audit.origin` back, or use another state_dir"
        )
    return signers


def publish_vkeys(layout: Layout, signers: Iterable[Signer]) -> None:
    """Put the public keys where auditors find them. Raises OSError."""
    make_folder(layout.log)
    content = "".join(signer.verifier.vkey + "\n" for signer in signers).encode()
    try:
        if layout.vkey.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    replace(layout.vkey, content, alone=False)
