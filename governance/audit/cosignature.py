"""Cosignatures: C2SP tlog-cosignature, `cosignature/v1` with Ed25519 (signature type 0x04). No I/O.

Contract: a cosignature says that its maker has seen, at that time, no larger tree of the log and none that this one
does not continue. It covers the note's text and the time, not the names of keys: a cosigner's key MUST NOT be used
for anything else.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from governance.audit.note import NoteError, key_id, key_parts, split_note

_KIND = b"\x04"
_TIME = 8
_LATEST = (1 << 63) - 1


def _message(text: bytes, when: int) -> bytes:
    return f"cosignature/v1\ntime {when}\n".encode() + text


class CosignerKey(msgspec.Struct, frozen=True):
    """A cosigner's public key with its name."""

    name: str
    public: bytes
    """32 bytes, RFC 8032."""

    @property
    def id(self) -> bytes:
        """The key ID that its signatures begin with."""
        return key_id(self.name, self.public, _KIND)

    @property
    def vkey(self) -> str:
        """`NAME+HEX+BASE64`."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_KIND + self.public).decode()}"

    def time_of(self, text: bytes, signature: bytes) -> int | None:
        """When it cosigned a note's text, in seconds since 1970; None: it did not.

        Args:
            text: of the note.
            signature: 8 bytes of time and 64 of signature.
        """
        when = int.from_bytes(signature[:_TIME], "big")
        if len(signature) != _TIME + 64 or when > _LATEST:
            return None
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature[_TIME:], _message(text, when))
        except InvalidSignature:
            return None
        return when


class Cosigner(msgspec.Struct, frozen=True):
    """A cosigner's private key with its name. Its `repr` shows no secret."""

    name: str
    seed: bytes
    """32 bytes, RFC 8032."""

    def __repr__(self) -> str:
        return f"Cosigner({self.name!r})"

    @property
    def key(self) -> CosignerKey:
        """Its public half."""
        key = Ed25519PrivateKey.from_private_bytes(self.seed)
        return CosignerKey(self.name, key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def skey(self) -> str:
        """`PRIVATE+KEY+NAME+HEX+BASE64`."""
        return f"PRIVATE+KEY+{self.name}+{self.key.id.hex()}+{base64.b64encode(_KIND + self.seed).decode()}"

    def line(self, text: bytes, when: int) -> bytes:
        """The cosignature of a note's text at a time, as the line that goes below the note."""
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(_message(text, when))
        blob = self.key.id + when.to_bytes(_TIME, "big") + signature
        return f"— {self.name} {base64.b64encode(blob).decode()}\n".encode()


def parse_cosigner_key(text: str) -> CosignerKey:
    """A cosigner's verifier key. Raises NoteError."""
    name, identity, public = key_parts(text, _KIND)
    key = CosignerKey(name, public)
    if key.id != identity:
        raise NoteError("key", "its key ID is not that of its name and key: it was changed or mistyped")
    return key


def parse_cosigner(text: str) -> Cosigner:
    """A cosigner's private key. Raises NoteError, which quotes nothing of it."""
    if not text.startswith("PRIVATE+KEY+"):
        raise NoteError("key", "a cosigner's key is written PRIVATE+KEY+NAME+HEX+BASE64")
    name, identity, seed = key_parts(text.removeprefix("PRIVATE+KEY+"), _KIND)
    cosigner = Cosigner(name, seed)
    if cosigner.key.id != identity:
        raise NoteError("key", "its key ID is not that of its name and key: it was changed or mistyped")
    return cosigner


def cosigned(note: bytes, key: CosignerKey) -> int | None:
    """When the cosigner cosigned a note; None: it has no cosignature of that key.

    Raises:
        NoteError: code `note`: it is none; `signature`: one that says to be the key's is not.
    """
    text, signatures = split_note(note)
    latest = None
    for name, data in signatures:
        if name == key.name and data[:4] == key.id:
            when = key.time_of(text, data[4:])
            if when is None:
                raise NoteError("signature", f"the cosignature of {name} does not verify")
            latest = max(when, latest or 0)
    return latest


def cosignature_lines(note: bytes, key: CosignerKey) -> bytes:
    """The lines of a note that say to be of that key. Raises NoteError."""
    text, signatures = split_note(note)
    lines = note[len(text) + 1 :].splitlines(keepends=True)
    return b"".join(
        line for line, (name, data) in zip(lines, signatures, strict=True) if (name, data[:4]) == (key.name, key.id)
    )


def vkeys(keys: Sequence[CosignerKey]) -> bytes:
    """One verifier key a line."""
    return "".join(key.vkey + "\n" for key in keys).encode()
