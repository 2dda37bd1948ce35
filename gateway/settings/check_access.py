"""What is wrong with who may come and what they may use: tokens' issuers, shared quotas, trusted proxies.

Contract: as `check`. A URL that may hold a password is never repeated.
"""

from __future__ import annotations

import importlib.util
import ipaddress
from urllib.parse import urlsplit

from gateway.settings import Settings
from gateway.settings.checker import Checker
from gateway.settings.units import is_loopback
from governance.documents.convert import Place, dotted

_DATABASES = 1 << 16
_MOST_LEEWAY = 300.0
"""Seconds: beyond it clocks are broken, and a token that was revoked by its end would live on."""


def access(settings: Settings, check: Checker) -> None:
    """Adds what is wrong with `identity.jwt`, `limits.backend` and `listen.trusted_proxies`."""
    _jwt(settings, check)
    _backend(settings, check)
    for at, network in enumerate(settings.listen.trusted_proxies):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            place: Place = ("listen", "trusted_proxies", at)
            message = f"`{dotted(place)}`: {error}: write a network such as 10.0.0.0/8, or one address"
            check.error(place, "wrong-value", message)


def _jwt(settings: Settings, check: Checker) -> None:
    first: dict[tuple[str, str], int] = {}
    for at, one in enumerate(() if settings.identity is None else settings.identity.jwt):
        place: Place = ("identity", "jwt", at)
        for key in ("issuer", "audience", "user_claim", "tenant_claim", "roles_claim"):
            check.name(getattr(one, key), (*place, key))
        if one.leeway > _MOST_LEEWAY:
            message = f"`{dotted((*place, 'leeway'))}` is for clocks that differ: write at most 5m"
            check.error((*place, "leeway"), "wrong-value", message)
        same = (one.issuer, one.audience)
        if same in first:
            message = f"this issuer and audience are listed already on line {first[same]}: keep one"
            check.error((*place, "issuer"), "duplicate-name", message)
        first.setdefault(same, check.places.of((*place, "issuer"))[0])
        if one.jwks.startswith(("http://", "https://")):
            host, why = _host(one.jwks)
            if why:
                message = f"`{dotted((*place, 'jwks'))}` is no URL ({why}): write https://HOST/PATH, or a file"
                check.error((*place, "jwks"), "wrong-value", message)
            elif one.jwks.startswith("http://") and not is_loopback(host):
                message = (
                    f"`{dotted((*place, 'jwks'))}` comes over plain HTTP: whoever is on the way can put in keys of "
                    "their own; use https://"
                )
                check.warn((*place, "jwks"), "plain-keys", message)


def _host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return "", str(error)
    if not parts.hostname or port == 0 or not url.isprintable() or " " in url:
        return "", "it needs a host"
    return parts.hostname, ""


def _backend(settings: Settings, check: Checker) -> None:
    backend, place = settings.limits.backend, ("limits", "backend")
    if backend == "local" and ("limits", "away") in check.places.values:
        message = "`limits.away` is nothing with `limits.backend: local`: set `backend`, or remove it"
        check.error(("limits", "away"), "contradiction", message, key=True)
    if settings.limits.backend_tls is not None and not backend.startswith("rediss://"):
        message = "`limits.backend_tls` is nothing without TLS: write `backend: rediss://...`, or remove it"
        check.error(("limits", "backend_tls"), "contradiction", message, key=True)
    if backend == "local":
        return
    why = _not_redis(backend)
    if why:
        form = "redis://[USER:PASSWORD@]HOST:PORT[/DB]"
        check.error(place, "wrong-value", f"`limits.backend` {why}: write `local`, or {form} (rediss:// for TLS)")
    elif importlib.util.find_spec("redis") is None:
        message = "`limits.backend` needs the client library: pip install 'tidegate[redis]'"
        check.error(place, "missing-extra", message)
    if not why and not settings.limits.tenants:
        message = "`limits.backend` is asked for nothing: no tenant has limits (`limits.tenants`)"
        check.warn(place, "no-limit", message, key=True)


def _not_redis(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("redis", "rediss"):
        return "is neither `local` nor a redis:// or rediss:// URL"
    if not parts.hostname or port == 0 or not url.isprintable() or " " in url:
        return "needs a host"
    if parts.query or parts.fragment:
        return "takes nothing after the database's number"
    database = parts.path.removeprefix("/")
    if database and not (database.isascii() and database.isdigit() and int(database) < _DATABASES):
        return "has a database that is no number"
    return ""
