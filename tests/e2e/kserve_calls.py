"""KServe's own clients against an OIP server: `kserve_calls.py HTTP GRPC`. Runs in `.venv-kserve`; prints `ok NAME`."""

from __future__ import annotations

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

VALUES = np.arange(4, dtype=np.float32).reshape(1, 4)


def request(binary: bool, model: str = "identity_fp32") -> InferRequest:
    tensor = InferInput("INPUT0", [1, 4], "FP32")
    tensor.set_data_from_numpy(VALUES, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="k-1")


async def rest(address: str) -> None:
    base = f"http://{address}"
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(base) is True
    assert await client.is_server_ready(base) is True
    assert await client.is_model_ready(base, "identity_fp32") is True
    print("ok rest health")
    for binary in (False, True):
        answer = await client.infer(base, request(binary), model_name="identity_fp32")
        (output,) = answer.outputs
        assert np.array_equal(output.as_numpy(), VALUES), output
        assert (answer.id, answer.model_name) == ("k-1", "identity_fp32")
        print(f"ok rest infer binary={binary}")
    try:
        await client.infer(base, request(False, "nothing"), model_name="nothing")
    except Exception as error:  # noqa: BLE001  whatever it is, it must have our words
        assert "unknown model" in str(error), repr(error)
        print("ok rest error")
    await client.close()


async def grpc(address: str) -> None:
    client = InferenceGRPCClient(address)
    assert await client.is_server_live() is True
    assert await client.is_server_ready() is True
    assert await client.is_model_ready("identity_fp32") is True
    print("ok grpc health")
    answer = await client.infer(request(True))
    assert np.array_equal(answer.outputs[0].as_numpy(), VALUES)
    print("ok grpc infer")
    try:
        await client.infer(request(True, "nothing"))
    except Exception as error:  # noqa: BLE001  likewise
        assert "unknown model" in str(error), repr(error)
        print("ok grpc error")
    await client.close()


async def main() -> None:
    await rest(sys.argv[1])
    await grpc(sys.argv[2])


if __name__ == "__main__":
    asyncio.run(main())
