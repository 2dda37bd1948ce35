"""Statistics of all columns together: scikit-learn's where it has them, and what no column shows alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
from alarm_tables import columns_of, table_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from governance.monitor import matrix, multivariate
from governance.monitor.multivariate import NAMES
from governance.monitor.report import compare


def together(tmp_path, reference, current, **options):
    tables = (table_of(tmp_path / name, columns) for name, columns in (("a.csv", reference), ("b.csv", current)))
    return {found.name: found for found in compare(*tables, **options).together}


def normals(seed, rows, correlation=0.0, shift=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    x[:, 1] = correlation * x[:, 0] + np.sqrt(1 - correlation**2) * x[:, 1]
    x[:, 2] += shift
    return {f"x{at}": x[:, at].tolist() for at in range(3)}


def test_the_reconstruction_error_is_that_of_nannymls_method(tmp_path):
    reference, current = columns_of(1, 1500), columns_of(2, 700, 0.7)
    found = together(tmp_path, reference, current)["pca_reconstruction"]
    numbers = [name for name in reference if name.startswith("x")]
    a, b = (np.column_stack([side[name] for name in numbers]) for side in (reference, current))
    imputer = SimpleImputer().fit(a)
    a, b = imputer.transform(a), imputer.transform(b)
    for name in ("job", "flag"):
        share = {value: reference[name].count(value) / 1500 for value in set(reference[name])}
        a, b = (
            np.column_stack([side, [share.get(value, 0) for value in rows[name]]])
            for side, rows in ((a, reference), (b, current))
        )
    scaler = StandardScaler().fit(a)
    components = PCA(n_components=0.65).fit(scaler.transform(a))
    before, now = (
        np.linalg.norm(x - components.inverse_transform(components.transform(x)), axis=1)
        for x in (scaler.transform(a), scaler.transform(b))
    )
    assert found.statistic == pytest.approx(now.mean(), rel=1e-9)
    assert found.effect == pytest.approx((now.mean() - before.mean()) / before.std(ddof=1), rel=1e-6, abs=1e-9)


def test_areas_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    seen = matrix.standardised(rng.normal(size=(200, 40)))  # as wide as to have no products
    labels = (rng.random(200) < 0.4).astype(float)[:, None]
    seen[labels[:, 0] == 1, 0] += 0.5
    seen = matrix.standardised(seen)
    area = multivariate._classified(seen, labels, np.random.default_rng(7))[0]
    x = matrix.standardised(np.hstack((seen, seen**2)))
    fold = np.random.default_rng(7).permutation(200) % 5
    above = of = 0.0
    for at in range(5):
        truth = labels[fold == at, 0]
        model = Ridge(alpha=0.1 * (fold != at).sum(), fit_intercept=False)
        model.fit(x[fold != at], labels[fold != at, 0] - labels.mean())
        pairs = truth.sum() * (len(truth) - truth.sum())
        above += roc_auc_score(truth, model.predict(x[fold == at])) * pairs
        of += pairs
    assert area == pytest.approx(above / of, abs=1e-9)


def test_mmd_is_that_of_the_kernel():
    rng = np.random.default_rng(2)
    seen = rng.normal(size=(600, 3))
    labels = (np.arange(600) >= 300).astype(float)[:, None]
    seen[300:] += 0.8
    found = multivariate._distance(seen, labels, np.random.default_rng(3))[0]
    some = seen[np.random.default_rng(3).permutation(600)]
    width = np.median(np.linalg.norm(some[:300] - some[300:], axis=1))
    kernel = np.exp(-(((seen[:, None] - seen[None]) ** 2).sum(axis=2)) / (2 * width**2))
    np.fill_diagonal(kernel, 0)
    a, b = kernel[:300, :300].sum() / (300 * 299), kernel[300:, 300:].sum() / (300 * 299)
    assert found == pytest.approx(a + b - 2 * kernel[:300, 300:].mean(), rel=0.15)


def test_a_changed_correlation_that_no_column_shows_is_found(tmp_path):
    found = together(tmp_path, normals(1, 800, 0.8), normals(2, 800, -0.8))
    assert {each.status for each in found.values()} == {"ok"}
    assert found["domain_classifier"].effect > 0.6
    assert found["domain_classifier"].p_value == found["mmd"].p_value == 0.002
    assert found["pca_reconstruction"].p_value < 1e-6
    assert found["pca_reconstruction"].effect > 0.3


def test_p_values_of_what_did_not_change_are_even(tmp_path):
    low = dict.fromkeys(NAMES, 0)
    for seed in range(20):
        for name, each in together(tmp_path, normals(seed, 40, 0.5), normals(100 + seed, 40, 0.5)).items():
            low[name] += each.p_value <= 0.2
    for name, count in low.items():  # 4 expected; 99.9 % of a binomial are within
        assert count <= 10, name


def test_the_same_tables_give_the_same_numbers(tmp_path):
    sides = columns_of(1, 300), columns_of(2, 200, 0.2)
    assert together(tmp_path, *sides) == together(tmp_path, *sides)


def test_what_says_nothing_has_a_status_and_no_number(tmp_path):
    few = together(tmp_path, normals(1, 100), normals(2, 29))
    assert {(each.status, each.statistic, each.effect, each.p_value) for each in few.values()} == {
        ("insufficient", None, None, None)
    }
    one = together(tmp_path, {"x": [1.0, 2.0] * 50}, {"x": [1.0, 2.0] * 50})
    assert {(each.status, each.columns) for each in one.values()} == {("insufficient", 1)}
    none = together(tmp_path, {"x": [], "y": []}, normals(1, 50) | {"x": [1.0] * 50, "y": [1.0] * 50})
    assert {each.status for each in none.values()} == {"no reference"}


cells = st.one_of(
    st.none(), st.just(float("inf")), st.just(float("nan")), st.floats(-1e6, 1e6), st.sampled_from(["a", "b", ""])
)


@given(st.lists(st.tuples(cells, cells, cells), min_size=4, max_size=12), st.integers(2, 8))
@settings(deadline=None, max_examples=25)
def test_no_table_is_too_odd(tmp_path_factory, rows, split):
    path = tmp_path_factory.getbasetemp()
    split = min(split, len(rows) - 2)
    sides = ([*zip(*rows[:split], strict=True)], [*zip(*rows[split:], strict=True)])
    a, b = ({name: list(values) for name, values in zip("xyz", side, strict=True)} for side in sides)
    for each in together(path, a, b, min_rows=2).values():
        for value in (each.statistic, each.effect, each.p_value):
            assert value is None or np.isfinite(value)
        assert each.p_value is None or 0 <= each.p_value <= 1


def test_normal_quantiles():
    p = np.linspace(1e-4, 1 - 1e-4, 999)
    assert np.abs(matrix.normal_quantile(p) - norm.ppf(p)).max() < 4.5e-4


def test_an_identifier_is_left_out(tmp_path):
    rng = np.random.default_rng(1)
    for name, first in (("a", 0), ("b", 1000)):
        lines = (f"{first + at},{rng.normal():.4f},{rng.normal():.4f}\n" for at in range(200))
        (tmp_path / f"{name}.csv").write_text("id,x,y\n" + "".join(lines))
    command = [sys.executable, "-m", "gateway", "drift", "report", "--reference", "a.csv", "--current", "b.csv"]
    areas = []
    for more in ([], ["--without", "id"]):
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        areas.append(next(each["statistic"] for each in found["together"] if each["name"] == "domain_classifier"))
    assert areas[0] > 0.99
    assert areas[1] < 0.6
    assert [column["name"] for column in found["columns"]] == ["x", "y"]
    done = subprocess.run([*command, "--without", "z"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "tidegate: a.csv: there is no column 'z' to leave out\n"
