"""A fitted scikit-learn pipeline to a plan, and whether the two agree.

Contract: the pipeline's composition is walked (Pipeline, ColumnTransformer, FeatureUnion, nested as they come) and its
transformers are taken by `importing_steps.py`; anything else is `Unsupported`, by name. scikit-learn, skops and pandas
are imported here alone, when an import is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from governance.errors import DataError
from governance.features.flows import Flow, Kind, Script, Unsupported, branch
from governance.features.importing_steps import is_missing
from governance.features.importing_wide import STEPS
from governance.features.plan import OF_COLUMNS
from governance.features.tables import NAN_TEXT
from governance.tables import Table

_HARMLESS = frozenset({"numpy.dtype", "numpy.clip", "sklearn.compose._column_transformer.make_column_selector"})
"""Types that skops asks about and that pipelines of scikit-learn's own transformers hold."""
_NO_STEP = ("drop", "passthrough", None)
EXTRA = "install tidegate[features]"


def load_skops(path: Path) -> Any:
    """The estimator in a skops file. Nothing in it that skops does not know to be harmless is ever built.

    Raises:
        DataError: it cannot be read.
        Unsupported: it holds functions or classes of somebody's own.
    """
    try:
        from skops import io  # noqa: PLC0415 - only an import needs it
    except ImportError:
        raise DataError(f"{path}: reading it needs skops and scikit-learn; {EXTRA}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asked = io.get_untrusted_types(file=path)
            foreign = sorted(name for name in asked if name not in _HARMLESS)
            if foreign:
                raise Unsupported(", ".join(foreign))
            return io.load(path, trusted=asked)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Unsupported:
        raise
    except Exception as error:  # noqa: BLE001 - skops raises whatever its reading of a foreign file runs into
        raise DataError(f"{path}: not a skops file that this version of skops reads ({_line(error)})") from None


def load_joblib(path: Path) -> Any:
    """The estimator in a joblib file. Loading one runs whatever code is in it. Raises DataError."""
    try:
        import joblib  # noqa: PLC0415 - only an import needs it

        return joblib.load(path)
    except ImportError:
        raise DataError(f"{path}: reading it needs joblib and scikit-learn; {EXTRA}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001 - a pickle raises what it likes
        raise DataError(f"{path}: cannot be loaded ({_line(error)})") from None


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


class Imported:
    """A plan as plain data, ready to be written, and what is needed to compare it."""

    def __init__(self, estimator: Any, sample: Table, tensor: str) -> None:
        """Walks the estimator.

        Args:
            estimator: fitted.
            sample: rows like those it was fitted with.
            tensor: the name of the tensor that it makes.

        Raises:
            Unsupported: a part that a plan has no step for.
            DataError: the sample has not the columns that the estimator takes, or the estimator is not fitted.
        """
        self.estimator = estimator
        self._names = _names(estimator, sample)
        hints: dict[int, Kind] = {}
        flows: list[Flow] = []
        try:
            _hint(estimator, list(range(len(self._names))), hints)
            self.kinds = [_kind(hints.get(at), sample, name) for at, name in enumerate(self._names)]
            flows = [
                Flow(name, kind, finite=True, raw=True) for name, kind in zip(self._names, self.kinds, strict=True)
            ]
            self._script = Script(self._names)
            self._out = _walk(estimator, flows, self._script)
        except AttributeError as error:
            # What `fit` leaves is what is read; that it is not there is the usual reason.
            message = f"{type(estimator).__name__} is not fitted, or of a version of scikit-learn that is not known"
            raise DataError(f"{message} ({error})") from None
        text = next((flow for flow in self._out if flow.kind == "string"), None)
        if text is not None:
            raise Unsupported(f"the pipeline leaves the text column '{text.name}' as it is, and tensors hold numbers")
        if not self._out:
            raise Unsupported("the pipeline makes no column")
        self._tensor = tensor

    def document(self) -> dict[str, Any]:
        """The plan as plain data."""
        used = self._used()
        return {
            "schema_version": "tidegate.features/1",
            "inputs": {
                name: {"type": kind, "infinite": "allow"}
                if kind == "number" and name not in self._script.looked_at
                else kind
                for name, kind in zip(self._names, self.kinds, strict=True)
                if name in used
            },
            "steps": [{step: parameters} for step, parameters in self._script.steps],
            "outputs": {self._tensor: {"datatype": "FP32", "columns": _grouped(self._out)}},
        }

    def summed(self) -> list[list[int]]:
        """For each group of sums that is left which columns of the output are of it."""
        found: dict[str, list[int]] = {}
        for at, flow in enumerate(self._out):
            if flow.group is not None and flow.group[0] in self._script.summed:
                found.setdefault(flow.group[0], []).append(at)
        return list(found.values())

    def _used(self) -> set[str]:
        used = {flow.name for flow in self._out}
        for step, parameters in self._script.steps:
            used.update(parameters["columns"] if step in OF_COLUMNS else parameters)
        return used

    def expected(self, table: Table) -> npt.NDArray[np.float32]:
        """What scikit-learn makes of a table, as float32. Raises DataError with its own words."""
        import pandas as pd  # noqa: PLC0415 - only an import needs it

        arrays = {}
        for name, kind in zip(self._names, self.kinds, strict=True):
            column = table.columns[name]
            values = [_value(value, kind, written=column.written) for value in column.values]  # noqa: PD011 - no frame
            if kind == "string" or (kind == "boolean" and any(value != value for value in values)):  # noqa: PLR0124 - NaN
                arrays[name] = np.array(values, dtype=object)
            else:
                arrays[name] = np.array(values, dtype=bool if kind == "boolean" else np.float64)
        frame: Any = pd.DataFrame({name: pd.Series(column, dtype=column.dtype) for name, column in arrays.items()})
        if not hasattr(self.estimator, "feature_names_in_"):
            frame = frame.to_numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = self.estimator.transform(frame)
            except Exception as error:  # noqa: BLE001 - whatever a transformer raises is why it cannot be compared
                raise DataError(f"{table.path}: scikit-learn does not transform this sample ({_line(error)})") from None
            if hasattr(found, "toarray"):
                found = found.toarray()
            with np.errstate(over="ignore"):
                return np.asarray(found, dtype=np.float64).astype(np.float32)


def _value(value: Any, kind: Kind, *, written: bool) -> Any:
    """A value as pandas would have it."""
    if is_missing(value) or (written and (value == "" or value.strip().lower() == NAN_TEXT)):
        return np.nan
    if kind == "string":
        return str(value)
    if kind == "boolean":
        return value if isinstance(value, bool) else str(value).strip().lower() == "true"
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError("the sample holds text in a column of numbers") from None


def _names(estimator: Any, sample: Table) -> list[str]:
    listed = list(sample.columns)
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        count = getattr(estimator, "n_features_in_", None)
        if count is None:
            raise DataError(f"{type(estimator).__name__} is not fitted: fit it, and save it again")
        if count != len(listed):
            message = (
                f"{sample.path}: the pipeline was fitted without names on {count} columns, and this has {len(listed)}"
            )
            raise DataError(f"{message}; fit it on a data frame, or give a sample of just its columns")
        return listed
    missing = [str(name) for name in names if name not in sample.columns]
    if missing:
        raise DataError(f"{sample.path}: no column '{missing[0]}', which the pipeline takes")
    return [str(name) for name in names]


def _kind(hint: Kind | None, sample: Table, name: str) -> Kind:
    """The encoder's type; where none says, the sample's."""
    if hint is not None:
        return hint
    column = sample.columns[name]
    there = [one for one in column.values if not is_missing(one) and one != ""]  # noqa: PD011 - no frame
    if not column.written and there and all(isinstance(one, bool) for one in there):
        return "boolean"
    if column.written and there and all(one.strip().lower() in ("true", "false") for one in there):
        return "boolean"
    if not column.written and any(isinstance(one, str) for one in there):
        return "string"
    return "number"


def _kind_of_values(values: Sequence[Any]) -> Kind | None:
    there = [one.item() if isinstance(one, np.generic) else one for one in values if not is_missing(one)]
    if not there:
        return None
    if all(isinstance(one, str) for one in there):
        return "string"
    return "boolean" if all(isinstance(one, bool) for one in there) else "number"


def _told(est: Any, columns: list[int]) -> dict[int, Kind]:
    """Types of the columns that an encoder takes."""
    name = type(est).__name__
    if name == "HashingVectorizer":
        return dict.fromkeys(columns, "string")
    if name not in ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder"):
        return {}
    told = {at: _kind_of_values(categories) for at, categories in zip(columns, est.categories_, strict=True)}
    return {at: kind for at, kind in told.items() if kind is not None}


def _hint(est: Any, columns: list[int], hints: dict[int, Kind]) -> list[int] | None:
    """Types of the raw columns that encoders and imputers tell.

    Returns:
        Which of the columns go on; None where they are others then.
    """
    name = type(est).__name__
    if name == "Pipeline":
        on: list[int] | None = columns
        for _, step in est.steps:
            if on is not None and step not in _NO_STEP:
                on = _hint(step, on, hints)
        return on
    parts: list[tuple[Any, list[int]]] = []
    if name == "ColumnTransformer":
        places = est._transformer_to_input_indices  # noqa: SLF001
        parts = [(step, [columns[at] for at in places[part]]) for part, step, _ in est.transformers_]
    elif name == "FeatureUnion":
        parts = [(step, columns) for _, step in est.transformer_list]
    for step, of in parts:
        if step not in _NO_STEP:
            _hint(step, of, hints)
    hints.update(_told(est, columns))
    if name != "SimpleImputer":
        return None
    hints.update({at: "string" for at, value in zip(columns, est.statistics_, strict=True) if isinstance(value, str)})
    learned = not any(map(is_missing, est.statistics_))
    return columns if learned and not est.add_indicator else None


def _walk(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """The columns that come out of a part of the pipeline."""
    name = type(est).__name__
    own = type(est).__module__.startswith("sklearn.")
    if own and name == "Pipeline":
        for _, step in est.steps:
            if step not in _NO_STEP:
                flows = _walk(step, flows, script)
        return flows
    if own and name == "ColumnTransformer":
        return _columns(est, flows, script)
    if own and name == "FeatureUnion":
        return _union(est, flows, script)
    step = STEPS.get(name) if own else None
    if step is None:
        what = name if own else f"{type(est).__module__}.{name}"
        hint = (
            ": a model, which Triton serves; save the steps before it (pipeline[:-1])"
            if hasattr(est, "predict")
            else ""
        )
        raise Unsupported(what + hint)
    return step(est, flows, script)


def _columns(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    places = est._transformer_to_input_indices  # noqa: SLF001
    parts = [(part, step, list(places[part])) for part, step, _ in est.transformers_ if step != "drop"]
    uses = [at for _, _, chosen in parts for at in chosen]
    weights = est.transformer_weights or {}
    found = []
    for part, step, chosen in parts:
        taken = [branch(flows[at], part, script) if uses.count(at) > 1 else flows[at] for at in chosen]
        # Where nothing is done: the column itself, under the name that it has.
        made = [flows[at] for at in chosen] if step == "passthrough" or not taken else _walk(step, taken, script)
        found += _weighted(made, weights.get(part), script)
    return found


def _union(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    parts = [(part, step) for part, step in est.transformer_list if step != "drop"]
    weights = est.transformer_weights or {}
    found = []
    for part, step in parts:
        taken = [branch(flow, part, script) for flow in flows] if len(parts) > 1 else flows
        made = flows if step == "passthrough" else _walk(step, taken, script)
        found += _weighted(made, weights.get(part), script)
    return found


def _weighted(flows: list[Flow], weight: float | None, script: Script) -> list[Flow]:
    return flows if weight is None else [script.apply("min_max", flow, scale=float(weight)) for flow in flows]


def _grouped(flows: list[Flow]) -> list[str]:
    """Names of the columns, whole groups by the group's name."""
    found: list[str] = []
    at = 0
    while at < len(flows):
        group = flows[at].group
        if group is not None and group[1] == 0:
            wanted = [(group[0], place, group[2]) for place in range(group[2])]
            if [flow.group for flow in flows[at : at + group[2]]] == wanted:
                found.append(group[0])
                at += group[2]
                continue
        found.append(flows[at].name)
        at += 1
    return found
