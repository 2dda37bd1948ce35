"""digits: image [b, 8, 8] FP32 (0 to 16 a pixel) -> scores [b, 10] FP32, one a digit, summing to 1."""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One run over the joined pictures of a batch."""

    def initialize(self, args):
        folder = Path(args["model_repository"], args["model_version"])
        self._session = open_session(folder / "model.onnx", args)

    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(r, "image").as_numpy().reshape(-1, 64) for r in requests]
        (scores,) = self._session.run(["probabilities"], {"X": np.concatenate(arrays)})
        parts = np.split(scores, np.cumsum([len(a) for a in arrays])[:-1])
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("scores", np.ascontiguousarray(part, np.float32))])
            for part in parts
        ]


def open_session(path, args):
    """A session on the GPU of this instance if there is one that onnxruntime can use, else on the CPU."""
    providers = ["CPUExecutionProvider"]
    if args["model_instance_kind"] == "GPU" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small models: threads would only wait for each other
    return onnxruntime.InferenceSession(path, options, providers=providers)
