"""JSON Web Tokens (RFC 7519, hardened as RFC 8725 says) to subjects.

Contract: synchronous. `Authorization: Bearer` with two dots in it is a token, and is judged here alone. The
algorithm is that of the key, never the token's choice; keys come from the settings, never from the token's header
(`jwk`, `jku`, `x5c`, `x5u` are not read); `crit` and `b64` are refused, as is JSON that says a thing twice. A token
that was verified is known by its SHA-256 until it expires or the keys change; refusals are not remembered. When a
key is not known and the issuer may be asked, `KeysNeeded` is raised: whoever can wait does, and asks again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from jwt import PyJWS
from jwt.exceptions import PyJWTError

from gateway.errors import Unauthenticated
from gateway.identity.claims import ClaimsError, subject_of
from gateway.identity.credentials import WRONG, Credentials
from gateway.identity.jwks import ALGORITHMS, strict_object
from gateway.identity.sources import KeysNeeded, KeySource
from gateway.settings import Jwt
from governance.types import Subject

_PART: Final = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST: Final = 8192
"""Characters of a token: what common servers take as one header."""
_LONGEST_KID: Final = 512
_REMEMBERED: Final = 4096
"""Verified tokens: about 1 MiB."""
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""`typ`, where there is one: other kinds of token (logout, proof of possession) are no access (RFC 8725, 3.11)."""
_jws = PyJWS(algorithms=list(ALGORITHMS))


class Tokens:
    """Judges the tokens of some issuers.

    Args:
        issuers: the settings of each, and where its keys are.
        clock: Unix time in seconds.
    """

    def __init__(self, issuers: Sequence[tuple[Jwt, KeySource]], clock: Callable[[], float] = time.time) -> None:
        self._issuers = tuple(issuers)
        self._clock = clock
        self._verified: OrderedDict[bytes, tuple[Subject, float, KeySource, int]] = OrderedDict()

    def authenticate(self, credentials: Credentials) -> Subject | None:
        """The token's subject; None for what is no token.

        Raises:
            Unauthenticated: a token that is not accepted.
            KeysNeeded: its key is not known yet.
        """
        token = credentials.token
        if not credentials.bearer or token.count(".") != 2:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = self._verified.get(digest)
        if found is not None:
            subject, expires, source, generation = found
            if generation == source.generation and self._clock() < expires:
                self._verified.move_to_end(digest)
                return subject
            del self._verified[digest]
        try:
            subject, expires, source = self._verify(token)
        except (ClaimsError, PyJWTError, ValueError, RecursionError, TypeError):
            # Whatever a token may hold that its readers stumble over, it is not accepted.
            raise Unauthenticated(WRONG) from None
        self._verified[digest] = (subject, expires, source, source.generation)
        if len(self._verified) > _REMEMBERED:
            self._verified.popitem(last=False)
        return subject

    def _verify(self, token: str) -> tuple[Subject, float, KeySource]:
        if len(token) > _LONGEST or not all(map(_PART.fullmatch, token.split("."))):
            raise ClaimsError("not a token")
        encoded_header, encoded_claims, _ = token.split(".")
        header, claims = _object(encoded_header), _object(encoded_claims)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS or "crit" in header or "b64" in header:
            raise ClaimsError("header")
        if kid is not None and not (isinstance(kid, str) and len(kid) <= _LONGEST_KID):
            raise ClaimsError("kid")
        kind = header.get("typ")
        if kind is not None and not (isinstance(kind, str) and kind.lower() in _TYPES):
            raise ClaimsError("typ")
        now = self._clock()
        wrong: Exception = ClaimsError("iss")
        for rules, source in self._issuers:
            if claims.get("iss") != rules.issuer:
                continue
            # Before the signature, which costs a hundred times as much; nothing is believed yet.
            try:
                subject, expires = subject_of(claims, rules, now)
            except ClaimsError as error:
                wrong = error
                continue
            key = source.keys.find(kid, algorithm)
            if key is None:
                source.ask()
                raise ClaimsError("kid")
            _jws.decode(token, key.key, algorithms=[key.algorithm])
            return subject, expires, source
        raise wrong


def _object(part: str) -> dict[str, Any]:
    found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), object_pairs_hook=strict_object)
    if not isinstance(found, dict):
        raise ClaimsError("no object")
    return found


__all__ = ["KeysNeeded", "Tokens"]
