"""wire.http and wire.grpc agree with tritonclient's codecs, both ways, for every datatype."""

from __future__ import annotations

import struct

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2
from tritonclient.grpc._utils import _get_inference_request as grpc_request
from tritonclient.utils import serialize_byte_tensor
from wire_tensors import body_of, pack

from gateway.wire import grpc, http
from gateway.wire.tensors import NO_JSON, NUMPY, data_of
from gateway.wire.types import InferAnswer, InferCall, OutputRequest, OutputTensor, SharedMemory

try:
    import tritonclient.http as httpclient
    from tritonclient.http._utils import _get_inference_request as http_request
except RuntimeError:  # its extra `http` is not installed
    httpclient = None

over_http = pytest.mark.skipif(httpclient is None, reason="tritonclient[http] is not installed")

ARRAYS = {
    "BOOL": np.array([[True, False, True]]),
    "UINT8": np.array([[0, 1, 255]], np.uint8),
    "UINT16": np.array([[0, 1, 65535]], np.uint16),
    "UINT32": np.array([[0, 1, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 1, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 0, 127]], np.int8),
    "INT16": np.array([[-32768, 0, 32767]], np.int16),
    "INT32": np.array([[-(2**31), 0, 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 0, 2**63 - 1]], np.int64),
    "FP16": np.array([[1.5, -0.0, np.inf]], np.float16),
    "FP32": np.array([[0.1, np.nan, -np.inf]], np.float32),
    "FP64": np.array([[0.1, np.nan, 5e-324]], np.float64),
    "BYTES": np.array([[b"", b"\x00\xff", "\u00e9".encode()]], np.object_),
    "BF16": np.array([[1.5, -2.0, 0.0]], ml_dtypes.bfloat16),
}


FORMS = [(d, b) for d in ARRAYS for b in (True, False) if b or d not in NO_JSON]


def raw_of(datatype: str) -> bytes:
    array = ARRAYS[datatype]
    if datatype == "BYTES":
        return pack(list(array.flat))
    if datatype == "BF16":
        return b"".join(struct.pack("<f", float(v))[2:] for v in array.flat)
    return array.astype(NUMPY[datatype]).tobytes()


def client_inputs(module, datatype: str, **how):
    item = module.InferInput("A", [1, 3], datatype)
    item.set_data_from_numpy(ARRAYS[datatype], **how)
    return [item]


@over_http
@pytest.mark.parametrize(("datatype", "binary"), FORMS)
def test_http_requests_of_the_client_are_read(datatype, binary):
    if not binary and datatype == "BYTES":
        array = np.array([["", "a", "\u00e9"]], np.object_)
        item = httpclient.InferInput("A", [1, 3], "BYTES")
        item.set_data_from_numpy(array, binary_data=False)
        inputs, expected = [item], pack([b"", b"a", "\u00e9".encode()])
    else:
        inputs, expected = client_inputs(httpclient, datatype, binary_data=binary), raw_of(datatype)
    outputs = [
        httpclient.InferRequestedOutput("O", binary_data=True),
        httpclient.InferRequestedOutput("P", binary_data=False, class_count=2),
    ]
    body, ihcl = http_request(inputs, "id", outputs, 7, True, False, 3, 1000, {"k": "v"})
    call = http.decode_request(body, ihcl, "m", "")
    assert (call.id, call.parameters) == (
        "id",
        {
            "sequence_id": 7,
            "sequence_start": True,
            "sequence_end": False,
            "priority": 3,
            "timeout": 1000,
            "k": "v",
        },
    )
    assert [(o.name, o.binary, o.classification) for o in call.outputs] == [("O", True, 0), ("P", False, 2)]
    (tensor,) = call.inputs
    assert (tensor.datatype, tensor.shape) == (datatype, [1, 3])
    got = bytes(data_of(tensor))
    if datatype in {"FP32", "FP64"}:
        np.testing.assert_array_equal(np.frombuffer(got, NUMPY[datatype]), np.frombuffer(expected, NUMPY[datatype]))
    else:
        assert got == expected


@over_http
def test_the_client_asks_for_all_outputs_in_binary_by_the_requests_parameter():
    body, ihcl = http_request(client_inputs(httpclient, "INT8"), "", None, 0, False, False, 0, None, None)
    assert http.decode_request(body, ihcl, "m", "").binary_data_output


@over_http
def test_http_shared_memory_of_the_client():
    item = httpclient.InferInput("A", [1, 3], "FP32")
    item.set_shared_memory("region", 12, offset=4)
    output = httpclient.InferRequestedOutput("O")
    output.set_shared_memory("out", 24)
    body, ihcl = http_request([item], "", [output], 0, False, False, 0, None, None)
    call = http.decode_request(body, ihcl, "m", "")
    assert call.inputs[0].shm == SharedMemory("region", 12, 4)
    assert call.outputs[0].shm == SharedMemory("out", 24)


@over_http
@pytest.mark.parametrize(("datatype", "binary"), FORMS)
def test_http_answers_are_read_by_the_client(datatype, binary):
    raw, array = raw_of(datatype), ARRAYS[datatype]
    if not binary and datatype == "BYTES":
        raw, array = pack([b"", b"a", "\u00e9".encode()]), np.array([["", "a", "\u00e9"]], np.object_)
    answer = InferAnswer("m", "1", "id", {"p": 1}, [OutputTensor("O", datatype, [1, 3], data=raw)])
    call = InferCall(model="m", outputs=[OutputRequest("O", binary=binary)])
    ihcl, _, parts = http.encode_response(answer, call)
    result = httpclient.InferResult.from_response_body(body_of(parts), header_length=ihcl)
    np.testing.assert_array_equal(result.as_numpy("O"), array)
    assert result.get_response()["id"] == "id"
    assert result.get_response()["parameters"] == {"p": 1}


@pytest.mark.parametrize("datatype", ARRAYS)
def test_grpc_requests_of_the_client_are_read(datatype):
    output = grpcclient.InferRequestedOutput("O", class_count=2)
    request = grpc_request(
        model_name="m",
        inputs=client_inputs(grpcclient, datatype),
        model_version="2",
        request_id="id",
        outputs=[output],
        sequence_id=7,
        sequence_start=True,
        sequence_end=False,
        priority=3,
        timeout=1000,
        parameters={"k": 1.5},
    )
    call = grpc.decode_request(request.SerializeToString())
    assert (call.model, call.version, call.id) == ("m", "2", "id")
    assert call.parameters == {
        "sequence_id": 7,
        "sequence_start": True,
        "sequence_end": False,
        "priority": 3,
        "timeout": 1000,
        "k": 1.5,
    }
    assert bytes(data_of(call.inputs[0])) == raw_of(datatype)
    assert call.outputs[0].classification == 2
    assert grpc.encode_request(call) == request


@pytest.mark.parametrize("datatype", ARRAYS)
def test_grpc_answers_are_read_by_the_client(datatype):
    answer = InferAnswer("m", "1", "id", {}, [OutputTensor("O", datatype, [1, 3], data=raw_of(datatype))])
    response = service_pb2.ModelInferResponse.FromString(grpc.encode_response(answer))
    np.testing.assert_array_equal(grpcclient.InferResult(response).as_numpy("O"), ARRAYS[datatype])


@over_http
def test_our_requests_are_the_clients_bytes_for_bytes():
    call_ihcl_and_parts = http.encode_request(
        http.decode_request(
            *_swap(http_request(client_inputs(httpclient, "BYTES"), "", None, 0, False, False, 0, None, None))
        )
    )
    ihcl, parts = call_ihcl_and_parts
    assert body_of(parts)[ihcl:] == serialize_byte_tensor(ARRAYS["BYTES"]).item()


def _swap(body_and_length):
    body, ihcl = body_and_length
    return body, ihcl, "m", ""
