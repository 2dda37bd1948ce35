"""What a request shows, and the seam for kinds of credential."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Protocol

import msgspec

from gateway.settings import Identity
from governance.types import Subject

WRONG: Final = "the credential is not accepted"
"""All that a refusal says: neither which part was wrong nor who exists."""


class Credentials(msgspec.Struct, frozen=True):
    """What a request shows. The text is in no `repr`, so that it can end in no log."""

    token: str
    """The key, or the bearer token."""
    bearer: bool = True
    """Whether it came as `Authorization: Bearer`; in `X-API-Key` only keys may be."""

    def __repr__(self) -> str:
        return "Credentials(...)"


class Authenticator(Protocol):
    """One kind of credential."""

    def authenticate(self, credentials: Credentials) -> Subject | None:
        """The subject; None when the credential is of another kind.

        Raises:
            Unauthenticated: it is of this kind and not accepted.
        """


class ApiKeys:
    """API keys, by their SHA-256."""

    def __init__(self, identity: Identity) -> None:
        self._subjects = {
            key.sha256: (key.sha256, Subject(user=key.user, tenant=key.tenant, method="api_key"))
            for key in identity.api_keys
        }

    def authenticate(self, credentials: Credentials) -> Subject | None:
        """The key's subject; None for a key that is not listed."""
        digest = hashlib.sha256(credentials.token.encode("utf-8", "surrogatepass")).hexdigest()
        found = self._subjects.get(digest)
        # The look-up is by digest, whose timing says nothing about a key; the comparison is constant in time
        # besides, so that this stays true whatever the dict does.
        if found is None or not hmac.compare_digest(found[0], digest):
            return None
        return found[1]
