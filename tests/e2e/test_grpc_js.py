"""@grpc/grpc-js, which has an HTTP/2 of its own, against the gRPC door: calls, errors, streams, large messages."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from tritonclient.grpc import service_pb2 as pb

PACKAGE = "@grpc/grpc-js@1.14.0"
SCRIPT = Path(__file__).parent / "js" / "calls.js"


@pytest.fixture(scope="module")
def modules(tmp_path_factory) -> Path:
    """A folder with the package; skipped, with the reason, where there is no node or no registry."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("js")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry does not answer")
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be had: {done.stderr.strip()[-200:]}")
    return folder / "node_modules"


def request(count: int) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="identity_fp32")
    made.inputs.add(name="INPUT0", datatype="FP32", shape=[1, count])
    made.raw_input_contents.append(struct.pack(f"<{count}f", *range(count)))
    return made


def test_calls_of_grpc_js(modules, shared_gateway):
    small, large = request(3), request(12_000)
    done = subprocess.run(
        ["node", str(SCRIPT), shared_gateway.grpc, *(m.SerializeToString().hex() for m in (small, large))],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["one"]["code"] == 0
    assert found["one"]["initial"]["x-request-id"] == "from-js"
    for name, sent in (("one", small), ("large", large)):
        answer = pb.ModelInferResponse.FromString(bytes.fromhex(found[name]["answer"]))
        assert answer.raw_output_contents[0] == sent.raw_input_contents[0]
    assert found["wrong"]["code"] == 3
    assert found["wrong"]["details"].startswith("failed to parse the request message")
    assert (found["nobody"]["code"], found["nobody"]["details"]) == (12, "Method not found!")
    assert found["many"] == [0] * 50
    assert found["late"]["code"] == 4
    assert found["cancelled"]["code"] in (0, 1)
    assert found["streamed"]["code"] == 0
    assert len(found["streamed"]["answers"]) == 20
