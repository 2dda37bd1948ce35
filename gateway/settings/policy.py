"""The policy that the settings name, judged with them.

Contract: the policy, its model and its tests are compiled as the gateway would; what is wrong with them stands at their
own lines. Models and tenants that the policy names and the settings do not are warnings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.settings import Settings
from governance.documents.convert import Places, dotted
from governance.documents.words import nearest
from governance.errors import PolicyError
from governance.policy.snapshot import GATEWAY_FIELDS, PolicySnapshot
from governance.types import Finding

_UPSTREAM_ACTIONS = frozenset({"load", "unload", "configure", "*"})


def check_policy(settings: Settings, file: str, places: Places) -> list[Finding]:
    """What is wrong with `policy.file` and `policy.tests`.

    Args:
        settings: the settings, otherwise judged.
        file: the settings file's name in findings.
        places: where everything stands in it.
    """
    if settings.policy is None:
        return []
    if settings.policy.approvals and settings.policy.model is not None:
        message = "changes of a model of one's own cannot be approved: remove `approvals`, or `model`"
        return [Finding(file, *places.of_key(("policy", "approvals")), "error", "contradiction", message)]
    if settings.policy.approvals and (settings.identity is None or not settings.identity.api_keys):
        message = "who approves is proved by API keys: add them under `identity`"
        return [Finding(file, *places.of_key(("policy", "approvals")), "error", "contradiction", message)]
    try:
        policy = PolicySnapshot.load(
            settings.policy.file, settings.policy.tests, model=settings.policy.model, fields=GATEWAY_FIELDS
        )
    except PolicyError as error:
        return [_moved(finding, settings, file, places) for finding in error.findings]
    if settings.policy.model is not None:  # what its fields hold is not known here
        return list(policy.findings)
    return [*policy.findings, *_unknown(settings, policy)]


def _moved(finding: Finding, settings: Settings, file: str, places: Places) -> Finding:
    """A finding as it is, save that a file which cannot be opened is the fault of the settings' line."""
    if finding.code != "unreadable" or settings.policy is None:
        return finding
    names = {str(settings.policy.file): "file", str(settings.policy.model): "model"}
    place = ("policy", names.get(finding.file, "tests"))
    line, column = places.of(place)
    message = f"`{dotted(place)}` {finding.file} {finding.message}"
    return Finding(file, line, column, "error", "unreadable-policy", message)


def _unknown(settings: Settings, policy: PolicySnapshot) -> Iterator[Finding]:
    """Names of the policy that the settings do not know."""
    tenants = set(_tenants(settings))
    any_tenant = settings.identity is not None and bool(settings.identity.jwt)  # tokens say which
    # Without routes, or with passthrough, every model of the upstream may be asked for.
    models = set(settings.routes) if settings.routes and not settings.passthrough else None
    for rule in policy.rules:
        if rule.dom != "*" and rule.dom not in tenants and not any_tenant:
            yield _warning(policy, rule.line, rule.columns[1], "tenant", rule.dom, tenants)
        name = rule.obj.removeprefix("model:")
        # `load` and `unload` speak of the upstream's models by their own names, which are not known here.
        known = models is None or name == rule.obj or "*" in name or rule.act in _UPSTREAM_ACTIONS
        if models is not None and not known and name not in models:
            yield _warning(policy, rule.line, rule.columns[2], "model", name, models)


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


def _warning(policy: PolicySnapshot, line: int, column: int, kind: str, name: str, valid: Iterable[str]) -> Finding:
    close = nearest(name, list(valid))
    hint = f"did you mean `{close}`?" if close else f"the settings name no such {'route' if kind == 'model' else kind}"
    return Finding(policy.file, line, column, "warning", f"unknown-{kind}", f"unknown {kind} `{name}`: {hint}")
