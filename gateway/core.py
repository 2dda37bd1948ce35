"""What the doors and the control pages see of a worker; `app.Application` is it.

Imports point down: the doors know this, the application knows the doors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.decisions import Decisions
    from gateway.metrics import Page
    from gateway.observe import Observer
    from gateway.pipeline import Pipeline
    from gateway.snapshot import Snapshot
    from gateway.upstream.restore import Desired
    from governance.audit.witness import Witness


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
    decisions: Decisions
    """Step 10, for the pages that are none of the pipeline's."""
    witness: Witness | None
    """Cosigns other gateways' audit logs; None: it does not."""
    desired: Desired
    """What was asked of the model servers, for those that come back."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force. A request takes it once and keeps it."""

    @property
    def run_dir(self) -> Path:
        """What the workers share."""

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
