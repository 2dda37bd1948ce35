"""income, version 2: gradient boosted trees."""

from income_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
