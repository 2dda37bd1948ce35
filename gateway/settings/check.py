"""What is wrong with settings whose every value is well-formed: names that lead nowhere, and contradictions.

Contract: a pure function over the Struct tree and its places, apart from looking whether `state_dir` could be
a folder, and at the certificates that the settings name (`check_tls`). Errors are what could never do what its
author means; warnings are what most likely will not. Policy files are judged by `gateway/settings/policy.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from gateway.ports import split_address
from gateway.settings import Route, Settings, Shadow, Variant
from gateway.settings.check_access import access
from gateway.settings.check_audit import audit
from gateway.settings.check_fairness import fairness
from gateway.settings.check_registry import registry
from gateway.settings.check_tls import tls
from gateway.settings.check_upstreams import own_ports, upstreams
from gateway.settings.check_webhooks import webhooks
from gateway.settings.checker import Checker
from gateway.settings.units import is_loopback
from governance.documents.convert import Place, Places, dotted
from governance.documents.words import suggest
from governance.types import Finding

_ASSIGN_BY = ["request", "header:NAME", "parameter:NAME", "subject", "tenant", "id"]


def _listen(settings: Settings, check: Checker) -> None:
    ports: list[tuple[str, int, Place]] = []
    listening: list[tuple[Place, str | None]] = [
        (("listen", "http"), settings.listen.http),
        (("listen", "grpc"), settings.listen.grpc),
        (("metrics", "listen"), settings.metrics.listen),
    ]
    for place, address in listening:
        if address is None:
            continue
        host, port = split_address(address)
        if settings.identity is None and not is_loopback(host):
            message = (
                f"`{dotted(place)}: {address}` lets other machines in, and without `identity` everybody may "
                f"do everything: add an `identity` section, or listen on 127.0.0.1:{port}"
            )
            check.error(place, "open-listen", message)
        for other_host, other_port, other in ports:
            if port == other_port != 0 and _overlap(host, other_host):
                message = f"`{dotted(place)}` and `{dotted(other)}` are both on port {port}: give one another port"
                check.error(place, "same-port", message)
        ports.append((host, port, place))
    own_ports(settings, ports, check)


def _overlap(one: str, other: str) -> bool:
    everywhere = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound to
    return one == other or one in everywhere or other in everywhere or {one, other} == {"localhost", "127.0.0.1"}


def _route(name: str, route: Route, settings: Settings, check: Checker) -> None:
    place: Place = ("routes", name)
    check.name(name, place, key=True)
    names = list(settings.upstreams)
    variants = [variant.name for variant in route.variants] or ["default"]
    if not route.variants and (*place, "variants") in check.places.values:
        message = f"`{dotted((*place, 'variants'))}` is an empty list: name a variant, or leave the key out"
        check.error((*place, "variants"), "no-variants", message)
    if route.variants and not any(variant.weight for variant in route.variants):
        message = f"all weights of route `{name}` are 0: nothing could be drawn; give one a weight above 0"
        check.error((*place, "variants"), "no-weight", message)
    if not math.isfinite(sum(variant.weight for variant in route.variants)):
        message = f"the weights of route `{name}` add up to more than a number holds: make them smaller"
        check.error((*place, "variants"), "wrong-weight", message)
    both: tuple[tuple[str, Sequence[Variant | Shadow]], ...] = (
        ("variants", route.variants),
        ("shadows", route.shadows),
    )
    for kind, targets in both:
        check.once([(one.name, (*place, kind, at, "name")) for at, one in enumerate(targets)], kind[:-1])
        for at, target in enumerate(targets):
            here: Place = (*place, kind, at)
            check.name(target.name, (*here, "name"))
            check.travels(target.name, (*here, "name"))
            check.name(target.model, (*here, "model"))
            if target.version is not None:
                check.name(target.version, (*here, "version"))
            if target.upstream is not None:
                check.known(target.upstream, names, (*here, "upstream"), "upstream")
    _matches(route, variants, place, check)
    check.once([(one, (*place, "fallback", at)) for at, one in enumerate(route.fallback)], "fallback")
    for at, one in enumerate(route.fallback):
        check.known(one, variants, (*place, "fallback", at), "variant")
    _assign_by(route.assign_by, place, settings, check)
    if route.fairness is not None:
        fairness(route.fairness, (*place, "fairness"), check)


def _matches(route: Route, variants: list[str], place: Place, check: Checker) -> None:
    for at, rule in enumerate(route.match):
        here: Place = (*place, "match", at)
        check.known(rule.variant, variants, (*here, "variant"), "variant")
        if not rule.headers:
            message = "a match rule without headers would take every request: name a header, or set weights"
            check.error((*here, "headers"), "empty-match", message)
        seen: dict[str, str] = {}
        for header, value in rule.headers.items():
            spot: Place = (*here, "headers", header)
            check.header(header, spot)
            if header.lower() in seen:
                message = f"`{header}` and `{seen[header.lower()]}` are the same header: keep one"
                check.error(spot, "duplicate-name", message, key=True)
            seen[header.lower()] = header
            if value != value.strip() or not value.isprintable():
                message = "a header's value has no blanks around it and no control characters"
                check.error(spot, "wrong-header", message)


def _assign_by(text: str, place: Place, settings: Settings, check: Checker) -> None:
    here: Place = (*place, "assign_by")
    kind, colon, name = text.partition(":")
    if colon and kind == "header":
        if name:
            check.header(name, here)
        else:
            check.error(here, "wrong-value", "`header:` needs the header's name, such as header:x-user")
    elif colon and kind == "parameter":
        if not name.strip():
            check.error(here, "wrong-value", "`parameter:` needs the parameter's name, such as parameter:customer")
    elif text not in ("request", "subject", "tenant", "id"):
        message = f"`{dotted(here)}` cannot be `{text}`: {suggest(text, _ASSIGN_BY, 'valid values')}"
        check.error(here, "wrong-value", message)
    elif text in ("subject", "tenant") and settings.identity is None:
        message = f"`assign_by: {text}` without `identity` gives everyone the same variant: all are one {text}"
        check.warn(here, "one-unit", message)


def _identity(settings: Settings, check: Checker) -> None:
    identity = settings.identity
    if identity is None:
        return
    if not identity.api_keys and not identity.jwt and identity.mtls is None and identity.anonymous is None:
        message = "`identity` lets nobody in: add `api_keys` (`tidegate keys new` makes one) or `anonymous: {}`"
        check.error(("identity",), "nobody", message, key=True)
    people: list[tuple[Place, str, str]] = [
        (("identity", "api_keys", at), key.user, key.tenant) for at, key in enumerate(identity.api_keys)
    ]
    if identity.anonymous is not None:
        people.append((("identity", "anonymous"), identity.anonymous.user, identity.anonymous.tenant))
    for place, user, tenant in people:
        check.name(user, (*place, "user"))
        check.name(tenant, (*place, "tenant"))
        if user.startswith(("user:", "role:")):
            check.error((*place, "user"), "wrong-name", f"write the bare name `{user[5:]}`: the policy adds `user:`")
        if tenant == "*":
            message = "nobody's tenant can be `*`: in the policy that is the gateway itself, so name a tenant"
            check.error((*place, "tenant"), "wrong-name", message)
    first: dict[str, int] = {}
    for at, key in enumerate(identity.api_keys):
        place = ("identity", "api_keys", at, "sha256")
        if key.sha256 in first:
            message = f"this key is listed already on line {first[key.sha256]}: one key is one user"
            check.error(place, "duplicate-key", message)
        first.setdefault(key.sha256, check.places.of(place)[0])


def _limits(settings: Settings, check: Checker) -> None:
    identity = settings.identity
    tenants = {"public"} if identity is None else {key.tenant for key in identity.api_keys}
    if identity is not None and identity.anonymous is not None:
        tenants.add(identity.anonymous.tenant)
    if identity is not None and identity.mtls is not None:
        tenants.add(identity.mtls.tenant)
    for name, limit in settings.limits.tenants.items():
        place: Place = ("limits", "tenants", name)
        check.name(name, place, key=True)
        if limit.rate is None and limit.concurrent is None and limit.bytes is None and limit.priority is None:
            message = f"`{dotted(place)}` limits nothing: give it `rate`, `concurrent` or `bytes`, or remove it"
            if limit.burst is None:
                check.error(place, "no-limit", message, key=True)
        if limit.burst is not None and limit.rate is None:
            message = f"`{dotted(place)}`: `burst` is nothing without `rate`: add `rate`, or remove it"
            check.error((*place, "burst"), "no-limit", message, key=True)
        # Tokens say themselves which tenant they are of: any may come.
        tokens = identity is not None and bool(identity.jwt)
        if name != "*" and name not in tenants and not tokens:
            message = f"nobody belongs to tenant `{name}`: {suggest(name, sorted(tenants), 'tenants')}"
            check.warn(place, "unknown-tenant", message, key=True)


def _telemetry(settings: Settings, check: Checker) -> None:
    metrics = settings.metrics
    if not metrics.enabled:
        for key in ("listen", "credentials"):
            if getattr(metrics, key):
                message = f"`metrics.{key}` is nothing with `metrics.enabled: false`: remove one of them"
                check.error(("metrics", key), "contradiction", message, key=True)
    if metrics.credentials and settings.identity is None:
        message = "`metrics.credentials` is nothing without `identity`: everybody may do everything then"
        check.error(("metrics", "credentials"), "contradiction", message, key=True)
    for section in ("traces", "metrics"):
        endpoint = getattr(settings.telemetry, section).endpoint
        place: Place = ("telemetry", section, "endpoint")
        if endpoint is not None and (why := _not_an_endpoint(endpoint)):
            check.error(place, "wrong-value", f"`{dotted(place)}` {why}: write http://HOST:4318 (or https://)")
    check.name(settings.telemetry.service_name, ("telemetry", "service_name"))


def _not_an_endpoint(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        return f"is not a URL ({error})"
    if parts.scheme not in ("http", "https"):
        return "needs http:// or https:// before the host"
    if not parts.hostname or port == 0 or text != text.strip():
        return "needs a host and a port"
    return ""


def _positive(settings: Settings, check: Checker) -> None:
    times: list[tuple[Place, float]] = [
        (("limits", "header_timeout"), settings.limits.header_timeout),
        (("limits", "send_timeout"), settings.limits.send_timeout),
        (("limits", "idle_timeout"), settings.limits.idle_timeout),
        (("limits", "body_timeout"), settings.limits.body_timeout),
        (("telemetry", "metrics", "interval"), settings.telemetry.metrics.interval),
    ]
    for name, upstream in settings.upstreams.items():
        at = ("upstreams", name)
        times += [
            ((*at, "concurrency", "queue"), upstream.concurrency.queue),
            ((*at, "health", "interval"), upstream.health.interval),
            ((*at, "health", "timeout"), upstream.health.timeout),
            ((*at, "ejection", "interval"), upstream.ejection.interval),
            ((*at, "ejection", "time"), upstream.ejection.time),
            ((*at, "breaker", "open"), upstream.breaker.open),
        ]
    for name, route in settings.routes.items():
        times.append((("routes", name, "timeout"), route.timeout))
        times += [(("routes", name, "shadows", at, "timeout"), one.timeout) for at, one in enumerate(route.shadows)]
    for place, seconds in times:
        if seconds <= 0:
            message = f"`{dotted(place)}` must be more than 0: nothing could ever finish in no time"
            check.error(place, "wrong-value", message)
    if settings.limits.body < 1:
        check.error(("limits", "body"), "wrong-value", "`limits.body` must be at least 1: nobody could send anything")


def _routes(settings: Settings, check: Checker) -> None:
    for name, route in settings.routes.items():
        _route(name, route, settings, check)


def _state_dir(settings: Settings, check: Checker) -> None:
    folder = settings.state_dir
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:  # a name that is too long, or a folder on the way that may not be entered
        check.error(("state_dir",), "not-a-folder", f"`state_dir` {folder} cannot be used: {error.strerror}")
        return
    if is_file:
        check.error(("state_dir",), "not-a-folder", f"`state_dir` {folder} is a file: name a folder")


_CHECKS: tuple[Callable[[Settings, Checker], None], ...] = (
    upstreams, _listen, tls, _routes, _identity, _limits, access, audit, registry, webhooks, _telemetry, _positive,
    _state_dir,
)  # fmt: skip


def check(settings: Settings, file: str, places: Places) -> list[Finding]:
    """What is wrong across the settings, in file order.

    Args:
        settings: what `settings_convert.convert` gave.
        file: the file's name in findings.
        places: where everything stands.
    """
    checker = Checker(file, places)
    for one in _CHECKS:
        one(settings, checker)
    return sorted(checker.findings, key=lambda finding: (finding.line, finding.column))
