"""Inference requests of OIP over HTTP; `wire.http` tells the form and the rules.

Contract: see `wire.http`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.errors import BadRequest
from gateway.wire import complaints
from gateway.wire.json_text import MAX_DEPTH, OutTensor, cut, encode, put_shared_memory
from gateway.wire.tensors import DATATYPES, data_of, to_json
from gateway.wire.types import (
    MAX_RANK,
    MAX_TENSORS,
    Buffer,
    InferCall,
    InputTensor,
    OutputRequest,
    Param,
    SharedMemory,
)
from kernels.tensors import scan_json

IHCL_MAX: Final = 2**31 - 1
"""Triton reads Inference-Header-Content-Length as int32."""


class _Input(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: list[int | float]
    parameters: dict[str, Param] | msgspec.UnsetType = msgspec.UNSET
    data: int | msgspec.UnsetType = msgspec.UNSET
    """Which of the tensor texts that were cut out."""


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Param] | msgspec.UnsetType = msgspec.UNSET


class _Request(msgspec.Struct, gc=False):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Param] | msgspec.UnsetType = msgspec.UNSET
    outputs: list[_Output] = []


class _OutRequest(msgspec.Struct, gc=False, omit_defaults=True):
    id: str = ""
    parameters: dict[str, Param] | None = None
    inputs: list[OutTensor] | msgspec.UnsetType = msgspec.UNSET
    outputs: list[_Output] | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Request)


def parse_header_length(text: str | None, body_size: int) -> int | None:
    """The value of Inference-Header-Content-Length; None when the header is absent.

    Args:
        text: the header's value.
        body_size: bytes of the uncompressed body.

    Raises:
        BadRequest: no plain decimal number, or outside of the body. Stricter than Triton, which reads `12x`
        as 12
            and a word as 0.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        if text[:1] == "-" and text[1:].isascii() and text[1:].isdigit():
            raise BadRequest(f"inference header size should be in range (0, {body_size}), got: {text[:40]}")
        raise BadRequest(f"Unable to parse Inference-Header-Content-Length, got: {text[:40]!r}")
    digits = text.lstrip("0") or "0"
    # Length first: Python refuses to convert thousands of digits.
    value = int(digits) if len(digits) <= len(str(IHCL_MAX)) else IHCL_MAX + 1
    if value > body_size or value > IHCL_MAX:
        raise BadRequest(f"inference header size should be in range (0, {body_size}), got: {text[:40]}")
    return value


def decode_request(
    body: Buffer, header_length: int | None, model: str, version: str, tensors: int = MAX_TENSORS
) -> InferCall:
    """An inference request.

    Args:
        body: the uncompressed body.
        header_length: Inference-Header-Content-Length, as `parse_header_length` gave it.
        model: the model's name in the address.
        version: the version in the address, "" for none.
        tensors: most inputs and outputs (`limits.tensors`).

    Returns:
        The call; `data` of its inputs are views of `body`.

    Raises:
        BadRequest: not an OIP request.
    """
    size = len(body)
    if header_length == 0 or not size:  # Triton takes an empty body without IHCL for a raw request, too
        return InferCall(
            model=model,
            version=version,
            raw=True,
            binary_data_output=True,
            inputs=[InputTensor(name="", datatype="", shape=[], data=memoryview(body))],
        )
    whole = memoryview(body)
    head: Buffer = body if header_length is None or header_length == size else whole[:header_length]
    try:
        # Numbers are judged when `wire.tensors.materialise` reads them: once, and for callers who may ask at all.
        spans = scan_json(head, MAX_DEPTH, b"inputs", skim=True)
    except ValueError as error:
        raise BadRequest(f"failed to parse the request JSON buffer: {error}") from None
    request = _envelope(head, spans, tensors)
    call = InferCall(model=model, version=version, id=request.id)
    if request.parameters is not msgspec.UNSET:
        _take_parameters(call, request.parameters)
    source = _Source(whole, spans, len(head), model)
    for item in request.inputs:
        try:
            call.inputs.append(_input(item, source))
        except BadRequest as error:
            raise complaints.named(error, "input", item.name) from None
    if source.offset != size:
        raise BadRequest(f"unexpected additional input data for model '{model}'")
    for output in request.outputs:
        try:
            call.outputs.append(_output_request(output))
        except BadRequest as error:
            raise complaints.named(error, "output", output.name) from None
    return call


def _envelope(head: Buffer, spans: list[tuple[int, int]], tensors: int) -> _Request:
    """All but the tensors; how many there are is judged before any of them is looked at."""
    if len(spans) > tensors:
        raise complaints.too_many(tensors)
    envelope = cut(head, spans) if spans else head
    try:
        request = _decoder.decode(envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise complaints.of_request(envelope, str(error)) from None
    if len(request.inputs) + len(request.outputs) > tensors:
        raise complaints.too_many(tensors)
    return request


class _Source(msgspec.Struct, gc=False):
    """Where the content of the inputs comes from."""

    body: memoryview
    spans: list[tuple[int, int]]
    """Of the tensor texts in `body`."""
    offset: int
    """Of the next binary tensor in `body`."""
    model: str


def _input(item: _Input, source: _Source) -> InputTensor:
    if len(item.shape) > MAX_RANK:
        raise BadRequest(complaints.RANK)
    for dim in item.shape:
        if dim.__class__ is not int or dim < 0:
            raise BadRequest(complaints.SHAPE)
    if item.datatype not in DATATYPES:
        raise BadRequest(f"invalid datatype for input {item.name}")
    tensor = InputTensor(name=item.name, datatype=item.datatype, shape=item.shape)  # type: ignore[arg-type] # all int
    parameters = item.parameters
    if parameters is msgspec.UNSET or not parameters:
        if item.data is msgspec.UNSET:
            raise BadRequest(complaints.content_type(has_data=False, parameters={}))
        start, end = source.spans[item.data]
        tensor.json = msgspec.Raw(source.body[start:end])
        return tensor
    has_other = item.data is not msgspec.UNSET or "shared_memory_region" in parameters
    if "binary_data_size" in parameters and not has_other:
        tensor.data = _binary(item.name, parameters.pop("binary_data_size"), source)
    else:
        _take_other(tensor, item, parameters, source)
    if parameters:
        tensor.parameters = parameters
    return tensor


def _binary(name: str, nbytes: Param, source: _Source) -> memoryview:
    """The next `nbytes` of the binary part."""
    if nbytes.__class__ is not int or nbytes < 0:
        raise BadRequest(f"Unable to parse 'binary_data_size': {complaints.NOT_UNSIGNED}")
    start, end = source.offset, source.offset + nbytes
    if end > len(source.body):
        raise BadRequest(
            f"unexpected size for input '{name}', expecting {end - len(source.body)} additional bytes "
            f"for model '{source.model}'"
        )
    source.offset = end
    return source.body[start:end]


def _is_uint64(value: Param) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _take_parameters(call: InferCall, parameters: dict[str, Param]) -> None:
    """Put the request's parameters into the call, refusing what Triton refuses."""
    for key, value in parameters.items():
        kind = value.__class__
        if key in {"sequence_start", "sequence_end", "binary_data_output"}:
            if kind is not bool:
                raise BadRequest(f"Unable to parse '{key}': {complaints.NOT_BOOLEAN}")
        elif key in {"priority", "timeout"}:
            if not _is_uint64(value):
                raise BadRequest(f"Unable to parse '{key}': {complaints.NOT_UNSIGNED}")
        elif key == "sequence_id":
            if kind is not str and not _is_uint64(value):
                raise BadRequest(f"Unable to parse 'sequence_id': {complaints.NOT_STRING}")
        elif key.startswith("triton_"):
            raise BadRequest(complaints.RESERVED)
    if "binary_data_output" in parameters:
        call.binary_data_output = bool(parameters.pop("binary_data_output"))
    call.parameters = parameters


def _take_other(tensor: InputTensor, item: _Input, parameters: dict[str, Param], source: _Source) -> None:
    """The content of an input that has parameters and is not binary: JSON, shared memory, or neither."""
    has_data = item.data is not msgspec.UNSET
    if has_data + ("binary_data_size" in parameters) + ("shared_memory_region" in parameters) != 1:
        raise BadRequest(complaints.content_type(has_data=has_data, parameters=parameters))
    if item.data is not msgspec.UNSET:
        start, end = source.spans[item.data]
        tensor.json = msgspec.Raw(source.body[start:end])
    else:
        tensor.shm = _shared_memory(parameters)


def _shared_memory(parameters: dict[str, Param]) -> SharedMemory:
    """Take the three shared-memory parameters out."""
    region = parameters.pop("shared_memory_region")
    if not isinstance(region, str):
        raise BadRequest(f"Unable to parse 'shared_memory_region': {complaints.NOT_STRING}")
    numbers = []
    for key in ("shared_memory_offset", "shared_memory_byte_size"):
        value = parameters.pop(key, 0)
        if type(value) is not int or not 0 <= value < 2**64:
            raise BadRequest(f"Unable to parse '{key}': {complaints.NOT_UNSIGNED}")
        numbers.append(value)
    return SharedMemory(region=region, byte_size=numbers[1], offset=numbers[0])


def _output_request(output: _Output) -> OutputRequest:
    request = OutputRequest(name=output.name)
    parameters = output.parameters
    if parameters is msgspec.UNSET or not parameters:
        return request
    binary = parameters.pop("binary_data", None)
    if binary is not None and not isinstance(binary, bool):
        raise BadRequest(f"Unable to parse 'binary_data': {complaints.NOT_BOOLEAN}")
    request.binary = binary
    if "shared_memory_region" in parameters:
        if "classification" in parameters:
            raise BadRequest("Output can't set both 'shared_memory_region' and 'classification'")
        if binary:
            raise BadRequest("Output can't set both 'shared_memory_region' and 'binary_data'")
        request.shm = _shared_memory(parameters)
    classes = parameters.pop("classification", 0)
    if type(classes) is not int or not 0 <= classes < 2**32:
        raise BadRequest(f"Unable to set 'classification': {complaints.NOT_UNSIGNED}")
    request.classification = classes
    if parameters:
        request.parameters = parameters
    return request


def encode_request(
    call: InferCall, *, want_binary: bool = True, binary_input: bool = True, timeout: int = 0
) -> tuple[int | None, list[Buffer]]:
    """The call as a body for an upstream.

    Args:
        call: its inputs hold `data` or `shm`; others are made raw.
        want_binary: ask for all outputs as binary.
        binary_input: send inputs as binary. With False for both the body is plain OIP JSON.
        timeout: microseconds that are left, sent as the request's `timeout` where its own is not smaller; 0: unsaid.

    Returns:
        IHCL, None when there is no binary part, and the parts of the body in order.

    Raises:
        BadRequest: FP16 or BF16 for an upstream that takes JSON only.
    """
    binary: list[Buffer] = []
    request = _OutRequest(
        id=call.id, inputs=[_encode_input(tensor, binary if binary_input else None) for tensor in call.inputs]
    )
    # `triton_*` is gRPC's and has no meaning for one answer; Triton's HTTP door refuses it.
    parameters = {
        key: value
        for key, value in call.parameters.items()
        if key != "binary_data_output" and not key.startswith("triton_")
    }
    if call.outputs:
        request.outputs = [_encode_output(output, want_binary) for output in call.outputs]
    elif want_binary:
        parameters["binary_data_output"] = True
    if timeout and not 0 < parameters.get("timeout", 0) <= timeout:  # type: ignore[operator]  # a number, decoded so
        parameters["timeout"] = timeout
    if parameters:
        request.parameters = parameters
    head = encode(request)
    return (len(head) if binary else None), [head, *(data for data in binary if len(data))]


def _encode_input(tensor: InputTensor, binary: list[Buffer] | None) -> OutTensor:
    """The JSON of one input; its bytes go to `binary` unless that is None."""
    item = OutTensor(tensor.name, tensor.datatype, tensor.shape)
    parameters = dict(tensor.parameters) if tensor.parameters else {}
    if tensor.shm is not None:
        put_shared_memory(parameters, tensor.shm)
    else:
        data = data_of(tensor)
        if binary is None:
            item.data = msgspec.Raw(_input_json(tensor, data))
        else:
            parameters["binary_data_size"] = len(data)
            binary.append(data)
    if parameters:
        item.parameters = parameters
    return item


def _input_json(tensor: InputTensor, data: Buffer) -> bytes:
    try:
        return to_json(tensor.datatype, data)
    except ValueError as error:
        raise BadRequest(f"input '{tensor.name}' cannot be sent to this model's server: {error}") from None


def _encode_output(output: OutputRequest, want_binary: bool) -> _Output:
    parameters = dict(output.parameters) if output.parameters else {}
    if output.classification:
        parameters["classification"] = output.classification
    if output.shm is not None:
        put_shared_memory(parameters, output.shm)
    elif want_binary:
        parameters["binary_data"] = True
    return _Output(name=output.name, parameters=parameters or msgspec.UNSET)
