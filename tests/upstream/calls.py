"""Calls of the test models, with inputs raw as after validation."""

from __future__ import annotations

import numpy as np

from gateway.wire.types import InferCall, InputTensor


def tensor(name: str, datatype: str, values: np.ndarray) -> InputTensor:
    return InputTensor(name=name, datatype=datatype, shape=list(values.shape), data=values.tobytes())


def text(name: str, value: str) -> InputTensor:
    data = value.encode()
    return InputTensor(name=name, datatype="BYTES", shape=[1], data=len(data).to_bytes(4, "little") + data)


def identity(count: int = 3, **more) -> InferCall:
    return InferCall(
        model="identity_fp32", inputs=[tensor("INPUT0", "FP32", np.arange(count, dtype=np.float32)[None])], **more
    )


def slow(milliseconds: int) -> InferCall:
    return InferCall(model="slow", inputs=[tensor("MILLISECONDS", "INT32", np.array([[milliseconds]], np.int32))])


def fails(how: str, **more) -> InferCall:
    return InferCall(model="fails", inputs=[text("HOW", how)], **more)


def echo(**more) -> InferCall:
    return InferCall(model="params_echo", inputs=[text("INPUT0", "x")], **more)


def repeat(values: list[int], delay: int = 0, **more) -> InferCall:
    return InferCall(
        model="repeat_int32",
        inputs=[
            tensor("IN", "INT32", np.array(values, np.int32)),
            tensor("DELAY", "UINT32", np.full(len(values), delay, np.uint32)),
            tensor("WAIT", "UINT32", np.zeros(1, np.uint32)),
        ],
        **more,
    )


def accumulate(value: int, sequence: int, **flags: bool) -> InferCall:
    return InferCall(
        model="sequence_accumulate",
        parameters={"sequence_id": sequence, **{f"sequence_{k}": v for k, v in flags.items()}},
        inputs=[tensor("INPUT", "INT32", np.array([[value]], np.int32))],
    )


def int32(answer, name: str) -> int:
    (output,) = (o for o in answer.outputs if o.name == name)
    return int(np.frombuffer(output.data, np.int32)[0])
