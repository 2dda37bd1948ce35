"""The format of a feature plan: typed columns, steps in order, tensors. Every key that is not here is an error.

A step maps columns to what is done with each; its result takes the column's place, or the name `into`. Steps that make
several columns (one_hot, hashed, ngrams, cyclic, spline, polynomial, normalise, project) leave a group of them under
that name.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

SCHEMA = "tidegate.features/1"
Scalar: TypeAlias = str | float | bool
"""A category, in the column's own type."""
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of a plan."""


class Column(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A column that comes in; `age: number` for short."""

    __short__ = "type"
    type: Literal["number", "boolean", "string", "timestamp"]
    missing: Literal["allow", "refuse"] = "allow"
    """Whether a row may come without it."""
    infinite: Literal["allow", "refuse"] = "refuse"
    """Whether a number may be infinite, which scikit-learn's transformers refuse, too."""


class Impute(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A value where there is none."""

    fill: Scalar
    value: Scalar | None = None
    """What stands for a missing value; absent: missing values are missing."""
    into: Name | None = None


class MissingIndicator(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """1 where the column is missing, else 0."""

    value: Scalar | None = None
    """What stands for a missing value; absent: missing values are missing."""
    into: Name


class Require(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Refuses rows; changes nothing."""

    finite: bool = False
    """Refuse infinite values."""
    present: bool = False
    """Refuse missing ones."""
    positive: bool = False
    """Refuse 0 and below."""


class Standardise(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """(x - mean) / scale."""

    mean: float = 0.0
    scale: float = 1.0
    into: Name | None = None


class Robust(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """(x - centre) / scale, as `standardise`, from median and quantiles."""

    centre: float = 0.0
    scale: float = 1.0
    into: Name | None = None


class MinMax(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """x * scale + offset."""

    scale: float
    offset: float = 0.0
    into: Name | None = None


class Clip(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """x within the bounds."""

    low: float | None = None
    high: float | None = None
    into: Name | None = None


class Function(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A function of one number, as NumPy has it."""

    __short__ = "name"
    name: Literal[
        "log", "log1p", "log2", "log10", "exp", "expm1", "sqrt", "square", "abs", "sin", "cos", "reciprocal",
        "negative", "sign", "floor", "cbrt", "tanh",
    ]  # fmt: skip
    into: Name | None = None


class Bucketise(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many of the edges are at or below x: 0, 1, ..."""

    edges: tuple[float, ...]
    into: Name | None = None


class OneHot(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A column for each category, 1 where the value is it; named `COLUMN_CATEGORY`."""

    categories: tuple[Scalar, ...]
    infrequent: tuple[Scalar, ...] = ()
    """Categories that share one last column, `COLUMN_infrequent`."""
    drop: Scalar | None = None
    """The category that gets no column; all of them are 0 then. One of `infrequent`: theirs."""
    unknown: Literal["refuse", "ignore", "infrequent"] = "refuse"
    """Values that are none of these: refused, all columns 0, or as the infrequent ones."""
    missing: Literal["unknown", "category", "infrequent", "ignore", "refuse"] = "unknown"
    """Missing values: as unknown ones; a column of their own after the categories', `COLUMN_missing`; as the infrequent
    ones; all columns 0; refused."""
    into: Name | None = None
    names: tuple[Name, ...] = ()
    """Other names of the columns, in their order."""


class Ordinal(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The category's place in the list, from 0."""

    categories: tuple[Scalar, ...]
    unknown: str | float = "refuse"
    """For values that are none of these: a number, `missing`, or `refuse`."""
    missing: str | float = "unknown"
    """For missing ones: a number, `missing`, `refuse`, or `unknown`."""
    into: Name | None = None


class Lookup(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number for each value (keys of number columns are numbers in quotes)."""

    values: dict[str, float]
    unknown: str | float = "refuse"
    """For values that are none of these: a number, `missing`, or `refuse`."""
    missing: str | float = "unknown"
    """For missing ones: a number, `missing`, `refuse`, or `unknown`."""
    into: Name | None = None


class Power(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A power transform; `standardise` follows where it is to be standardised."""

    method: Literal["yeo-johnson", "box-cox"]
    exponent: float = msgspec.field(name="lambda")
    into: Name | None = None


class Quantile(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """x to its share of the reference's values, by linear interpolation; and that to a normal distribution."""

    quantiles: tuple[float, ...]
    references: tuple[float, ...] = ()
    """The shares of `quantiles`; absent: evenly from 0 to 1."""
    distribution: Literal["uniform", "normal"] = "uniform"
    into: Name | None = None


class Hashed(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text to one of so many columns by its hash, as scikit-learn's FeatureHasher; named `COLUMN_0`, ..."""

    buckets: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    signed: bool = True
    """1 or -1 by the hash's sign; else 1."""
    into: Name | None = None


class Spline(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The basis functions of a B-spline at x, as scikit-learn's SplineTransformer; named `COLUMN_sp_0`, ..."""

    knots: Annotated[tuple[float, ...], msgspec.Meta(min_length=2)]
    """All of them, ascending: also the `degree` before and the `degree` after those that lie within the data."""
    degree: Annotated[int, msgspec.Meta(ge=1, le=8)] = 3
    extrapolation: Literal["constant", "linear", "continue", "periodic", "refuse"] = "constant"
    """Outside of the inner knots."""
    bias: bool = True
    """Whether the last one is there, too; with it they add up to 1."""
    missing: Literal["missing", "zeros"] = "missing"
    into: Name | None = None


class Normalise(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Columns over the norm of their row; a group of `INTO_COLUMN`. A row whose norm is (nearly) 0 stays."""

    columns: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    norm: Literal["l1", "l2", "max"] = "l2"
    into: Name


class Project(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """(sum of weight * x over the columns - centre) / scale: a group of `INTO_0`, ..., one for each list of weights."""

    columns: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    weights: Annotated[tuple[tuple[float, ...], ...], msgspec.Meta(min_length=1)]
    """For each new column one for each column."""
    centre: tuple[float, ...] = ()
    """Of each new column; absent: 0."""
    scale: tuple[float, ...] = ()
    """Of each new column; absent: 1."""
    into: Name


class Ngrams(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often what a text is made of stands in it, by hash, as HashingVectorizer has it; named `COLUMN_0`, ..."""

    analyzer: Literal["word", "char", "char_wb"] = "word"
    """Words of at least two characters; characters; characters of each word with a blank on either side."""
    least: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """The fewest of them in a row."""
    most: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """The most."""
    buckets: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    signed: bool = True
    """Whether those whose hash is below 0 count -1."""
    binary: bool = False
    """Whether a bucket holds 1, however many fall into it."""
    norm: Literal["none", "l1", "l2"] = "l2"
    lowercase: bool = True
    stop_words: tuple[str, ...] = ()
    """Words that are left out, as they are after lower case."""
    into: Name | None = None


class Length(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many characters (Unicode code points) a text has."""

    into: Name | None = None


class Polynomial(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Products of columns; one group in scikit-learn's order, of names like `INTO_a b` and `INTO_a^2`."""

    columns: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    degree: Annotated[int, msgspec.Meta(ge=0, le=8)]
    """The most factors."""
    least: Annotated[int, msgspec.Meta(ge=0, le=8)] = 1
    """The fewest; 0: also the constant 1."""
    interaction_only: bool = False
    """Whether a column is at most once in a product."""
    into: Name


class Cyclic(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A time as sine and cosine of how far into the period it is; a group of `COLUMN_sin` and `COLUMN_cos`."""

    period: Literal["minute", "hour", "day", "week", "month", "year"]
    into: Name | None = None


class Step(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of these, whose name begins the step."""

    impute: dict[str, Impute] | None = None
    missing_indicator: dict[str, MissingIndicator] | None = None
    require: dict[str, Require] | None = None
    standardise: dict[str, Standardise] | None = None
    min_max: dict[str, MinMax] | None = None
    robust: dict[str, Robust] | None = None
    clip: dict[str, Clip] | None = None
    function: dict[str, Function] | None = None
    bucketise: dict[str, Bucketise] | None = None
    one_hot: dict[str, OneHot] | None = None
    ordinal: dict[str, Ordinal] | None = None
    power: dict[str, Power] | None = None
    quantile: dict[str, Quantile] | None = None
    target: dict[str, Lookup] | None = None
    lookup: dict[str, Lookup] | None = None
    hashed: dict[str, Hashed] | None = None
    ngrams: dict[str, Ngrams] | None = None
    length: dict[str, Length] | None = None
    spline: dict[str, Spline] | None = None
    polynomial: Polynomial | None = None
    normalise: Normalise | None = None
    project: Project | None = None
    cyclic: dict[str, Cyclic] | None = None
    compute: dict[str, str] | None = None
    """New columns by expressions over columns: `ratio: income / (debt + 1)`."""


OF_COLUMNS: Final = frozenset({"polynomial", "normalise", "project"})
"""Steps that take several columns at once: their keys are parameters, not columns."""


class Output(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tensor of the model."""

    datatype: Literal["FP32", "FP64", "INT32", "INT64"] = "FP32"
    columns: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    """In the tensor's order; a group stands for all of its columns."""


class Plan(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A feature plan."""

    schema_version: Literal["tidegate.features/1"]
    inputs: Annotated[dict[str, Column], msgspec.Meta(min_length=1)]
    steps: tuple[Step, ...] = ()
    outputs: Annotated[dict[str, Output], msgspec.Meta(min_length=1)]
