"""anomaly: value FP32 and month INT32 -> score FP32, anomaly BOOL (score of 1 or more); [b, 1] each.

Stateful: a sequence is one station's months in order. `month` is 1 to 12; 0 or absent means not known, and
the norm of the whole year is used. The state of a sequence is three numbers that the ONNX graph takes and
returns; it goes with the sequence's end, and the longest unused go first when there are too many (sequences
that Triton has given up on, for which it sends no end).
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

MOST_SEQUENCES = 4096  # four times the candidates of config.pbtxt
NEW = np.zeros(3, np.float32)


class TritonPythonModel:
    """One run over the steps of all sequences of a batch."""

    def initialize(self, args):
        folder = Path(args["model_repository"], args["model_version"])
        self._session = open_session(folder / "model.onnx", args)
        self._states = OrderedDict()

    def execute(self, requests):
        steps = [read_step(request) for request in requests]
        good = [i for i, step in enumerate(steps) if not isinstance(step, str)]
        responses = [
            pb_utils.InferenceResponse(error=pb_utils.TritonError(step, pb_utils.TritonError.INVALID_ARG))
            if isinstance(step, str)
            else None
            for step in steps
        ]
        if good:
            keys, starts, ends, values, months = zip(*(steps[i] for i in good), strict=True)
            states = [NEW if start else self._states.get(key, NEW) for key, start in zip(keys, starts, strict=True)]
            scores, after = self._session.run(
                ["score", "next_state"],
                {"value": np.concatenate(values), "month": np.concatenate(months), "state": np.stack(states)},
            )
            for row, i in enumerate(good):
                self._remember(keys[row], after[row], ended=ends[row])
                score = scores[row : row + 1]
                tensors = [pb_utils.Tensor("score", score), pb_utils.Tensor("anomaly", score >= 1)]
                responses[i] = pb_utils.InferenceResponse(tensors)
        return responses

    def _remember(self, key, state, *, ended):
        self._states.pop(key, None)
        if not ended:
            self._states[key] = state
            if len(self._states) > MOST_SEQUENCES:
                self._states.popitem(last=False)


def read_step(request):
    """(sequence, start, end, value [1, 1], month [1, 1]) of a request (Triton lets no batch pass), or what is
    wrong."""
    value, month, start, end = (
        pb_utils.get_input_tensor_by_name(request, name) for name in ("value", "month", "START", "END")
    )
    value = value.as_numpy()
    month = np.zeros((1, 1), np.int64) if month is None else month.as_numpy().astype(np.int64)
    if not 0 <= month[0, 0] <= 12:
        return f"month is {month[0, 0]}: give 1 to 12, or 0 for not known"
    return request.correlation_id(), start.as_numpy().any(), end.as_numpy().any(), value, month


def open_session(path, args):
    """A session on the GPU of this instance if there is one that onnxruntime can use, else on the CPU."""
    providers = ["CPUExecutionProvider"]
    if args["model_instance_kind"] == "GPU" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small models: threads would only wait for each other
    return onnxruntime.InferenceSession(path, options, providers=providers)
