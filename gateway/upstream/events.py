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
    "up": "a model server answers its readiness page again",
    "down": "a model server stopped answering its readiness page",
    "probe_failed": "a model server's readiness page could not be read or did not say ready",
    "channel": "a gRPC channel to a model server was opened",
}
"""Every event and its meaning; each carries the label `upstream` (its name in the settings)."""


class Silent:
    """Counts nothing: for tools and tests that ask for no counters."""

    def on_event(self, name: str, **labels: str) -> None:
        """Nothing."""
