"""wire.validate: what fits passes as raw bytes, what does not is named, and sizes never overflow."""

from __future__ import annotations

import struct
import tracemalloc

import msgspec
import pytest
from tritonclient.grpc import service_pb2
from wire_tensors import pack

from gateway.errors import BadGateway, BadRequest
from gateway.wire.types import InferCall, InputTensor, OutputRequest, SharedMemory
from gateway.wire.validate import ModelSignature, check


def signature(*inputs, outputs=(("O", "FP32", [-1]),), config: dict | None = None, name="m") -> ModelSignature:
    def tensors(rows):
        return [{"name": n, "datatype": d, "shape": s} for n, d, s in rows]

    metadata = {"name": name, "versions": ["1"], "inputs": tensors(inputs), "outputs": tensors(outputs)}
    return ModelSignature.from_triton(metadata, config)


FLAT = signature(("A", "FP32", [-1]))
BATCHED = signature(("A", "FP32", [-1, 4]), ("B", "INT32", [-1, 1]), config={"max_batch_size": 8})
TEXT = signature(("S", "BYTES", [1]))


def call(*inputs: InputTensor, **more) -> InferCall:
    return InferCall(model="m", inputs=list(inputs), **more)


def fp32(shape, name="A", **how) -> InputTensor:
    if not how:
        count = 1
        for dim in shape:
            count *= dim
        how = {"data": bytes(4 * count)}
    return InputTensor(name, "FP32", list(shape), **how)


def refusal(request: InferCall, model: ModelSignature) -> str:
    with pytest.raises(BadRequest) as caught:
        check(request, model)
    return caught.value.message


def test_every_form_becomes_raw_bytes_in_place():
    contents = service_pb2.InferTensorContents(fp32_contents=[1, 2])
    raw = struct.pack("<2f", 1, 2)
    for tensor in (
        fp32([2], data=raw),
        fp32([2], json=msgspec.Raw(b"[1,[2]]")),
        fp32([2], contents=contents),
    ):
        check(call(tensor), FLAT)
        assert (tensor.data, tensor.json, tensor.contents) == (raw, None, None)


def test_a_batch_of_two_inputs_fits():
    check(call(fp32([8, 4]), InputTensor("B", "INT32", [8, 1], data=bytes(32))), BATCHED)


NOTE = " NOTE: Setting a non-zero max_batch_size"
B = InputTensor("B", "INT32", [1, 1], data=bytes(4))
HUGE = 2**62
TOO_MANY = "causes total element count to exceed maximum size of 9223372036854775807"


@pytest.mark.parametrize(
    ("request_", "model", "fault"),
    [
        (call(), FLAT, "expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required "
         "input(s) ['A']. Please provide all required input(s)."),
        (call(fp32([4, 4]) ), BATCHED, "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['A'], but "
         "missing required input(s) ['B']. Please provide all required input(s)."),
        (call(fp32([1], name="X")), FLAT, "unexpected inference input 'X' for model 'm'"),
        (call(fp32([1]), fp32([1])), FLAT, "input 'A' already exists in request"),
        (call(InputTensor("A", "INT32", [1], data=bytes(4))), FLAT,
         "inference input 'A' data-type is 'INT32', but model 'm' expects 'FP32'"),
        (call(fp32([1, 1])), FLAT, "unexpected shape for input 'A' for model 'm'. Expected [-1], got [1,1]."),
        (call(fp32([])), FLAT, "unexpected shape for input 'A' for model 'm'. Expected [-1], got []."),
        (call(fp32([-1], data=b"")), FLAT, "invalid shape for input 'A': shape [-1] contains one or more invalid dimensions"),
        (call(fp32([1, 5]), B), BATCHED, "unexpected shape for input 'A' for model 'm'. Expected [-1,4], got [1,5]." + NOTE),
        (call(fp32([9, 4]), B), BATCHED, "inference request batch-size must be <= 8 for 'm': input 'A' has 9"),
        (call(fp32([0, 4]), B), BATCHED, "inference request batch-size must be >= 1 for 'm': input 'A' has 0"),
        (call(fp32([2, 4]), B), BATCHED, "input 'B' batch size does not match other inputs for 'm': 1, not 2"),
        (call(fp32([2], data=bytes(7))), FLAT, "input byte size mismatch for input 'A' for model 'm'. Expected 8, got 7"),
        (call(fp32([2], data=bytes(9))), FLAT, "input byte size mismatch for input 'A' for model 'm'. Expected 8, got 9"),
        (call(fp32([2], shm=SharedMemory("r", 9))), FLAT, "input byte size mismatch for input 'A' for model 'm'. Expected 8, got 9"),
        (call(fp32([2], json=msgspec.Raw(b"[1]"))), FLAT, "Unable to parse 'data' of input 'A': Shape does not match true shape "
         "of 'data' field: expecting 2 elements, got 1"),
        (call(fp32([2], contents=service_pb2.InferTensorContents(fp32_contents=[1]))), FLAT,
         "input byte size mismatch for input 'A' for model 'm'. Expected 8, got 4"),
        (call(fp32([HUGE], data=b"")), FLAT, f"invalid shape for input 'A': shape [{HUGE}] {TOO_MANY}"),
        (call(fp32([HUGE], json=msgspec.Raw(b"[1]"))), FLAT, f"invalid shape for input 'A': shape [{HUGE}] {TOO_MANY}"),
        (call(fp32([2**64 - 1], data=b"")), FLAT, f"invalid shape for input 'A': shape [{2**64 - 1}] {TOO_MANY}"),
        (call(fp32([2**40], json=msgspec.Raw(b"[1]"))), FLAT, "Unable to parse 'data' of input 'A': Shape does not match true "
         f"shape of 'data' field: expecting {2**40} elements, got 1"),
        (call(InputTensor("S", "BYTES", [1], data=pack([b"a", b"b"]))), TEXT,
         "unexpected number of string elements 2 for inference input 'S' for model 'm', expecting 1"),
        (call(InputTensor("S", "BYTES", [1], data=b"")), TEXT,
         "expected 1 string elements for inference input 'S' for model 'm', got 0"),
        (call(InputTensor("S", "BYTES", [1], data=b"\1\0\0")), TEXT,
         "inference input 'S' for model 'm': incomplete string length indicator, expecting 4 bytes but only 3 bytes available"),
        (call(InputTensor("S", "BYTES", [1], data=b"\1\0\0\0")), TEXT,
         "inference input 'S' for model 'm': incomplete string data, expecting string of length 1 but only 0 bytes available"),
        (call(fp32([1]), outputs=[OutputRequest("X")]), FLAT, "unexpected inference output 'X' for model 'm'"),
        (call(fp32([1]), outputs=[OutputRequest("O"), OutputRequest("O")]), FLAT, "output 'O' already exists in request"),
        (call(fp32([1]), outputs=[OutputRequest("O", classification=1)]), signature(("A", "FP32", [-1]), outputs=[("O", "BYTES", [1])]),
         "class result not available for output 'O' due to unsupported type 'BYTES'"),
        (call(fp32([0]), outputs=[OutputRequest("O", classification=1)]), FLAT,
         "class result not available for output 'O': input 'A' has no elements"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(request_, model, fault):
    said = refusal(request_, model)
    assert said.startswith(fault) if fault.endswith(NOTE) else said == fault


def test_zero_elements_do_not_hide_overflowing_dimensions():
    model = signature(("A", "FP32", [-1, -1, -1]))
    check(call(fp32([0, 5, 2**40], data=b"")), model)
    # numpy multiplies what is not 0, and by the element's size.
    for shape in ([0, HUGE, HUGE], [HUGE, HUGE, 0], [0, 2**63, 1], [0, 1, HUGE], [2**31, 0, 2**31]):
        assert TOO_MANY in refusal(call(fp32(shape, data=b"")), model)


def test_a_claimed_size_takes_no_memory():
    tracemalloc.start()
    assert refusal(call(fp32([2**34], json=msgspec.Raw(b"[1]"))), FLAT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_optional_inputs_may_be_absent_and_ragged_ones_differ():
    model = signature(
        ("A", "FP32", [-1, 4]),
        ("B", "INT32", [-1, 1]),
        config={
            "max_batch_size": 2,
            "input": [{"name": "A", "allow_ragged_batch": True}, {"name": "B", "optional": True}],
        },
    )
    assert model.required == {"A"}
    check(call(fp32([1, 7])), model)


def test_signature_from_the_servers_own_words():
    model = ModelSignature.from_triton(
        {
            "name": "m",
            "inputs": [{"name": "A", "datatype": "FP32", "shape": ["-1", "3"]}],
            "outputs": [{"name": "O", "datatype": "FP32", "shape": [-1, 2]}],
        },
        {
            "max_batch_size": 4,
            "model_transaction_policy": {"decoupled": True},
            "input": [{"name": "A", "is_shape_tensor": True, "reshape": {"shape": [1]}}],
            "output": [{"name": "O", "label_filename": "labels.txt"}],
        },
    )
    assert model.inputs["A"].shape == (-1, 3)
    assert model.inputs["A"].is_shape_tensor
    assert model.inputs["A"].reshaped
    assert model.outputs["O"].labels
    assert (model.decoupled, model.max_batch_size, model.known) == (True, 4, True)
    with pytest.raises(BadGateway):
        ModelSignature.from_triton({"name": "m", "inputs": [{"name": "A"}]})
    with pytest.raises(BadGateway):
        ModelSignature.from_triton({"name": "m", "inputs": [{"name": "A", "datatype": "FP32", "shape": ["x"]}]})


def test_a_server_without_tensor_lists_checks_calls_against_themselves():
    model = ModelSignature.from_triton({"name": "m", "platform": "", "inputs": []})
    assert not model.known
    tensor = fp32([2], name="any", json=msgspec.Raw(b"[1,2]"))
    check(call(tensor, outputs=[OutputRequest("whatever")]), model)
    assert tensor.data == struct.pack("<2f", 1, 2)
    assert "Expected 8, got 4" in refusal(call(fp32([2], name="any", data=bytes(4))), model)
    assert "invalid dimensions" in refusal(call(fp32([-2], name="any", data=b"")), model)
    assert "raw request" in refusal(InferCall(model="m", raw=True, inputs=[fp32([], data=b"")]), model)


@pytest.mark.parametrize(
    ("model", "body", "shape", "data"),
    [
        (signature(("A", "FP32", [-1])), bytes(12), [3], bytes(12)),
        (signature(("A", "FP32", [2, -1])), bytes(24), [2, 3], bytes(24)),
        (signature(("A", "FP32", [3])), bytes(12), [3], bytes(12)),
        (signature(("A", "FP32", [-1, 4]), config={"max_batch_size": 8}), bytes(16), [1, 4], bytes(16)),
        (signature(("A", "FP32", [-1, -1]), config={"max_batch_size": 8}), bytes(16), [1, 4], bytes(16)),
        (signature(("A", "BYTES", [1])), b"hello", [1], pack([b"hello"])),
        (signature(("A", "BYTES", [-1, 1]), config={"max_batch_size": 8}), b"", [1, 1], pack([b""])),
    ],
)
def test_raw_requests_are_filled_in(model, body, shape, data):
    request = InferCall(model="m", raw=True, inputs=[InputTensor("", "", [], data=memoryview(body))])
    check(request, model)
    assert (request.inputs[0].name, request.inputs[0].shape, bytes(request.inputs[0].data)) == (
        "A",
        shape,
        data,
    )
    assert (request.raw, request.binary_data_output) == (False, True)


@pytest.mark.parametrize(
    ("model", "body", "fault"),
    [
        (signature(("A", "FP32", [1]), ("B", "FP32", [1])), b"", "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs"),
        (signature(("A", "FP32", [-1, -1])), b"", "more than one variable-sized dimension"),
        (signature(("A", "FP32", [-1])), bytes(5), "5 bytes are no multiple of 4"),
        (signature(("A", "FP32", [3])), bytes(8), "Expected 12, got 8"),
        (signature(("A", "BYTES", [2])), b"x", "the model must have input shape [1]"),
    ],
)  # fmt: skip
def test_raw_requests_that_cannot_be_deduced(model, body, fault):
    assert fault in refusal(InferCall(model="m", raw=True, inputs=[InputTensor("", "", [], data=body)]), model)
