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


def test_headers_beyond_the_limit(shared_gateway):
    """Refused by the gateway; the model server would close the connection on them."""
    answer = shared_gateway.get("/v2", {"x-large": "a" * 20_000})
    assert answer.status == 431
    assert "headers" in answer.error
    assert shared_gateway.get("/v2", {"x-large": "a" * 8_000}).status == 200


def test_a_variant_whose_model_is_missing_falls_back(gateway):
    """Whoever wrote the route is at fault, not the client; without a fallback it is 503, and no inner name shows."""
    one = gateway(
        """
upstreams: {triton: {http: $TRITON_HTTP, grpc: $TRITON_GRPC}}
routes:
  caught:
    variants: [{name: gone, model: nope}, {name: there, model: identity_fp32, weight: 0}]
    fallback: [there]
  lost: {variants: [{name: gone, model: nope}]}
  unversioned: {variants: [{name: only, model: identity_fp32}]}
"""
    )
    answer = one.post("/v2/models/caught/infer", REQUEST)
    assert (answer.status, answer.headers["x-tidegate-variant"]) == (200, "there")
    assert one.metric("tidegate_fallbacks_total", route="caught") == 1
    lost = one.post("/v2/models/lost/infer", REQUEST)
    assert lost.status == 503
    assert "nope" not in lost.error
    # A version that the client chose is the client's.
    assert one.post("/v2/models/unversioned/versions/9/infer", REQUEST).status == 404
    assert one.metric("tidegate_fallbacks_total", route="lost") == 0
