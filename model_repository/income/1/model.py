"""income, version 1: logistic regression."""

from income_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
