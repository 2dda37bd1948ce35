"""`ModelInferRequest`s whose tensors alone differ from one that has been read before.

Contract: sans-IO. protobuf writes fields in the order of their numbers, so that raw contents stand last, and a client
that sends tensors of the same names and shapes sends the same bytes in front of them each time. What `wire.grpc` made
of those is kept by them, as `by_heart` keeps JSON heads and for the same: the call is known to fit the model's
signature, and the head that goes to the model server is the one that was written the last time. Only calls whose
tensors are all raw and at the end are kept, and only what was found good; everything else takes the ordinary way. What
comes out is the same (`tests/wire/test_wire_grpc_by_heart.py`).
"""

from __future__ import annotations

from typing import Final

from gateway.wire import grpc
from gateway.wire.by_heart import LONGEST_HEAD, MOST_HEADS, KnownRequest
from gateway.wire.types import InferCall, InputTensor

_MOST_TENSORS: Final = 32
_LONGEST: Final = 64 * 1024
"""Bytes of a message that is kept; of larger ones the tensors are what costs."""
_MOST_SEEN: Final = 8192
_MOST_LENGTHS: Final = 4
"""Heads that are tried for messages of one size; a service that is asked in more forms has others."""
_RAW: Final = 7 << 3 | 2  # tag of ModelInferRequest.raw_input_contents

_seen: set[int] = set()
_known: dict[bytes, KnownMessage] = {}
_lengths: dict[int, tuple[int, ...]] = {}
"""Bytes of the heads that there are of messages of a size."""


class KnownMessage(KnownRequest):
    """All of a message up to its first tensor's bytes."""

    __slots__ = ("_between", "_spans")

    def __init__(self, call: InferCall, message: bytes, spans: list[tuple[int, int]]) -> None:
        for tensor, (at, end) in zip(call.inputs, spans, strict=True):
            tensor.data = message[at:end]
        super().__init__(call, spans[0][0], len(message))
        self._spans = [(tensor, at, end) for tensor, (at, end) in zip(call.inputs, spans, strict=True)]
        self._between = [
            (end, after, message[end:after]) for (_, end), (after, _) in zip(spans, spans[1:], strict=False)
        ]
        """Tags and lengths of the tensors behind the first."""

    def read(self, message: bytes) -> InferCall | None:
        """The call with these tensors; None: they are of other sizes."""
        for at, end, like in self._between:
            if message[at:end] != like:
                return None
        found = self.call
        inputs = []
        for tensor, at, end in self._spans:
            inputs.append(InputTensor(tensor.name, tensor.datatype, tensor.shape, None, message[at:end]))
        tail = inputs[0].data if len(inputs) == 1 else b"".join([message[at:end] for _, at, end in self._spans])
        assert tail is not None
        return InferCall(
            found.model,
            found.version,
            found.id,
            self.parameters,
            inputs,
            found.outputs,
            False,
            False,
            self,
            tail,
        )


def read_request(message: bytes, tensors: int) -> InferCall | grpc.Envelope:
    """As `grpc.read_request`, by heart where it can be."""
    for length in _lengths.get(len(message), ()):
        known = _known.get(message[:length])
        if known is not None and known.size == len(message) and tensors >= _MOST_TENSORS:
            call = known.read(message)
            if call is not None:
                return call
    read = grpc.read_request(message, tensors)
    if isinstance(read, InferCall) and read.inputs and len(message) <= _LONGEST:
        _learn(message, read)
    return read


def _learn(message: bytes, call: InferCall) -> None:
    """Keep what a message means, at the second sight of its head."""
    spans = _raw_contents(message)
    if len(spans) != len(call.inputs) or len(spans) + len(call.outputs) > _MOST_TENSORS or spans[0][0] > LONGEST_HEAD:
        return
    head = message[: spans[0][0]]
    mark = hash(head)
    if mark not in _seen:
        if len(_seen) >= _MOST_SEEN:
            _seen.clear()
        _seen.add(mark)
        return
    if len(_known) >= MOST_HEADS:
        _known.clear()
        _lengths.clear()
    lengths = _lengths.get(len(message), ())
    if len(head) not in lengths:
        _lengths[len(message)] = (*lengths, len(head))[-_MOST_LENGTHS:]
    inputs = [InputTensor(tensor.name, tensor.datatype, tensor.shape) for tensor in call.inputs]
    like = InferCall(call.model, call.version, call.id, call.parameters, inputs, call.outputs)
    _known[head] = KnownMessage(like, message, spans)


def _raw_contents(message: bytes) -> list[tuple[int, int]]:
    """Where the raw contents stand that end the message; empty when they do not, or another field is among them."""
    spans: list[tuple[int, int]] = []
    at, size = 0, len(message)
    while at < size:
        tag = message[at]
        length = shift = 0
        at += 1
        while True:  # the message has been read: it ends with a field
            byte = message[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # last byte of a varint
                break
        if tag == _RAW:
            spans.append((at, at + length))
        elif spans:
            return []
        at += length
    return spans
