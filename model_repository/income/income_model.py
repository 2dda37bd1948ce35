"""What every version of `income` runs: its own model.onnx over the joined rows of a batch.

Triton puts the model's folder on the path, so `N/model.py` imports this file.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

THRESHOLD = 0.5


class TritonPythonModel:
    """features [b, 14] FP32 -> probability [b, 1] FP32 of more than 50K, label [b, 1] INT64 (1 for more)."""

    def initialize(self, args):
        folder = Path(args["model_repository"], args["model_version"])
        self._session = open_session(folder / "model.onnx", args)

    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(r, "features").as_numpy() for r in requests]
        (both,) = self._session.run(["probabilities"], {"X": np.concatenate(arrays)})
        responses = []
        for rows in np.split(both[:, 1:], np.cumsum([len(a) for a in arrays])[:-1]):
            probability = pb_utils.Tensor("probability", np.ascontiguousarray(rows, np.float32))
            label = pb_utils.Tensor("label", (rows >= THRESHOLD).astype(np.int64))
            responses.append(pb_utils.InferenceResponse([probability, label]))
        return responses


def open_session(path, args):
    """A session on the GPU of this instance if there is one that onnxruntime can use, else on the CPU."""
    providers = ["CPUExecutionProvider"]
    if args["model_instance_kind"] == "GPU" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small models: threads would only wait for each other
    return onnxruntime.InferenceSession(path, options, providers=providers)
