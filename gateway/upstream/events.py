"""What happens to connections and streams, told to whoever counts it.

Contract: `gateway.upstream` imports no telemetry; it calls one function, from the event loop's thread, and
never for a plain request on a kept-alive connection. The function MUST NOT block or raise.
"""

from __future__ import annotations

from typing import Protocol


class Counters(Protocol):
    """Where events go. Names and labels are those in `EVENTS`."""

    def on_event(self, name: str, **labels: str) -> None:
        """Count one event."""
        ...


EVENTS: dict[str, str] = {
    "connect": "a connection to a model server was opened",
    "connect_failed": "a connection to a model server could not be opened",
    "resend": "a request was sent again because the kept-alive connection had been closed before it arrived",
    "abandon": "a connection was closed because its caller went away or ran out of time",
    "detach": "a client left a stream early and the rest is read in the background",
    "drained": "a detached stream was read to its end",
    "drain_cut": "a detached stream reached the limit of bytes or time and was closed",
    "cancel": "a client left a stream early and the stream was cancelled upstream",
    "up": "a replica of the upstream answers again when none did",
    "down": "no replica of the upstream answers any more",
    "replica_up": "a replica answers its readiness page and was checked: it gets traffic",
    "replica_down": "a replica refuses connections or fails its looks: it gets no more traffic",
    "replica_added": "a replica came by DNS",
    "replica_removed": "a replica left DNS: it finishes its calls",
    "resolve_failed": "the name of an upstream could not be resolved; its replicas stay",
    "sequence_lost": "a call of a sequence was refused because its state is gone with its replica",
    "probe_failed": "a model server's readiness page could not be read or did not say ready",
    "channel": "a gRPC channel to a model server was opened",
    "retry": "a request that failed was tried again, on another replica where there is one",
    "no_budget": "a retry or a hedge was not made because the budget was used up",
    "hedge": "a second try was started because the first took long",
    "hedge_won": "a second try answered first",
    "circuit_open": "a circuit breaker opened: a model on a replica gets nothing for a while",
    "circuit_half_open": "a request was let through a circuit breaker that was open, as a probe",
    "circuit_closed": "a circuit breaker closed: the probe succeeded, or its replica left",
    "fanout_partial": "a load, registration or setting failed on a replica while others carried it out",
    "restored": "a replica that came back was brought to what was asked through the gateway",
    "restore_failed": "a replica that came back could not be brought there; it gets no traffic and is tried again",
    "restore_refused": "a replica that came back refused one thing that was asked for and is left without it",
    "shared_memory": "a call's large tensors travelled through shared memory",
    "copied": "a call's large tensors were copied, though its replica takes them by shared memory",
    "eject": "a replica was ejected because of its failures",
}
"""Every event and its meaning; each carries the label `upstream` (its name in the settings)."""


class Silent:
    """Counts nothing: for tools and tests that ask for no counters."""

    def on_event(self, name: str, **labels: str) -> None:
        """Nothing."""
