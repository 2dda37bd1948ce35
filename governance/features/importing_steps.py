"""scikit-learn's transformers, one function each: from what a fitted one holds to steps of a plan.

Contract: no import of scikit-learn; estimators are told by their class, and only what `fit` left in them is read. A
function takes the columns that come in and returns those that go out, in the transformer's order. What a transformer
refuses in `transform` the plan refuses, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from governance.features.flows import Flow, Script, Unsupported

_FUNCTIONS: Final = {
    "log", "log1p", "log2", "log10", "exp", "expm1", "sqrt", "square", "abs", "absolute", "sin", "cos", "reciprocal",
    "negative", "sign", "floor", "cbrt", "tanh", "fabs",
}  # fmt: skip
_SAME_NAME: Final = {"absolute": "abs", "fabs": "abs"}
_NEVER_INFINITE: Final = {"sqrt", "abs", "sin", "cos", "negative", "sign", "floor", "cbrt", "tanh"}


def is_missing(value: Any) -> bool:
    """Whether an encoder's category or an imputer's marker stands for a missing value."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))


def plain(value: Any, what: str) -> str | float | bool:
    """A value as a plan writes it. Raises Unsupported."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, (int, float)):
        return float(value)
    raise Unsupported(f"{what}: a value of type {type(value).__name__} is neither text, number nor boolean")


def numbers(flows: Sequence[Flow], script: Script, what: Any, *, present: bool = False) -> list[Flow]:
    """Columns of numbers, with what the transformer refuses refused."""
    return [script.require(flow, present=present) for flow in all_numbers(flows, what)]


def _each(flows: Sequence[Flow], script: Script, step: str, parameters: Sequence[dict[str, Any]]) -> list[Flow]:
    return [script.apply(step, flow, **one) for flow, one in zip(flows, parameters, strict=True)]


def _at(values: Any, at: int, otherwise: float) -> float:
    return otherwise if values is None else float(values[at])


def simple_imputer(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """A value for missing ones, and indicators of them behind the columns."""
    marker = est.missing_values
    of_missing = is_missing(marker)
    value = {} if of_missing else {"value": plain(marker, "SimpleImputer")}
    flows = [script.require(flow, present=not of_missing) for flow in flows]
    indicators: list[Flow] = []
    if est.add_indicator and est.indicator_ is not None:
        indicators = [_indicator(flows[at], script, value) for at in est.indicator_.features_]
    found = []
    for flow, fill in zip(flows, est.statistics_, strict=True):
        if is_missing(fill) or (isinstance(fill, np.generic) and is_missing(fill.item())):
            if not est.keep_empty_features:
                continue
            raise Unsupported(f"SimpleImputer: '{flow.name}' had no value to learn from (keep_empty_features)")
        filled = plain(fill, "SimpleImputer")
        if flow.kind == "boolean" and isinstance(filled, float) and filled in (0.0, 1.0):
            filled = bool(filled)
        if isinstance(filled, str) != (flow.kind == "string"):
            raise Unsupported(f"SimpleImputer: '{flow.name}' is filled with a value of another type")
        found.append(replace(script.apply("impute", flow, fill=filled, **value), present=flow.present or of_missing))
    return [*found, *indicators]


def _indicator(flow: Flow, script: Script, value: dict[str, Any]) -> Flow:
    name = script.fresh(f"{flow.alias or flow.name}_was_missing")
    script.add("missing_indicator", flow.name, {"into": name, **value})
    return Flow(name, "number", finite=True, present=True)


def missing_indicator(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """Indicators of the columns that had missing values."""
    of_missing = is_missing(est.missing_values)
    value = {} if of_missing else {"value": plain(est.missing_values, "MissingIndicator")}
    chosen = list(est.features_)
    if est.error_on_new and est.features == "missing-only":
        for at, flow in enumerate(flows):
            if at not in chosen:
                script.require(flow, finite=False, present=True)
    return [_indicator(script.require(flows[at], present=not of_missing), script, value) for at in chosen]


def standard_scaler(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """(x - mean) / scale."""
    flows = numbers(flows, script, est)
    mean = est.mean_ if est.with_mean else None
    scale = est.scale_ if est.with_std else None
    return _each(
        flows,
        script,
        "standardise",
        [{"mean": _at(mean, at, 0.0), "scale": _at(scale, at, 1.0)} for at in range(len(flows))],
    )


def robust_scaler(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """(x - centre) / scale."""
    flows = numbers(flows, script, est)
    centre = est.center_ if est.with_centering else None
    scale = est.scale_ if est.with_scaling else None
    return _each(
        flows,
        script,
        "robust",
        [{"centre": _at(centre, at, 0.0), "scale": _at(scale, at, 1.0)} for at in range(len(flows))],
    )


def min_max_scaler(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """X * scale + offset, maybe clipped."""
    flows = numbers(flows, script, est)
    parameters = [{"scale": float(est.scale_[at]), "offset": float(est.min_[at])} for at in range(len(flows))]
    flows = _each(flows, script, "min_max", parameters)
    if est.clip:
        low, high = map(float, est.feature_range)
        flows = _each(flows, script, "clip", [{"low": low, "high": high}] * len(flows))
    return flows


def max_abs_scaler(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """X / scale, maybe clipped."""
    flows = numbers(flows, script, est)
    flows = _each(flows, script, "standardise", [{"scale": float(est.scale_[at])} for at in range(len(flows))])
    if getattr(est, "clip", False):
        flows = _each(flows, script, "clip", [{"low": -1.0, "high": 1.0}] * len(flows))
    return flows


def binarizer(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """1 above the threshold."""
    # Above the threshold is at or above the next number.
    edge = math.nextafter(float(est.threshold), math.inf)
    flows = numbers(flows, script, est, present=True)
    return _each(flows, script, "bucketise", [{"edges": [edge]}] * len(flows))


def k_bins_discretizer(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """Which bin, as a number or one-hot."""
    flows = numbers(flows, script, est, present=True)
    parameters = [{"edges": [float(edge) for edge in edges[1:-1]]} for edges in est.bin_edges_]
    for one in parameters:
        # Repeated edges leave bins that nothing falls into, which a plan has no word for.
        if any(before >= after for before, after in zip(one["edges"], one["edges"][1:], strict=False)):
            raise Unsupported("KBinsDiscretizer: two of its edges are equal; fit it with fewer bins")
    flows = _each(flows, script, "bucketise", parameters)
    return flows if est.encode == "ordinal" else one_hot_encoder(est._encoder, flows, script)  # noqa: SLF001


def one_hot_encoder(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """A column for each category, with what is grouped and dropped."""
    found: list[Flow] = []
    enabled = getattr(est, "_infrequent_enabled", False)
    for at, flow in enumerate(flows):
        categories = list(est.categories_[at])
        mapping = est._default_to_infrequent_mappings[at] if enabled else None  # noqa: SLF001
        dropped = None if est.drop_idx_ is None else est.drop_idx_[at]
        found += _one_hot(est, script.require(flow), script, categories, mapping, dropped)
    return found


def _one_hot(
    est: Any, flow: Flow, script: Script, categories: list[Any], mapping: Any, dropped: int | None
) -> list[Flow]:
    what = "OneHotEncoder"
    rare = [mapping is not None and mapping[at] == max(mapping) for at in range(len(categories))]
    missing_at = _missing_place(categories, what)
    frequent = [plain(one, what) for at, one in enumerate(categories) if not rare[at] and at != missing_at]
    infrequent = [plain(one, what) for at, one in enumerate(categories) if rare[at] and at != missing_at]
    parameters: dict[str, Any] = {"categories": frequent}
    labels = [_label(one) for one in frequent]
    if infrequent:
        parameters["infrequent"] = infrequent
    unknown = {"error": "refuse", "ignore": "ignore"}.get(est.handle_unknown, "infrequent")
    if unknown == "infrequent" and not any(rare):
        unknown = "ignore"
    parameters["unknown"] = unknown
    if missing_at is not None:
        parameters["missing"] = "infrequent" if rare[missing_at] else "ignore" if missing_at == dropped else "category"
        if parameters["missing"] == "category":
            labels.append("missing")
    if any(rare):
        labels.append("infrequent")
    if dropped is not None and dropped != missing_at:
        one = plain(categories[dropped], what)
        parameters["drop"] = one
        labels.remove("infrequent" if rare[dropped] else _label(one))
    base = flow.alias or flow.name
    names = [script.fresh(f"{base}_{label}") for label in labels]
    if names != [f"{base}_{label}" for label in labels]:
        parameters["names"] = names
    made = script.apply("one_hot", flow, **parameters)
    size = len(names)
    return [
        Flow(name, "number", finite=True, present=True, group=(made.name, place, size))
        for place, name in enumerate(names)
    ]


def _missing_place(categories: list[Any], what: str) -> int | None:
    places = [at for at, one in enumerate(categories) if is_missing(one)]
    if len(places) > 1 or (places and places[0] != len(categories) - 1):
        raise Unsupported(
            f"{what}: None and NaN are categories of their own, or not the last; a plan has one `missing`"
        )
    return places[0] if places else None


def _label(one: str | float | bool) -> str:
    from governance.features.values import written  # noqa: PLC0415 - values imports plan, which this file does not need

    return written(one)


def ordinal_encoder(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """The category's place."""
    what = "OrdinalEncoder"
    found = []
    enabled = getattr(est, "_infrequent_enabled", False)
    for at, given in enumerate(flows):
        flow = script.require(given)
        categories = list(est.categories_[at])
        mapping = est._default_to_infrequent_mappings[at] if enabled else None  # noqa: SLF001
        missing_at = _missing_place(categories, what)
        listed = [plain(one, what) for place, one in enumerate(categories) if place != missing_at]
        rest: dict[str, Any] = {
            "unknown": _or_missing(est.unknown_value) if est.handle_unknown == "use_encoded_value" else "refuse"
        }
        if missing_at is not None:
            rest["missing"] = _or_missing(est.encoded_missing_value)
        if mapping is None:
            made = script.apply("ordinal", flow, categories=listed, **rest)
        else:
            codes = [float(mapping[place]) for place in range(len(categories)) if place != missing_at]
            made = script.apply("lookup", flow, values=dict(zip(map(_label, listed), codes, strict=True)), **rest)
        found.append(replace(made, kind="number", finite=True, present="missing" not in rest.values()))
    return found


def _or_missing(value: Any) -> str | float:
    return "missing" if is_missing(value) or math.isnan(value) else float(value)


def target_encoder(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """The category's mean target, by class where there are several."""
    what = "TargetEncoder"
    classes = len(est.classes_) if est.target_type_ == "multiclass" else 1
    means = np.atleast_1d(est.target_mean_)
    found = []
    for at, given in enumerate(flows):
        flow = script.require(given)
        categories = list(est.categories_[at])
        missing_at = _missing_place(categories, what)
        for of_class in range(classes):
            encodings = est.encodings_[at * classes + of_class]
            values = {
                _label(plain(one, what)): float(encodings[place])
                for place, one in enumerate(categories)
                if place != missing_at
            }
            rest: dict[str, Any] = {"unknown": float(means[of_class])}
            if missing_at is not None:
                rest["missing"] = float(encodings[missing_at])
            name = flow.alias or flow.name
            one = replace(flow, alias=script.fresh(f"{name}_{est.classes_[of_class]}")) if classes > 1 else flow
            made = script.apply("target", one, values=values, **rest)
            found.append(replace(made, kind="number", finite=True, present=True))
    return found


def power_transformer(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """Yeo-Johnson or Box-Cox, maybe standardised."""
    flows = numbers(flows, script, est)
    if not all(math.isfinite(one) for one in est.lambdas_):
        raise Unsupported("PowerTransformer: one of its lambdas is not finite; leave that column out")
    parameters = [{"method": est.method, "lambda": float(one)} for one in est.lambdas_]
    flows = [replace(flow, finite=False) for flow in _each(flows, script, "power", parameters)]
    return standard_scaler(est._scaler, flows, script) if est.standardize else flows  # noqa: SLF001


def quantile_transformer(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """Shares of the reference's values."""
    flows = numbers(flows, script, est)
    even = np.linspace(0, 1, len(est.references_))
    parameters = []
    for at in range(len(flows)):
        column = est.quantiles_[:, at]
        if not np.isfinite(column).all():
            raise Unsupported(f"QuantileTransformer: '{flows[at].name}' had no value to learn from")
        one: dict[str, Any] = {"quantiles": [float(value) for value in column]}
        if not np.array_equal(even, est.references_):
            one["references"] = [float(value) for value in est.references_]
        if est.output_distribution == "normal":
            one["distribution"] = "normal"
        parameters.append(one)
    return _each(flows, script, "quantile", parameters)


def polynomial_features(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """Products of columns."""
    flows = numbers(flows, script, est, present=True)
    if not est.n_output_features_:
        return []
    least, degree = (0, est.degree) if isinstance(est.degree, int) else est.degree
    if est.include_bias and least > 1:
        raise Unsupported("PolynomialFeatures: a bias beside a least degree above 1")
    first = 0 if est.include_bias else max(1, least)
    into = script.fresh("products")
    names = [flow.name for flow in flows]
    script.steps.append(("polynomial", {
        "columns": names, "degree": int(degree), "least": int(first), "interaction_only": bool(est.interaction_only),
        "into": into,
    }))  # fmt: skip
    size = len(est.powers_)
    found = []
    for place, powers in enumerate(est.powers_):
        parts = [name if power == 1 else f"{name}^{power}" for name, power in zip(names, powers, strict=True) if power]
        name = script.fresh(f"{into}_{' '.join(parts) or '1'}")
        found.append(Flow(name, "number", finite=False, present=True, group=(into, place, size)))
    return found


def function_transformer(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """A function of NumPy's, value by value."""
    if est.validate:
        flows = numbers(flows, script, est, present=True)
    if est.func is None:
        return flows
    name = getattr(est.func, "__name__", type(est.func).__name__)
    module = "numpy" if isinstance(est.func, np.ufunc) else getattr(est.func, "__module__", "")
    if est.kw_args and module == "numpy" and name == "clip":
        return _clip(est, flows, script)
    if module != "numpy" or name not in _FUNCTIONS or est.kw_args:
        raise Unsupported(
            f"FunctionTransformer: the function {module}.{name}" + (" with arguments" if est.kw_args else "")
        )
    name = _SAME_NAME.get(name, name)
    made = [script.apply("function", flow, name=name) for flow in all_numbers(flows, est)]
    if name in _NEVER_INFINITE:
        return [replace(flow, present=flow.present and name != "sqrt") for flow in made]
    return [replace(flow, finite=False, present=False) for flow in made]


def _clip(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    given = dict(est.kw_args)
    low = given.pop("a_min", given.pop("min", None))
    high = given.pop("a_max", given.pop("max", None))
    if given or not all(bound is None or np.isscalar(bound) for bound in (low, high)) or (low is None and high is None):
        raise Unsupported("FunctionTransformer: the function numpy.clip with these arguments")
    bounds = {key: float(bound) for key, bound in (("low", low), ("high", high)) if bound is not None}
    return [script.apply("clip", flow, **bounds) for flow in all_numbers(flows, est)]


def all_numbers(flows: Sequence[Flow], what: Any) -> list[Flow]:
    """The same columns, none of which is text. Raises Unsupported."""
    for flow in flows:
        if flow.kind == "string":
            raise Unsupported(f"{type(what).__name__}: it takes numbers, and '{flow.name}' is text")
        if flow.kind == "hashed":
            raise Unsupported(
                f"{type(what).__name__}: after HashingVectorizer, whose columns go to the model as they are"
            )
    return list(flows)


def selector(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """Some of the columns."""
    if type(est).__name__ == "VarianceThreshold":
        flows = [script.require(flow) for flow in flows]
    else:
        flows = [script.require(flow, present=True) for flow in flows]
    return [flow for flow, kept in zip(flows, est.get_support(), strict=True) if kept]


STEPS: Final[dict[str, Callable[[Any, list[Flow], Script], list[Flow]]]] = {
    "SimpleImputer": simple_imputer,
    "MissingIndicator": missing_indicator,
    "StandardScaler": standard_scaler,
    "RobustScaler": robust_scaler,
    "MinMaxScaler": min_max_scaler,
    "MaxAbsScaler": max_abs_scaler,
    "Binarizer": binarizer,
    "KBinsDiscretizer": k_bins_discretizer,
    "OneHotEncoder": one_hot_encoder,
    "OrdinalEncoder": ordinal_encoder,
    "TargetEncoder": target_encoder,
    "PowerTransformer": power_transformer,
    "QuantileTransformer": quantile_transformer,
    "PolynomialFeatures": polynomial_features,
    "FunctionTransformer": function_transformer,
    "VarianceThreshold": selector,
    "SelectKBest": selector,
    "SelectPercentile": selector,
}
"""By class name, of scikit-learn's own classes."""
