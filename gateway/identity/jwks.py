"""JSON Web Key Sets (RFC 7517): bytes to public keys that verify RS256, ES256 or EdDSA.

Contract: pure; a set that cannot be used raises `KeySetError` with the line where its JSON is wrong. Keys of
other kinds or for other uses are left out, as RFC 7517 section 5 says. A set with private or symmetric keys is
refused: what verifies is public, and a secret that lies there is one that leaked.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK
from jwt.exceptions import PyJWTError

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
MOST_BYTES: Final = 512 * 1024
"""Of a key set: several hundred keys with certificate chains."""
_MOST_KEYS: Final = 256
_LEAST_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""
_KIND: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


class KeySetError(ValueError):
    """The set cannot be used; `line` is where, from 1."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


class Key(msgspec.Struct, frozen=True):
    """One public key, and the one algorithm that it is for."""

    id: str | None
    algorithm: str
    key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class KeySet(msgspec.Struct, frozen=True):
    """The usable keys of a set."""

    keys: tuple[Key, ...] = ()

    @property
    def material(self) -> list[tuple[str | None, str, bytes]]:
        """What tells two sets apart."""
        form, encoding = PublicFormat.SubjectPublicKeyInfo, Encoding.DER
        return [(key.id, key.algorithm, key.key.public_bytes(encoding, form)) for key in self.keys]

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that a token names; without a name the only one there is. None: no such key."""
        if kid is None:
            return self.keys[0] if len(self.keys) == 1 and self.keys[0].algorithm == algorithm else None
        for key in self.keys:
            if key.id == kid and key.algorithm == algorithm:
                return key
        return None


def parse(data: bytes) -> KeySet:
    """The usable keys of a set.

    Raises:
        KeySetError: not a key set, no usable key in it, or a secret in it.
    """
    if len(data) > MOST_BYTES:
        raise KeySetError(f"larger than {MOST_BYTES >> 10} KiB: this is no key set")
    try:
        document = json.loads(data, object_pairs_hook=strict_object)
    except json.JSONDecodeError as error:
        raise KeySetError(f"not JSON: {error.msg}", error.lineno) from None
    except (ValueError, RecursionError) as error:
        raise KeySetError(f"not JSON: {type(error).__name__}") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise KeySetError('not a JWK Set: expected {"keys": [{...}, ...]}')
    if len(listed) > _MOST_KEYS:
        raise KeySetError(f"more than {_MOST_KEYS} keys")
    keys = tuple(key for at, jwk in enumerate(listed) if (key := _key(jwk, at)) is not None)
    if not keys:
        raise KeySetError("no key in it that verifies RS256, ES256 or EdDSA")
    named = [(key.id, key.algorithm) for key in keys]
    if len(set(named)) != len(named):
        raise KeySetError("two keys of the same kind have the same `kid`: tokens could not say which is meant")
    return KeySet(keys)


def _key(jwk: dict[str, Any], at: int) -> Key | None:  # noqa: C901  one rule after the other
    if "d" in jwk or jwk.get("kty") == "oct":
        raise KeySetError(f"key {at + 1} is secret: a key set holds public keys alone; replace that key, it has leaked")
    algorithm = _KIND.get(str(jwk.get("kty")))
    operations = jwk.get("key_ops")
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or jwk.get("use", "sig") != "sig":
        return None
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise KeySetError(f"key {at + 1}: `kid` is no text")
    try:
        key = PyJWK.from_dict(jwk, algorithm=algorithm).key
    except (PyJWTError, ValueError, TypeError):
        if jwk.get("crv") not in (None, "P-256", "Ed25519"):
            return None  # a curve of another algorithm
        raise KeySetError(f"key {at + 1} is malformed") from None
    if isinstance(key, RSAPublicKey):
        if key.key_size < _LEAST_RSA_BITS:
            raise KeySetError(f"key {at + 1}: an RSA key needs at least {_LEAST_RSA_BITS} bits")
    elif isinstance(key, EllipticCurvePublicKey):
        if not isinstance(key.curve, SECP256R1):
            return None
    elif not isinstance(key, Ed25519PublicKey):
        return None
    return Key(kid, algorithm, key)


def strict_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; one that says a thing twice is refused, since others may read the other value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found
