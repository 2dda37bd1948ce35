"""sequence_accumulate: INPUT [b, 1] INT32 -> OUTPUT, the sequence's sum so far; UINT64 correlation ids.

For sequence_id, sequence_start and sequence_end over both protocols, many sequences interleaved, and a
request without an id (Triton's own error).
"""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sums by correlation id; the state of a sequence goes with its end."""

    def initialize(self, args: dict) -> None:
        """No sequences yet."""
        self._sums: dict = {}

    def execute(self, requests: list) -> list:
        """One response a request; a request belongs to one sequence."""
        responses = []
        for request in requests:
            value, start, end, key = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("INPUT", "START", "END", "CORRID")
            )
            sequence = key.reshape(-1)[0]
            total = np.int32(value.sum()) + (np.int32(0) if start.any() else self._sums.get(sequence, np.int32(0)))
            self._sums[sequence] = total
            if end.any():
                del self._sums[sequence]
            output = np.full(value.shape, total, np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)]))
        return responses
