"""How a unary call travels to a model server: over HTTP, or over gRPC where that can be cancelled and changes nothing.

Triton 2.51 works on for a client whose HTTP connection has closed; a cancelled gRPC call leaves its queue, and a
model that runs can ask whether it was cancelled. HTTP costs the gateway some 250 us less. So `auto` sends models
that are quick over HTTP, and models that are slow or not yet known over gRPC.

A call goes over gRPC only where the server takes and answers it exactly as over HTTP: no classification (Triton 2.51
ends with signal 11 on the classification of BYTES over gRPC), no parameters but Triton's own, no shared memory, no
headers that Triton could forward to the model as parameters (its two `forward-header-pattern`s are set apart).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from gateway.errors import BadGateway, Unreachable, UpstreamAnswered
from gateway.headers import metadata_of
from gateway.upstream.capabilities import TRITON
from gateway.wire import grpc as codec

if TYPE_CHECKING:
    from gateway.upstream.grpc_channel import GrpcChannel
    from gateway.upstream.plan import Sending
    from gateway.upstream.replica import Replica
    from gateway.wire.types import InferAnswer, InferCall

LARGEST: Final = 16 * 1024 * 1024
"""Bytes of inputs up to which a call may go over gRPC: protobuf and grpcio copy them three times."""

SETTLE: Final = 0.03
"""Seconds that a call has run before it is cancelled. Triton 2.51 can end with signal 11 when a cancellation meets
the end of a quick call, whose state it has given to another by then (its issues 7368 and 8034). Seen: within 20 s of
quick calls cancelled at random; with this pause not in 27,000. A sign that it is rare, no proof that it cannot be."""
LEAST_TIME: Final = 0.1
"""Seconds below which a call keeps to HTTP: its deadline would cancel it at the server as early."""

GRPC_PAUSE: Final = 5.0
"""Seconds for which calls keep to HTTP after a gRPC address could not be reached."""

_PARAMETERS: Final = frozenset({"sequence_id", "sequence_start", "sequence_end", "priority", "timeout"})
_HEADERS: Final = frozenset({
    "accept", "accept-language", "baggage", "forwarded", "traceparent", "tracestate", "user-agent", "x-forwarded-for",
    "x-forwarded-host", "x-forwarded-proto", "x-request-id",
})  # fmt: skip


async def send(replica: Replica, sending: Sending, timeout: float) -> InferAnswer:
    """One unary call of a model that is not known to be quick, over gRPC where that is right, else over HTTP.

    Args:
        replica: where it goes; it has a gRPC address.
        sending: the call; its plan says afterwards how it travelled.
        timeout: seconds for everything.

    Raises:
        TidegateError: those of `Replica.infer`.
    """
    plan = sending.plan
    if timeout >= LEAST_TIME and _over_grpc(replica, sending):
        plan.transport = "grpc"
        known = replica.capabilities
        try:
            return await infer(
                replica.grpc_channel,
                sending.call,
                model=sending.model,
                version=sending.version,
                headers=sending.headers,
                timeout=timeout,
                tell=plan.heeds_timeout and known is not None and known.name == TRITON,
            )
        except Unreachable as error:
            if error.sent or replica.settings.unary == "grpc":
                replica.heard(error)
                raise
            # Nothing listens at its gRPC address, or not yet: HTTP may do, and for the next moments too.
            replica.grpc_again_at = asyncio.get_running_loop().time() + GRPC_PAUSE
        except UpstreamAnswered as error:
            replica.heard(error, sending.model)
            raise
    plan.transport = "http"
    return await replica.infer(
        sending.call,
        model=sending.model,
        version=sending.version,
        headers=sending.headers,
        timeout=timeout,
        tell=plan.heeds_timeout,
        again=plan.idempotent and plan.sequence is None,
    )


def _over_grpc(replica: Replica, sending: Sending) -> bool:
    config = replica.settings
    if replica.grpc_address is None or config.unary == "http":
        return False
    known = replica.capabilities
    if config.unary == "auto" and (
        known is None
        or known.name != TRITON
        or replica.grpc_again_at > asyncio.get_running_loop().time()
        or config.binary == "never"
    ):
        return False
    return same_over_grpc(sending.call, sending.headers)


def same_over_grpc(call: InferCall, headers: Sequence[tuple[str, str]]) -> bool:
    """Whether Triton takes and answers this call over gRPC as over HTTP."""
    if not call.parameters.keys() <= _PARAMETERS:
        return False
    size = 0
    for tensor in call.inputs:
        if tensor.parameters or tensor.shm is not None or tensor.data is None:
            return False
        size += len(tensor.data) if type(tensor.data) is bytes else memoryview(tensor.data).nbytes
    if size > LARGEST:
        return False
    for output in call.outputs:
        if output.classification or output.parameters or output.shm is not None:
            return False
    return all(name.lower() in _HEADERS and value.isascii() and value.isprintable() for name, value in headers)


async def infer(
    channel: GrpcChannel,
    call: InferCall,
    *,
    model: str,
    version: str,
    headers: Sequence[tuple[str, str]],
    timeout: float,
    tell: bool,
) -> InferAnswer:
    """One `ModelInfer`; cancelling it cancels the work at the server.

    Args:
        channel: to the server.
        call: inputs raw.
        model: the model's name on this server.
        version: "" is the server's own choice.
        headers: sent as metadata.
        timeout: seconds for everything.
        tell: send the time that is left as the request's `timeout` (microseconds) too.

    Raises:
        TidegateError: see `GrpcChannel.unary`.
    """
    request = codec.encode_request(call)
    request.model_name = model
    request.model_version = version
    if tell:
        left = max(int(timeout * 1e6), 1)
        own = call.parameters.get("timeout", 0)
        if not (isinstance(own, int) and 0 < own <= left):
            request.parameters["timeout"].int64_param = left
    try:
        data = await channel.unary(
            "ModelInfer", request.SerializeToString(), metadata=metadata_of(headers), timeout=timeout, settle=SETTLE
        )
    except UpstreamAnswered as error:
        if error.code == "UNKNOWN":
            error.status = 400  # what Triton 2.51 answers to it over HTTP
        raise
    try:
        message = service_pb2.ModelInferResponse.FromString(data)
    except DecodeError as error:
        raise BadGateway("the model server's answer could not be understood", detail=str(error)) from None
    return codec.decode_response(message)
