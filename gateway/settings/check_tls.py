"""What is wrong with `listen.tls`, `upstreams.NAME.tls`, `limits.backend_tls` and `identity.mtls`. Part of `check`.

Contract: as `check`, and reads the files that these sections name, as the gateway will.
"""

from __future__ import annotations

from gateway.settings import BackendTls, Settings, UpstreamTls
from gateway.settings.checker import Checker
from gateway.tls.reading import read_material
from governance.documents.convert import Place, dotted


def tls(settings: Settings, check: Checker) -> None:
    """Files that do not hold, halves of pairs, and client certificates that nobody looks at."""
    _mtls(settings, check)
    _whole_pair(settings.limits.backend_tls, ("limits", "backend_tls"), check)
    for name, upstream in settings.upstreams.items():
        if upstream.tls is None:
            continue
        place: Place = ("upstreams", name, "tls")
        _whole_pair(upstream.tls, place, check)
        server_name = upstream.tls.server_name
        if server_name is not None and (not server_name.isascii() or not server_name.strip(".") or " " in server_name):
            message = f"`{dotted((*place, 'server_name'))}` is the name in its certificate, such as triton.example"
            check.error((*place, "server_name"), "wrong-name", message)
    for problem in read_material(settings)[1]:
        text = f"`{dotted(problem.place)}`: {problem.message}"
        if problem.severity == "error":
            check.error(problem.place, problem.code, text)
        else:
            check.warn(problem.place, problem.code, text)


def _whole_pair(tls: UpstreamTls | BackendTls | None, place: Place, check: Checker) -> None:
    if tls is not None and (tls.cert is None) != (tls.key is None):
        missing = "cert" if tls.cert is None else "key"
        message = f"`{dotted(place)}` has half a pair: add `{missing}`, or remove the other"
        check.error(place, "half-pair", message, key=True)


def _mtls(settings: Settings, check: Checker) -> None:
    mtls = None if settings.identity is None else settings.identity.mtls
    if mtls is None:
        return
    place: Place = ("identity", "mtls")
    if settings.listen.tls is None or settings.listen.tls.client_ca is None:
        message = "`identity.mtls` is nothing without `listen.tls.client_ca`: name the CAs of the clients there"
        check.error(place, "no-client-ca", message, key=True)
    check.name(mtls.tenant, (*place, "tenant"))
    if mtls.tenant == "*":
        message = "nobody's tenant can be `*`: in the policy that is the gateway itself, so name a tenant"
        check.error((*place, "tenant"), "wrong-name", message)
