"""Does a call fit the model? Checked before anything is forwarded, on every door alike.

Contract: `check` either raises a `BadRequest` that names the tensor, in Triton's words where Triton has
words, or leaves every input as raw bytes (`data`) or shared memory (`shm`) of exactly the size that
datatype and shape say. Counts are Python integers: no product of dimensions overflows.

Stricter than Triton 2.51, on purpose (each would be a 500, a wrong answer or the end of the server process
there): element counts beyond 2^63 - 1, integers out of a datatype's range, duplicate output names, a batch
of 0.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.errors import BadGateway, BadRequest, NotFound
from gateway.wire.tensors import SIZES, count_elements, element_count, materialise
from gateway.wire.types import OWN_REGIONS, InferCall, InputTensor, SharedMemory

INT64_MAX: Final = 2**63 - 1
_POINTER: Final = 8
"""Bytes of an element of BYTES in numpy."""
_FIXED: Final = {name: size for name, size in SIZES.items() if size}
_UNCLASSIFIED: Final = frozenset({"BOOL", "FP16", "BF16", "BYTES"})
"""Datatypes that Triton sorts no classes of; classes of BYTES, asked for over gRPC, end a Triton 2.51."""
_BATCH_NOTE: Final = (
    " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended "
    "to each input shape. If you want to specify the full shape including the batch dim in your input dims "
    "config, try setting max_batch_size to zero. See the model configuration docs for more info on "
    "max_batch_size."
)


class TensorSignature(msgspec.Struct, frozen=True):
    """One tensor of a model's metadata."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """Batch dimension included, as the metadata gives it; -1 takes any size."""
    optional: bool = False
    ragged: bool = False
    """Rows of a batch may differ from the shape's dimensions (`allow_ragged_batch`)."""
    is_shape_tensor: bool = False
    labels: bool = False
    """Classification answers carry labels."""
    reshaped: bool = False
    """The server reshapes it before the model sees it (`reshape` in the config)."""


class ModelSignature(msgspec.Struct, frozen=True):
    """What a model takes and gives."""

    name: str
    inputs: dict[str, TensorSignature]
    outputs: dict[str, TensorSignature]
    required: frozenset[str]
    """Inputs that are not optional."""
    max_batch_size: int = 0
    """0: the model does not batch, and shapes have no batch dimension."""
    decoupled: bool = False
    known: bool = True
    """False: the server lists no tensors (as MLServer may); then calls are only checked against
    themselves."""
    sequences: bool = False
    """Triton's sequence batcher keeps the state of sequences."""
    heeds_timeout: bool = False
    """A queue policy of the model takes the request's `timeout`; all others only show it to the model."""

    @classmethod
    def from_triton(cls, metadata: dict[str, Any], config: dict[str, Any] | None = None) -> ModelSignature:
        """From the JSON of `GET /v2/models/NAME` and of its `/config` (None: the server has none).

        Raises:
            BadGateway: it is not what OIP says.
        """
        try:
            return cls._from_triton(metadata, config or {})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadGateway(
                "the model server's description of the model could not be read", detail=repr(error)
            ) from None

    @classmethod
    def _from_triton(cls, metadata: dict[str, Any], config: dict[str, Any]) -> ModelSignature:
        by_name = {item["name"]: item for item in (*config.get("input", ()), *config.get("output", ()))}
        inputs = _signatures(metadata.get("inputs"), by_name)
        outputs = _signatures(metadata.get("outputs"), by_name)
        return cls(
            name=str(metadata.get("name", "")),
            inputs=inputs,
            outputs=outputs,
            required=frozenset(name for name, signature in inputs.items() if not signature.optional),
            max_batch_size=int(config.get("max_batch_size", 0)),
            decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled", False)),
            known=bool(inputs),
            sequences="sequence_batching" in config,
            heeds_timeout=_heeds_timeout(config.get("dynamic_batching") or {}),
        )


def _signatures(tensors: list[dict[str, Any]] | None, config: dict[str, Any]) -> dict[str, TensorSignature]:
    found = {}
    for tensor in tensors or ():
        extra = config.get(tensor["name"], {})
        found[tensor["name"]] = TensorSignature(
            name=tensor["name"],
            datatype=tensor["datatype"],
            shape=tuple(int(dim) for dim in tensor["shape"]),  # Triton's gRPC metadata as JSON has strings here
            optional=bool(extra.get("optional", False)),
            ragged=bool(extra.get("allow_ragged_batch", False)),
            is_shape_tensor=bool(extra.get("is_shape_tensor", False)),
            labels=bool(extra.get("label_filename", "")),
            reshaped="reshape" in extra,
        )
    return found


def _heeds_timeout(batching: dict[str, Any]) -> bool:
    """Whether some queue policy has `allow_timeout_override`: a request may then wait for less, never for longer."""
    policies = [batching.get("default_queue_policy"), *(batching.get("priority_queue_policy") or {}).values()]
    return any(policy and policy.get("allow_timeout_override") for policy in policies)


def check(call: InferCall, signature: ModelSignature) -> None:
    """Judge the call and make its inputs raw.

    Args:
        call: changed in place: a raw request gets name, datatype and shape; `json` and `contents` become
        `data`.
        signature: of the model version that will serve.

    Raises:
        BadRequest: it does not fit.
        NotFound: it names a region of shared memory that is the gateway's own.
    """
    if call.raw:
        _fill_raw(call, signature)
    seen = set()
    batch = -1
    for tensor in call.inputs:
        name = tensor.name
        if tensor.shm is not None:
            _check_region(tensor.shm)
        if name in seen:
            raise BadRequest(f"input '{name}' already exists in request")
        seen.add(name)
        expected = signature.inputs.get(name)
        if expected is not None:
            _check_shape(call, signature, tensor, expected)
            if signature.max_batch_size and not expected.is_shape_tensor:
                batch = _check_batch(call, signature, tensor, batch)
        elif signature.known:
            raise BadRequest(f"unexpected inference input '{name}' for model '{call.model}'")
        _check_size(tensor, call.model)
    if not signature.required <= seen:
        raise _missing(call, signature)
    if call.outputs:
        _check_outputs(call, signature)


def _check_shape(call: InferCall, signature: ModelSignature, tensor: InputTensor, expected: TensorSignature) -> None:
    if tensor.datatype != expected.datatype:
        raise BadRequest(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', "
            f"but model '{call.model}' expects '{expected.datatype}'"
        )
    if len(tensor.shape) != len(expected.shape):
        raise _wrong_shape(call, signature, tensor, expected)
    for have, need in zip(tensor.shape, expected.shape, strict=True):
        if have != need and (need >= 0 or have < 0) and not expected.ragged:
            raise _wrong_shape(call, signature, tensor, expected)


def _check_size(tensor: InputTensor, model: str) -> None:
    """Make the tensor raw, and hold its bytes against its datatype and shape."""
    count = 1
    for dim in tensor.shape:
        if dim < 0:
            raise BadRequest(
                f"invalid shape for input '{tensor.name}': shape {_dims(tensor.shape)} contains one or more "
                "invalid dimensions"
            )
        count *= dim
    size = _FIXED.get(tensor.datatype)
    if not count or count > INT64_MAX:
        _check_dims(tensor, size or _POINTER)
    if size is None:
        _check_bytes(tensor, count, model)
        return
    nbytes = count * size
    if nbytes > INT64_MAX:
        raise _too_many(tensor)
    data = tensor.data
    if data is None:
        if tensor.shm is not None:
            if tensor.shm.byte_size != nbytes:
                raise _wrong_size(tensor, model, nbytes, tensor.shm.byte_size)
            return
        data = materialise(tensor)
        tensor.data, tensor.json, tensor.contents = data, None, None
    if len(data) != nbytes:
        raise _wrong_size(tensor, model, nbytes, len(data))


def _check_dims(tensor: InputTensor, size: int) -> None:
    """A product of 0 does not excuse the other dimensions.

    The server multiplies in 64 bits, in order; and numpy, in Triton's Python backend, leaves the zeros out: beyond
    2^63 bytes the model's process ends, and does not come back.
    """
    if element_count([dim for dim in tensor.shape if dim]) * size > INT64_MAX:
        raise _too_many(tensor)


def _check_bytes(tensor: InputTensor, count: int, model: str) -> None:
    """A tensor of BYTES, or of no datatype at all."""
    if tensor.datatype != "BYTES":
        raise BadRequest(f"invalid datatype for input {tensor.name}")
    if count * 4 > INT64_MAX:
        raise _too_many(tensor)
    if tensor.shm is not None:  # its elements are not ours to read
        return
    if tensor.data is None:
        tensor.data, tensor.json, tensor.contents = materialise(tensor), None, None
    try:
        found = count_elements(tensor.data)
    except ValueError as error:
        raise BadRequest(f"inference input '{tensor.name}' for model '{model}': {error}") from None
    if found > count:
        raise BadRequest(
            f"unexpected number of string elements {found} for inference input '{tensor.name}' "
            f"for model '{model}', expecting {count}"
        )
    if found < count:
        raise BadRequest(
            f"expected {count} string elements for inference input '{tensor.name}' for model '{model}', got {found}"
        )


def _fill_raw(call: InferCall, signature: ModelSignature) -> None:
    """Give the one input of a raw binary request its name, datatype and shape, as Triton deduces them."""
    if not signature.known:
        raise BadRequest(f"a raw request needs a model with a declared input, and model '{call.model}' declares none")
    if len(signature.inputs) != 1:
        raise BadRequest(
            "Raw request must only have 1 input (found 1) to be deduced but got "
            f"{len(signature.inputs)} inputs in '{call.model}' model configuration"
        )
    (expected,) = signature.inputs.values()
    tensor = call.inputs[0]
    data = tensor.data
    assert data is not None
    shape = list(expected.shape)
    if signature.max_batch_size and shape:
        shape[0] = 1
    if expected.datatype == "BYTES":
        # The whole body is one element.
        tensor.data = len(data).to_bytes(4, "little") + bytes(data)
        if element_count([dim for dim in shape if dim >= 0]) != 1:
            raise BadRequest(f"For BYTE datatype raw input '{expected.name}', the model must have input shape [1]")
        shape = [1] * len(shape)
    elif shape.count(-1) > 1:
        raise BadRequest(
            f"The shape of the raw input '{expected.name}' can not be deduced because there are more than "
            "one variable-sized dimension"
        )
    elif -1 in shape:
        row = element_count([dim for dim in shape if dim >= 0]) * SIZES.get(expected.datatype, 1)
        if not row or len(data) % row:
            raise BadRequest(
                f"The shape of the raw input '{expected.name}' can not be deduced: {len(data)} bytes are no "
                f"multiple of {row}"
            )
        shape[shape.index(-1)] = len(data) // row
    tensor.name, tensor.datatype, tensor.shape = expected.name, expected.datatype, shape
    call.raw = False
    call.binary_data_output = True


def _check_batch(call: InferCall, signature: ModelSignature, tensor: InputTensor, batch: int) -> int:
    """The request's batch size after this input; `batch` is -1 before the first."""
    rows = tensor.shape[0] if tensor.shape else 0
    if rows > signature.max_batch_size:
        raise BadRequest(
            f"inference request batch-size must be <= {signature.max_batch_size} for '{call.model}': "
            f"input '{tensor.name}' has {rows}"
        )
    if rows < 1:
        raise BadRequest(
            f"inference request batch-size must be >= 1 for '{call.model}': input '{tensor.name}' has {rows}"
        )
    if batch not in {-1, rows}:
        raise BadRequest(
            f"input '{tensor.name}' batch size does not match other inputs for '{call.model}': {rows}, not {batch}"
        )
    return rows


def _check_outputs(call: InferCall, signature: ModelSignature) -> None:
    seen = set()
    for output in call.outputs:
        name = output.name
        if output.shm is not None:
            _check_region(output.shm)
        if name in seen:
            raise BadRequest(f"output '{name}' already exists in request")
        seen.add(name)
        expected = signature.outputs.get(name)
        if expected is None and signature.known and signature.outputs:
            raise BadRequest(f"unexpected inference output '{name}' for model '{call.model}'")
        if output.classification:
            _check_classification(call, name, "" if expected is None else expected.datatype)


def _check_region(shm: SharedMemory) -> None:
    """Other callers' tensors lie in the gateway's own regions: to a client there are none. Triton's words."""
    if shm.region.startswith(OWN_REGIONS):
        raise NotFound(f"Unable to find shared memory region: '{shm.region}'")


def _check_classification(call: InferCall, name: str, datatype: str) -> None:
    """Refuse classes where Triton has none to give; the two cases below can end its process instead."""
    if datatype in _UNCLASSIFIED:
        raise BadRequest(f"class result not available for output '{name}' due to unsupported type '{datatype}'")
    for tensor in call.inputs:
        # An empty input is how an output comes to be empty.
        if 0 in tensor.shape:
            raise BadRequest(f"class result not available for output '{name}': input '{tensor.name}' has no elements")


def _wrong_shape(
    call: InferCall, signature: ModelSignature, tensor: InputTensor, expected: TensorSignature
) -> BadRequest:
    if any(dim > INT64_MAX for dim in tensor.shape):
        return _too_many(tensor)
    note = _BATCH_NOTE if signature.max_batch_size else ""
    return BadRequest(
        f"unexpected shape for input '{tensor.name}' for model '{call.model}'. "
        f"Expected {_dims(expected.shape)}, got {_dims(tensor.shape)}.{note}"
    )


def _wrong_size(tensor: InputTensor, model: str, expected: int, got: int) -> BadRequest:
    return BadRequest(
        f"input byte size mismatch for input '{tensor.name}' for model '{model}'. Expected {expected}, got {got}"
    )


def _too_many(tensor: InputTensor) -> BadRequest:
    return BadRequest(
        f"invalid shape for input '{tensor.name}': shape {_dims(tensor.shape)} causes total element count "
        f"to exceed maximum size of {INT64_MAX}"
    )


def _missing(call: InferCall, signature: ModelSignature) -> BadRequest:
    given = [tensor.name for tensor in call.inputs]
    missing = ",".join(f"'{name}'" for name in signature.inputs if name in signature.required and name not in given)
    listed = ",".join(f"'{name}'" for name in given)
    return BadRequest(
        f"expected {len(signature.inputs)} inputs but got {len(given)} inputs for model '{call.model}'. "
        f"Got input(s) [{listed}], but missing required input(s) [{missing}]. "
        "Please provide all required input(s)."
    )


def _dims(shape: list[int] | tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
