"""API keys: made here, known afterwards by their SHA-256 alone.

Contract: nothing is stored and nothing logged. The prefix lets secret scanners find a leaked key.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets

from governance.documents.nodes import STR, core_tag

PREFIX = "tg_"
_RANDOM_BYTES = 32
"""256 bits: beyond guessing, so an unsalted SHA-256 is a safe thing to keep."""
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")


def new_key() -> tuple[str, str]:
    """A new key (`tg_` and 43 characters of base64url) and its SHA-256 in lower-case hex."""
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return key, hashlib.sha256(key.encode()).hexdigest()


def settings_line(sha256: str, user: str, tenant: str) -> str:
    """The line for `identity.api_keys`, quoted where YAML needs it."""
    return f"- {{sha256: {_scalar(sha256)}, user: {_scalar(user)}, tenant: {_scalar(tenant)}}}"


def _scalar(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and core_tag(text) == STR
    return text if plain else json.dumps(text, ensure_ascii=False).replace("${", "$${")
