"""Raw columns to a model's tensors: feature programs, run over rows of values or whole columns.

The only place that chooses between the C twin and its specification in Python; `TIDEGATE_NO_EXTENSIONS=1` takes the
specification. `_program.py` says what a program is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kernels.features._ngrams_py import BINARY, LOWERCASE, SIGNED
from kernels.features._program import (
    COLUMN_DATATYPES,
    DATATYPES,
    FUNCTIONS,
    KINDS,
    OF_TEXT,
    OPS,
    PERIODS,
    REFUSE_INFINITE,
    REFUSE_MISSING,
    REFUSE_NOT_POSITIVE,
    TO_TEXT,
    Input,
    Instruction,
    Refused,
    Tensor,
)
from kernels.features._splines_py import CONTINUE, LINEAR, PERIODIC, basis
from kernels.features._times import seconds_of

if TYPE_CHECKING or os.environ.get("TIDEGATE_NO_EXTENSIONS"):
    from kernels.features._features_py import Program
else:
    from kernels.features._features_c import Program

__all__ = [
    "BINARY",
    "COLUMN_DATATYPES",
    "CONTINUE",
    "DATATYPES",
    "FUNCTIONS",
    "KINDS",
    "LINEAR",
    "LOWERCASE",
    "OF_TEXT",
    "OPS",
    "PERIODIC",
    "PERIODS",
    "REFUSE_INFINITE",
    "REFUSE_MISSING",
    "REFUSE_NOT_POSITIVE",
    "SIGNED",
    "TO_TEXT",
    "Input",
    "Instruction",
    "Program",
    "Refused",
    "Tensor",
    "basis",
    "seconds_of",
]
