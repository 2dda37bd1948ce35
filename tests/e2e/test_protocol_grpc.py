"""Every method of `GRPCInferenceService`, asked of Triton and of the gateway: the answers are the same.

Compared: status code, message by value. `DIFFERS` is the one table of what is otherwise on purpose. Calls are
made with raw messages, so that typed contents, raw contents and broken bytes alike can be sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from sides import NUMPY, raw
from tritonclient.grpc import service_pb2 as pb

from gateway.wire.types import OWN_REGIONS

DIFFERS = {
    "own-codes": "a fault of the client that Triton 2.51 calls INTERNAL or UNKNOWN is INVALID_ARGUMENT",
    "not-found": "a model or version that is not there is NOT_FOUND on every page; Triton says INVALID_ARGUMENT on some",
    "oip-parameters": "OIP's uint64_param is taken; Triton 2.51 knows int64, bool, string and double",
    "over-http": "unary calls of quick models travel over HTTP, where Triton says 400 to these codes; others over gRPC",
    "stricter": "what later versions of Triton refuse, or what 2.51 cuts or ignores, is refused",
}
CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "FP16": [1.5, -2],
    "FP32": [0.1, -3e38],
    "FP64": [0.1, 1e300],
    "BYTES": [b"", b"\xff\0x"],
    **{t: [int(np.iinfo(NUMPY[t]).min), int(np.iinfo(NUMPY[t]).max)] for t in CONTENTS if "INT" in t},
}


@dataclass(frozen=True)
class Case:
    id: str
    method: str
    message: Any
    differs: str = ""
    code: str = ""
    says: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


def call(address: str, method: str, message: Any, metadata: Any = (), timeout: float = 30) -> tuple[str, Any, Any]:
    """(code, details or answer, initial metadata)."""
    request = message if isinstance(message, bytes) else message.SerializeToString()
    with grpc.insecure_channel(address) as channel:
        stub = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            answer, done = stub.with_call(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name, error.details(), dict(error.initial_metadata() or ())
    return "OK", getattr(pb, method + "Response").FromString(answer), dict(done.initial_metadata())


def request(model: str, *inputs: Any, raw_contents: Any = (), version: str = "", call_id: str = "", **more: Any) -> Any:
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=call_id, raw_input_contents=raw_contents)
    message.inputs.extend(inputs)
    for name in more.pop("outputs", ()):
        message.outputs.add(name=name)
    for key, value in more.items():
        put(message.parameters[key], value)
    return message


def put(parameter: Any, value: Any) -> None:
    field = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
    setattr(parameter, field, value)


def tensor(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    item = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    for key, value in contents.items():
        getattr(item.contents, key).extend(value)
    return item


FP32 = tensor("INPUT0", "FP32", [1, 3], fp32_contents=[1, 2, 3.5])
FP32_RAW = tensor("INPUT0", "FP32", [1, 3])
BLOB = raw("FP32", [1, 2, 3.5])
WORD = tensor("INPUT0", "BYTES", [1], bytes_contents=[b"word"])


def in_region() -> Any:
    message = request("identity_fp32", FP32_RAW)
    put(message.inputs[0].parameters["shared_memory_region"], "r")
    put(message.inputs[0].parameters["shared_memory_byte_size"], 12)
    return message


def classes(count: int) -> Any:
    message = request("digits", tensor("image", "FP32", [1, 8, 8], fp32_contents=[float(i % 17) for i in range(64)]))
    put(message.outputs.add(name="scores").parameters["classification"], count)
    return message


def unsigned(value: int) -> Any:
    message = request("params_echo", WORD)
    message.parameters["u"].uint64_param = value
    return message


PAGES = [
    Case("live", "ServerLive", pb.ServerLiveRequest()),
    Case("ready", "ServerReady", pb.ServerReadyRequest()),
    Case("server", "ServerMetadata", pb.ServerMetadataRequest()),
    Case("model-ready", "ModelReady", pb.ModelReadyRequest(name="income")),
    Case("model-ready-version", "ModelReady", pb.ModelReadyRequest(name="income", version="2")),
    Case("model-ready-unknown", "ModelReady", pb.ModelReadyRequest(name="nothing")),
    Case("model-ready-version-unknown", "ModelReady", pb.ModelReadyRequest(name="income", version="9")),
    Case("metadata", "ModelMetadata", pb.ModelMetadataRequest(name="income")),
    Case("metadata-version", "ModelMetadata", pb.ModelMetadataRequest(name="income", version="3")),
    Case("metadata-unknown", "ModelMetadata", pb.ModelMetadataRequest(name="nothing")),
    Case("metadata-version-unknown", "ModelMetadata", pb.ModelMetadataRequest(name="income", version="9")),
    Case("metadata-version-word", "ModelMetadata", pb.ModelMetadataRequest(name="income", version="v1")),
    Case("metadata-nameless", "ModelMetadata", pb.ModelMetadataRequest()),
    Case("config", "ModelConfig", pb.ModelConfigRequest(name="digits")),
    Case("config-version", "ModelConfig", pb.ModelConfigRequest(name="income", version="1")),
    Case("config-unknown", "ModelConfig", pb.ModelConfigRequest(name="nothing")),
    Case("stats", "ModelStatistics", pb.ModelStatisticsRequest(name="sequence_string")),
    Case("stats-all", "ModelStatistics", pb.ModelStatisticsRequest()),
    Case("stats-unknown", "ModelStatistics", pb.ModelStatisticsRequest(name="nothing"), "not-found", "NOT_FOUND"),
    Case("index", "RepositoryIndex", pb.RepositoryIndexRequest()),
    Case("index-ready", "RepositoryIndex", pb.RepositoryIndexRequest(ready=True)),
    Case("index-named", "RepositoryIndex", pb.RepositoryIndexRequest(repository_name="mine")),
    Case("load-unknown", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="nothing")),
    Case(
        "load-named", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="batched", repository_name="mine")
    ),
    Case(
        "load-blank",
        "RepositoryModelLoad",
        pb.RepositoryModelLoadRequest(model_name=" "),
        "stricter",
        "INVALID_ARGUMENT",
        "blank",
    ),
    Case(
        "load-up",
        "RepositoryModelLoad",
        pb.RepositoryModelLoadRequest(model_name="../x"),
        "stricter",
        "INVALID_ARGUMENT",
        "path",
    ),
    Case("unload-unknown", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="nothing")),
    Case("trace", "TraceSetting", pb.TraceSettingRequest()),
    Case("trace-model", "TraceSetting", pb.TraceSettingRequest(model_name="income")),
    Case("trace-model-unknown", "TraceSetting", pb.TraceSettingRequest(model_name="nothing")),
    Case("logs", "LogSettings", pb.LogSettingsRequest()),
    Case("shm-status", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
    Case("shm-region-unknown", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="nothing")),
    Case(
        "shm-register-missing",
        "SystemSharedMemoryRegister",
        pb.SystemSharedMemoryRegisterRequest(name="r", key="/no_such_key", byte_size=4),
    ),
    Case("shm-unregister", "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest()),
    Case("cuda-status", "CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()),
    Case(
        "cuda-register",
        "CudaSharedMemoryRegister",
        pb.CudaSharedMemoryRegisterRequest(name="r", raw_handle=b"0" * 64, device_id=0, byte_size=4),
    ),
    Case("cuda-unregister", "CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest()),
    Case("no-method", "NoSuchMethod", b""),
]

FORMS = [
    *(
        Case(
            f"typed-{t}",
            "ModelInfer",
            request("identity_all", tensor(f"INPUT_{t}", t, [2], **{CONTENTS[t]: items}), outputs=[f"OUTPUT_{t}"]),
        )
        for t, items in SAMPLES.items()
        if t != "FP16"
    ),
    *(
        Case(
            f"raw-{t}",
            "ModelInfer",
            request(
                "identity_all", tensor(f"INPUT_{t}", t, [2]), raw_contents=[raw(t, items)], outputs=[f"OUTPUT_{t}"]
            ),
        )
        for t, items in SAMPLES.items()
    ),
    Case("bf16", "ModelInfer", request("identity_bf16", tensor("INPUT0", "BF16", [2]), raw_contents=[b"abcd"])),
    Case("id", "ModelInfer", request("identity_fp32", FP32, call_id="x-7")),
    Case("version", "ModelInfer", request("identity_fp32", FP32, version="1")),
    Case("zero-size", "ModelInfer", request("identity_fp32", tensor("INPUT0", "FP32", [0, 3]), raw_contents=[b""])),
    Case("classes", "ModelInfer", classes(2)),
    Case(
        "parameters",
        "ModelInfer",
        request("params_echo", WORD, call_id="p", s="x", i=3, b=True, d=1.5, timeout=9000000),
    ),
    Case("parameter-unsigned", "ModelInfer", unsigned(2**63 + 5), "oip-parameters", "OK"),
    Case("parameter-unsigned-small", "ModelInfer", unsigned(5), "oip-parameters", "OK"),
    Case("parameter-empty-final", "ModelInfer", request("params_echo", WORD, triton_enable_empty_final_response=True)),
    Case(
        "metadata-forwarded",
        "ModelInfer",
        request("params_echo", WORD),
        metadata=(("x-fwd-one", "1"), ("x-fwd-two_score", "2"), ("x-other", "3")),
    ),
    Case("outputs", "ModelInfer", request("params_echo", WORD, outputs=["OUTPUT0", "SEEN"])),
    *(
        Case(
            f"fails-{code}",
            "ModelInfer",
            request("fails", tensor("HOW", "BYTES", [1], bytes_contents=[b"error:" + code.encode()])),
            *(("over-http", "INVALID_ARGUMENT") if code in ("UNKNOWN", "CANCELLED", "ALREADY_EXISTS") else ()),
        )
        for code in (
            "INVALID_ARG",
            "NOT_FOUND",
            "UNAVAILABLE",
            "UNSUPPORTED",
            "INTERNAL",
            "UNKNOWN",
            "CANCELLED",
            "ALREADY_EXISTS",
        )
    ),
]

BROKEN = [
    Case("garbage", "ModelInfer", b"\xff\xff\xff\xff", "own-codes", "INVALID_ARGUMENT", "parse"),
    Case("garbage-page", "ModelMetadata", b"\xff\xff\xff\xff", "own-codes", "INVALID_ARGUMENT", "parsed"),
    Case("no-inputs", "ModelInfer", request("identity_fp32")),
    Case("no-contents", "ModelInfer", request("identity_fp32", FP32_RAW)),
    Case("both-contents", "ModelInfer", request("identity_fp32", FP32, raw_contents=[BLOB])),
    Case("raw-missing", "ModelInfer", request("identity_all", tensor("INPUT_INT8", "INT8", [1]), tensor("INPUT_BOOL", "BOOL", [1]), raw_contents=[b"1"])),
    Case("raw-short", "ModelInfer", request("identity_fp32", FP32_RAW, raw_contents=[BLOB[:-1]])),
    Case("raw-surplus", "ModelInfer", request("identity_fp32", FP32_RAW, raw_contents=[BLOB, b"x"]), "stricter", "INVALID_ARGUMENT", "additional"),
    Case("too-few", "ModelInfer", request("identity_fp32", tensor("INPUT0", "FP32", [1, 3], fp32_contents=[1]))),
    Case("wrong-field", "ModelInfer", request("identity_fp32", tensor("INPUT0", "FP32", [1, 3], int_contents=[1, 2, 3]))),
    Case("wrong-type", "ModelInfer", request("identity_fp32", tensor("INPUT0", "FP64", [1, 3], fp64_contents=[1, 2, 3]))),
    Case("unknown-input", "ModelInfer", request("identity_fp32", tensor("X", "FP32", [1, 3], fp32_contents=[1, 2, 3]))),
    Case("unknown-output", "ModelInfer", request("identity_fp32", FP32, outputs=["X"])),
    Case("output-twice", "ModelInfer", request("identity_fp32", FP32, outputs=["OUTPUT0", "OUTPUT0"]), "stricter", "INVALID_ARGUMENT", "OUTPUT0"),
    Case("rank", "ModelInfer", request("identity_fp32", tensor("INPUT0", "FP32", [3], fp32_contents=[1, 2, 3]))),
    Case("negative", "ModelInfer", request("identity_fp32", tensor("INPUT0", "FP32", [-1, 3], fp32_contents=[1, 2, 3]))),
    Case("twice", "ModelInfer", request("identity_fp32", FP32, FP32)),
    Case("int-range", "ModelInfer", request("identity_all", tensor("INPUT_UINT8", "UINT8", [1], uint_contents=[300])), "stricter", "INVALID_ARGUMENT", "INPUT_UINT8"),
    Case("batch", "ModelInfer", request("batched", tensor("INPUT0", "FP32", [9, 4], fp32_contents=[0] * 36))),
    Case("reserved", "ModelInfer", request("params_echo", WORD, triton_x=1)),
    Case("sequence-id-bool", "ModelInfer", request("sequence_accumulate", tensor("INPUT", "INT32", [1, 1], int_contents=[1]), sequence_id=True)),
    Case("sequence-no-start", "ModelInfer", request("sequence_accumulate", tensor("INPUT", "INT32", [1, 1], int_contents=[1]), sequence_id=424242)),
    Case("unknown-model", "ModelInfer", request("nothing", FP32)),
    Case("unknown-version", "ModelInfer", request("income", FP32, version="9")),
    Case("decoupled", "ModelInfer", request("repeat_int32", tensor("IN", "INT32", [1], int_contents=[1]), tensor("DELAY", "UINT32", [1], uint_contents=[0]), tensor("WAIT", "UINT32", [1], uint_contents=[0]))),
    Case("shm-unknown", "ModelInfer", in_region()),
]  # fmt: skip

CHANGING = {"lastInference", "inferenceCount", "executionCount", "inferenceStats", "batchStats", "memoryUsage"}


def comparable(message: Any) -> Any:
    return tidy(json_format.MessageToDict(message))


def tidy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: tidy(v) for k, v in sorted(value.items()) if k not in CHANGING}
    return [tidy(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", [*PAGES, *FORMS, *BROKEN], ids=lambda case: case.id)
def test_same_as_triton(triton, shared_gateway, case):
    metadata = case.metadata
    theirs, their_answer, _ = call(triton.grpc, case.method, case.message, metadata)
    ours, our_answer, initial = call(shared_gateway.grpc, case.method, case.message, metadata)
    seen = (ours, our_answer, theirs, their_answer)
    if case.differs:
        assert case.differs in DIFFERS
        if case.differs == "over-http":
            assert ours in (case.code, theirs), seen
            return
        assert ours == case.code, seen
        assert ours != theirs or ours == "INVALID_ARGUMENT", "no difference: take it out of the table"
        assert not case.says or case.says in our_answer, seen
        return
    assert ours == theirs, seen
    if case.method != "NoSuchMethod":
        assert initial["x-request-id"], initial
    if ours == "OK":
        if case.id == "shm-status":  # the gateway keeps its own regions to itself
            for name in [name for name in their_answer.regions if name.startswith(OWN_REGIONS)]:
                del their_answer.regions[name]
        assert comparable(our_answer) == comparable(their_answer)
        if case.method == "ModelInfer":
            assert initial["x-tidegate-variant"] == "default"


def test_what_cannot_be_read_is_counted(shared_gateway):
    """As an INVALID_ARGUMENT of no route: nobody knows what it asked for."""

    def counted() -> float:
        return shared_gateway.metric("tidegate_requests_total", protocol="grpc", code="INVALID_ARGUMENT", route="")

    before = counted()
    code, _, _ = call(shared_gateway.grpc, "ModelInfer", b"\xff\xff\xff\xff", ())
    assert code == "INVALID_ARGUMENT"
    assert counted() == before + 1


def test_health_service(triton, shared_gateway):
    """`grpc.health.v1`: Check as Triton; unknown services are NOT_FOUND; Watch tells the state."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    for address in (triton.grpc, shared_gateway.grpc):
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status == 1
            service = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
            assert address == triton.grpc or stub.Check(service, timeout=60).status == 1
    with grpc.insecure_channel(shared_gateway.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=60)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == 1
        watch.cancel()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_message(shared_gateway, compression):
    message = request("identity_fp32", tensor("INPUT0", "FP32", [1, 10000]), raw_contents=[bytes(40000)])
    with grpc.insecure_channel(shared_gateway.grpc, compression=compression) as channel:
        stub = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = pb.ModelInferResponse.FromString(stub(message.SerializeToString(), timeout=60))
    assert answer.raw_output_contents[0] == bytes(40000)
