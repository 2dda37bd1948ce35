"""fails: HOW [1] BYTES says how to go wrong; the empty string answers "fine".

For the error table and for supervision:
`error:CODE` an error response with that TritonError code (INVALID_ARG, NOT_FOUND, UNAVAILABLE, UNSUPPORTED,
INTERNAL, UNKNOWN, ALREADY_EXISTS, CANCELLED); `raise` an exception of `execute`; `wrong-output` an output
with a name the config does not have; `exit-backend` ends this backend process; `kill-server` kills the
server.
"""

import os
import signal

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Fails on demand."""

    def execute(self, requests: list) -> list:
        """One response a request, unless the whole process goes."""
        return [_answer(pb_utils.get_input_tensor_by_name(r, "HOW").as_numpy()[0].decode()) for r in requests]


def _answer(how: str) -> "pb_utils.InferenceResponse":
    kind, _, code = how.partition(":")
    if kind == "error":
        error = pb_utils.TritonError(f"asked to fail with {code}", getattr(pb_utils.TritonError, code))
        return pb_utils.InferenceResponse(error=error)
    if kind == "raise":
        raise pb_utils.TritonModelException("asked to raise")
    if kind == "exit-backend":
        os._exit(3)
    if kind == "kill-server":
        os.kill(os.getppid(), signal.SIGKILL)
    name = "NOT_IN_CONFIG" if kind == "wrong-output" else "OUTPUT0"
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, np.array([b"fine"], np.object_))])
