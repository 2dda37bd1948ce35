"""What a token says, judged: a pure function of its claims, the settings and the time.

Contract: the signature has been verified before. `exp` must be there; `nbf` and `iat` may. Times are RFC 7519's
NumericDate. Names that a token gives are held to what settings may say of names: text without blanks around it
and without control characters, and no tenant is called `*`. `ClaimsError` says why for tests alone; callers are
told nothing.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.settings import Jwt
from governance.types import Subject

_LONGEST: Final = 256
"""Characters of a name: more than any directory gives, short enough for labels, logs and records."""
_MOST_ROLES: Final = 256
_FAR: Final = 10**15
"""Seconds; some 32 million years."""


class ClaimsError(ValueError):
    """The token is not good here and now."""


def subject_of(claims: dict[str, Any], rules: Jwt, now: float) -> tuple[Subject, float]:
    """Who the token is for, and the Unix time from which on it is not good any more.

    Raises:
        ClaimsError: another issuer or audience, too old, too new, or a claim that is missing or malformed.
    """
    if claims.get("iss") != rules.issuer:
        raise ClaimsError("iss")
    audience = claims.get("aud")
    if audience != rules.audience and not (
        isinstance(audience, list) and rules.audience in audience and all(isinstance(one, str) for one in audience)
    ):
        raise ClaimsError("aud")
    expires = _time(claims, "exp")
    if expires is None or now >= expires + rules.leeway:
        raise ClaimsError("exp")
    for name in ("nbf", "iat"):
        begins = _time(claims, name)
        if begins is not None and begins > now + rules.leeway:
            raise ClaimsError(name)
    tenant = _name(_claim(claims, rules.tenant_claim), "tenant")
    if tenant == "*":
        raise ClaimsError("tenant")
    user = _name(_claim(claims, rules.user_claim), "user")
    roles = _roles(_claim(claims, rules.roles_claim))
    return Subject(user=user, tenant=tenant, roles=roles, method="jwt"), expires + rules.leeway


def _claim(claims: dict[str, Any], path: str) -> Any:
    """A claim by its name, which may hold dots itself (`https://example.com/tenant`), else by its path."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # The bounds come first: an integer may be longer than a float holds. NaN fails them.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_FAR <= value <= _FAR:
        raise ClaimsError(name)
    return float(value)


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        raise ClaimsError(what)
    if len(value) > _LONGEST or not value.isprintable():
        raise ClaimsError(what)
    return value


def _roles(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) > _MOST_ROLES:
        raise ClaimsError("roles")
    return tuple(dict.fromkeys(_name(role, "role") for role in listed))
