"""Calls of an upstream.

Contract: this is the specification of `_straight_c.pyx`, which makes the usual call without a coroutine.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, cast

from gateway.upstream import attempts
from gateway.upstream.plan import CallPlan, Resilience, Sending

if TYPE_CHECKING:
    from gateway.upstream.replica import Replica
    from gateway.upstream.upstream import Upstream
    from gateway.wire.types import InferAnswer, InferCall
    from gateway.wire.validate import ModelSignature


class Calls:
    """Calls of an upstream."""

    _only: Replica | None
    """The one replica, where there is one."""
    resilience: Resilience

    def known_signature(self, model: str, version: str = "") -> ModelSignature | None:
        """What is known of a model without asking; None: nothing yet."""
        if self._only is not None:
            return self._only.signatures.peek(model, version)
        return self._known_among(model, version)

    def _known_among(self, model: str, version: str) -> ModelSignature | None:
        raise NotImplementedError

    def infer(
        self,
        call: InferCall,
        *,
        model: str,
        version: str = "",
        headers: Sequence[tuple[str, str]] = (),
        timeout: float,
        plan: CallPlan | None = None,
    ) -> Coroutine[Any, Any, InferAnswer]:
        """One inference by one of the replicas; see `attempts.run`. Nothing happens until it is awaited."""
        sending = Sending(call, model, version, headers, CallPlan() if plan is None else plan)
        if self._only is not None and "sequence_id" not in call.parameters:
            return attempts.run(
                cast("Upstream", self), sending, timeout
            )  # the common case: without a coroutine in between
        return self._infer(sending, timeout)

    async def _infer(self, sending: Sending, timeout: float) -> InferAnswer:
        raise NotImplementedError
