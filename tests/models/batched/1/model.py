"""batched: INPUT0 [b, 4] FP32 -> OUTPUT0 = 2 * INPUT0, BATCH_SIZE [b, 1] INT32 (rows executed together).

For batch dimensions in metadata and validation, and to see that concurrent calls reach Triton's dynamic
batcher.
"""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Doubles; tells the size of the batch."""

    def execute(self, requests: list) -> list:
        """One response a request; BATCH_SIZE is the same in all of them."""
        arrays = [pb_utils.get_input_tensor_by_name(r, "INPUT0").as_numpy() for r in requests]
        rows = sum(a.shape[0] for a in arrays)
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor("OUTPUT0", a * np.float32(2)),
                    pb_utils.Tensor("BATCH_SIZE", np.full((a.shape[0], 1), rows, np.int32)),
                ]
            )
            for a in arrays
        ]
