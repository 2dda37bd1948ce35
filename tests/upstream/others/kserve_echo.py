"""A real KServe model server: `echo` gives every input back as `OUT_NAME`, in the form that was asked for;
`echo_json` always in JSON, as a model does that says nothing about it; `fails` fails.

Run in an environment that has `kserve`: `python kserve_echo.py --http_port=N --grpc_port=N`.
"""

import argparse

import kserve
from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from kserve.utils.utils import generate_uuid


class Echo(Model):
    """Stateless."""

    def __init__(self, name: str, *, binary: bool = True) -> None:
        super().__init__(name)
        self.binary = binary
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        """Each input as an output of the same datatype, shape and data."""
        outputs = [self._output(tensor) for tensor in payload.inputs]
        binary = self.binary and payload.use_binary_outputs
        return InferResponse(
            response_id=payload.id or generate_uuid(),
            model_name=self.name,
            infer_outputs=outputs,
            use_binary_outputs=binary,
        )

    @staticmethod
    def _output(tensor: InferInput) -> InferOutput:
        output = InferOutput(name=f"OUT_{tensor.name}", shape=tensor.shape, datatype=tensor.datatype)
        output.set_data_from_numpy(tensor.as_numpy(), binary_data=True)
        return output


class Fails(Echo):
    """Refuses, or breaks when it is sent BOOL."""

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        """Never answers."""
        if payload.inputs[0].datatype == "BOOL":
            raise RuntimeError("asked to break")
        raise InvalidInput("asked to refuse")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    arguments, _ = parser.parse_known_args()
    ModelServer().start([Echo("echo"), Echo("echo_json", binary=False), Fails("fails")])
