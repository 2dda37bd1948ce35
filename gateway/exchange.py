"""One request on its way through the pipeline, whichever door it came through.

Contract: a door makes an Exchange with all it knows and hands it to the pipeline; the pipeline fills in what
it finds out. Doors subclass it with their codec. Nothing here does I/O.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.tracing import Trace
from governance.types import Subject

if TYPE_CHECKING:
    from gateway.admission import Ticket
    from gateway.approvals import Notices
    from gateway.errors import TidegateError
    from gateway.routing import Assignment, CallView, CompiledRoute, TargetVariant
    from gateway.snapshot import Snapshot
    from gateway.tls import PeerCertificate
    from gateway.wire.types import InferAnswer, InferCall, InputTensor
    from governance.ports import Body

_CLOCKS = 0.005  # seconds by which the event loop's clock may lag behind
# Until a door has asked the sampler; its methods do nothing.
_NO_TRACE = Trace(0)


class Exchange(ABC):
    """What came in, what was decided about it, and how long each step took."""

    __slots__ = (
        "answer",
        "answered_by",
        "assignment",
        "bracketed",
        "call",
        "certificate",
        "deadline",
        "decision_line",
        "error",
        "fallbacks",
        "headers",
        "inputs",
        "model",
        "nbytes",
        "nbytes_out",
        "notices",
        "operation",
        "outputs",
        "peer",
        "raw",
        "request_id",
        "route",
        "snapshot",
        "started",
        "subject",
        "ticket",
        "trace",
        "upstream_seconds",
        "variant",
        "version",
        "view",
    )

    protocol: str
    """`http` or `grpc`, as in the metrics."""

    def __init__(
        self,
        snapshot: Snapshot,
        headers: Mapping[str, str],
        *,
        operation: str,
        model: str,
        version: str,
        nbytes: int,
        request_id: str,
        peer: str = "",
        deadline: float | None = None,
        certificate: PeerCertificate | None = None,
    ) -> None:
        self.snapshot = snapshot
        """The snapshot that decides this request, to its end, whatever is reloaded meanwhile."""
        self.headers = headers
        self.operation = operation
        self.model = model
        self.version = version
        self.nbytes = nbytes
        """Body bytes received."""
        self.nbytes_out = 0
        """Body bytes answered."""
        self.peer = peer
        self.deadline = deadline
        """Event-loop time by which the client wants an answer (gRPC deadline, `timeout` parameter)."""
        self.certificate = certificate
        """The client's, verified; None: it showed none."""
        self.started = time.perf_counter()
        self.request_id = request_id
        self.trace: Trace = _NO_TRACE
        self.subject: Subject | None = None
        self.decision_line: int | None = None
        self.ticket: Ticket | None = None
        self.route: CompiledRoute | None = None
        self.call: InferCall | None = None
        self.raw: Sequence[InputTensor] | None = None
        """The columns that a feature plan made the call's inputs of, where a monitor is to see them."""
        self.answer: InferAnswer | None = None
        """The only one, until it has been counted; None where there are several."""
        self.view: CallView | None = None
        self.assignment: Assignment | None = None
        self.variant: TargetVariant | None = None
        """The variant that was chosen, or that answered in its place."""
        self.fallbacks: tuple[str, ...] = ()
        """The variants that were tried after the chosen one, in order."""
        self.notices: Notices = ()
        """Headers that tell of the end of the version that serves."""
        self.error: TidegateError | None = None
        self.upstream_seconds = 0.0
        self.answered_by = ""
        """Model version that served."""
        self.bracketed = False
        """A stream whose start has a record of its own."""
        self.inputs: Body | None = None
        """The body as received, uncompressed, for its digest; None: there is none, or it lies in shared memory."""
        self.outputs: Body | None = None
        """The body as sent, likewise."""

    @property
    def route_name(self) -> str:
        """The route's name, empty before one is found."""
        return "" if self.route is None else self.route.name

    @property
    def variant_name(self) -> str:
        """The variant's name, empty before one is chosen."""
        return "" if self.variant is None else self.variant.name

    def time_left(self) -> float:
        """Seconds until the route's timeout or the client's deadline, whichever ends first."""
        assert self.route is not None
        left = self.route.timeout - (time.perf_counter() - self.started)
        if self.deadline is None:
            return left
        return min(left, self.deadline - asyncio.get_running_loop().time())

    def hurry(self, timeout: object) -> None:
        """The client's own `timeout` parameter (microseconds, from the request's arrival) holds too; 0: none."""
        if type(timeout) is int and timeout > 0:
            elapsed = time.perf_counter() - self.started
            end = asyncio.get_running_loop().time() - elapsed + timeout / 1e6
            if self.deadline is None or end < self.deadline:
                self.deadline = end

    def hurried(self, left: float) -> bool:
        """Whether `left`, of `time_left`, is the client's own haste and not what the route allows."""
        if self.deadline is None:
            return False
        assert self.route is not None
        return left + _CLOCKS < self.route.timeout - (time.perf_counter() - self.started)

    @abstractmethod
    def decode(self) -> InferCall:
        """Step 2: the envelope of the body; sets `inputs`. Raises BadRequest."""

    @abstractmethod
    def encode(self, answer: InferAnswer) -> Any:
        """Step 11: the answer in the client's form; sets `nbytes_out` and `outputs`.

        Raises:
            BadRequest: that form cannot carry it.
        """
