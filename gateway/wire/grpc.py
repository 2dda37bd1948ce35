"""OIP over gRPC: `ModelInfer`, and the requests of `ModelStreamInfer`; `grpc_stream` has an upstream's side of that.

Contract: sans-IO, over serialised messages where bytes come in or go out, over protobuf objects between the steps.
What is wrong with a request is a `BadRequest` in Triton's words.

The usual request is read by `_infer_c` and the usual answer written by `_infer_write_c`, everything else by protobuf,
which is their specification (`TIDEGATE_NO_EXTENSIONS=1` takes protobuf for all). Raw tensors of large messages stay
views of the message: for protobuf, which would copy them twice, their fields are cut out before it reads the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from gateway.errors import BadGateway, BadRequest
from gateway.wire.complaints import too_many
from gateway.wire.tensors import DATATYPES, data_of
from gateway.wire.types import (
    MAX_RANK,
    MAX_TENSORS,
    Buffer,
    InferAnswer,
    InferCall,
    InputTensor,
    OutputRequest,
    OutputTensor,
    Param,
    SharedMemory,
)

NO_EXTENSIONS: Final = bool(os.environ.get("TIDEGATE_NO_EXTENSIONS"))

if TYPE_CHECKING or not NO_EXTENSIONS:
    from gateway.wire._infer_c import read_request as _read_usual
    from gateway.wire._infer_write_c import write_response as _write_usual
else:

    def _read_usual(message: bytes, tensors: int) -> None:
        """Never."""

    def _write_usual(answer: InferAnswer) -> None:
        """Never."""


LARGE: Final = 16 * 1024
"""Bytes from which cutting raw tensors out costs less than protobuf's copies: measured 7.2 us against 7.6 us here,
7.7 us against 80 us for 600 kB."""

_RAW_INPUT: Final = 7 << 3 | 2  # tag of ModelInferRequest.raw_input_contents
_RAW_OUTPUT: Final = b"\x32"  # tag of ModelInferResponse.raw_output_contents: 6 << 3 | 2
_MOST_FIELDS: Final = 256 * 1024
"""Top-level fields of one message: inputs, raw contents, outputs and parameters, however high `limits.tensors`."""
EMPTY_FINAL: Final = "triton_enable_empty_final_response"
_INT64: Final = range(-(2**63), 2**63)
_UINT64: Final = 2**64


class Envelope(msgspec.Struct):
    """A request that protobuf has read: who is asked; the rest when it is worth it."""

    message: Any
    raw: list[Buffer] | None

    @property
    def model(self) -> str:
        """As the client asked."""
        return str(self.message.model_name)

    @property
    def version(self) -> str:
        """As the client asked; empty: none."""
        return str(self.message.model_version)

    @property
    def id(self) -> str:
        """The client's."""
        return str(self.message.id)


def read_request(message: bytes, tensors: int = MAX_TENSORS) -> InferCall | Envelope:
    """A serialised `ModelInferRequest`: the whole call when it is of the usual form, else what `call_of` makes one of.

    Raises:
        BadRequest: not such a message.
    """
    usual = _read_usual(message, tensors)
    return Envelope(*parse_request(message)) if usual is None else usual


def call_of(read: InferCall | Envelope, tensors: int = MAX_TENSORS) -> InferCall:
    """The call.

    Returns:
        Raw inputs are bytes, or views of the message where they are large; typed `contents` are kept as they are
        until `wire.tensors.materialise`.

    Raises:
        BadRequest: against Triton's rules, or more than `tensors` inputs and outputs (`limits.tensors`).
    """
    return from_message(read.message, read.raw, tensors) if isinstance(read, Envelope) else read


def decode_request(message: bytes | memoryview) -> InferCall:
    """A serialised `ModelInferRequest`, at once. Raises BadRequest."""
    return call_of(read_request(bytes(message)))


def parse_request(message: bytes | memoryview) -> tuple[Any, list[Buffer] | None]:
    """A serialised `ModelInferRequest` as an object, and its raw contents where they were cut out.

    Raises:
        BadRequest: not such a message.
    """
    request = service_pb2.ModelInferRequest()
    raw: list[Buffer] | None = None
    try:
        cut = _cut_raw(memoryview(message)) if len(message) >= LARGE else None
        if cut is None:
            request.ParseFromString(bytes(message))
        else:
            rest, raw = cut
            request.ParseFromString(rest)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"failed to parse the request message: {error}") from None
    return request, raw


def from_message(request: Any, raw: list[Buffer] | None = None, tensors: int = MAX_TENSORS) -> InferCall:
    """A `ModelInferRequest` object; `raw` replaces its `raw_input_contents` when they were cut out.

    Raises:
        BadRequest: against Triton's rules, or more than `tensors` inputs and outputs (`limits.tensors`).
    """
    if len(request.inputs) + len(request.outputs) > tensors or len(request.raw_input_contents) > tensors:
        raise too_many(tensors)
    if raw is None:
        raw = list(request.raw_input_contents)
    call = InferCall(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        parameters=_request_parameters(request.parameters),
    )
    unread = iter(raw)
    for item in request.inputs:
        call.inputs.append(_input(item, call.model, raw, unread))
    extra = len(list(unread))
    if extra:
        raise BadRequest(
            f"unexpected additional input data for model '{call.model}': no input takes the last {extra} of "
            f"{len(raw)} raw_input_contents"
        )
    for output in request.outputs:
        call.outputs.append(_output_request(output))
    return call


def _input(item: Any, model: str, raw: list[Buffer], unread: Iterator[Buffer]) -> InputTensor:
    """One input; it takes the next of the raw contents unless it is typed or lies in shared memory."""
    if len(item.shape) > MAX_RANK:  # before they become Python's numbers, which take eight times the room
        raise BadRequest(f"invalid shape for input '{item.name}': more than {MAX_RANK} dimensions")
    tensor = InputTensor(name=item.name, datatype=item.datatype, shape=list(item.shape))
    if tensor.datatype not in DATATYPES:
        raise BadRequest(f"invalid datatype for input {tensor.name}")
    if item.parameters:
        parameters = {key: _value(key, item.parameters[key]) for key in item.parameters}
        tensor.shm = _shared_memory(parameters, tensor.name)
        tensor.parameters = parameters or None
    if tensor.shm is not None:
        if item.HasField("contents"):
            raise BadRequest(
                f"unexpected 'content' provided when using shared memory for input tensor '{tensor.name}' "
                f"for model '{model}'"
            )
    elif item.HasField("contents"):
        if raw:
            raise BadRequest(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                f"for model '{model}'"
            )
        tensor.contents = item.contents
    else:
        tensor.data = next(unread, None)
        if tensor.data is None:
            raise BadRequest(f"unable to find data for input tensor '{tensor.name}' for model '{model}' in request.")
    return tensor


def _cut_raw(message: memoryview) -> tuple[bytes, list[Buffer]] | None:
    """The message without its raw inputs, and those; None when it is not in the usual form.

    Raises:
        BadRequest: more fields than any request has. Each costs time here, and protobuf sixteen bytes.
    """
    raw: list[Buffer] = []
    rest: list[memoryview] = []
    size = len(message)
    at = 0
    try:
        while at < size:
            tag = message[at]
            if tag & 7 != 2 or tag >= 0x80:  # length-delimited, field number below 16: all that OIP has
                return None
            length = shift = 0
            after = at + 1
            while True:
                byte = message[after]
                after += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:  # last byte of a varint
                    break
            end = after + length
            if end > size:
                return None
            if tag == _RAW_INPUT:
                raw.append(message[after:end])
            else:
                rest.append(message[at:end])
            at = end
            if len(raw) + len(rest) > _MOST_FIELDS:
                raise BadRequest(f"the request message has more than {_MOST_FIELDS} fields")
    except IndexError:
        return None
    return b"".join(rest), raw


def _value(key: str, parameter: Any) -> Param:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise BadRequest(
            f"invalid value type for '{key}' parameter, expected int64_param, bool_param, or string_param."
        )
    value: Param = getattr(parameter, choice)
    return value


_RESERVED: Final[dict[str, tuple[frozenset[str], str]]] = {
    "sequence_id": (frozenset({"int64_param", "string_param"}), "int64_param or string_param"),
    "sequence_start": (frozenset({"bool_param"}), "bool_param"),
    "sequence_end": (frozenset({"bool_param"}), "bool_param"),
    "priority": (frozenset({"int64_param", "uint64_param"}), "int64_param or uint64_param"),
    "timeout": (frozenset({"int64_param"}), "int64_param"),
    EMPTY_FINAL: (frozenset({"bool_param"}), "bool_param"),
}
"""Parameters with a meaning of their own: the types they may have, and Triton's words for those."""


def _request_parameters(parameters: Any) -> dict[str, Param]:
    """The request's parameters, judged as Triton judges them; unsigned ones as unsigned numbers."""
    found: dict[str, Param] = {}
    for key in parameters:
        parameter = parameters[key]
        value = _value(key, parameter)
        rule = _RESERVED.get(key)
        if rule is not None:
            choices, words = rule
            if parameter.WhichOneof("parameter_choice") not in choices:
                raise BadRequest(f"invalid value type for '{key}' parameter, expected {words}.")
            if type(value) is int and value < 0:
                if key == "priority":
                    raise BadRequest("invalid value for 'priority', expected value >= 0.")
                value %= _UINT64
        elif key.startswith("triton_"):
            raise BadRequest(
                "parameter keys starting with 'triton_' are reserved for Triton usage. "
                f"Only the following keys starting with 'triton_' are allowed: {EMPTY_FINAL}"
            )
        found[key] = value
    return found


def _shared_memory(parameters: dict[str, Param], name: str) -> SharedMemory | None:
    """Take the three shared-memory parameters out; None when there are none."""
    region = parameters.pop("shared_memory_region", None)
    numbers = []
    for key in ("shared_memory_offset", "shared_memory_byte_size"):
        value = parameters.pop(key, None)
        if value is not None and region is None:
            raise BadRequest(
                f"'{key}' can not be specified without 'shared_memory_region' parameter for tensor '{name}'"
            )
        if value is None:
            value = 0
        if type(value) is not int or value < 0:
            raise BadRequest(f"invalid value type for '{key}' parameter for tensor '{name}', expected int64_param.")
        numbers.append(value)
    if region is None:
        return None
    if not isinstance(region, str):
        raise BadRequest(
            f"invalid value type for 'shared_memory_region' parameter for tensor '{name}', expected string_param."
        )
    return SharedMemory(region=region, byte_size=numbers[1], offset=numbers[0])


def _output_request(item: Any) -> OutputRequest:
    output = OutputRequest(name=item.name, binary=True)
    if not item.parameters:
        return output
    parameters = {key: _value(key, item.parameters[key]) for key in item.parameters}
    if "classification" in parameters:
        classes = parameters.pop("classification")
        if type(classes) is not int:
            raise BadRequest("invalid value type for 'classification' parameter, expected int64_param")
        if classes <= 0:
            raise BadRequest("invalid value for 'classification' parameter, expected >= 0")
        output.classification = classes
    output.shm = _shared_memory(parameters, item.name)
    if output.shm is not None and output.classification:
        raise BadRequest("output can't set both 'shared_memory_region' and 'classification'")
    # HTTP's parameter has no meaning here: every output is raw bytes.
    parameters.pop("binary_data", None)
    output.parameters = parameters or None
    return output


def encode_request(call: InferCall) -> Any:
    """The call as a `ModelInferRequest` for an upstream's stream; all inputs raw."""
    request = service_pb2.ModelInferRequest(model_name=call.model, model_version=call.version, id=call.id)
    for key, value in call.parameters.items():
        if key in {"sequence_id", "timeout"} and type(value) is int:
            # uint64 that travel as int64, two's complement
            request.parameters[key].int64_param = value - _UINT64 if value not in _INT64 else value
        elif key == "priority" and type(value) is int:
            request.parameters[key].uint64_param = value  # as tritonclient does
        else:
            _put(request.parameters[key], value)
    for tensor in call.inputs:
        item = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _put_all(item.parameters, tensor.parameters)
        if tensor.shm is not None:
            _put_shared_memory(item.parameters, tensor.shm)
        else:
            request.raw_input_contents.append(bytes(data_of(tensor)))
    for output in call.outputs:
        wanted = request.outputs.add(name=output.name)
        _put_all(wanted.parameters, output.parameters)
        if output.classification:
            wanted.parameters["classification"].int64_param = output.classification
        if output.shm is not None:
            _put_shared_memory(wanted.parameters, output.shm)
    return request


def _put_all(parameters: Any, values: dict[str, Param] | None) -> None:
    for key, value in (values or {}).items():
        _put(parameters[key], value)


def _put(parameter: Any, value: Param) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        if value in _INT64:
            parameter.int64_param = value
        elif 0 <= value < _UINT64:
            parameter.uint64_param = value
        else:
            parameter.double_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def _put_shared_memory(parameters: Any, shm: SharedMemory) -> None:
    parameters["shared_memory_region"].string_param = shm.region
    parameters["shared_memory_byte_size"].int64_param = shm.byte_size
    if shm.offset:
        parameters["shared_memory_offset"].int64_param = shm.offset


def decode_response(message: Any) -> InferAnswer:
    """A `ModelInferResponse` object of an upstream.

    Raises:
        BadGateway: raw contents and outputs do not match.
    """
    try:
        return _decode_response(message)
    except BadRequest as error:  # a parameter without a value
        raise BadGateway("the model server's answer could not be read", detail=error.message) from None


def _decode_response(message: Any) -> InferAnswer:
    raw = message.raw_output_contents
    if raw and len(raw) != len(message.outputs):
        raise BadGateway(
            "the model server's answer could not be read",
            detail=f"{len(message.outputs)} outputs, {len(raw)} raw_output_contents",
        )
    outputs = []
    for index, item in enumerate(message.outputs):
        tensor = OutputTensor(name=item.name, datatype=item.datatype, shape=list(item.shape))
        parameters = {key: _value(key, item.parameters[key]) for key in item.parameters}
        tensor.shm = _shared_memory(parameters, item.name)
        tensor.parameters = parameters or None
        if tensor.shm is None:
            if item.HasField("contents"):
                # OIP allows it; Triton never does it.
                tensor.data = data_of(
                    InputTensor(name=item.name, datatype=item.datatype, shape=tensor.shape, contents=item.contents)
                )
            else:
                tensor.data = raw[index] if raw else b""
        outputs.append(tensor)
    return InferAnswer(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        parameters={key: _value(key, message.parameters[key]) for key in message.parameters},
        outputs=outputs,
    )


def encode_response(answer: InferAnswer) -> bytes:
    """The answer as a serialised `ModelInferResponse`.

    Every output has one entry in `raw_output_contents`, empty for shared memory and tensors without
    elements. The entries are put behind the serialised rest, as protobuf allows, so that tensor bytes are
    copied once.
    """
    usual = _write_usual(answer)
    return _encode_response(answer) if usual is None else usual


def _encode_response(answer: InferAnswer) -> bytes:
    message = service_pb2.ModelInferResponse(
        model_name=answer.model_name, model_version=answer.model_version, id=answer.id
    )
    _put_all(message.parameters, answer.parameters)
    parts: list[Buffer] = [b""]
    for tensor in answer.outputs:
        item = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if tensor.parameters:
            _put_all(item.parameters, tensor.parameters)
        data = b"" if tensor.shm is not None else data_of(tensor)
        parts += (_RAW_OUTPUT + _varint(len(data)), data)
    parts[0] = message.SerializeToString()
    return b"".join(parts)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:  # seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
