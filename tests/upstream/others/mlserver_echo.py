"""Custom runtime for a real MLServer: gives every input back as `OUT_NAME`.

Loaded by MLServer from a folder with `model-settings.json`, in an environment that has `mlserver`. The request
parameter `fail` makes it raise: `mlserver` its own error with status 422, anything else a plain exception.
"""

from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):
    """Stateless."""

    async def load(self) -> bool:
        """Nothing to load."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Each input as an output of the same datatype, shape and data."""
        fail = getattr(payload.parameters, "fail", None) if payload.parameters else None
        if fail == "mlserver":
            raise MLServerError("asked to fail", 422)
        if fail:
            raise RuntimeError(fail)
        outputs = [
            ResponseOutput(
                name=f"OUT_{i.name}", datatype=i.datatype, shape=i.shape, data=i.data, parameters=i.parameters
            )
            for i in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, id=payload.id, outputs=outputs)
