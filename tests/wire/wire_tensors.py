"""Tensors and calls for the tests of `gateway.wire`: Hypothesis strategies and small helpers."""

from __future__ import annotations

import json
import struct

import numpy as np
from hypothesis import strategies as st

from gateway.wire.tensors import SIZES
from gateway.wire.types import InferAnswer, InferCall, InputTensor, OutputRequest, OutputTensor, SharedMemory

ALL_DATATYPES = sorted(SIZES)

names = st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8
)  # any text that UTF-8 can say is a name
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.one_of(
    texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
parameters = st.dictionaries(names.map(lambda n: f"p{n}"), scalars, max_size=3)
regions = st.builds(SharedMemory, region=names, byte_size=st.integers(0, 2**40), offset=st.integers(0, 2**40))


def pack(elements: list[bytes]) -> bytes:
    """Raw BYTES."""
    return b"".join(struct.pack("<I", len(e)) + e for e in elements)


def body_of(parts) -> bytes:
    return b"".join(bytes(part) for part in parts)


def head_of(ihcl: int | None, parts) -> dict:
    text = body_of(parts)
    return json.loads(text if ihcl is None else text[:ihcl])


@st.composite
def raw_tensor(draw, datatypes=tuple(ALL_DATATYPES)):
    """Datatype, shape and raw bytes that fit each other."""
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = int(np.prod(shape, dtype=int))
    size = SIZES[datatype]
    if datatype == "BYTES":
        return datatype, shape, pack(draw(st.lists(texts.map(str.encode), min_size=count, max_size=count)))
    raw = draw(st.binary(min_size=count * size, max_size=count * size))
    return datatype, shape, bytes(b & 1 for b in raw) if datatype == "BOOL" else raw


@st.composite
def input_tensors(draw):
    datatype, shape, raw = draw(raw_tensor())
    tensor = InputTensor(draw(names), datatype, shape, parameters=draw(parameters) or None)
    if draw(st.integers(0, 4)) == 0:
        tensor.shm = draw(regions)
    else:
        tensor.data = raw
    return tensor


@st.composite
def output_requests(draw):
    output = OutputRequest(draw(names), parameters=draw(parameters) or None)
    kind = draw(st.integers(0, 3))
    if kind == 0:
        output.shm = draw(regions)
    elif kind == 1:
        output.classification = draw(st.integers(1, 9))
    return output


@st.composite
def calls(draw):
    return InferCall(
        model=draw(names),
        version=draw(st.sampled_from(["", "1", "20"])),
        id=draw(texts),
        parameters={
            **draw(parameters),
            **draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "sequence_id": st.one_of(st.integers(0, 2**64 - 1), texts),
                        "sequence_start": st.booleans(),
                        "sequence_end": st.booleans(),
                        "priority": st.integers(0, 2**64 - 1),
                        "timeout": st.integers(0, 2**64 - 1),
                    },
                )
            ),
        },
        inputs=draw(st.lists(input_tensors(), max_size=4)),
        outputs=draw(st.lists(output_requests(), max_size=3)),
    )


@st.composite
def answers(draw, datatypes=tuple(ALL_DATATYPES)):
    outputs = []
    for _ in range(draw(st.integers(0, 4))):
        datatype, shape, raw = draw(raw_tensor(datatypes))
        outputs.append(OutputTensor(draw(names), datatype, shape, draw(parameters) or None, data=raw))
    return InferAnswer(
        model_name=draw(names),
        model_version=draw(st.sampled_from(["", "1", "20"])),
        id=draw(texts),
        parameters=draw(parameters),
        outputs=outputs,
    )


def plain(value):
    """A call or answer with its buffers as bytes, to compare by equality."""
    if isinstance(value, (InferCall, InferAnswer)):
        tensors = [*getattr(value, "inputs", ()), *value.outputs]
        for tensor in tensors:
            if getattr(tensor, "data", None) is not None:
                tensor.data = bytes(tensor.data)
    return value
