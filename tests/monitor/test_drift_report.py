"""`tidegate drift report`: kinds, cells and numbers, from the command line and from the functions."""

import json
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from scipy import stats
from scipy.spatial.distance import jensenshannon

from governance import tables
from governance.errors import DataError
from governance.monitor import distances, significance
from governance.monitor.cells import categories_of, count_bins, edges_of
from governance.monitor.kinds import kind_of, values_of
from governance.monitor.report import compare
from governance.tables import Column


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "drift", "report", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def csv_of(path, **columns):
    rows = zip(*columns.values(), strict=True)
    path.write_text(",".join(columns) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def report(tmp_path, reference, current, **options):
    a = csv_of(tmp_path / "a.csv", **reference) if isinstance(reference, dict) else reference
    b = csv_of(tmp_path / "b.csv", **current) if isinstance(current, dict) else current
    found = compare(tables.read(a), tables.read(b), **{"min_rows": 2, **options})
    return {column.name: column for column in found.columns}


# -- kinds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "written", "kind"),
    [
        (["1", "-2.5", "1e3", ".5", "5.", "inf", "-Infinity", " 7 ", "", "NaN"], True, "numeric"),
        (["1", "2", "x"], True, "categorical"),
        (["1_000", "2"], True, "categorical"),
        (["0x10"], True, "categorical"),
        (["true", "FALSE", ""], True, "boolean"),
        (["true", "maybe"], True, "categorical"),
        (["2024-01-02", "2024-01-02T03:04:05Z"], True, "timestamp"),
        (["2024-01-02", "soon"], True, "categorical"),
        ([1, 2.5, None, math.nan], False, "numeric"),
        (["1", "2"], False, "categorical"),
        ([True, False, None], False, "boolean"),
        ([1, "x"], False, "categorical"),
        ([1, True], False, "categorical"),
        (["2024-01-02"], False, "timestamp"),
    ],
)
def test_the_reference_decides_what_a_column_is(values, written, kind):
    assert kind_of(Column(values, written)) == kind


def test_what_cannot_be_read_as_the_references_kind_is_missing(tmp_path):
    (tmp_path / "b.jsonl").write_text(
        '{"x": 1, "t": "TRUE"}\n{"x": "2"}\n{"x": true, "t": true}\n{"t": null}\n{"x": 1e400, "t": "no"}\n'.replace(
            "1e400", "1e30"
        )
    )
    found = report(tmp_path, {"x": [1, 2, 3], "t": ["true", "false", "true"]}, tmp_path / "b.jsonl")
    assert (found["x"].n_current, found["x"].missing_current) == (2, 3)
    assert found["t"].kind == "categorical"
    assert found["t"].bins == {
        "categories": ["true", "false", "OTHER", "UNSEEN"],
        "reference": [2, 1, 0, 0],
        "current": [2, 0, 0, 1],
    }
    assert (found["t"].n_current, found["t"].missing_current) == (3, 2)


def test_numbers_that_are_names(tmp_path):
    found = report(tmp_path, {"zip": [10, 10, 20]}, {"zip": [10, 30, ""]}, categorical=["zip"])
    assert found["zip"].bins == {
        "categories": ["10", "20", "OTHER", "UNSEEN"],
        "reference": [2, 1, 0, 0],
        "current": [1, 0, 0, 1],
    }
    with pytest.raises(DataError, match="no column 'nope'"):
        report(tmp_path, {"zip": [1]}, {"zip": [1]}, categorical=["nope"])


def test_parquet_goes_by_its_types(tmp_path):
    table = pa.table(
        {
            "number": pa.array([1, None, 3], pa.int32()),
            "name": pa.array(["a", "b", None]).dictionary_encode(),
            "truth": pa.array([True, False, None]),
            "day": pa.array([0, 1, None], pa.date32()),
            "digits": pa.array(["1", "2", "3"]),
            "nothing": pa.array([None, None, None], pa.float64()),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    found = report(tmp_path, tmp_path / "a.parquet", tmp_path / "a.parquet")
    assert {name: (one.kind, one.status) for name, one in found.items()} == {
        "number": ("numeric", "ok"),
        "name": ("categorical", "ok"),
        "truth": ("categorical", "ok"),
        "day": ("timestamp", "unsupported"),
        "digits": ("categorical", "ok"),
        "nothing": ("numeric", "insufficient"),
    }
    assert (found["number"].n_reference, found["number"].missing_reference) == (2, 1)
    assert found["truth"].bins["categories"][:2] == ["false", "true"]


# -- cells ---------------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False, width=32)


@given(st.lists(numbers, min_size=1, max_size=60), st.integers(2, 40))
@settings(deadline=None)
def test_edges_are_order_statistics_of_what_is_finite(values, bins):
    array = np.array(values, dtype=float)
    finite = sorted(x for x in values if math.isfinite(x))
    n = len(finite)
    expected = sorted({finite[math.ceil(i * n / bins) - 1] for i in range(1, bins)}) if n else []
    edges = edges_of(array, bins)
    assert edges.tolist() == expected
    counts = count_bins(array, edges)
    assert len(counts) == len(edges) + 1
    assert counts.tolist() == [
        sum(sum(e < x for e in expected) == at for x in values) for at in range(len(expected) + 1)
    ]


def test_an_edge_equal_to_the_maximum_stays():
    assert edges_of(np.array([1.0, 2.0, 2.0, 2.0]), 4).tolist() == [1.0, 2.0]
    assert count_bins(np.array([1.0, 2.0, 2.0, 2.0]), np.array([1.0, 2.0])).tolist() == [1, 3, 0]


def test_categories_are_the_most_frequent_and_ties_go_by_code_point():
    labels = ["b", "a", "é", "z", "z"] + [f"n{at:03}" for at in range(200)]
    named, more = categories_of(labels)
    assert named[:4] == ["z", "a", "b", "n000"]
    assert len(named) == 100
    assert more


def test_other_is_a_cell_only_where_the_reference_has_one(tmp_path):
    many = [f"c{at:03}" for at in range(150)]
    found = report(tmp_path, {"x": many}, {"x": [*many[:149], "new"]})["x"]
    assert found.bins["reference"][-2:] == [50, 0]
    assert found.bins["current"][-2:] == [49, 1]
    p = (np.array([1] * 100 + [50, 0]) + 0.5) / (150 + 102 / 2)
    q = (np.array([1] * 100 + [49, 1]) + 0.5) / (150 + 102 / 2)
    assert found.statistics["psi"] == pytest.approx(((q - p) * np.log(q / p)).sum())
    few = report(tmp_path, {"x": ["a", "b"]}, {"x": ["a", "c"]})["x"]
    p, q = np.array([1.5, 1.5, 0.5]) / 3.5, np.array([1.5, 0.5, 1.5]) / 3.5
    assert few.statistics["psi"] == pytest.approx(((q - p) * np.log(q / p)).sum())


# -- numbers -------------------------------------------------------------------------------------------------


def test_a_worked_vector():
    p, q = np.full(10, 0.1), np.array([0.05, 0.05, 0.08, 0.1, 0.1, 0.1, 0.12, 0.12, 0.14, 0.14])
    assert distances.psi(p, q) == pytest.approx(0.1079882, abs=1e-7)
    assert distances.kl(p, q) == pytest.approx(0.0508032, abs=1e-7)
    assert distances.hellinger(p, q) == pytest.approx(0.1157744, abs=1e-7)
    assert distances.js(p, q) == pytest.approx(0.1385772, abs=1e-7)


shares = st.lists(st.integers(0, 50), min_size=2, max_size=12)


@given(shares.flatmap(lambda a: st.tuples(st.just(a), st.lists(st.integers(0, 50), min_size=len(a), max_size=len(a)))))
@settings(deadline=None)
def test_distances_are_scipys(sides):
    p, q = (distances.jeffreys(np.array(side)) for side in sides)
    assert distances.kl(p, q) == pytest.approx(stats.entropy(q, p), abs=1e-12)
    assert distances.js(p, q) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-7)
    assert 0 <= distances.hellinger(p, q) <= 1
    assert distances.psi(p, q) == pytest.approx(stats.entropy(q, p) + stats.entropy(p, q), abs=1e-12)


def test_ties_as_published():
    x, y = np.array([1.2, 2.3, 2.3, 4.1, 5]), np.array([0.5, 2.3, 3.3, 7.7])
    assert significance.ks(x, y) == (pytest.approx(0.25), pytest.approx(0.99206, abs=1e-5))
    assert significance.cvm(x, y) == (pytest.approx(0.0481481, abs=1e-7), pytest.approx(0.976190, abs=1e-6))
    assert significance.wasserstein(np.array([0, 1, 3.0]), np.array([5, 6, 8.0])) == pytest.approx(5.0)
    assert significance.wasserstein(np.array([0, 1, np.inf]), np.array([5, 6, 8.0])) is None


def test_contingency_without_yates():
    a, b = np.array([16, 18, 16, 14, 12, 12]), np.array([16, 16, 16, 16, 16, 8])
    expected = stats.chi2_contingency([a, b], correction=False)
    assert significance.chi2(a, b) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    two = np.array([[12, 30], [22, 21]])
    assert significance.chi2(*two)[1] == pytest.approx(stats.chi2_contingency(two, correction=False).pvalue)


@pytest.mark.parametrize(
    ("reference", "current", "expected"),
    [
        ([50, 50, 0], [50, 50, 0], [[50, 50], [50, 50]]),  # empty on both sides
        ([50, 40, 3, 2], [50, 40, 3, 3], [[50, 40, 5], [50, 40, 6]]),  # rare ones become one
        ([50, 40, 20, 2, 0], [50, 40, 20, 3, 1], [[50, 40, 22], [50, 40, 24]]),  # still rare: the smallest joins
        ([20, 20, 1], [20, 20, 1], [[20, 21], [20, 21]]),  # of two as small, the later joins
        ([6, 1], [6, 1], None),  # one cell is left
    ],
)
def test_rare_cells_are_pooled(reference, current, expected):
    a, b = distances.pooled(np.array(reference), np.array(current))
    found = significance.chi2(np.array(reference), np.array(current))
    if expected is None:
        assert len(a) == 1
        assert found == (None, None)
    else:
        assert [a.tolist(), b.tolist()] == expected


def test_a_column_of_numbers(tmp_path):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=400), rng.normal(0.5, size=300)
    found = report(tmp_path, {"x": a}, {"x": b})["x"]
    edges = np.sort(a)[[math.ceil(i * 400 / 10) - 1 for i in range(1, 10)]]
    assert found.bins["edges"] == edges.tolist()
    p, q = (
        (np.bincount(np.searchsorted(edges, side, side="left"), minlength=10) + 0.5) / (len(side) + 5)
        for side in (a, b)
    )
    assert found.statistics["psi"] == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert found.statistics["ks"] == pytest.approx(stats.ks_2samp(a, b).statistic)
    assert found.p_values["ks"] == pytest.approx(stats.ks_2samp(a, b).pvalue)
    assert found.statistics["cvm"] == pytest.approx(stats.cramervonmises_2samp(a, b).statistic)
    assert found.statistics["wasserstein"] == pytest.approx(stats.wasserstein_distance(a, b))
    assert found.statistics["chi2"] is found.p_values["chi2"] is None


# -- tables and the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "", "a.csv:1: no header"),
        ("a.csv", "x,x\n1,2\n", "a.csv:1: two columns are named 'x'"),
        ("a.csv", "x,y\n1,2\n3\n", "a.csv:3: 1 fields, the header has 2"),
        ("a.csv", 'x\n"open\n', "a.csv:2: unexpected end of data"),
        ("a.csv", b"x,y\n1,2\n3,K\xf6ln\n", "a.csv:3:4: byte 0xf6 is not UTF-8: save the file as UTF-8"),
        ("a.csv", b"\xff\xfex\x00\n\x001\x00\n\x00", "a.csv:1:1: saved as UTF-16: save it as UTF-8"),
        ("a.jsonl", b'{"x": 1}\n{"x": "\xf6"}\n', "a.jsonl:2:8: byte 0xf6 is not UTF-8"),
        ("a.jsonl", '{"x": 1}\n{"x": \n', "a.jsonl:2: not a JSON object"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: not a JSON object"),
        ("a.jsonl", '{"x": [1]}\n', "a.jsonl:1: 'x' holds a nested value"),
        ("a.parquet", "PAR1", "not a Parquet file"),
        ("a.xls", "x", "name it *.csv"),
        ("missing.csv", None, "missing.csv: No such file"),
        ("good.csv", "y\n1\n", "no column in common"),
    ],
)
def test_bad_input_is_one_line_with_its_place(tmp_path, name, text, says):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    good = csv_of(tmp_path / "reference.csv", x=[1, 2])
    status, out, err = command("--reference", good, "--current", path)
    assert status == 2
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("option", [("--bins", "1"), ("--min-rows", "1"), ("--bins", "x")])
def test_bad_options_are_one_line(tmp_path, option):
    good = csv_of(tmp_path / "a.csv", x=[1, 2])
    status, _, err = command("--reference", good, "--current", good, *option)
    assert status == 2
    assert err.count("\n") == 1


def test_the_report_as_json_and_as_text(tmp_path):
    a = csv_of(tmp_path / "a.csv", x=range(100), gone=range(100), day=["2024-01-01"] * 100, few=[""] * 90 + ["1"] * 10)
    b = csv_of(tmp_path / "b.csv", few=["1"] * 100, x=range(100), day=["2024-01-01"] * 100, new=["a"] * 100)
    status, out, _ = command("--reference", a, "--current", b)
    assert status == 0
    found = json.loads(out)
    assert found["rows"] == {"reference": 100, "current": 100}
    assert [(c["name"], c["kind"], c["status"]) for c in found["columns"]] == [
        ("x", "numeric", "ok"),
        ("gone", "numeric", "absent"),
        ("day", "timestamp", "unsupported"),
        ("few", "numeric", "insufficient"),
        ("new", "categorical", "absent"),
    ]
    x, gone, _, few, new = found["columns"]
    assert set(x["statistics"]) == {"psi", "js", "hellinger", "kl", "ks", "wasserstein", "chi2", "cvm"}
    assert x["statistics"]["psi"] == 0.0
    assert all(value is None for one in (gone, few, new) for value in one["statistics"].values())
    assert (gone["n_current"], gone["missing_current"], new["n_reference"], new["missing_reference"]) == (
        0,
        100,
        0,
        100,
    )
    assert all(c["n_current"] + c["missing_current"] == 100 for c in found["columns"])
    status, out, _ = command("--reference", a, "--current", b, "--format", "text")
    assert status == 0
    assert "insufficient" in out
    assert len(out.splitlines()) == 11


def test_a_spreadsheets_file(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfx,y\r\n1,"a,b"\r\n\r\n2,c\r\n')
    table = tables.read(tmp_path / "a.csv")
    assert table.rows == 2
    assert values_of(table.columns["x"], "numeric").numbers.tolist() == [1.0, 2.0]
    assert table.columns["y"].values == ["a,b", "c"]
