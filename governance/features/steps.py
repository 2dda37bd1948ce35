"""The steps that work column by column: each takes a column's value and parameters and leaves what it makes.

Contract: a step raises `Wrong` for what it cannot do and otherwise emits instructions through the compiler. Formulas
are those of scikit-learn's transformers of the same name, in their order of operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from governance.documents.convert import Place
from governance.features import plan as p
from governance.features.values import (
    Coded,
    Gram,
    Group,
    Number,
    Text,
    Value,
    Wrong,
    fallback,
    keys_of,
    keys_of_texts,
    kind_of,
    written,
)
from kernels.features import (
    BINARY,
    CONTINUE,
    FUNCTIONS,
    LINEAR,
    LOWERCASE,
    PERIODIC,
    PERIODS,
    REFUSE_INFINITE,
    REFUSE_MISSING,
    REFUSE_NOT_POSITIVE,
    SIGNED,
    basis,
    seconds_of,
)

if TYPE_CHECKING:
    from governance.features.compiling import Compiler


def _leave(c: Compiler, name: str, value: Value, into: str | None, place: Place) -> None:
    """Put a result in the column's place, or under the name it is given."""
    c.bind(into or name, value, (*place, "into") if into else place, over=None if into and into != name else name)


def _single(c: Compiler, value: Value) -> Number | Text:
    """A column that is one: text, or a number. Raises Wrong."""
    return value if isinstance(value, Text) else c.as_number(value, times=True)


def _same(value: p.Scalar, of: Number | Text, key: str) -> str | float:
    """A constant in the column's own type. Raises Wrong."""
    if isinstance(of, Text):
        if not isinstance(value, str):
            raise Wrong(f'the column is text: write "{written(value)}" in quotes', key)
        return value
    if of.kind == "timestamp":
        seconds = seconds_of(value) if isinstance(value, str) else None
        if seconds is None:
            raise Wrong("the column is a time: write one in ISO 8601, in quotes", key)
        return seconds
    if isinstance(value, str) or (isinstance(value, bool) and of.kind != "boolean"):
        raise Wrong(f"the column is {kind_of(of)}: write one, without quotes", key)
    return float(value)


def _impute(c: Compiler, name: str, value: Value, one: p.Impute, place: Place) -> None:
    of = _single(c, value)
    fill = _same(one.fill, of, "fill")
    marked = None if one.value is None else _same(one.value, of, "value")
    present = of.present if one.value is not None else True
    op = "fill" if one.value is None else "fill_value"
    constants = (fill,) if marked is None else (fill, marked)
    found: Value
    if isinstance(of, Text):
        found = c.text(f"text_{op}", of.column, present=present, a=of.register, texts=constants)
    else:
        found = c.number(op, of.column, present=present, kind=of.kind, a=of.register, numbers=constants)
    _leave(c, name, found, one.into, place)


def _missing_indicator(c: Compiler, name: str, value: Value, one: p.MissingIndicator, place: Place) -> None:
    of = _single(c, value)
    text = "text_" if isinstance(of, Text) else ""
    if one.value is None:
        found = c.number(f"{text}is_missing", of.column, present=True, a=of.register)
    elif isinstance(of, Text):
        marked = str(_same(one.value, of, "value"))
        found = c.number("text_equals", of.column, present=True, a=of.register, texts=(marked,))
    else:
        marker = float(_same(one.value, of, "value"))
        found = c.number("equals", of.column, present=True, a=of.register, numbers=(marker,))
    _leave(c, name, found, one.into, place)


def _require(c: Compiler, name: str, value: Value, one: p.Require, _: Place) -> None:
    of = _single(c, value)
    bits = (
        (REFUSE_INFINITE if one.finite else 0)
        | (REFUSE_MISSING if one.present else 0)
        | (REFUSE_NOT_POSITIVE if one.positive else 0)
    )
    if not bits:
        raise Wrong("requires nothing: set finite, present or positive to true")
    if isinstance(of, Text):
        if one.finite or one.positive:
            raise Wrong("the column is text: only `present` can be required of it")
        c.effect("text_check", of.column, a=of.register)
        c.known[name] = Text(of.register, of.column, present=True)
        return
    c.effect("check", of.column, a=of.register, integers=(bits,))
    c.known[name] = Number(of.register, of.column, of.present or one.present, of.kind)


def _scaled(c: Compiler, name: str, value: Value, centre: float, scale: float, into: str | None, place: Place) -> None:
    if scale == 0:
        raise Wrong("must not be 0", "scale")
    of = c.as_number(value)
    found = c.number("subtract_divide", of.column, present=of.present, a=of.register, numbers=(centre, scale))
    _leave(c, name, found, into, place)


def _standardise(c: Compiler, name: str, value: Value, one: p.Standardise, place: Place) -> None:
    _scaled(c, name, value, one.mean, one.scale, one.into, place)


def _robust(c: Compiler, name: str, value: Value, one: p.Robust, place: Place) -> None:
    _scaled(c, name, value, one.centre, one.scale, one.into, place)


def _elementwise(c: Compiler, name: str, value: Value, into: str | None, place: Place, op: str, **rest: Any) -> None:
    of = c.as_number(value)
    _leave(c, name, c.number(op, of.column, present=of.present, a=of.register, **rest), into, place)


def _min_max(c: Compiler, name: str, value: Value, one: p.MinMax, place: Place) -> None:
    _elementwise(c, name, value, one.into, place, "multiply_add", numbers=(one.scale, one.offset))


def _clip(c: Compiler, name: str, value: Value, one: p.Clip, place: Place) -> None:
    low = float("-inf") if one.low is None else one.low
    high = float("inf") if one.high is None else one.high
    if (one.low, one.high) == (None, None):
        raise Wrong("has no bound: give low, high, or both")
    if low > high:
        raise Wrong(f"is below low ({low:g})", "high")
    _elementwise(c, name, value, one.into, place, "clip", numbers=(low, high))


def _function(c: Compiler, name: str, value: Value, one: p.Function, place: Place) -> None:
    _elementwise(c, name, value, one.into, place, "function", integers=(FUNCTIONS.index(one.name),))


def _bucketise(c: Compiler, name: str, value: Value, one: p.Bucketise, place: Place) -> None:
    if any(not before < after for before, after in zip(one.edges, one.edges[1:], strict=False)):
        raise Wrong("must ascend", "edges")
    _elementwise(c, name, value, one.into, place, "bucket", numbers=one.edges)


def _power(c: Compiler, name: str, value: Value, one: p.Power, place: Place) -> None:
    op = one.method.replace("-", "_")
    of = c.as_number(value)
    if op == "box_cox":
        c.effect("check", of.column, a=of.register, integers=(REFUSE_NOT_POSITIVE,))
    _leave(
        c, name, c.number(op, of.column, present=of.present, a=of.register, numbers=(one.exponent,)), one.into, place
    )


def _quantile(c: Compiler, name: str, value: Value, one: p.Quantile, place: Place) -> None:
    count = len(one.quantiles)
    if not count:
        raise Wrong("must not be empty", "quantiles")
    # As np.linspace(0, 1, count) has them, to the last bit.
    step = 1 / (count - 1) if count > 1 else 0.0
    references = one.references or (*(at * step for at in range(count - 1)), 1.0 if count > 1 else 0.0)
    if len(references) != count:
        raise Wrong(f"are {len(references)}, and there are {count} quantiles", "references")
    for key, listed in (("quantiles", one.quantiles), ("references", references)):
        if any(before > after for before, after in zip(listed, listed[1:], strict=False)):
            raise Wrong("must not descend", key)
    normal = int(one.distribution == "normal")
    numbers = (*one.quantiles, *references)
    _elementwise(c, name, value, one.into, place, "quantile", numbers=numbers, integers=(count, normal))


def _found(
    c: Compiler,
    of: Number | Text,
    keys: list[str] | list[float],
    results: list[float],
    rest: tuple[tuple[float, float], tuple[int, int]],
) -> Number:
    """The number that stands for a value."""
    others, refused = rest
    present = not any(number != number for number in (*results, *others))  # noqa: PLR0124 - NaN
    if isinstance(of, Text):
        texts = tuple(str(key) for key in keys)
        return c.number(
            "lookup_text",
            of.column,
            present=present,
            a=of.register,
            numbers=(*results, *others),
            integers=refused,
            texts=texts,
        )
    pairs = sorted(zip(map(float, keys), results, strict=True))
    return c.number(
        "lookup_number",
        of.column,
        present=present,
        a=of.register,
        numbers=(*(key for key, _ in pairs), *(result for _, result in pairs), *others),
        integers=(*refused, len(pairs)),
    )


def _one_hot(c: Compiler, name: str, value: Value, one: p.OneHot, place: Place) -> None:
    of = _single(c, value)
    if not isinstance(of, Text) and of.kind == "timestamp":
        raise Wrong("the column is a time: use `cyclic`")
    base = one.into or name
    plain, grouped = keys_of(one.categories, of, "categories"), keys_of(one.infrequent, of, "infrequent")
    keys = keys_of((*one.categories, *one.infrequent), of, "infrequent")
    columns = [f"{base}_{written(category)}" for category in one.categories]
    missing_place = -1
    if one.missing == "category":
        missing_place = len(columns)
        columns.append(f"{base}_missing")
    infrequent_place = -1
    if grouped or "infrequent" in (one.unknown, one.missing):
        infrequent_place = len(columns)
        columns.append(f"{base}_infrequent")
    codes = [float(at) for at in range(len(plain))] + [float(infrequent_place)] * len(grouped)
    dropped = -1
    if one.drop is not None:
        if one.drop not in (*one.categories, *one.infrequent):
            raise Wrong("is none of the categories", "drop")
        dropped = infrequent_place if one.drop in one.infrequent else one.categories.index(one.drop)
    unknown = float(infrequent_place if one.unknown == "infrequent" else -1)
    missing = {
        "unknown": unknown, "category": float(missing_place), "infrequent": float(infrequent_place),
    }.get(one.missing, -1.0)  # fmt: skip
    refused = (
        int(one.missing == "refuse" or (one.missing == "unknown" and one.unknown == "refuse")),
        int(one.unknown == "refuse"),
    )
    kept = [at for at in range(len(columns)) if at != dropped]
    if one.names and len(one.names) != len(kept):
        raise Wrong(f"are {len(one.names)}, and there are {len(kept)} columns", "names")
    names = one.names or tuple(columns[at] for at in kept)
    code = _found(c, of, keys, codes, ((missing, unknown), refused))
    _spread(c, name, names, [Coded(code, at) for at in kept], one.into, place)


def _spread(
    c: Compiler,
    name: str,
    names: tuple[str, ...],
    values: Sequence[Coded | Gram | Number],
    into: str | None,
    place: Place,
) -> None:
    """Several columns, and the group of them."""
    for column, value in zip(names, values, strict=True):
        c.bind(column, value, place)
    _leave(c, name, Group(names), into, place)


def _ordinal(c: Compiler, name: str, value: Value, one: p.Ordinal, place: Place) -> None:
    of = _single(c, value)
    keys = keys_of(one.categories, of, "categories")
    rest = fallback(one.unknown, one.missing)
    _leave(c, name, _found(c, of, keys, [float(at) for at in range(len(keys))], rest), one.into, place)


def _lookup(c: Compiler, name: str, value: Value, one: p.Lookup, place: Place) -> None:
    of = _single(c, value)
    keys = keys_of_texts(list(one.values), of, "values")
    rest = fallback(one.unknown, one.missing)
    _leave(c, name, _found(c, of, keys, list(one.values.values()), rest), one.into, place)


def _hashed(c: Compiler, name: str, value: Value, one: p.Hashed, place: Place) -> None:
    if not isinstance(value, Text):
        raise Wrong(f"this is {kind_of(value)}, and only text is hashed")
    code = c.number("bucket_of_text", value.column, present=True, a=value.register, integers=(one.buckets,))
    sign = c.number("sign_of_text", value.column, present=True, a=value.register) if one.signed else None
    names = tuple(f"{one.into or name}_{at}" for at in range(one.buckets))
    _spread(c, name, names, [Coded(code, at, sign) for at in range(one.buckets)], one.into, place)


def _ngrams(c: Compiler, name: str, value: Value, one: p.Ngrams, place: Place) -> None:
    if not isinstance(value, Text):
        raise Wrong(f"this is {kind_of(value)}, and only text has n-grams")
    if one.least > one.most:
        raise Wrong(f"is more than most ({one.most})", "least")
    if one.stop_words and one.analyzer != "word":
        raise Wrong("are words, and the analyzer takes characters", "stop_words")
    bits = (LOWERCASE if one.lowercase else 0) | (SIGNED if one.signed else 0) | (BINARY if one.binary else 0)
    analyzer = ("word", "char", "char_wb").index(one.analyzer)
    shape = (one.buckets, analyzer, one.least, one.most, bits, ("none", "l1", "l2").index(one.norm))
    names = tuple(f"{one.into or name}_{at}" for at in range(one.buckets))
    stop_words = tuple(dict.fromkeys(one.stop_words))
    _spread(c, name, names, [Gram(value, shape, stop_words, at) for at in range(one.buckets)], one.into, place)


def _length(c: Compiler, name: str, value: Value, one: p.Length, place: Place) -> None:
    if not isinstance(value, Text):
        raise Wrong(f"this is {kind_of(value)}, and only text has a length")
    _leave(c, name, c.number("text_length", value.column, present=value.present, a=value.register), one.into, place)


def _cyclic(c: Compiler, name: str, value: Value, one: p.Cyclic, place: Place) -> None:
    if not isinstance(value, Number) or value.kind != "timestamp":
        raise Wrong(f"this is {kind_of(value)}, and only times are cyclic")
    period = PERIODS.index(one.period)
    phase = c.number("phase", value.column, present=value.present, a=value.register, integers=(period,))
    values = [
        c.number(
            "function",
            value.column,
            present=value.present,
            a=phase.register,
            integers=(FUNCTIONS.index(f"{which}_turn"),),
        )
        for which in ("sin", "cos")
    ]
    base = one.into or name
    _spread(c, name, (f"{base}_sin", f"{base}_cos"), values, one.into, place)


def _spline(c: Compiler, name: str, value: Value, one: p.Spline, place: Place) -> None:
    knots, degree = one.knots, one.degree
    if any(not before < after for before, after in pairwise(knots)) or not all(map(math.isfinite, knots)):
        raise Wrong("must ascend", "knots")
    functions = len(knots) - degree - 1
    columns = functions - degree if one.extrapolation == "periodic" else functions
    if functions <= degree or columns < 1:
        raise Wrong(
            f"are too few for degree {degree}: {degree} before the first inner one, {degree} after the last", "knots"
        )
    of = c.as_number(value)
    if one.extrapolation == "refuse":
        c.effect("check_range", of.column, a=of.register, numbers=(knots[degree], knots[functions]))
    outside = {"continue": CONTINUE, "periodic": PERIODIC}.get(one.extrapolation, LINEAR)
    ends = _ends(knots, degree, linear=one.extrapolation == "linear")
    present = of.present or one.missing == "zeros"
    made = []
    for at in range(columns if one.bias else columns - 1):
        end = (
            tuple(number for side in ends for number in (side[0][at], side[1][at])) if outside == LINEAR else (0.0,) * 4
        )
        shape = (degree, at, columns, outside)
        found = c.number("spline", of.column, present=present, a=of.register, numbers=(*knots, *end), integers=shape)
        if one.missing == "zeros":
            found = c.number("fill", of.column, present=True, a=found.register, numbers=(0.0,))
        made.append(found)
    names = tuple(f"{one.into or name}_sp_{at}" for at in range(len(made)))
    _spread(c, name, names, made, one.into, place)


def _ends(knots: Sequence[float], degree: int, *, linear: bool) -> list[tuple[list[float], list[float]]]:
    """Values and slopes of all basis functions at the first inner knot and at the last."""
    count = len(knots) - degree - 1
    found = []
    for x in (knots[degree], knots[count]):
        start, values = basis(x, knots, degree)
        _, lower = basis(x, knots[1:-1], degree - 1)  # of one degree less, on the same inner knots
        slopes = [0.0] * (degree + 1)
        for at in range(degree + 1) if linear else ():
            first = start + at  # B' = degree * (B_first / (its width) - B_next / (its width)), de Boor, chapter X
            left = lower[at - 1] / (knots[first + degree] - knots[first]) if at > 0 else 0.0
            right = lower[at] / (knots[first + degree + 1] - knots[first + 1]) if at < degree else 0.0
            slopes[at] = degree * (left - right)
        rest = count - start - degree - 1
        found.append(([0.0] * start + values + [0.0] * rest, [0.0] * start + slopes + [0.0] * rest))
    return found


STEPS: Final[dict[str, Callable[..., None]]] = {
    "impute": _impute,
    "missing_indicator": _missing_indicator,
    "require": _require,
    "standardise": _standardise,
    "min_max": _min_max,
    "robust": _robust,
    "clip": _clip,
    "function": _function,
    "bucketise": _bucketise,
    "one_hot": _one_hot,
    "ordinal": _ordinal,
    "power": _power,
    "quantile": _quantile,
    "target": _lookup,
    "lookup": _lookup,
    "hashed": _hashed,
    "ngrams": _ngrams,
    "length": _length,
    "cyclic": _cyclic,
    "spline": _spline,
}
