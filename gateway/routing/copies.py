"""The copy of a call that a shadow gets.

Contract: pure. A copy shares the tensors' bytes with the call and nothing else, so that neither can change
the other. It must not touch anything that is the client's: no shared memory of its own, and a sequence id of
its own, because a shadow may be the very model and version that serves.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from gateway.routing.route import CompiledShadow
from gateway.routing.sequences import sequence_id, upstream_sequence_id
from gateway.wire.types import Buffer, InferAnswer, InferCall

MARK = "x-tidegate-shadow"
"""The header that tells the model server's operator a copy from a request."""


def copy_of(call: InferCall, shadow: CompiledShadow) -> InferCall | None:
    """The call as the shadow gets it; None when an input lies in shared memory.

    The client may write there again as soon as it has its answer, so a copy would read anything.
    """
    if any(tensor.shm is not None for tensor in call.inputs):
        return None
    parameters = dict(call.parameters)
    sequence = sequence_id(parameters)
    if sequence is not None:
        parameters["sequence_id"] = upstream_sequence_id("", sequence, "shadow", shadow.route, shadow.name)
    outputs = [
        msgspec.structs.replace(output, shm=None) if output.shm is not None else output for output in call.outputs
    ]
    return msgspec.structs.replace(call, parameters=parameters, outputs=outputs, inputs=list(call.inputs))


def mark(shadow: CompiledShadow) -> tuple[str, str]:
    """The header that every copy carries; a name beyond visible ASCII is percent-encoded."""
    return MARK, quote(shadow.name, safe="!#$&'()*+,/:;=?@[]^`{|}~<>\" ")


def call_bytes(call: InferCall) -> int:
    """Bytes of the tensors that the call keeps in memory."""
    return sum(_size(tensor.data or tensor.json) for tensor in call.inputs)


def answer_bytes(answer: InferAnswer) -> int:
    """Bytes of the tensors that the answer keeps in memory."""
    return sum(_size(tensor.data or tensor.json) for tensor in answer.outputs)


def _size(data: Buffer | msgspec.Raw | None) -> int:
    return 0 if data is None else memoryview(data).nbytes
