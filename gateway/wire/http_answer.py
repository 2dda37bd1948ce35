"""Inference answers of OIP over HTTP; `wire.http` tells the form and the rules.

Contract: see `wire.http`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec

from gateway.errors import BadGateway, BadRequest
from gateway.wire.json_text import BINARY, JSON, MAX_DEPTH, OutTensor, cut, encode
from gateway.wire.tensors import NO_JSON, data_of, to_json
from gateway.wire.types import Buffer, InferAnswer, InferCall, OutputTensor, Param, SharedMemory
from kernels.tensors import scan_json

# Others could not be written again.
_Dimension: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_FRAMING: Final = frozenset(
    {"binary_data_size", "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"}
)


class _Tensor(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: list[_Dimension]
    parameters: dict[str, Any] | None = None
    data: int | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct, gc=False):
    outputs: list[_Tensor]
    id: str | None = ""
    model_name: str = ""
    model_version: str | int | None = ""
    parameters: dict[str, Any] | None = None


class _OutAnswer(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    id: str = ""
    model_name: str
    model_version: str
    parameters: dict[str, Param] | None = None
    outputs: list[OutTensor]


_decoder = msgspec.json.Decoder(_Answer)


def decode_response(body: Buffer, header_length: int | None) -> InferAnswer:
    """An upstream's answer to an inference request (status 200).

    Args:
        body: the uncompressed body.
        header_length: its IHCL; None when absent.

    Returns:
        The answer; `data` of its outputs are views of `body`, JSON outputs keep their text.

    Raises:
        BadGateway: not an OIP answer.
    """
    size = len(body)
    whole = memoryview(body)
    if header_length is not None and not 0 < header_length <= size:
        raise BadGateway("the model server's answer could not be read", detail=f"IHCL {header_length} of {size}")
    head: Buffer = whole if header_length is None else whole[:header_length]
    answer, spans = _read_head(head, binary=header_length is not None)
    offset = len(head)
    outputs = []
    for item in answer.outputs:
        tensor = OutputTensor(name=item.name, datatype=item.datatype, shape=item.shape)
        parameters = item.parameters
        if item.data is not msgspec.UNSET:
            start, end = spans[item.data]
            tensor.json = msgspec.Raw(whole[start:end])
        elif parameters and "binary_data_size" in parameters:
            nbytes = parameters.pop("binary_data_size")
            if nbytes.__class__ is not int or not 0 <= nbytes <= size - offset:
                raise _bad_answer(f"output '{item.name}': binary_data_size {nbytes}, {size - offset} bytes left")
            tensor.data = whole[offset : offset + nbytes]
            offset += nbytes
        else:
            tensor.shm = _answered_shared_memory(parameters or {})
        if parameters:
            tensor.parameters = _scalars(parameters) or None
        outputs.append(tensor)
    if offset != size:
        raise _bad_answer(f"{size - offset} bytes after the last tensor")
    return InferAnswer(
        model_name=answer.model_name,
        model_version="" if answer.model_version is None else str(answer.model_version),
        id=answer.id or "",
        parameters=_scalars(answer.parameters) if answer.parameters else {},
        outputs=outputs,
    )


def _read_head(head: Buffer, *, binary: bool) -> tuple[_Answer, list[tuple[int, int]]]:
    """The JSON part, and where in it the tensors' data stand."""
    spans: list[tuple[int, int]] = []
    try:
        text = bytes(head) if binary else b""
        # A binary answer needs no second look, unless it may hold tensor data: `data` written out or escaped.
        if not binary or b'"data"' in text or b"\\" in text:
            spans = scan_json(head, MAX_DEPTH, b"outputs")
        return _decoder.decode(cut(head, spans) if spans else head), spans
    except ValueError as error:  # msgspec's and Unicode errors are ValueErrors too
        raise BadGateway("the model server's answer could not be read", detail=str(error)) from None


def _scalars(parameters: dict[str, Any]) -> dict[str, Param]:
    """The parameters that OIP knows; other servers add null and objects, which no OIP client could read."""
    return {
        key: value
        for key, value in parameters.items()
        if isinstance(value, (str, int, float, bool)) and key not in _FRAMING
    }


def _bad_answer(detail: str) -> BadGateway:
    return BadGateway("the model server's answer could not be read", detail=detail)


def _answered_shared_memory(parameters: dict[str, Any]) -> SharedMemory:
    """An output without content lies where the request said; Triton does not repeat the region."""
    region = parameters.get("shared_memory_region", "")
    size = parameters.get("shared_memory_byte_size", 0)
    offset = parameters.get("shared_memory_offset", 0)
    if not isinstance(region, str) or type(size) is not int or type(offset) is not int:
        raise _bad_answer("shared memory parameters of the wrong type")
    return SharedMemory(region=region, byte_size=size, offset=offset)


def encode_response(answer: InferAnswer, call: InferCall) -> tuple[int | None, str, list[Buffer]]:
    """The answer as a client's body: output `binary_data` > request `binary_data_output` > JSON.

    Args:
        answer: outputs in the order of the upstream; names are taken as they are.
        call: what the client asked for.

    Returns:
        IHCL (None: no binary bytes follow), the content type, and the parts of the body in order.

    Raises:
        BadRequest: an output has no JSON form (FP16, BF16, BYTES that are no UTF-8).
    """
    default = call.binary_data_output or call.raw
    wanted = {output.name: output.binary for output in call.outputs} if call.outputs else {}
    binary: list[Buffer] = []
    outputs = []
    for tensor in answer.outputs:
        item = OutTensor(tensor.name, tensor.datatype, tensor.shape, tensor.parameters)
        if tensor.shm is None:
            as_binary = wanted.get(tensor.name)
            if default if as_binary is None else as_binary:
                data = data_of(tensor)
                item.parameters = {**(tensor.parameters or {}), "binary_data_size": len(data)}
                if len(data):
                    binary.append(data)
            else:
                item.data = _output_json(tensor)
        outputs.append(item)
    head = encode(
        _OutAnswer(
            id=answer.id,
            model_name=answer.model_name,
            model_version=answer.model_version,
            parameters=answer.parameters or None,
            outputs=outputs,
        )
    )
    if not binary:
        return None, JSON, [head]
    return len(head), BINARY, [head, *binary]


def _output_json(tensor: OutputTensor) -> msgspec.Raw:
    if tensor.json is not None and tensor.data is None:
        return tensor.json
    if tensor.datatype in NO_JSON:
        raise BadRequest(
            f"sending {tensor.datatype} data via JSON is not supported. Please use the binary data format for output"
        )
    try:
        return msgspec.Raw(to_json(tensor.datatype, data_of(tensor)))
    except ValueError as error:
        raise BadRequest(
            f"output '{tensor.name}' cannot be written as JSON: {error}. Please use the binary data format"
        ) from None
