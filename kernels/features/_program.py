"""What a feature program is made of, for both twins: inputs, tensors, instructions, and how a row is refused.

A program works on registers, one row at a time as far as anyone can tell. Number registers hold float64, NaN where a
value is missing; text registers hold UTF-8 or nothing. Inputs are loaded into the first registers; instructions run in
order; `store` and `scatter` write the tensors, whose columns that nothing is written to are 0.
"""

from __future__ import annotations

from typing import Final, NamedTuple

KINDS: Final = ("number", "boolean", "string", "timestamp")
"""Of inputs. All but `string` go to number registers: a boolean as 0 or 1, a time as seconds since 1970, UTC."""
DATATYPES: Final = ("FP32", "FP64", "INT32", "INT64")
"""Of tensors that a program writes."""
COLUMN_DATATYPES: Final = (
    "FP64", "FP32", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8", "BOOL", "BYTES", "FP16",
)  # fmt: skip
"""Of columns that a program reads: BOOL for booleans, BYTES for texts and times, all others for numbers."""
FUNCTIONS: Final = (
    "log", "log1p", "log2", "log10", "exp", "expm1", "sqrt", "square", "abs", "sin", "cos", "sin_turn", "cos_turn",
    "reciprocal", "negative", "sign", "floor", "cbrt", "tanh",
)  # fmt: skip
"""Of one number, as NumPy has them; `sin_turn` and `cos_turn` take their angle in turns."""
PERIODS: Final = ("minute", "hour", "day", "week", "month", "year")
"""Of `phase`: how far into it a time is, in [0, 1). Weeks begin on Monday."""
REFUSE_INFINITE, REFUSE_MISSING, REFUSE_NOT_POSITIVE = 1, 2, 4
"""Bits of `check`."""
OPS: Final = (
    "fill",           # a, or numbers[0] where it is missing
    "fill_value",     # a, or numbers[0] where it is numbers[1]
    "is_missing",     # 1 where a is missing, else 0
    "equals",         # 1 where a is numbers[0], else 0
    "check",          # refuses by the bits of integers[0]
    "subtract_divide",  # (a - numbers[0]) / numbers[1]
    "multiply_add",   # a * numbers[0] + numbers[1]
    "clip",           # a within [numbers[0], numbers[1]]
    "function",       # FUNCTIONS[integers[0]] of a
    "bucket",         # how many of the ascending numbers are at or below a; missing stays missing
    "yeo_johnson",    # lambda numbers[0]; formulas of Yeo and Johnson, Biometrika 87 (2000)
    "box_cox",        # lambda numbers[0]; Box and Cox, JRSS B 26 (1964)
    "quantile",       # integers[0] quantiles, then as many references; integers[1]: 1 to a normal distribution
    "lookup_number",  # integers[2] ascending numbers; their values, that of missing, that of the rest
    "lookup_text",    # texts; numbers: their values, that of missing, that of the rest
    "add", "subtract", "multiply", "divide", "power",  # a and b
    "constant",       # numbers[0]
    "phase",          # of PERIODS[integers[0]]
    "text_fill",      # the text a, or texts[0] where it is missing
    "text_fill_value",  # the text a, or texts[0] where it is texts[1]
    "text_is_missing",  # 1 where the text a is missing, else 0
    "text_equals",    # 1 where the text a is texts[0], else 0
    "bucket_of_text",  # abs(h) % integers[0], h the signed MurmurHash3 (32 bits, seed 0) of the text a; missing: -1
    "sign_of_text",   # 1 where that h is at least 0, else -1
    "store",          # a to tensor integers[0], column integers[1]
    "scatter",        # 1, or b, to tensor integers[0], column integers[1 + a]; nothing where either is below 0
    "text_check",     # refuses a missing text
    "add_scaled",     # b + a * numbers[0]
    "maximum",        # the greater of a and b; NaN where one of them is
    "replace_below",  # numbers[1] where a is below numbers[0], else a
    "check_range",    # refuses a outside of [numbers[0], numbers[1]]
    "text_length",    # characters of the text a
    "ngrams",         # n-grams of the text a to tensor integers[0], each bucket to its column; see below
    "spline",         # a B-spline basis function of a; see `spline` in _splines_py.py
)  # fmt: skip
"""Each writes register `dst` unless it says otherwise. In `lookup_*` integers[0] and [1] are 1 where a missing value
and one that is not listed are refused. In `ngrams` integers[1] to [6] are those of `counted` in _ngrams_py.py and
integers[7 + bucket] is its column, -1: none; texts are the stop words. A text that is no UTF-8 is refused."""

OF_TEXT: Final = frozenset({
    "lookup_text", "text_is_missing", "text_equals", "bucket_of_text", "sign_of_text", "text_fill", "text_fill_value",
    "text_check", "text_length", "ngrams",
})  # fmt: skip
"""Operations that read a text register."""
TO_TEXT: Final = frozenset({"text_fill", "text_fill_value"})
"""Operations that write one."""
_REASONS: Final = {
    "infinite": "is infinite, which the plan refuses",
    "missing": "is missing, which the plan refuses",
    "not_positive": "is not above 0, which the plan refuses",
    "unknown": "is none of the plan's categories",
    "time": "is no time in ISO 8601",
    "number": "must be a number",
    "text": "must be text",
    "boolean": "must be true or false",
    "range": "does not fit the tensor's datatype",
    "column": "is no column of the plan",
    "outside": "is outside of the plan's range",
}
REASONS: Final = tuple(_REASONS)


class Refused(ValueError):
    """A row that the program does not take: the first in order, and in it the first input or instruction."""

    def __init__(self, row: int, column: str, reason: str) -> None:
        super().__init__(f"row {row + 1}: '{column}' {_REASONS[reason]}")
        self.row = row
        """From 0."""
        self.column = column
        """The input's name."""
        self.reason = reason
        """One of REASONS."""

    @property
    def words(self) -> str:
        """What is wrong with it, without row and column, and never the value."""
        return _REASONS[self.reason]


class Input(NamedTuple):
    """A column that comes in."""

    name: str
    kind: str
    register: int
    """In its own file: number registers or text registers."""


class Tensor(NamedTuple):
    """A tensor that goes out: [rows, width], row-major."""

    name: str
    datatype: str
    width: int


class Instruction(NamedTuple):
    """One of OPS; -1 stands for a register that it does not have."""

    op: str
    dst: int = -1
    a: int = -1
    b: int = -1
    column: int = -1
    """The input whose name a refusal gives."""
    numbers: tuple[float, ...] = ()
    integers: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
