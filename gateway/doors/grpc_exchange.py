"""What both gRPC handlers of inference share: the exchange, the metadata of an answer, the end of a call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

from gateway.errors import CircuitOpen, ModelAway, Shed, TidegateError, TooLarge
from gateway.exchange import Exchange
from gateway.wire import grpc as codec

if TYPE_CHECKING:
    from gateway.approvals import Notices
    from gateway.doors.grpc_call import Call
    from gateway.wire.types import InferAnswer, InferCall


class GrpcExchange(Exchange):
    """An inference request that came over gRPC."""

    __slots__ = ("read", "request")

    protocol = "grpc"

    def __init__(self, *args: Any, read: InferCall | codec.Envelope, request: bytes, **kwargs: Any) -> None:
        super().__init__(*args, model=read.model, version=read.version, **kwargs)
        self.read = read
        self.request = request

    def decode(self) -> InferCall:
        """The call that was read."""
        self.inputs = (self.request,)
        call = codec.call_of(self.read, self.snapshot.settings.limits.tensors)
        if any(tensor.shm is not None for tensor in call.inputs):
            self.inputs = None
        return call

    def encode(self, answer: InferAnswer) -> bytes:
        """`ModelInferResponse` as bytes."""
        data = codec.encode_response(answer)
        self.nbytes_out = len(data)
        self.outputs = None if any(output.shm is not None for output in answer.outputs) else (data,)
        return data


def check_size(request: bytes, limit: int) -> None:
    """Raises TooLarge for a message beyond `limits.body`; the engines refuse only what is far beyond it."""
    if len(request) > limit:
        raise TooLarge(f"the message is larger than {limit} bytes")


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
