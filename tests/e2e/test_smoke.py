"""One request each through the real gateway and the real Triton, by the clients people have."""

from __future__ import annotations

import numpy as np
import tritonclient.grpc as grpcclient

REQUEST = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3.5]}]}


def test_http_json(shared_gateway):
    answer = shared_gateway.post("/v2/models/identity_fp32/infer", REQUEST, {"x-request-id": "tour-1"})
    assert answer.status == 200
    assert answer.json()["outputs"][0]["data"] == [1.0, 2.0, 3.5]
    assert answer.headers["x-request-id"] == "tour-1"
    assert answer.headers["x-tidegate-variant"] == "default"


def test_grpc(shared_gateway):
    with grpcclient.InferenceServerClient(shared_gateway.grpc) as client:
        tensor = grpcclient.InferInput("INPUT0", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
        answer = client.infer("identity_fp32", [tensor], request_id="abc")
    assert answer.as_numpy("OUTPUT0").tolist() == [[1.0] * 4]
    assert answer.get_response().id == "abc"
