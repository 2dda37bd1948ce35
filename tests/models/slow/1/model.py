"""slow: MILLISECONDS [b, 1] INT32 -> SLEPT, after sleeping that long (at most 60 s).

For deadlines, cancelled calls, concurrency limits, draining, hedging; with two instances, and with the queue
policy that makes Triton's `timeout` (microseconds) and `priority` parameters take effect.
"""

import time

import triton_python_backend_utils as pb_utils

LONGEST_MS = 60_000


class TritonPythonModel:
    """Sleeps, then answers with what it slept."""

    def execute(self, requests: list) -> list:
        """One response a request, each after its own sleep; a cancelled request ends its sleep early."""
        responses = []
        for request in requests:
            asked = pb_utils.get_input_tensor_by_name(request, "MILLISECONDS").as_numpy()
            until = time.monotonic() + max(0, min(int(asked.max()), LONGEST_MS)) / 1000
            while (left := until - time.monotonic()) > 0 and not request.is_cancelled():
                time.sleep(min(left, 0.02))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("SLEPT", asked)]))
        return responses
