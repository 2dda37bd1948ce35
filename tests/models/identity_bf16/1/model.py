"""identity_bf16: INPUT0 [n] BF16 -> OUTPUT0, bit for bit.

For the one datatype that numpy lacks: the tensor goes from input to output as a DLPack capsule.
"""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Identity through DLPack."""

    def execute(self, requests: list) -> list:
        """One response a request."""
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor.from_dlpack("OUTPUT0", pb_utils.get_input_tensor_by_name(r, "INPUT0").to_dlpack())]
            )
            for r in requests
        ]
