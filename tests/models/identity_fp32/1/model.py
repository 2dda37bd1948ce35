"""identity_fp32: INPUT0 [n, m] FP32 -> OUTPUT0, unchanged.

For large bodies, shared memory, raw binary requests (one input, so `Inference-Header-Content-Length: 0`
works).
"""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Identity of one matrix."""

    def execute(self, requests: list) -> list:
        """One response a request."""
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("OUTPUT0", pb_utils.get_input_tensor_by_name(r, "INPUT0").as_numpy())]
            )
            for r in requests
        ]
