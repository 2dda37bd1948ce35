"""repeat_int32: decoupled; IN [n] INT32, DELAY [n] UINT32 ms, WAIT [1] UINT32 ms -> n responses OUT, IDX.

For streams: the final flag, empty finals (n = 0), interleaving, a client that leaves early. After the k-th
DELAY response k is sent; `execute` itself returns after WAIT, so several requests answer at the same time.
"""

import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sends the elements of IN one by one from a thread per request."""

    def initialize(self, args: dict) -> None:
        """No threads yet."""
        self._threads: list[threading.Thread] = []

    def execute(self, requests: list) -> None:
        """Start a sender for each request; decoupled models return nothing."""
        for request in requests:
            values, delays, wait = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("IN", "DELAY", "WAIT")
            )
            sender = request.get_response_sender()
            if values.shape != delays.shape:
                error = pb_utils.TritonError(f"IN has {values.size} elements and DELAY {delays.size}: give one each")
                sender.send(
                    pb_utils.InferenceResponse(error=error),
                    flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
                )
                continue
            self._threads = [t for t in self._threads if t.is_alive()]
            thread = threading.Thread(target=_send, args=(sender, values.copy(), delays.copy()))
            thread.start()
            self._threads.append(thread)
            time.sleep(min(int(wait[0]), 60_000) / 1000)

    def finalize(self) -> None:
        """Wait for streams still under way."""
        for thread in self._threads:
            thread.join()


def _send(sender: object, values: np.ndarray, delays: np.ndarray) -> None:
    for index, (value, delay) in enumerate(zip(values, delays, strict=True)):
        time.sleep(min(int(delay), 60_000) / 1000)
        if sender.is_cancelled():
            break
        out = pb_utils.Tensor("OUT", np.array([value], np.int32))
        idx = pb_utils.Tensor("IDX", np.array([index], np.uint32))
        sender.send(pb_utils.InferenceResponse([out, idx]))
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
