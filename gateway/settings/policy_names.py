"""Names of a policy that the settings, and the registry, do not know.

Contract: warnings alone, at the policy's own lines. What may be asked for by any name is not judged: tenants and users
where tokens say them, users where certificates do, models without routes or with `passthrough`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from gateway.settings import Settings
from governance.documents.words import nearest
from governance.policy.parse import Line, ParsedPolicy
from governance.policy.snapshot import PolicySnapshot
from governance.types import Finding

_UPSTREAM_ACTIONS = frozenset({"load", "unload", "configure", "*"})
"""These speak of the model server's own models, which are not known here."""


def unknown_names(
    policy: ParsedPolicy | PolicySnapshot, settings: Settings, registered: Collection[str] = ()
) -> Iterator[Finding]:
    """What the policy names and nothing else does.

    Args:
        policy: of the built-in model.
        settings: of the gateway that it is for.
        registered: models of the registry.
    """
    names = _Names(policy.file, settings, registered)
    for rule in policy.rules:
        yield from names.user(rule, 0, rule.sub)
        yield from names.tenant(rule, 1, rule.dom)
        if rule.act not in _UPSTREAM_ACTIONS or not rule.obj.startswith("model:"):
            yield from names.object(rule, 2, rule.obj)
    for one in policy.memberships:
        yield from names.user(one, 0, one.user)
        yield from names.tenant(one, 2, one.dom)


class _Names:
    """What the settings know; None: any name."""

    def __init__(self, file: str, settings: Settings, registered: Collection[str]) -> None:
        self._file = file
        identity = settings.identity
        tokens = identity is not None and bool(identity.jwt)
        self._tenants = None if tokens else set(_tenants(settings))
        named = tokens or (identity is not None and identity.mtls is not None)
        self._users = None if named else set(_users(settings))
        routes = settings.routes
        self._objects: dict[str, tuple[str, Collection[str] | None]] = {
            "model": ("model", routes if routes and not settings.passthrough else None),
            "route": ("route", routes or None),
            "fairness": ("route", {name for name, one in routes.items() if one.fairness is not None}),
            "registry": ("model", None),
        }
        if routes and settings.registry is not None:
            self._objects["registry"] = ("model", {*_models(settings), *registered})

    def user(self, line: Line, at: int, name: str) -> Iterator[Finding]:
        """`user:NAME`."""
        kind, _, bare = name.partition(":")
        if kind == "user" and self._users is not None and bare not in self._users:
            yield self._warning(line, at, "user", bare, self._users, "no credential is theirs")

    def tenant(self, line: Line, at: int, name: str) -> Iterator[Finding]:
        """A tenant, or `*`."""
        if name != "*" and self._tenants is not None and name not in self._tenants:
            yield self._warning(line, at, "tenant", name, self._tenants, "the settings name no such tenant")

    def object(self, line: Line, at: int, name: str) -> Iterator[Finding]:
        """`model:NAME`, `route:NAME`, `registry:NAME`, or the beginning of one up to a `*`."""
        prefix, _, bare = name.partition(":")
        kind, valid = self._objects.get(prefix, ("", None))
        if valid is None or not bare:
            return
        start, star, _ = bare.partition("*")
        if star:
            if not any(one.startswith(start) for one in valid):
                hint = f"the settings name no {kind} that begins so"
                yield self._warning(line, at, kind, bare, (), hint)
        elif bare not in valid:
            where = "neither settings nor registry" if prefix == "registry" else "the settings"
            hint = f"{where} name no such {'route' if prefix == 'model' else kind}"
            yield self._warning(line, at, kind, bare, valid, hint)

    def _warning(self, line: Line, at: int, kind: str, name: str, valid: Collection[str], otherwise: str) -> Finding:
        close = nearest(name, list(valid))
        message = f"unknown {kind} `{name}`: {f'did you mean `{close}`?' if close else otherwise}"
        return Finding(self._file, line.line, line.columns[at], "warning", f"unknown-{kind}", message)


def _tenants(settings: Settings) -> Iterator[str]:
    identity = settings.identity
    if identity is None:
        yield "public"
        return
    yield from (key.tenant for key in identity.api_keys)
    if identity.anonymous is not None:
        yield identity.anonymous.tenant
    if identity.mtls is not None:
        yield identity.mtls.tenant


def _users(settings: Settings) -> Iterator[str]:
    identity = settings.identity
    if identity is None:
        yield "anonymous"
        return
    yield from (key.user for key in identity.api_keys)
    if identity.anonymous is not None:
        yield identity.anonymous.user


def _models(settings: Settings) -> Iterator[str]:
    """Of the model servers, as routes name them."""
    for name, route in settings.routes.items():
        yield from (one.model for one in route.variants)
        yield from (one.model for one in route.shadows)
        if not route.variants:
            yield name
