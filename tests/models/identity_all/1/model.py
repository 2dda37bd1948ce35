"""identity_all: returns each INPUT_<DT> that came as OUTPUT_<DT>, bit for bit.

For tests of every OIP datatype over JSON, binary and gRPC. Inputs are optional; outputs whose input is absent
are left out of the response, as Triton allows.
"""

import triton_python_backend_utils as pb_utils

UNSIGNED = ("UINT8", "UINT16", "UINT32", "UINT64")
SIGNED = ("INT8", "INT16", "INT32", "INT64")
DATATYPES = ("BOOL", *UNSIGNED, *SIGNED, "FP16", "FP32", "FP64", "BYTES")  # no BF16: numpy has none


class TritonPythonModel:
    """Identity over optional inputs."""

    def execute(self, requests: list) -> list:
        """One response a request, with the outputs whose inputs were given."""
        responses = []
        for request in requests:
            outputs = []
            for datatype in DATATYPES:
                tensor = pb_utils.get_input_tensor_by_name(request, f"INPUT_{datatype}")
                if tensor is not None:
                    outputs.append(pb_utils.Tensor(f"OUTPUT_{datatype}", tensor.as_numpy()))
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
