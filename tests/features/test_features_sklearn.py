"""Imported plans against the scikit-learn pipelines that they were made of: every step, random pipelines, refusals."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, FastICA, IncrementalPCA, TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

from gateway import cli
from governance.features.flows import Unsupported
from governance.features.importing import Imported
from governance.features.parity import _ordered, compare
from governance.features.reading import parse
from governance.tables import Column, Table
from kernels.features import Refused

NUMBERS, COUNTS, WORDS, TRUTHS = ["a", "b", "c"], ["k", "m"], ["w", "v"], ["t"]
LETTERS = ["red", "green", "blue", "été", "a longer category", "x"]


def frame(rows, seed, *, odd=False):
    """Columns of every type with missing values; `odd`: also what no fit has seen."""
    rng = np.random.default_rng(seed)
    columns: dict[str, object] = {}
    for name in NUMBERS:
        values = rng.choice([rng.lognormal(size=rows), rng.normal(size=rows) * 10, rng.integers(0, 9, rows) / 2.0])
        values[rng.random(rows) < 0.15] = np.nan
        if odd:
            values[rng.random(rows) < 0.1] = rng.choice([np.inf, -np.inf, 1e300, -1e-300, 0.0])
        columns[name] = values
    for name in COUNTS:
        columns[name] = rng.integers(0, 7 if odd else 5, rows).astype(float)
    for name in WORDS:
        words = rng.choice([*LETTERS, "unseen"] if odd else LETTERS, rows, p=None).astype(object)
        words[rng.random(rows) < 0.15] = np.nan
        columns[name] = words
    columns["t"] = rng.random(rows) < 0.4
    return pd.DataFrame(columns)


def table(data):
    def plain(value):
        return None if isinstance(value, float) and math.isnan(value) else value

    columns = {name: Column([plain(value) for value in data[name].tolist()], written=False) for name in data.columns}
    return Table(Path("sample"), len(data), columns, range(1, len(data) + 1))


def fitted(estimator, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(data, np.arange(len(data)) % 3 / 2.0)


def transformed(estimator, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = estimator.transform(data)
        found = found.toarray() if hasattr(found, "toarray") else found
        return np.asarray(found, dtype=np.float64).astype(np.float32)


def holds(estimator, data, units=2):
    """The plan, once it agrees with what it was made of; it keeps its digest through its text."""
    text, found = compare(Imported(estimator, table(data), "x"), table(data), "")
    assert found.units <= units, (found, text)
    loaded, _ = parse(text.encode(), "plan")
    assert loaded is not None
    return loaded


def number(value):
    return value.item() if isinstance(value, np.generic) else value


def agrees_row_by_row(estimator, loaded, data):
    """On rows that the fit has not seen: the same values, and the same rows refused."""
    names = [one.name for one in loaded.compiled.program.inputs]
    for at in range(len(data)):
        row = data.iloc[at : at + 1]
        values = [number(row[name].iloc[0]) for name in names]
        values = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
        try:
            theirs = transformed(estimator, row)[0]
        except ValueError:
            theirs = None
        try:
            ours = np.frombuffer(loaded.compiled.program.rows([values], range(len(names)))[0], np.float32)
        except Refused:
            ours = None
        assert (ours is None) == (theirs is None), (values, theirs, ours)
        if ours is not None:
            apart = np.abs(_ordered(ours.copy()) - _ordered(theirs))
            assert apart[~(np.isnan(ours) & np.isnan(theirs))].max(initial=0) <= 2, (values, theirs, ours)


def impute(*more, **options):
    return make_pipeline(SimpleImputer(**options), *more)


ON_NUMBERS = {
    "mean": impute(),
    "median with indicators": impute(strategy="median", add_indicator=True),
    "most frequent": impute(strategy="most_frequent"),
    "constant": impute(strategy="constant", fill_value=-1.5),
    "marked": impute(SimpleImputer(missing_values=-7, strategy="mean"), strategy="constant", fill_value=-7),
    "indicator": MissingIndicator(),
    "all indicators": MissingIndicator(features="all"),
    "standardise": StandardScaler(),
    "only mean": StandardScaler(with_std=False),
    "only scale": StandardScaler(with_mean=False),
    "min-max": MinMaxScaler((-1, 2)),
    "min-max clipped": MinMaxScaler(clip=True),
    "max abs": MaxAbsScaler(),
    "robust": RobustScaler(quantile_range=(5, 95)),
    "power": PowerTransformer(),
    "power raw": PowerTransformer(standardize=False),
    "quantile": QuantileTransformer(n_quantiles=40),
    "quantile normal": QuantileTransformer(n_quantiles=37, output_distribution="normal"),
    "bins": impute(KBinsDiscretizer(4, encode="ordinal", strategy="uniform")),
    "bins one-hot": impute(KBinsDiscretizer(3, encode="onehot", strategy="uniform")),
    "binarize": impute(Binarizer(threshold=1.0)),
    "polynomial": impute(PolynomialFeatures(3)),
    "interactions": impute(PolynomialFeatures((2, 3), interaction_only=True, include_bias=False)),
    "logs": make_pipeline(FunctionTransformer(np.square), FunctionTransformer(np.log1p)),
    "clip": FunctionTransformer(np.clip, kw_args={"a_min": 0.0, "a_max": 3.0}),
    "identity": FunctionTransformer(),
    "variance": make_pipeline(VarianceThreshold(2.0), StandardScaler()),
    "best": impute(SelectKBest(k=2)),
    "chain": impute(StandardScaler(), PolynomialFeatures(2), MinMaxScaler(), QuantileTransformer(n_quantiles=20)),
    "union": FeatureUnion([("s", StandardScaler()), ("m", impute(MinMaxScaler())), ("p", "passthrough")]),
    "l1": impute(Normalizer("l1")),
    "l2": impute(StandardScaler(), Normalizer()),
    "max norm": impute(Normalizer("max")),
    "spline": impute(SplineTransformer(4, 3)),
    "spline quantiles": impute(SplineTransformer(5, 2, knots="quantile", extrapolation="linear", include_bias=False)),
    "spline linear cubic": impute(SplineTransformer(4, 3, extrapolation="linear")),
    "spline goes on": impute(SplineTransformer(4, 1, extrapolation="continue")),
    "spline periodic": impute(SplineTransformer(6, 3, extrapolation="periodic")),
    "spline refuses": impute(SplineTransformer(4, 2, extrapolation="error")),
    "spline of missing": SplineTransformer(4, 3, handle_missing="zeros"),
    "weights": FeatureUnion([("s", StandardScaler()), ("m", MinMaxScaler())], transformer_weights={"s": 0.3}),
}
ON_WORDS = {
    "one-hot": OneHotEncoder(),
    "ignore": OneHotEncoder(handle_unknown="ignore"),
    "drop first": OneHotEncoder(drop="first"),
    "drop and ignore": OneHotEncoder(drop="first", handle_unknown="ignore"),
    "infrequent": OneHotEncoder(min_frequency=0.15, handle_unknown="infrequent_if_exist"),
    "few": OneHotEncoder(max_categories=3, handle_unknown="infrequent_if_exist", drop="first"),
    "all infrequent": OneHotEncoder(min_frequency=0.9, handle_unknown="ignore"),
    "imputed": impute(OneHotEncoder(handle_unknown="ignore"), strategy="most_frequent"),
    "constant": impute(OneHotEncoder(handle_unknown="ignore"), strategy="constant", fill_value="none"),
    "ordinal": OrdinalEncoder(),
    "ordinal unknown": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    "ordinal nan": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=-2),
    "ordinal few": OrdinalEncoder(max_categories=3, handle_unknown="use_encoded_value", unknown_value=-1),
    "target": TargetEncoder(target_type="continuous"),
    "scaled": make_pipeline(OneHotEncoder(sparse_output=False, handle_unknown="ignore"), StandardScaler()),
    "indicator": MissingIndicator(features="all"),
}
ON_COUNTS = {
    "one-hot": OneHotEncoder(),
    "ignore": OneHotEncoder(handle_unknown="ignore"),
    "ordinal": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=9),
    "target": TargetEncoder(target_type="continuous"),
    "box-cox": make_pipeline(FunctionTransformer(np.expm1), MinMaxScaler((1, 2)), PowerTransformer("box-cox")),
}
CASES = [
    *(("numbers", name, NUMBERS, one) for name, one in ON_NUMBERS.items()),
    *(("words", name, WORDS, one) for name, one in ON_WORDS.items()),
    *(("counts", name, COUNTS, one) for name, one in ON_COUNTS.items()),
    ("truths", "if binary", TRUTHS, OneHotEncoder(drop="if_binary")),
    ("truths", "ordinal", TRUTHS, OrdinalEncoder()),
]


@pytest.mark.parametrize(
    ("columns", "estimator"), [case[2:] for case in CASES], ids=[f"{a}: {b}" for a, b, *_ in CASES]
)
def test_each_transformer_is_taken_over(columns, estimator):
    data = frame(80, seed=len(columns))
    whole = fitted(ColumnTransformer([("one", estimator, columns)]), data)
    loaded = holds(whole, data)
    with np.errstate(all="ignore"):
        agrees_row_by_row(whole, loaded, frame(8, seed=99, odd=True))


PROJECTIONS = {
    "pca": impute(StandardScaler(), PCA(2)),
    "pca of raw numbers": impute(PCA()),
    "pca whitened": impute(PCA(2, whiten=True)),
    "pca in parts": impute(IncrementalPCA(2)),
    "svd": impute(TruncatedSVD(2)),
    "svd of words": make_pipeline(OneHotEncoder(handle_unknown="ignore"), TruncatedSVD(4)),
    "gaussian": impute(GaussianRandomProjection(4, random_state=1)),
    "sparse": impute(SparseRandomProjection(4, random_state=1)),
    "and on": impute(PCA(2), MinMaxScaler()),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_are_taken_over(name):
    data = frame(80, seed=3)
    columns = WORDS if "words" in name else NUMBERS
    whole = fitted(ColumnTransformer([("one", PROJECTIONS[name], columns)]), data)
    loaded = holds(whole, data)
    names = [one.name for one in loaded.compiled.program.inputs]
    fresh = frame(60, seed=98)
    rows = [[None if pd.isna(value) else value for value in row] for row in fresh[names].to_numpy(object).tolist()]
    ours = np.frombuffer(loaded.compiled.program.rows(rows, range(len(names)))[0], np.float32).reshape(60, -1)
    theirs = transformed(whole, fresh)
    np.testing.assert_allclose(ours, theirs, rtol=2.4e-7, atol=1e-9 * np.abs(theirs).max())


SENTENCES = [
    "The quick brown fox",
    "sphinx of black quartz, judge my vow",
    "\u00c9T\u00c9 \u0391\u03a3 fox FOX",
    "x",
    "jump  over\tthe dog",
]
TEXTS = {
    "words": HashingVectorizer(n_features=64),
    "pairs": HashingVectorizer(n_features=64, ngram_range=(1, 2), alternate_sign=False, norm="l1"),
    "stop words": HashingVectorizer(n_features=64, stop_words="english", norm=None, lowercase=False),
    "characters": HashingVectorizer(n_features=64, analyzer="char", ngram_range=(2, 4), binary=True),
    "characters of words": HashingVectorizer(n_features=64, analyzer="char_wb", ngram_range=(3, 5)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_taken_over(name):
    data = frame(40, seed=6).assign(text=[SENTENCES[at % 5] for at in range(40)])
    parts = [("n", impute(), NUMBERS), ("text", TEXTS[name], "text"), ("length", "passthrough", COUNTS)]
    whole = fitted(ColumnTransformer(parts), data)
    loaded = holds(whole, data, units=0)
    assert dict(loaded.plan.inputs)["text"].type == "string"
    fresh = frame(8, seed=7).assign(text=["".join(reversed(SENTENCES[at % 5])) for at in range(8)])
    agrees_row_by_row(whole, loaded, fresh)


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (HashingVectorizer(), "n_features=65536"),
        (HashingVectorizer(n_features=8, strip_accents="ascii"), "`strip_accents`"),
        (HashingVectorizer(n_features=8, token_pattern=r"\w+"), "`token_pattern`"),
        (HashingVectorizer(n_features=8, tokenizer=str.split), "`tokenizer`"),
        (make_pipeline(HashingVectorizer(n_features=8), TruncatedSVD(2)), "TruncatedSVD: after HashingVectorizer"),
    ],
)
def test_texts_that_no_plan_takes_are_named(estimator, words):
    data = pd.DataFrame({"text": SENTENCES})
    whole = fitted(ColumnTransformer([("text", estimator, "text")]), data)
    with pytest.raises(Unsupported, match=words):
        Imported(whole, table(data), "x")


def test_a_whitened_component_of_no_variance_is_refused():
    data = pd.DataFrame({"a": [1.0, 2.0, 4.0, 8.0], "b": [2.0, 4.0, 8.0, 16.0]})
    with pytest.raises(Unsupported, match="no variance"):
        Imported(fitted(PCA(2, whiten=True), data), table(data), "x")


PARTS = [
    *((one, NUMBERS) for one in ON_NUMBERS.values()),
    *((one, WORDS) for one in ON_WORDS.values()),
    *((one, COUNTS) for one in ON_COUNTS.values()),
    ("passthrough", NUMBERS),
]


@st.composite
def pipelines(draw):
    """Branches over some columns of one type each, in any order; columns may be in several."""
    branches = []
    for at, (one, columns) in enumerate(draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=5))):
        chosen = draw(st.lists(st.sampled_from(columns), min_size=1, unique=True))
        branches.append((f"part{at}", one, chosen))
    return ColumnTransformer(branches, sparse_threshold=draw(st.sampled_from([0.0, 0.3])))


def check_pipeline(pipeline, seed):
    data = frame(60, seed)
    try:
        whole = fitted(pipeline, data)
    except ValueError:
        return  # scikit-learn does not fit it on this data
    with np.errstate(all="ignore"):
        try:
            loaded = holds(whole, data)
        except Unsupported as unsupported:
            # Fits whose outcome has no plan say so by name.
            assert any(name in str(unsupported) for name in ("KBins", "Select", "Power", "makes no column"))
            return
        agrees_row_by_row(whole, loaded, frame(3, seed + 1, odd=True))


@settings(max_examples=5, deadline=None)
@given(pipelines(), st.integers(0, 1000))
def test_random_pipelines_are_taken_over(pipeline, seed):
    check_pipeline(pipeline, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=600, deadline=None)
@given(pipelines(), st.integers(0, 10**6))
def test_many_random_pipelines_are_taken_over(pipeline, seed):
    check_pipeline(pipeline, seed)


# -- the command


def doubled(values):
    return values * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("import")
    data = frame(60, seed=5)
    data.to_csv(made / "sample.csv", index=False)
    data.drop(columns="a").to_csv(made / "narrow.csv", index=False)
    good = ColumnTransformer(
        [("n", impute(StandardScaler()), NUMBERS), ("w", OneHotEncoder(), WORDS), ("t", "passthrough", TRUTHS)]
    )
    skops.io.dump(fitted(good, data), made / "good.skops")
    joblib.dump(good, made / "good.joblib")
    skops.io.dump(StandardScaler(), made / "raw.skops")
    skops.io.dump(fitted(make_pipeline(impute(FastICA(2))), data[NUMBERS]), made / "ica.skops")
    skops.io.dump(fitted(make_pipeline(impute(), LinearRegression()), data[NUMBERS]), made / "model.skops")
    own = FunctionTransformer(doubled).fit(data[NUMBERS])
    skops.io.dump(own, made / "own.skops")
    skops.io.dump(FunctionTransformer(np.cumsum).fit(data[NUMBERS]), made / "cumsum.skops")
    skops.io.dump(
        fitted(ColumnTransformer([("w", impute(strategy="most_frequent"), WORDS)]), data), made / "text.skops"
    )
    (made / "broken.skops").write_bytes(b"PK")
    return made


def run(folder, name, *more):
    arguments = [
        "features",
        "import",
        folder / name,
        "--sample",
        folder / "sample.csv",
        "--output",
        folder / "plan.yaml",
        *more,
    ]
    return cli.main([str(one) for one in arguments])


def test_the_command_writes_a_plan_that_runs_without_scikit_learn(folder, capsys):
    for name, more in (("good.skops", ()), ("good.joblib", ("--trust-joblib",))):
        (folder / "plan.yaml").unlink(missing_ok=True)
        assert run(folder, name, "--format", "json", "--tensor", "input_1", *more) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out) == {"parity": {"rows": 60, "max_abs_difference": 0.0}}
        assert ("runs the code that is in it" in shown.err) == bool(more)
        loaded, findings = parse((folder / "plan.yaml").read_bytes(), "plan")
        assert loaded is not None, findings
        assert [tensor.name for tensor in loaded.compiled.program.tensors] == ["input_1"]
        assert set(loaded.plan.inputs) == {*NUMBERS, *WORDS, *TRUTHS}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ica.skops", "FastICA"),
        ("model.skops", "LinearRegression: a model"),
        ("own.skops", "doubled"),
        ("cumsum.skops", "cumsum"),
        ("text.skops", "'w'"),
        ("raw.skops", "not fitted"),
        ("broken.skops", "not a skops file"),
        ("good.joblib", "not a skops file"),
        ("nowhere.skops", "No such file"),
    ],
)
def test_what_cannot_be_imported_is_named(folder, capsys, name, words):
    (folder / "plan.yaml").unlink(missing_ok=True)
    assert run(folder, name) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert not (folder / "plan.yaml").exists()


def test_a_sample_that_lacks_a_column(folder, capsys):
    arguments = [
        "features",
        "import",
        folder / "good.skops",
        "--sample",
        folder / "narrow.csv",
        "--output",
        folder / "p.yaml",
    ]
    assert cli.main([str(one) for one in arguments]) == 2
    assert "no column 'a', which the pipeline takes" in capsys.readouterr().err
