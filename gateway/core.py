"""What the doors and the control pages see of a worker; `app.Application` is it.

Imports point down: the doors know this, the application knows the doors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.metrics import Page
    from gateway.observe import Observer
    from gateway.pipeline import Pipeline
    from gateway.snapshot import Snapshot


class Core(Protocol):
    """One worker, from within."""

    version: str
    """Of the gateway."""
    page: Page
    """The counters of all workers."""
    observer: Observer
    """MUST be told of every request that starts; the pipeline tells it of the end."""
    pipeline: Pipeline
    """Steps 2 to 11."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force. A request takes it once and keeps it."""

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
