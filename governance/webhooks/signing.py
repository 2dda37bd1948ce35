"""Secrets of webhooks, and signatures by them (Standard Webhooks 1.0.0, "Signature scheme").

Contract: what is signed is `ID.SECONDS.BODY`. `whsec_` and base64 of 24 to 64 random bytes signs by HMAC-SHA-256
(`v1`); `whsk_` and base64 of an Ed25519 private key (its 32 bytes, or with the public key's 32 behind them, as other
programs write it) signs by Ed25519 (`v1a`). Several secrets give several signatures, so that one can be exchanged for
another.
No error says anything of a secret's content.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.errors import WebhookError

Signer: TypeAlias = Callable[[bytes], str]
"""What is signed -> one signature with its identifier."""
_SHORTEST, _LONGEST = 24, 64
_SEED = 32
_MOST = 8


def signers(text: str, source: str) -> tuple[Signer, ...]:
    """The signers of a file or variable: one secret a line or word; lines that begin with `#` do not count.

    Args:
        text: its content.
        source: its name, for errors.

    Raises:
        WebhookError: it holds none, or one that is none.
    """
    words = [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()]
    if not words:
        raise WebhookError(f"{source}: holds no secret: `tidegate webhooks secret` makes one")
    if len(words) > _MOST:
        raise WebhookError(f"{source}: holds more than {_MOST} secrets: keep those that are in use")
    return tuple(_signer(word, f"{source}: secret {number}") for number, word in enumerate(words, 1))


def _signer(word: str, source: str) -> Signer:
    prefix, _, rest = word.partition("_")
    try:
        key = base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError):
        raise WebhookError(f"{source} is not base64: `tidegate webhooks secret` makes one") from None
    if prefix == "whsec" and _SHORTEST <= len(key) <= _LONGEST:
        return lambda content: "v1," + _text(hmac.digest(key, content, hashlib.sha256))
    if prefix == "whsk" and len(key) in (_SEED, 2 * _SEED):
        private = Ed25519PrivateKey.from_private_bytes(key[:_SEED])
        if key[_SEED:] and key[_SEED:] != private.public_key().public_bytes_raw():
            raise WebhookError(f"{source} holds a private key and another one's public key")
        return lambda content: "v1a," + _text(private.sign(content))
    raise WebhookError(
        f"{source} is none: `whsec_` and base64 of {_SHORTEST} to {_LONGEST} bytes, or `whsk_` and an Ed25519 key"
    )


def headers(name: str, seconds: int, body: bytes, by: Sequence[Signer]) -> dict[str, str]:
    """The three headers of one attempt.

    Args:
        name: the message's id.
        seconds: Unix time of the attempt.
        body: exactly as it is sent.
        by: at least one.
    """
    content = f"{name}.{seconds}.".encode() + body
    return {
        "webhook-id": name,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(sign(content) for sign in by),
    }


def new_secret(*, ed25519: bool) -> tuple[str, str | None]:
    """A new secret, and of an Ed25519 one the public key (`whpk_`) that its receivers need."""
    seed = os.urandom(_SEED)
    if not ed25519:
        return f"whsec_{_text(seed)}", None
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return f"whsk_{_text(seed)}", f"whpk_{_text(public)}"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
