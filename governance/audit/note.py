"""Signed notes and their keys: C2SP signed-note v1.0.0, with Ed25519 (signature type 0x01).

Contract: `open_note` returns only texts that a given key has signed. Signatures of unknown keys are ignored; one
of a known key that does not verify spoils the note, as the specification asks. No I/O.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import unicodedata
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_ED25519 = b"\x01"
_MOST_BYTES = 1 << 20
"""The specification wants at least 16 signatures taken, each of up to 5 kB; this is a bound against nonsense."""
_DASH = "— "


class NoteError(ValueError):
    """A note, or a key, that is not one, or that none of the keys has signed. `code` is a finding's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def decode_base64(text: str) -> bytes:
    """Standard base64 with its padding and nothing else (RFC 4648, section 4). Raises ValueError."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {text[:40]!r}") from error
    if base64.b64encode(data).decode() != text:
        raise ValueError(f"not base64 in its one form: {text[:40]!r}")
    return data


def valid_name(name: str) -> bool:
    """Whether it may name a key: not empty, no Unicode spaces, no plus, no control characters."""
    return bool(name) and not any(
        char == "+" or char.isspace() or unicodedata.category(char) in {"Cc", "Cs"} for char in name
    )


def key_id(name: str, public: bytes, kind: bytes = _ED25519) -> bytes:
    """The first four bytes of SHA-256(name || LF || type || public key)."""
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


class Verifier(msgspec.Struct, frozen=True):
    """A public key with its name."""

    name: str
    public: bytes
    """32 bytes, RFC 8032."""

    @property
    def id(self) -> bytes:
        """The key ID that its signatures begin with."""
        return key_id(self.name, self.public)

    @property
    def vkey(self) -> str:
        """`NAME+HEX+BASE64`, what an auditor is given."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    def verifies(self, text: bytes, signature: bytes) -> bool:
        """Whether this key made the 64-byte signature over the text."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except InvalidSignature:
            return False
        return True


class Signer(msgspec.Struct, frozen=True):
    """A private key with its name. Its `repr` shows no secret."""

    name: str
    seed: bytes
    """32 bytes, RFC 8032."""

    def __repr__(self) -> str:
        return f"Signer({self.name!r})"

    @property
    def verifier(self) -> Verifier:
        """Its public half."""
        key = Ed25519PrivateKey.from_private_bytes(self.seed)
        return Verifier(self.name, key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def skey(self) -> str:
        """`PRIVATE+KEY+NAME+HEX+BASE64`, the form that Go's `sumdb/note` and Tessera read."""
        return f"PRIVATE+KEY+{self.name}+{self.verifier.id.hex()}+{base64.b64encode(_ED25519 + self.seed).decode()}"

    def signature_line(self, text: bytes) -> bytes:
        """The line that goes below a note's text."""
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text)
        return f"{_DASH}{self.name} {base64.b64encode(self.verifier.id + signature).decode()}\n".encode()


def key_parts(text: str, kind: bytes = _ED25519) -> tuple[str, bytes, bytes]:
    """Name, key ID and the 32 bytes of a key of one signature type. Raises NoteError."""
    parts = text.split("+", 2)  # base64 has pluses of its own
    if len(parts) != 3 or not valid_name(parts[0]):
        raise NoteError("key", "a key is written NAME+HEX+BASE64")
    try:
        identity, material = bytes.fromhex(parts[1]), decode_base64(parts[2])
    except ValueError:
        raise NoteError("key", "a key is written NAME+HEX+BASE64") from None
    if len(parts[1]) != 8 or material[:1] != kind or len(material) != 33:
        raise NoteError("key", f"not an Ed25519 key (type 0x{kind.hex()}, 32 bytes)")
    return parts[0], identity, material[1:]


def parse_vkey(text: str) -> Verifier:
    """A verifier key. Raises NoteError."""
    name, identity, public = key_parts(text)
    if key_id(name, public) != identity:
        raise NoteError("key", "its key ID is not that of its name and key: it was changed or mistyped")
    return Verifier(name, public)


def parse_skey(text: str) -> Signer:
    """A signing key. Raises NoteError, which quotes nothing of it."""
    if not text.startswith("PRIVATE+KEY+"):
        raise NoteError("key", "a signing key is written PRIVATE+KEY+NAME+HEX+BASE64")
    name, identity, seed = key_parts(text.removeprefix("PRIVATE+KEY+"))
    signer = Signer(name, seed)
    if not hmac.compare_digest(signer.verifier.id, identity):
        raise NoteError("key", "its key ID is not that of its name and key: it was changed or mistyped")
    return signer


def sign_note(text: bytes, signers: Sequence[Signer]) -> bytes:
    """The text, which ends with a newline, with one signature of each signer."""
    return text + b"\n" + b"".join(signer.signature_line(text) for signer in signers)


def split_note(note: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The text of a note and its signatures as (name, key ID and signature), none of them verified.

    Raises:
        NoteError: it is no note; code `note`.
    """
    if len(note) > _MOST_BYTES:
        raise NoteError("note", "too long for a note")
    try:
        decoded = note.decode()
    except UnicodeDecodeError:
        raise NoteError("note", "not UTF-8") from None
    if any(char < " " and char != "\n" for char in decoded):
        raise NoteError("note", "control characters")
    text, gap, below = decoded.rpartition("\n\n")
    if not gap or not below.endswith("\n"):
        raise NoteError("note", "no signatures below an empty line")
    found = []
    for line in below[:-1].split("\n"):
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        try:
            data = decode_base64(encoded)
        except ValueError:
            data = b""
        if not line.startswith(_DASH) or not space or not valid_name(name) or len(data) < 5:
            raise NoteError("note", "a signature line that is none")
        found.append((name, data))
    return (text + "\n").encode(), found


def open_note(note: bytes, keys: Sequence[Verifier]) -> bytes:
    """The text of a note that at least one of the keys has signed.

    Raises:
        NoteError: code `note`: it is none; `signature`: a known key's signature is wrong; `unsigned`: no known
            key's is on it.
    """
    text, signatures = split_note(note)
    known = {(key.name, key.id): key for key in keys}
    good = False
    for name, data in signatures:
        key = known.get((name, data[:4]))
        if key is None:
            continue
        if not key.verifies(text, data[4:]):
            raise NoteError("signature", f"the signature of {name} does not verify")
        good = True
    if not good:
        names = ", ".join(sorted({name for name, _ in signatures}))
        raise NoteError("unsigned", f"not signed by the given key (signed by: {names})")
    return text
