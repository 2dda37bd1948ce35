"""The same inference from each kind of client, through a gateway: what an OIP server behind it has to answer."""

from __future__ import annotations

import json

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

SAMPLES = [
    ("FP32", np.array([[1.5, -2.25, 3e-7], [4, 5, 6]], np.float32)),
    ("FP64", np.array([0.1, 1e300], np.float64)),
    ("INT32", np.array([[[-(2**31)]], [[2**31 - 1]]], np.int32)),
    ("INT64", np.array([-(2**53), 2**53], np.int64)),
    ("UINT8", np.array([0, 255], np.uint8)),
    ("BOOL", np.array([True, False, True])),
    ("BYTES", np.array([b"abc", "déjà vu".encode(), b""], np.object_)),
]


def http_json(gateway, model, datatype, array):
    """Plain OIP JSON."""
    data = [item.decode() for item in array.ravel()] if datatype == "BYTES" else array.ravel().tolist()
    tensor = {"name": "X", "datatype": datatype, "shape": list(array.shape), "data": data}
    answer = gateway.post(f"/v2/models/{model}/infer", {"id": "mine", "inputs": [tensor]})
    assert answer.status == 200, answer.body
    document = answer.json()
    assert document["model_name"] == model
    (output,) = document["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("OUT_X", datatype, list(array.shape))
    if datatype == "BYTES":
        return np.array([item.encode() for item in output["data"]], np.object_).reshape(array.shape)
    return np.array(output["data"], array.dtype).reshape(array.shape)


def _inputs(client, datatype, array, **how):
    tensor = client.InferInput("X", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, **how)
    return [tensor]


def http_binary(gateway, model, datatype, array):
    """Triton's client: binary both ways."""
    with httpclient.InferenceServerClient(gateway.http) as client:
        answer = client.infer(model, _inputs(httpclient, datatype, array, binary_data=True))
        return answer.as_numpy("OUT_X")


def http_mixed(gateway, model, datatype, array):
    """Triton's client: JSON in, binary out."""
    wanted = [httpclient.InferRequestedOutput("OUT_X", binary_data=True)]
    with httpclient.InferenceServerClient(gateway.http) as client:
        how = _inputs(httpclient, datatype, array, binary_data=False)
        return client.infer(model, how, outputs=wanted).as_numpy("OUT_X")


def grpc_raw(gateway, model, datatype, array):
    """Triton's gRPC client: raw contents."""
    with grpcclient.InferenceServerClient(gateway.grpc) as client:
        return client.infer(model, _inputs(grpcclient, datatype, array)).as_numpy("OUT_X")


CLIENTS = [http_json, http_binary, http_mixed, grpc_raw]


def ask_everything(gateway, model, samples=SAMPLES) -> int:
    """Every sample from every client comes back equal; how many questions that were."""
    for datatype, array in samples:
        for ask in CLIENTS:
            answer = ask(gateway, model, datatype, array)
            assert answer is not None, (ask.__name__, datatype)
            assert answer.shape == array.shape, (ask.__name__, datatype)
            assert answer.dtype == array.dtype, (ask.__name__, datatype)
            assert answer.tolist() == array.tolist(), (ask.__name__, datatype)
    return len(samples) * len(CLIENTS)


def raw_binary(gateway, model, datatype, shape, data: bytes):
    """A binary input; the outputs as JSON."""
    tensor = {"name": "X", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    return gateway.request("POST", f"/v2/models/{model}/infer", head + data, headers)
