"""What the gateway calls of governance, where more than one thing may stand behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from governance.audit.entry import Form
    from governance.audit.record import Record

Body: TypeAlias = Sequence[bytes | bytearray | memoryview]
"""A body in its parts, in order."""


class DecisionLog(Protocol):
    """Step 10 of the pipeline: where decisions are recorded."""

    @property
    def dropped(self) -> int:
        """Decisions of this process that were served and are in no record."""

    def admit(self) -> None:
        """Ask before anything is done for a request whether its decision could be recorded.

        Never waits. Raises AuditUnavailable: answer 503.
        """

    def record(
        self, record: Record, inputs: Body | None = None, outputs: Body | None = None
    ) -> asyncio.Future[None] | None:
        """Record one decision. Call it on the event loop, once for each decision; it never waits.

        Args:
            record: without `time`, `input_digest`, `output_digest` and `sealed`, and with the subject's name in
                `subject`. It is handed over and MUST NOT be used again.
            inputs: the body as received, uncompressed; None: there is none, or it lies in shared memory. It MUST NOT
                be changed afterwards.
            outputs: the body as sent, likewise.

        Returns:
            None: the answer goes out at once. A future: the answer MUST NOT go out before it is done; when it has
            AuditUnavailable, answer 503 instead.

        Raises:
            AuditUnavailable: as from the future.
        """

    def form(self, record: Record) -> Form | None:
        """What `record_as` takes for records like this one, which is handed over; None: there is none.

        It holds for as long as the log is open.
        """

    def record_as(
        self,
        form: Form,
        request_id: str,
        latency_us: int,
        inputs: Body | None,
        outputs: Body | None,
    ) -> bool:
        """As `record` of a record of that form with this id and latency; the answer goes out at once.

        False: nothing was done, since this one is not of that form; `record` takes it.
        """

    def close(self) -> None:
        """Write what was recorded, and make it public if no other process will. Blocks; call it off the loop."""


class NoLog:
    """`audit.mode: off`."""

    dropped = 0

    def admit(self) -> None:
        """Nothing will be recorded."""

    def record(self, record: Record, inputs: Body | None = None, outputs: Body | None = None) -> None:
        """Nothing is recorded."""

    def form(self, record: Record) -> None:
        """There is none."""

    def record_as(
        self,
        form: Form,
        request_id: str,
        latency_us: int,
        inputs: Body | None,
        outputs: Body | None,
    ) -> bool:
        """Nothing is recorded."""
        del form, request_id, latency_us, inputs, outputs
        return True

    def close(self) -> None:
        """Nothing is open."""
