"""Tensor datatypes, and the two ways between JSON or typed contents and raw bytes.

Contract: raw bytes are little-endian and row-major; BYTES are 4-byte little-endian length and content,
repeated. Functions raise ValueError (the caller knows whose fault it is) except `materialise`, whose input
is always the client's: BadRequest naming the tensor.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gateway.errors import BadGateway, BadRequest
from gateway.wire.json_text import MAX_DEPTH
from gateway.wire.types import Buffer, InputTensor, OutputTensor
from kernels.tensors import NUMBER_TYPES, count_bytes_elements, format_array, parse_array, scan_json

SIZES: Final[dict[str, int]] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
    "BF16": 2,
    "BYTES": 0,
}
"""Bytes an element; 0: of variable size."""
DATATYPES: Final = frozenset(SIZES)
NO_JSON: Final = frozenset({"FP16", "BF16"})
"""Datatypes that Triton neither takes nor writes as JSON."""

NUMPY: Final[dict[str, np.dtype[Any]]] = {
    **{name: np.dtype(code) for name, code in NUMBER_TYPES.items()},
    "FP16": np.dtype("<f2"),
}
"""numpy's type of each datatype; BF16 has none of its own and BYTES is no fixed size."""

_CONTENTS: Final[dict[str, tuple[str, str]]] = {
    "BOOL": ("bool_contents", "|b1"),
    "INT8": ("int_contents", "|i1"),
    "INT16": ("int_contents", "<i2"),
    "INT32": ("int_contents", "<i4"),
    "INT64": ("int64_contents", "<i8"),
    "UINT8": ("uint_contents", "|u1"),
    "UINT16": ("uint_contents", "<u2"),
    "UINT32": ("uint_contents", "<u4"),
    "UINT64": ("uint64_contents", "<u8"),
    "FP32": ("fp32_contents", "<f4"),
    "FP64": ("fp64_contents", "<f8"),
    "BYTES": ("bytes_contents", ""),
}
"""Field of gRPC's InferTensorContents by datatype."""
_FIELD_TYPE: Final = {
    "bool_contents": "BOOL",
    "int_contents": "INT32",
    "int64_contents": "INT64",
    "uint_contents": "UINT32",
    "uint64_contents": "UINT64",
    "fp32_contents": "FP32",
    "fp64_contents": "FP64",
    "bytes_contents": "BYTES",
}


def element_count(shape: list[int]) -> int:
    """Product of the dimensions, exact."""
    count = 1
    for dim in shape:
        count *= dim
    return count


def materialise(tensor: InputTensor) -> Buffer:
    """The raw bytes of an input, whichever form it came in (not shared memory).

    Raises:
        BadRequest: the JSON or typed contents do not fit datatype and shape; names tensor and element.
    """
    if tensor.data is not None:
        return tensor.data
    if tensor.json is not None:
        return _from_json(tensor)
    if tensor.contents is not None:
        return _from_contents(tensor, tensor.contents)
    raise BadRequest(f"unable to find data for input tensor '{tensor.name}'")


def _from_json(tensor: InputTensor) -> bytes:
    expected = element_count(tensor.shape)
    if expected and tensor.datatype in NO_JSON:
        raise BadRequest(
            f"receiving {tensor.datatype} data via JSON is not supported. Please use the binary data format "
            f"for input {tensor.name}"
        )
    text = memoryview(tensor.json)  # type: ignore[arg-type] # set
    try:
        if not expected:  # Triton never looks at the data of an empty tensor, as long as it is JSON
            scan_json(text, MAX_DEPTH)
        return parse_array(text, tensor.datatype, expected) if expected else b""
    except ValueError as error:
        raise BadRequest(f"Unable to parse 'data' of input '{tensor.name}': {error}") from None


def _from_contents(tensor: InputTensor, contents: Any) -> bytes:
    """Typed contents of gRPC; each element is range-checked, where Triton cuts off the high bytes."""
    field, code = _CONTENTS.get(tensor.datatype, ("", ""))
    for descriptor, _ in contents.ListFields():
        if descriptor.name != field:
            raise BadRequest(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' of type "
                f"'{_FIELD_TYPE[descriptor.name]}', expected datatype '{tensor.datatype}'"
            )
    values = getattr(contents, field) if field else ()
    if tensor.datatype == "BYTES":
        return b"".join(part for value in values for part in (len(value).to_bytes(4, "little"), value))
    if not field:
        return b""
    array = np.array(values, dtype=_WIDE.get(code, code))
    if code in _WIDE and array.size:
        limits = np.iinfo(code)
        wrong = (array < limits.min) | (array > limits.max)
        if wrong.any():
            index = int(np.argmax(wrong))
            raise BadRequest(
                f"input '{tensor.name}': element {index}: {array[index]} is out of range for {tensor.datatype}"
            )
    return array.astype(code, copy=False).tobytes()


_WIDE: Final = {"|i1": "<i4", "<i2": "<i4", "|u1": "<u4", "<u2": "<u4"}
"""Small integers travel in wider fields."""


def to_json(datatype: str, data: Buffer) -> bytes:
    """Raw bytes as the text of a flat JSON array; ValueError when there is no such text."""
    return format_array(data, datatype)


def data_of(tensor: InputTensor | OutputTensor) -> Buffer:
    """Raw bytes of an input (BadRequest) or output (BadGateway) that is not in shared memory."""
    if tensor.data is not None:
        return tensor.data
    if isinstance(tensor, InputTensor):
        return materialise(tensor)
    if tensor.json is None:
        raise BadGateway("the model server's answer could not be read", detail=f"no data for '{tensor.name}'")
    expected = element_count(tensor.shape)
    if not expected:
        return b""
    try:
        return parse_array(memoryview(tensor.json), tensor.datatype, expected)
    except ValueError as error:
        raise BadGateway(
            "the model server's answer could not be read", detail=f"output '{tensor.name}': {error}"
        ) from None


def count_elements(data: Buffer) -> int:
    """Elements of raw BYTES; ValueError when one is cut off."""
    return count_bytes_elements(data)
