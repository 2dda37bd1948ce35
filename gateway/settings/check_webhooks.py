"""What is wrong with the `webhooks` section.

Contract: as `check`. Secrets are looked at when they are used, by `tidegate webhooks test` for one, since the machine
that judges the settings need not hold them.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from gateway.settings import Settings, WebhookEndpoint
from gateway.settings.checker import Checker
from governance.documents.convert import Place, dotted
from governance.documents.words import suggest
from governance.webhooks.messages import FILTERS
from governance.webhooks.sending import not_allowed

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def webhooks(settings: Settings, check: Checker) -> None:
    """The whole section."""
    section = settings.webhooks
    if section is None:
        return
    for name, endpoint in section.endpoints.items():
        here: Place = ("webhooks", "endpoints", name)
        check.name(name, here, key=True)
        _endpoint(endpoint, here, section.private_hosts, check)
    used = {_host(one.url) for one in section.endpoints.values()}
    for at, host in enumerate(section.private_hosts):
        if host not in used:
            place: Place = ("webhooks", "private_hosts", at)
            message = f"no endpoint is at `{host}`: write a host as its URL has it, in lower case, without a port"
            check.warn(place, "unknown-name", message)


def _endpoint(endpoint: WebhookEndpoint, here: Place, private: tuple[str, ...], check: Checker) -> None:
    if why := not_allowed(endpoint.url, private):
        place = (*here, "url")
        check.error(place, "wrong-value", f"`{dotted(place)}` {why}")
    if not endpoint.events:
        message = f"`{dotted((*here, 'events'))}` is an empty list: name what it is told, or remove the endpoint"
        check.error((*here, "events"), "wrong-value", message)
    for at, one in enumerate(endpoint.events):
        if one not in FILTERS:
            message = f"unknown event `{one}` in `{dotted((*here, 'events'))}`: {suggest(one, list(FILTERS), 'events')}"
            check.error((*here, "events", at), "unknown-name", message)
    if (endpoint.secret_file is None) == (endpoint.secret_env is None):
        message = f"`{dotted(here)}` needs `secret_file` or `secret_env`, and not both: messages are always signed"
        check.error(here, "no-secret", message, key=True)
    if endpoint.secret_env is not None and not _VARIABLE.fullmatch(endpoint.secret_env):
        # Not repeated: somebody may have written the secret itself.
        message = f"`{dotted((*here, 'secret_env'))}` is the name of an environment variable, such as PAGER_SECRET"
        check.error((*here, "secret_env"), "wrong-value", message)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
