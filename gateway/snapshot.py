"""One immutable snapshot of everything that decides.

Contract: every request keeps the snapshot that it began with. `compiling.py` makes them, `keeper.py` swaps them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import msgspec

from gateway.approvals import Approvals
from gateway.errors import Forbidden
from gateway.fairness import Watch
from gateway.identity import Identifier, KeysNeeded
from gateway.monitors import Monitor
from gateway.operations import Operation
from gateway.routing import RouteTable
from gateway.settings import Settings
from gateway.settings.routes import Alarms
from gateway.tls import Material, PeerCertificate
from gateway.transform import RouteFeatures
from gateway.upstream import Upstreams
from governance.policy import PolicySnapshot, request_of
from governance.types import Subject

_MOST_ALLOWED = 8192
"""Decisions that are kept. A policy with wildcards allows whatever name a caller makes up, so there must be a bound."""


class Admitted(msgspec.Struct, frozen=True):
    """Who may have a page."""

    subject: Subject | None = None
    """None: the page is open, and nobody was asked who they are."""
    asked: bool = False
    """Whether the policy was asked; it has allowed it then."""
    line: int | None = None
    """Of the rule that allowed it."""


class Snapshot(msgspec.Struct, frozen=True, weakref=True):
    """What decides a request."""

    settings: Settings
    hash: str
    """SHA-256, in hex, of the settings as they were understood, the policy's bytes, certificates and keys, plans,
    profiles, and what the registry says."""
    since: dt.datetime
    identifier: Identifier
    policy: PolicySnapshot
    routes: RouteTable
    upstreams: Upstreams
    allowed_headers: Mapping[str, frozenset[str] | None]
    tls: Material
    """Certificates and keys, as they were read with the settings."""
    jwks: Mapping[str, bytes] = {}
    """Key set files of tokens' issuers, as they were read with the settings."""
    features: Mapping[str, RouteFeatures] = {}
    """What makes tensors of raw columns, by the name of the route that has a feature plan."""
    plans: Mapping[str, bytes] = {}
    """Feature plans, as they were read with the settings."""
    monitors: Mapping[str, Monitor] = {}
    """By route; routes without one are not in it."""
    judged: Mapping[str, Monitor] = {}
    """Those of them whose constraints refuse calls."""
    approvals: Approvals | None = None
    """Which versions may serve; None: all."""
    fairness: Mapping[str, Watch] = {}
    """By route; routes without one are not in it."""
    _allowed: dict[tuple[Subject, str], int | None] = msgspec.field(default_factory=dict)
    """Lines of the rules that allowed `infer`, by subject and model: what never changes for this snapshot."""

    @property
    def alarmed(self) -> dict[str, tuple[Monitor, Alarms | None]]:
        """Monitors by route, with the settings of their alarms; None: there are none."""
        routes = self.settings.routes
        return {
            name: (monitor, None if (section := routes[name].monitor) is None else section.alarms)
            for name, monitor in self.monitors.items()
        }

    def authorise(self, subject: Subject, object_: str, action: str) -> int | None:
        """Line of the rule that allows it. Raises Forbidden."""
        sub, dom, obj, act = request_of(subject, object_, action)
        decision = self.policy.decide(sub, dom, obj, act, roles=subject.roles)
        if not decision.allow:
            raise Forbidden(f"the policy does not allow '{action}' on '{object_}'", subject, decision.line)
        return decision.line

    def authorise_infer(self, subject: Subject, model: str) -> int | None:
        """As `authorise` for `infer` on a model, by heart where it was allowed before."""
        allowed = self._allowed
        key = (subject, model)
        if key in allowed:
            return allowed[key]
        line = self.authorise(subject, "model:" + model, "infer")
        if len(allowed) >= _MOST_ALLOWED:
            allowed.clear()
        allowed[key] = line
        return line

    def may(self, subject: Subject, object_: str, action: str) -> bool:
        """Whether it is allowed."""
        sub, dom, obj, act = request_of(subject, object_, action)
        return self.policy.decide(sub, dom, obj, act, roles=subject.roles).allow

    def forwarded(self, upstream: str) -> frozenset[str] | None:
        """Names of the headers that may travel to an upstream; None: all that are no credentials."""
        return self.allowed_headers[upstream]

    def admit_page(
        self,
        operation: Operation,
        model: str,
        headers: Mapping[str, str],
        certificate: PeerCertificate | None = None,
    ) -> Admitted:
        """Steps 3 and 4 for what is not inference: who asks, and may they.

        Raises:
            Unauthenticated, Forbidden.
        """
        if operation.needs == "nothing":
            return Admitted()
        subject = self.identifier.identify(headers, certificate)
        object_ = operation.object_of(model)
        if object_ is None:
            return Admitted(subject)
        return Admitted(subject, asked=True, line=self.authorise(subject, object_, operation.action))


async def admitted_page(
    snapshot: Snapshot,
    operation: Operation,
    model: str,
    headers: Mapping[str, str],
    certificate: PeerCertificate | None = None,
) -> Admitted:
    """As `Snapshot.admit_page`, and waits while an issuer is asked for a token's key."""
    try:
        return snapshot.admit_page(operation, model, headers, certificate)
    except KeysNeeded as needed:
        await needed.ready()
    return snapshot.admit_page(operation, model, headers, certificate)
