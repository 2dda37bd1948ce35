"""The policy that the settings name, judged with them.

Contract: the policy, its model and its tests are compiled as the gateway would; what is wrong with them stands at their
own lines. Names of the policy that the settings do not know are warnings (`policy_names`).
"""

from __future__ import annotations

from gateway.approvals import read_view
from gateway.settings import Settings
from gateway.settings.policy_names import unknown_names
from governance.documents.convert import Places, dotted
from governance.errors import PolicyError
from governance.policy.snapshot import GATEWAY_FIELDS, PolicySnapshot
from governance.types import Finding


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
    return [*policy.findings, *unknown_names(policy, settings, registered(settings))]


def _moved(finding: Finding, settings: Settings, file: str, places: Places) -> Finding:
    """A finding as it is, save that a file which cannot be opened is the fault of the settings' line."""
    if finding.code != "unreadable" or settings.policy is None:
        return finding
    names = {str(settings.policy.file): "file", str(settings.policy.model): "model"}
    place = ("policy", names.get(finding.file, "tests"))
    line, column = places.of(place)
    message = f"`{dotted(place)}` {finding.file} {finding.message}"
    return Finding(file, line, column, "error", "unreadable-policy", message)


def registered(settings: Settings) -> frozenset[str]:
    """Models of the registry, as this machine last saw it; none where it cannot be read."""
    if settings.registry is None:
        return frozenset()
    try:
        return frozenset(one.model for one in read_view(settings).versions)
    except ValueError:
        return frozenset()  # the gateway says so itself when it starts
