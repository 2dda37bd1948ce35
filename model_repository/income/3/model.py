"""income, version 3: a neural network without sex, race, family and origin."""

from income_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
