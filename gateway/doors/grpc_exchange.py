"""What both gRPC handlers of inference share: the exchange, the metadata of an answer, the end of a call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

from gateway.clients import FORWARDING, drop_untrusted
from gateway.errors import CircuitOpen, ModelAway, Shed, TidegateError, TooLarge
from gateway.exchange import Exchange
from gateway.wire import grpc as codec
from gateway.wire.types import InferCall

if TYPE_CHECKING:
    from gateway.approvals import Notices
    from gateway.doors.grpc_call import Call
    from gateway.headers import Headers
    from gateway.snapshot import Snapshot
    from gateway.tls import PeerCertificate
    from gateway.wire.types import InferAnswer


class GrpcExchange(Exchange):
    """An inference request that came over gRPC."""

    __slots__ = ("read", "request")

    protocol = "grpc"

    def __init__(
        self,
        snapshot: Snapshot,
        headers: Headers,
        *,
        operation: str,
        read: InferCall | codec.Envelope,
        request: bytes,
        request_id: str,
        peer: str = "",
        deadline: float | None = None,
        certificate: PeerCertificate | None = None,
    ) -> None:
        super().__init__(
            snapshot,
            headers,
            operation=operation,
            model=read.model,
            version=read.version,
            nbytes=len(request),
            request_id=request_id,
            peer=peer,
            deadline=deadline,
            certificate=certificate,
        )
        self.read = read
        self.request = request

    def decode(self) -> InferCall:
        """The call that was read."""
        self.inputs = (self.request,)
        read = self.read
        if isinstance(read, InferCall):  # of the usual form: nothing lies in shared memory
            return read
        call = codec.call_of(read, self.snapshot.settings.limits.tensors)
        if any(tensor.shm is not None for tensor in call.inputs):
            self.inputs = None
        return call

    def encode(self, answer: InferAnswer) -> bytes:
        """`ModelInferResponse` as bytes."""
        data = codec.encode_response(answer)
        self.nbytes_out = len(data)
        self.outputs = (data,)
        for output in answer.outputs:
            if output.shm is not None:
                self.outputs = None
        return data


def check_size(request: bytes, limit: int) -> None:
    """Raises TooLarge for a message beyond `limits.body`; the engines refuse only what is far beyond it."""
    if len(request) > limit:
        raise TooLarge(f"the message is larger than {limit} bytes")


def believed(headers: Headers, peer: str, proxies: tuple[str, ...]) -> Headers:
    """The call's headers without those that speak for another, where the client may not do that."""
    if FORWARDING.isdisjoint(headers):
        return headers
    own = headers.copied()
    drop_untrusted(own, peer, proxies)
    return own


def served(rid: str, variant: str, notices: Notices = ()) -> tuple[tuple[str, str], ...]:
    """Initial metadata of an answer."""
    if variant:
        return (("x-request-id", rid), ("x-tidegate-variant", variant), *notices)
    return (("x-request-id", rid),)


async def fail(call: Call, error: TidegateError, rid: str, variant: str) -> NoReturn:
    """End the call with the error's status."""
    await call.begin(served(rid, variant))
    await call.abort(error.code, error.message, retry_metadata(error))


def retry_metadata(error: TidegateError) -> tuple[tuple[str, str], ...]:
    """Trailing metadata of a call that was not tried: when to try again."""
    if not isinstance(error, Shed | CircuitOpen | ModelAway):
        return ()
    return (
        ("grpc-retry-pushback-ms", str(math.ceil(error.retry_after * 1000))),
        ("retry-after", str(max(1, math.ceil(error.retry_after)))),
    )
