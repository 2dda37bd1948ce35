"""JSON heads of requests and answers that have been read before.

Contract: sans-IO. What a JSON head means depends on its bytes alone, and a client that sends tensors in binary sends
the same head with each of them; the model server answers it with the same head too. So what `http_request` and
`http_answer` made of one is kept by its bytes: the tensors are cut out of the body by where they were the last time,
and the head that goes on is the one that was written the last time. Only heads whose tensors are all binary are kept,
and only what was found good; everything else, and every head that is new, takes the ordinary way. What comes out is
the same (`tests/wire/test_wire_by_heart.py`).

Calls and answers that are made here share the lists and mappings of their head: names, shapes, parameters. They MUST
be replaced and not changed, as everywhere in the pipeline.
"""

from __future__ import annotations

from typing import Final

from gateway.wire import http_answer, http_request
from gateway.wire.json_text import BINARY
from gateway.wire.tensors import SIZES
from gateway.wire.types import Buffer, InferAnswer, InferCall, InputTensor, KnownHead, OutputTensor

MOST_HEADS: Final = 512
"""Heads that are kept of requests, and of answers; beyond, all are forgotten. At most some MiB. Clients that write an
id into each fill it slowly, which costs them 1 us a request."""
LONGEST_HEAD: Final = 2048
"""Bytes of a head that is kept; those of models with a dozen tensors have a thousand."""
_MOST_TENSORS: Final = 32
_MOST_FORMS: Final = 16
"""Requests, by head and model, that one answer's head is kept for."""

_MOST_SEEN: Final = 8192
"""Hashes of heads that were seen once. Learning a head costs 5 us: one that never comes again is not worth it."""

_seen: set[int] = set()
_requests: dict[bytes, KnownRequest] = {}
_answers: dict[bytes, KnownAnswer] = {}


class KnownRequest(KnownHead):
    """A request's head."""

    __slots__ = ("_fits", "_fixed", "_inputs", "_sent", "call", "parameters", "size")

    def __init__(self, call: InferCall, header_length: int, size: int) -> None:
        self.call = call
        self.size = size
        """Of the whole body."""
        self.parameters = call.parameters
        self._inputs: list[tuple[InputTensor, int, int]] = []
        at = header_length
        for tensor in call.inputs:
            assert tensor.data is not None
            end = at + len(tensor.data)
            self._inputs.append((tensor, at, end))
            tensor.data = None  # lets go of the body
            at = end
        self._fixed = all(SIZES.get(tensor.datatype) for tensor in call.inputs)
        self._fits: object = None
        self._sent = b""

    def make(self, body: Buffer, header_length: int, model: str, version: str) -> InferCall:
        """The call with this body."""
        whole = memoryview(body)
        like = self.call
        inputs = []
        for tensor, at, end in self._inputs:
            inputs.append(InputTensor(tensor.name, tensor.datatype, tensor.shape, tensor.parameters, whole[at:end]))
        return InferCall(
            model,
            version,
            like.id,
            self.parameters,
            inputs,
            like.outputs,
            like.binary_data_output,
            False,
            self,
            whole[header_length:],
        )

    def fits(self, signature: object) -> bool:
        """As above."""
        return self._fits is signature

    def found_to_fit(self, signature: object) -> None:
        """As above. BYTES are judged each time: their size says nothing of their elements."""
        if self._fixed:
            self._fits = signature

    def sent(self, call: InferCall) -> bytes:
        """The head that goes to a server which takes binary tensors and is told no timeout."""
        if not self._sent:
            _, parts = http_request.encode_request(call)
            self._sent = bytes(parts[0])
        return self._sent


class KnownAnswer(KnownHead):
    """An answer's head."""

    __slots__ = ("_answer", "_outputs", "_written", "size")

    def __init__(self, answer: InferAnswer, header_length: int, size: int) -> None:
        self._answer = answer
        self.size = size
        self._outputs: list[tuple[OutputTensor, int, int]] = []
        at = header_length
        for tensor in answer.outputs:
            assert tensor.data is not None
            end = at + len(tensor.data)
            self._outputs.append((tensor, at, end))
            tensor.data = None
            at = end
        self._written: dict[tuple[KnownHead, str, str], tuple[bytes, bytes]] = {}

    def make(self, body: Buffer, header_length: int) -> InferAnswer:
        """The answer with this body."""
        whole = memoryview(body)
        like = self._answer
        outputs = []
        for tensor, at, end in self._outputs:
            outputs.append(OutputTensor(tensor.name, tensor.datatype, tensor.shape, tensor.parameters, whole[at:end]))
        return InferAnswer(
            like.model_name,
            like.model_version,
            like.id,
            like.parameters,
            outputs,
            self,
            whole[header_length:],
        )

    def written(self, request: KnownHead, answer: InferAnswer) -> tuple[bytes, bytes] | None:
        """HTTP header lines and JSON head as they were written for a client's request of that head."""
        return self._written.get((request, answer.model_name, answer.model_version))

    def wrote(self, request: KnownHead, answer: InferAnswer, head: bytes) -> tuple[bytes, bytes]:
        """It was written so, with all tensors behind it as the model server sent them."""
        if len(self._written) >= _MOST_FORMS:
            self._written.clear()
        lines = b"content-type: %b\r\ninference-header-content-length: %d\r\ncontent-length: %d\r\n" % (
            BINARY.encode(),
            len(head),
            len(head) + len(answer.tail),
        )
        self._written[request, answer.model_name, answer.model_version] = lines, head
        return lines, head


def _again(head: bytes) -> bool:
    """Whether this head was seen before (or one of the same hash, which costs nothing but the learning)."""
    mark = hash(head)
    if mark in _seen:
        return True
    if len(_seen) >= _MOST_SEEN:
        _seen.clear()
    _seen.add(mark)
    return False


def decode_request(body: Buffer, header_length: int | None, model: str, version: str, tensors: int) -> InferCall:
    """As `http_request.decode_request`, by heart where it can be."""
    if header_length and header_length <= LONGEST_HEAD:
        head = bytes(body[:header_length])
        known = _requests.get(head)
        if known is not None and known.size == len(body) >= header_length and tensors >= _MOST_TENSORS:
            return known.make(body, header_length, model, version)
        call = http_request.decode_request(body, header_length, model, version, tensors)
        if (
            not call.raw
            and call.inputs
            and len(call.inputs) + len(call.outputs) <= _MOST_TENSORS
            and all(tensor.data is not None for tensor in call.inputs)
            and _again(head)
        ):
            if len(_requests) >= MOST_HEADS:
                _requests.clear()
            _requests[head] = known = KnownRequest(call, header_length, len(body))
            return known.make(body, header_length, model, version)
        return call
    return http_request.decode_request(body, header_length, model, version, tensors)


def encode_request(
    call: InferCall, *, want_binary: bool, binary_input: bool, timeout: int
) -> tuple[int | None, list[Buffer]]:
    """As `http_request.encode_request`, by heart where it can be."""
    known = call.known
    if (
        isinstance(known, KnownRequest)
        and known.parameters is call.parameters
        and want_binary
        and binary_input
        and not timeout
    ):
        head = known.sent(call)
        return len(head), [head, call.tail]
    return http_request.encode_request(call, want_binary=want_binary, binary_input=binary_input, timeout=timeout)


def decode_response(body: Buffer, header_length: int | None) -> InferAnswer:
    """As `http_answer.decode_response`, by heart where it can be."""
    if header_length and header_length <= LONGEST_HEAD:
        head = bytes(body[:header_length])
        known = _answers.get(head)
        if known is not None and known.size == len(body) >= header_length:
            return known.make(body, header_length)
        answer = http_answer.decode_response(body, header_length)
        if (
            len(answer.outputs) <= _MOST_TENSORS
            and all(tensor.data is not None for tensor in answer.outputs)
            and _again(head)
        ):
            if len(_answers) >= MOST_HEADS:
                _answers.clear()
            _answers[head] = known = KnownAnswer(answer, header_length, len(body))
            return known.make(body, header_length)
        return answer
    return http_answer.decode_response(body, header_length)


def written(answer: InferAnswer, call: InferCall) -> tuple[bytes, bytes] | None:
    """HTTP header lines and the JSON head of a client's answer, with `answer.tail` as its tensors.

    The lines are content-type, inference-header-content-length and content-length. None: it is not known by heart, or
    not all in binary; `http_answer.encode_response` says what it is.

    Raises:
        BadRequest: as there.
    """
    known, request = answer.known, call.known
    if not isinstance(known, KnownAnswer) or request is None:
        return None
    found = known.written(request, answer)
    if found is not None:
        return found
    length, _, parts = http_answer.encode_response(answer, call)
    if length is None or sum(map(len, parts[1:])) != len(answer.tail):
        return None
    return known.wrote(request, answer, bytes(parts[0]))
