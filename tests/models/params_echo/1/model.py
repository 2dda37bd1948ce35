"""params_echo: INPUT0 [1] BYTES -> OUTPUT0 the same, SEEN [1] BYTES a JSON object of what came with it.

For parameters, header forwarding (start Triton with --http-header-forward-pattern and
--grpc-header-forward-pattern), request ids and requested outputs. Keys of SEEN: `parameters` (object),
`request_id`, `correlation_id`, `timeout` (microseconds), `flags`, `requested_outputs`, `trace_context`.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Echoes the envelope."""

    def execute(self, requests: list) -> list:
        """One response a request."""
        return [_answer(request) for request in requests]


def _answer(request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
    context = request.trace().get_context() if hasattr(request.trace(), "get_context") else None
    seen = {
        "parameters": json.loads(request.parameters() or "{}"),
        "request_id": request.request_id(),
        "correlation_id": request.correlation_id(),
        "timeout": request.timeout(),
        "flags": request.flags(),
        "requested_outputs": sorted(request.requested_output_names()),
        "trace_context": json.loads(context) if context else None,
    }
    value = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
    tensors = [
        pb_utils.Tensor("SEEN", np.array([json.dumps(seen, sort_keys=True).encode()], np.object_)),
        pb_utils.Tensor("OUTPUT0", value),
    ]
    return pb_utils.InferenceResponse([t for t in tensors if t.name() in request.requested_output_names()])
