"""Who asks: credentials of a request to a `Subject`.

Contract: synchronous, no I/O, and nothing is ever logged here. Keys are known by their SHA-256 alone and
compared in constant time. A credential that is not accepted is refused even where anonymous callers are let
in: whoever shows a key means to be someone. Messages say neither which part was wrong nor who exists.

The seam for other kinds of credential is `Authenticator`: they are tried in order, and the first that knows
the credential as its own kind answers for it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from gateway.errors import Unauthenticated
from gateway.settings import Anonymous, Identity
from governance.types import Subject

_MISSING = "a credential is needed: X-API-Key: KEY, or Authorization: Bearer KEY"
_WRONG = "the credential is not accepted"


class Credentials(msgspec.Struct, frozen=True):
    """What a request shows. The text is in no `repr`, so that it can end in no log."""

    token: str
    """The key, or the bearer token."""

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


class Identifier:
    """Says who asks, under one `identity` section.

    Args:
        identity: the section; None makes everyone anonymous.
        more: authenticators tried before the API keys.
    """

    def __init__(self, identity: Identity | None, more: Sequence[Authenticator] = ()) -> None:
        self._open = identity is None
        anonymous = Anonymous() if identity is None else identity.anonymous
        self._anonymous = None if anonymous is None else Subject(user=anonymous.user, tenant=anonymous.tenant)
        self.authenticators: tuple[Authenticator, ...] = (
            () if identity is None else (*more, *((ApiKeys(identity),) if identity.api_keys else ()))
        )

    def identify(self, headers: Mapping[str, str]) -> Subject:
        """The caller of a request.

        Args:
            headers: names in lower case (gRPC: the metadata).

        Raises:
            Unauthenticated: no credential where one is needed, or one that is not accepted.
        """
        if not self._open:
            token = _token(headers)
            if token is not None:
                return self._authenticated(Credentials(token))
        if self._anonymous is None:
            raise Unauthenticated(_MISSING)
        return self._anonymous

    def _authenticated(self, credentials: Credentials) -> Subject:
        for authenticator in self.authenticators:
            subject = authenticator.authenticate(credentials)
            if subject is not None:
                return subject
        raise Unauthenticated(_WRONG)


def _token(headers: Mapping[str, str]) -> str | None:
    """The credential that the headers show; None when they show none."""
    key = headers.get("x-api-key")
    authorization = headers.get("authorization")
    if authorization is None:
        return key
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    # A scheme that is never accepted, and two credentials that differ, are no absence of a credential.
    if scheme.lower() != "bearer" or not token or (key is not None and key != token):
        raise Unauthenticated(_WRONG)
    return token
