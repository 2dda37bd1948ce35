"""The one form every door decodes into and the pipeline works on.

Contract of this package: sans-IO, no clocks, no sockets, no policy. Tensor bytes travel as memoryviews of
the buffer they arrived in; nothing here copies them. Names are those of the Open Inference Protocol (OIP)
and of Triton's extensions to it.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

Param: TypeAlias = str | int | float | bool
"""A request or response parameter: OIP's string, int64/uint64, double or bool."""

MAX_TENSORS: Final = 4096
"""Inputs and outputs of one request when nobody says another number (`limits.tensors`)."""
MAX_RANK: Final = 100
"""Dimensions of a shape; as deep as JSON may nest (a model's inputs have 8 at most in practice)."""

Buffer: TypeAlias = bytes | memoryview
"""Raw tensor bytes: little-endian, row-major; BYTES as 4-byte little-endian length + content, repeated."""


OWN_REGIONS: Final = "tidegate-shm-"
"""Names of the regions through which the gateway itself passes tensors, and of their files; clients may not name
them, for other callers' tensors lie there."""


class SharedMemory(msgspec.Struct, frozen=True):
    """A tensor that lies in a region registered with the server (system or CUDA shared memory)."""

    region: str
    byte_size: int
    offset: int = 0


class InputTensor(msgspec.Struct, gc=False):
    """One input as it was sent. Exactly one of `data`, `json`, `contents`, `shm` is set.

    `json` and `contents` are not yet read: `wire.tensors.materialise` turns them into `data` after the route
    is known, so that a refused caller costs no parsing. Until then nothing in them but their end is judged.
    """

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Param] | None = None
    """Parameters other than `binary_data_size` and `shared_memory_*`, which are the framing below."""
    data: Buffer | None = None
    json: msgspec.Raw | None = None
    """The JSON text of `data` (flat or nested array)."""
    contents: object | None = None
    """gRPC `InferTensorContents` message."""
    shm: SharedMemory | None = None


class Rows(msgspec.Struct, frozen=True, gc=False):
    """Rows of raw columns."""

    rows: list[Any]
    """Mappings by column; with `columns` lists, each as long as that."""
    columns: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.rows)


class OutputRequest(msgspec.Struct, gc=False):
    """One output that the client asks for."""

    name: str
    parameters: dict[str, Param] | None = None
    """Parameters other than the three below."""
    binary: bool | None = None
    """HTTP `binary_data`; None: the request's `binary_data_output` decides."""
    classification: int = 0
    """Triton's classification extension: the number of top classes; 0 is off."""
    shm: SharedMemory | None = None


class KnownHead:
    """A head that has been read before (`wire.by_heart`)."""

    __slots__ = ()

    def fits(self, signature: object) -> bool:  # noqa: ARG002 - of a request's head
        """Whether a call of this head was found to fit that very signature, and no tensor needs another look."""
        return False

    def found_to_fit(self, signature: object) -> None:
        """A call of this head was."""


class InferCall(msgspec.Struct):
    """One inference request, whichever door it came through.

    `model` and `version` are as the client asked ("" = no version).
    """

    model: str
    version: str = ""
    id: str = ""
    parameters: dict[str, Param] = {}
    inputs: list[InputTensor] = []
    outputs: list[OutputRequest] = []
    """Empty: all outputs of the model."""
    binary_data_output: bool = False
    """HTTP only: outputs that do not say otherwise are answered as binary."""
    raw: bool = False
    """HTTP raw binary request (`Inference-Header-Content-Length: 0`): `inputs` is one tensor without name,
    datatype and shape, filled in from the model's metadata; all outputs are answered as binary."""
    known: KnownHead | None = None
    """The head that it was made from by heart."""
    tail: Buffer = b""
    """With `known`: the bytes of all tensors as they came."""
    rows: Rows | None = None
    """Rows of raw columns in place of `inputs`, until the route's feature plan has made tensors of them."""


class OutputTensor(msgspec.Struct, gc=False):
    """One output of an answer. Exactly one of `data`, `json`, `shm` is set (a zero-size tensor has b"")."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Param] | None = None
    data: Buffer | None = None
    json: msgspec.Raw | None = None
    """JSON text, from upstreams that cannot answer in binary; `wire.tensors` turns it into `data`."""
    shm: SharedMemory | None = None


class InferAnswer(msgspec.Struct):
    """One inference response, on its way from an upstream to a client."""

    model_name: str
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Param] = {}
    outputs: list[OutputTensor] = []
    known: KnownHead | None = None
    """The JSON head that it was made from by heart."""
    tail: Buffer = b""
    """With `known`: the bytes of all tensors as they came."""
