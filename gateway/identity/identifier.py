"""Who asks, under one `identity` section.

Contract: a credential that is not accepted is refused even where anonymous callers are let in: whoever shows a
key means to be someone. Messages say neither which part was wrong nor who exists.

The seam for other kinds of credential is `Authenticator`: they are tried in order, and the first that knows
the credential as its own kind answers for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.errors import Unauthenticated
from gateway.identity.credentials import WRONG, ApiKeys, Authenticator, Credentials
from gateway.identity.sources import KeysNeeded
from gateway.settings import Anonymous, Identity
from gateway.tls.peer import PeerCertificate, user_of
from governance.types import Subject

_MISSING: Final = "a credential is needed: X-API-Key: KEY, or Authorization: Bearer KEY"


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
        self._mtls = None if identity is None else identity.mtls
        self._keys = _Accepted()
        self.authenticators: tuple[Authenticator, ...] = (
            () if identity is None else (*more, *((ApiKeys(identity),) if identity.api_keys else ()))
        )

    def identify(self, headers: Mapping[str, str], certificate: PeerCertificate | None = None) -> Subject:
        """The caller of a request.

        A key or token in the headers comes first: a service with a certificate may act for a user. Without
        one the certificate says who asks; where it has not the name that `identity.mtls` asks for, nobody does.

        Args:
            headers: names in lower case (gRPC: the metadata).
            certificate: of the connection, verified; None: the client showed none.

        Raises:
            Unauthenticated: no credential where one is needed, or one that is not accepted.
            KeysNeeded: a token's key is not known yet (see `identified`).
        """
        if not self._open:
            key = headers.get("x-api-key")
            if key is not None and "authorization" not in headers:
                known = self._keys.get(key)
                if known is not None:
                    return known
            shown = _shown(headers)
            if shown is not None:
                return self._authenticated(shown)
            if certificate is not None and self._mtls is not None:
                user = user_of(certificate, self._mtls.user_from)
                if user is None:
                    raise Unauthenticated(WRONG)
                return Subject(user=user, tenant=self._mtls.tenant, method="mtls")
        if self._anonymous is None:
            raise Unauthenticated(_MISSING)
        return self._anonymous

    async def identified(self, headers: Mapping[str, str], certificate: PeerCertificate | None = None) -> Subject:
        """As `identify`, and waits while an issuer is asked for a key that is not known yet."""
        try:
            return self.identify(headers, certificate)
        except KeysNeeded as needed:
            await needed.ready()
        return self.identify(headers, certificate)

    def _authenticated(self, credentials: Credentials) -> Subject:
        for authenticator in self.authenticators:
            subject = authenticator.authenticate(credentials)
            if subject is not None:
                if not credentials.bearer:
                    # A key holds as long as this section does, and each that is accepted is listed in it: the memory
                    # has an end, and costs a tenth of the hash. Tokens remember their own.
                    self._keys[credentials.token] = subject
                return subject
        raise Unauthenticated(WRONG)


class _Accepted(dict[str, Subject]):
    """Subjects by the text of keys that were accepted. The text is in no `repr`, so that it can end in no log."""

    def __repr__(self) -> str:
        return "_Accepted(...)"


def _shown(headers: Mapping[str, str]) -> Credentials | None:
    """The credential that the headers show; None when they show none."""
    key = headers.get("x-api-key")
    authorization = headers.get("authorization")
    if authorization is None:
        return None if key is None else Credentials(key, bearer=False)
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    # A scheme that is never accepted, and two credentials that differ, are no absence of a credential.
    if scheme.lower() != "bearer" or not token or (key is not None and key != token):
        raise Unauthenticated(WRONG)
    return Credentials(token)
