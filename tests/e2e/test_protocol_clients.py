"""Unchanged clients against the gateway: tritonclient over HTTP and gRPC, with and without asyncio, and curl.

KServe's client needs an environment of its own: `test_protocol_kserve.py`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
from tritonclient.utils import InferenceServerException

NUMPY = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([0.5, -2], np.float16),
    "FP32": np.array([0.1, -3e38], np.float32),
    "FP64": np.array([0.1, -1e300], np.float64),
    "BYTES": np.array([b"", "a\u00e9".encode()], np.object_),
}


@pytest.fixture(params=["http", "grpc"])
def client(request, shared_gateway):
    """(module, client) of each protocol."""
    module = httpclient if request.param == "http" else grpcclient
    address = shared_gateway.http if request.param == "http" else shared_gateway.grpc
    made = module.InferenceServerClient(address)
    yield module, made
    made.close()


def tensor(module: Any, name: str, datatype: str, array: Any, **options: Any) -> Any:
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, **options)
    return made


@pytest.mark.parametrize("datatype", NUMPY)
def test_every_type(client, datatype):
    module, made = client
    array = NUMPY[datatype]
    answer = made.infer("identity_all", [tensor(module, f"INPUT_{datatype}", datatype, array)], request_id="r")
    got = answer.as_numpy(f"OUTPUT_{datatype}")
    assert got.dtype == array.dtype
    assert got.tolist() == array.tolist()


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_http_forms(shared_gateway, binary_in, binary_out, coding):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    with httpclient.InferenceServerClient(shared_gateway.http) as made:
        answer = made.infer(
            "identity_fp32",
            [tensor(httpclient, "INPUT0", "FP32", array, binary_data=binary_in)],
            outputs=[httpclient.InferRequestedOutput("OUTPUT0", binary_data=binary_out)],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
    assert answer.as_numpy("OUTPUT0").tolist() == array.tolist()


def test_health_and_metadata(client):
    module, made = client
    assert made.is_server_live()
    assert made.is_server_ready()
    assert made.is_model_ready("income")
    assert made.is_model_ready("income", "2")
    assert not made.is_model_ready("nothing")
    more = {} if module is httpclient else {"as_json": True}
    assert made.get_server_metadata(**more)["name"] == "triton"
    assert made.get_model_metadata("income", **more)["versions"] == ["1", "2", "3"]
    config = made.get_model_config("income", **more)
    assert (config if module is httpclient else config["config"])["max_batch_size"] == 64
    stats = made.get_inference_statistics("income", **more)["model_stats"]
    assert {row["version"] for row in stats} == {"1", "2", "3"}
    index = made.get_model_repository_index(**more)
    rows = index if module is httpclient else index["models"]
    assert {"income", "digits", "anomaly", "writer"} <= {row["name"] for row in rows}
    assert made.get_trace_settings(**({} if module is httpclient else {"as_json": True}))
    assert made.get_log_settings(**({} if module is httpclient else {"as_json": True}))
    assert not made.get_cuda_shared_memory_status(**more)


def test_classes(client):
    module, made = client
    image = (np.arange(64, dtype=np.float32) % 17).reshape(1, 8, 8)
    output = module.InferRequestedOutput("scores", class_count=3)
    got = made.infer("digits", [tensor(module, "image", "FP32", image)], outputs=[output]).as_numpy("scores")
    assert got.shape == (1, 3)
    value, index, label = got[0][0].decode().split(":")
    assert float(value) >= 0
    assert int(index) in range(10)
    assert label


def test_parameters_and_headers(client):
    module, made = client
    word = np.array([b"x"], np.object_)
    answer = made.infer(
        "params_echo",
        [tensor(module, "INPUT0", "BYTES", word)],
        request_id="id-7",
        priority=1,
        timeout=9_000_000,
        parameters={"text": "t", "count": 3, "flag": True},
        headers={"x-fwd-one": "1"},
    )
    seen = json.loads(answer.as_numpy("SEEN")[0])
    assert seen["request_id"] == "id-7"
    assert seen["timeout"] == 9_000_000
    assert {"text": "t", "count": 3, "flag": True, "x-fwd-one": "1"}.items() <= seen["parameters"].items()


def test_async_infer(client):
    """tritonclient's own asynchronous calls: many under way at once."""
    module, made = client
    array = np.ones((1, 4), np.float32)
    inputs = [tensor(module, "INPUT0", "FP32", array)]
    if module is httpclient:
        waiting = [made.async_infer("identity_fp32", inputs) for _ in range(20)]
        answers = [each.get_result() for each in waiting]
    else:
        answers = []
        for _ in range(20):
            made.async_infer("identity_fp32", inputs, callback=lambda result, error: answers.append(error or result))
        deadline = time.monotonic() + 60
        while len(answers) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [answer.as_numpy("OUTPUT0").tolist() for answer in answers] == [[[1.0] * 4]] * 20


def test_errors_are_the_clients_own(client):
    """tritonclient makes its exception of the answer, with the words in it."""
    module, made = client
    array = np.ones((1, 4), np.float32)
    with pytest.raises(InferenceServerException, match="unknown model: 'nothing'") as caught:
        made.infer("nothing", [tensor(module, "INPUT0", "FP32", array)])
    assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")
    with pytest.raises(InferenceServerException, match="INPUT0"):
        made.infer("identity_fp32", [tensor(module, "INPUT0", "FP64", array.astype(np.float64))])
    with pytest.raises(InferenceServerException, match="nothing"):
        made.load_model("nothing")


def test_client_timeout(shared_gateway):
    inputs = [tensor(grpcclient, "MILLISECONDS", "INT32", np.array([[700]], np.int32))]
    with (
        grpcclient.InferenceServerClient(shared_gateway.grpc) as made,
        pytest.raises(InferenceServerException, match=r"(?i)deadline"),
    ):
        made.infer("slow", inputs, client_timeout=0.2)


def test_aio(shared_gateway):
    """The asyncio twins, with a stream."""

    async def run() -> None:
        array = np.ones((1, 4), np.float32)
        async with httpaio.InferenceServerClient(shared_gateway.http) as made:
            assert await made.is_server_ready()
            answer = await made.infer("identity_fp32", [tensor(httpaio, "INPUT0", "FP32", array)])
            assert answer.as_numpy("OUTPUT0").tolist() == array.tolist()
        async with grpcaio.InferenceServerClient(shared_gateway.grpc) as made:
            assert await made.is_server_ready()
            answer = await made.infer("identity_fp32", [tensor(grpcclient, "INPUT0", "FP32", array)])
            assert answer.as_numpy("OUTPUT0").tolist() == array.tolist()

            async def calls():
                for i in range(3):
                    inputs = [
                        tensor(grpcclient, "IN", "INT32", np.arange(i + 1, dtype=np.int32)),
                        tensor(grpcclient, "DELAY", "UINT32", np.zeros(i + 1, np.uint32)),
                        tensor(grpcclient, "WAIT", "UINT32", np.zeros(1, np.uint32)),
                    ]
                    yield {"model_name": "repeat_int32", "inputs": inputs, "request_id": str(i)}

            seen: dict[str, list[int]] = {}
            async for result, error in made.stream_infer(calls()):
                assert error is None
                seen.setdefault(result.get_response().id, []).append(result.as_numpy("OUT").item())
            assert seen == {"0": [0], "1": [0, 1], "2": [0, 1, 2]}

    asyncio.run(run())


def test_stream(shared_gateway):
    """tritonclient's stream: decoupled answers, an error in between, an empty final answer."""
    got: list[Any] = []
    with grpcclient.InferenceServerClient(shared_gateway.grpc) as made:
        made.start_stream(lambda result, error: got.append(error or result))
        inputs = [
            tensor(grpcclient, "IN", "INT32", np.array([5, 6], np.int32)),
            tensor(grpcclient, "DELAY", "UINT32", np.zeros(2, np.uint32)),
            tensor(grpcclient, "WAIT", "UINT32", np.zeros(1, np.uint32)),
        ]
        made.async_stream_infer("repeat_int32", inputs, request_id="d", enable_empty_final_response=True)
        made.async_stream_infer("nothing", inputs, request_id="e")
        made.async_stream_infer("repeat_int32", inputs[:1], request_id="f")
        made.stop_stream()
    errors = [each for each in got if isinstance(each, InferenceServerException)]
    answers = [each.get_response() for each in got if not isinstance(each, InferenceServerException)]
    assert len(errors) == 2
    assert [a.id for a in answers] == ["d"] * 3
    assert [a.parameters["triton_final_response"].bool_param for a in answers] == [False, False, True]


CURL = shutil.which("curl")


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
class TestCurl:
    """What people type."""

    def run(self, *args: str, data: bytes | None = None) -> str:
        assert CURL is not None
        done = subprocess.run(
            [CURL, "--silent", "--show-error", "--max-time", "20", *args], input=data, capture_output=True, check=True
        )
        return done.stdout.decode()

    def test_infer(self, shared_gateway):
        body = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]})
        out = self.run("-d", body, f"http://{shared_gateway.http}/v2/models/identity_fp32/infer")
        assert json.loads(out)["outputs"][0]["data"] == [1, 2]

    def test_compressed(self, shared_gateway):
        body = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]})
        out = self.run("--compressed", "-d", body, f"http://{shared_gateway.http}/v2/models/identity_fp32/infer")
        assert json.loads(out)["outputs"][0]["data"] == [1, 2]

    def test_large_body_waits_for_continue(self, shared_gateway):
        """curl sends `Expect: 100-continue` with a body of more than a mebibyte."""
        numbers = [0.5] * 400_000
        body = json.dumps(
            {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, len(numbers)], "data": numbers}]}
        ).encode()
        out = self.run("--data-binary", "@-", f"http://{shared_gateway.http}/v2/models/identity_fp32/infer", data=body)
        assert json.loads(out)["outputs"][0]["shape"] == [1, 400_000]

    def test_events(self, shared_gateway):
        body = json.dumps({"text_input": "The ", "max_tokens": 4, "temperature": 0.0, "stream": True})
        out = self.run("--no-buffer", "-d", body, f"http://{shared_gateway.http}/v2/models/writer/generate_stream")
        assert out.startswith("data: {")
        assert out.endswith("}\n\n")
