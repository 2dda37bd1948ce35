"""sequence_string: INPUT [1] INT32 -> OUTPUT, the sum of the sequence so far; correlation ids are strings.

For string `sequence_id`s over both protocols (integer ids work as well).
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
            value, start, end = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("INPUT", "START", "END")
            )
            sequence = request.correlation_id()
            total = value + (0 if start.any() else self._sums.get(sequence, 0))
            self._sums[sequence] = total
            if end.any():
                del self._sums[sequence]
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", total.astype(np.int32))]))
        return responses
