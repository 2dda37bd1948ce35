"""The load: one inference of FP32[1,32] through an identity model, in binary over HTTP and raw over gRPC."""

import struct
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2

MODEL = "identity_fp32"
PATH = f"/v2/models/{MODEL}/infer"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
TENSOR = struct.pack("<32f", *(i / 7 for i in range(32)))
KEY = "tg_bench"
"""The API key of the governed gateway; sent to everyone, so that all read the same headers."""

JSON = (
    b'{"inputs":[{"name":"INPUT0","shape":[1,32],"datatype":"FP32","parameters":{"binary_data_size":128}}],'
    b'"outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}}]}'
)
HTTP_BODY = JSON + TENSOR
HTTP_HEADERS = {
    "Content-Type": "application/octet-stream",
    "Inference-Header-Content-Length": str(len(JSON)),
    "X-API-Key": KEY,
}


def http_request(host: str) -> bytes:
    """The whole request as bytes."""
    headers = {"Host": host, **HTTP_HEADERS, "Content-Length": str(len(HTTP_BODY))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode() + HTTP_BODY


def grpc_message() -> bytes:
    """The serialised ModelInferRequest."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 32])
    request.raw_input_contents.append(TENSOR)
    return bytes(request.SerializeToString())


def write_files(directory: Path) -> None:
    """What wrk and h2load read: the bodies, and wrk's script."""
    message = grpc_message()
    (directory / "body.http").write_bytes(HTTP_BODY)
    (directory / "body.grpc").write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in HTTP_HEADERS.items())
    (directory / "infer.lua").write_text(
        'wrk.method = "POST"\n'
        f'wrk.path = "{PATH}"\n'
        f"{headers}"
        f'local file = assert(io.open("{directory / "body.http"}", "rb"))\n'
        'wrk.body = file:read("*a")\n'
        "file:close()\n"
        "done = function(summary, latency)\n"
        "  local e = summary.errors\n"
        "  local errors = e.connect + e.read + e.write + e.status + e.timeout\n"
        '  print(string.format("RESULT %d %d %d %.0f %.0f", summary.requests, summary.duration, errors,\n'
        "    latency:percentile(50), latency:percentile(99)))\n"
        "end\n"
    )


def check_grpc(address: str) -> int:
    """One call; the size of its answer. Fails when the tensor does not come back."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            GRPC_PATH,
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        data: bytes = call(grpc_message(), timeout=20, metadata=(("x-api-key", KEY),), wait_for_ready=True)
    answer = service_pb2.ModelInferResponse.FromString(data)
    if list(answer.raw_output_contents) != [TENSOR]:
        raise RuntimeError(f"{address} answered another tensor than was sent")
    return len(data)
