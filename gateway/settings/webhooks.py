"""The `webhooks` section: who is told of steps of the registry and of the policy."""

from __future__ import annotations

import msgspec

from gateway.settings.forms import FilePath, Section


class WebhookEndpoint(Section, frozen=True):
    """One receiver; see `docs/registry.md`."""

    url: str
    """Where it is told, by POST; `https://`, or `http://` for a host in `private_hosts`."""
    events: tuple[str, ...] = ("*",)
    """What it is told: types such as `registry.promoted`, all of a kind (`registry.*`, `policy.*`), or `*`."""
    secret_file: FilePath | None = None
    """What its messages are signed with, one secret a line (`whsec_...`, `whsk_...`); refused when others may read
    it."""
    secret_env: str | None = None
    """Name of the environment variable that holds the same. One of the two is needed."""
    ca: FilePath | None = None
    """Authorities that its certificate must come from (PEM); absent: the system's."""


class Webhooks(Section, frozen=True):
    """Who is told of steps of the registry and of the policy."""

    endpoints: dict[str, WebhookEndpoint] = msgspec.field(default_factory=dict)
    """By name."""
    private_hosts: tuple[str, ...] = ()
    """Hosts that may be at addresses which are not public (of this machine, of the own network), and be told over plain
    `http://`. No other host may, whatever its name resolves to."""
