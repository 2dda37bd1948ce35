"""`tidegate fairness report` and the tables of Local Law 144, against published numbers and recomputation."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from governance.errors import DataError
from governance.fairness import ll144
from governance.fairness.rates import katz, rate
from governance.fairness.report import report
from governance.tables import read

# Rates in the example of Fairlearn's documentation of MetricFrame: 18 decisions, three groups.
FAIRLEARN = {  # group: tpr, fpr, selection rate, ppv
    "a": (0.5, 1.0, 0.75, 1 / 3),
    "b": (0.6, 0.0, 0.5, 1.0),
    "c": (0.4, 2 / 3, 0.5, 0.5),
}


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "fairness", "report", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def table(tmp_path, header, *rows):
    path = tmp_path / "data.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def decisions(tmp_path, cells):
    """`(label, prediction, group, times)` as a file."""
    rows = [f"{label},{prediction},{group}" for label, prediction, group, times in cells for _ in range(times)]
    return table(tmp_path, "y,p,g", *rows)


def of(tmp_path, cells, **options):
    options = {"label": "y", "prediction": "p", "by": ["g"], "min_group": 1, "min_denominator": 1} | options
    return report(read(decisions(tmp_path, cells)), **options)


def test_the_example_of_fairlearns_documentation(tmp_path):
    # Counts that give the published rates: a 4 rows, b 6, c 8.
    cells = [
        *((1, 1, "a", 1), (1, 0, "a", 1), (0, 1, "a", 2)),
        *((1, 1, "b", 3), (1, 0, "b", 2), (0, 0, "b", 1)),
        *((1, 1, "c", 2), (1, 0, "c", 3), (0, 1, "c", 2), (0, 0, "c", 1)),
    ]
    found = of(tmp_path, cells)
    for one in found.groups:
        metrics = tuple(one.metrics[name].value for name in ("tpr", "fpr", "selection_rate", "ppv"))
        assert metrics == pytest.approx(FAIRLEARN[one.group["g"]])
    assert found.differences["demographic_parity"] == pytest.approx(0.25)
    assert found.ratios["demographic_parity"] == pytest.approx(0.6667, abs=1e-4)
    assert found.differences["equalized_odds"] == pytest.approx(1.0)
    assert found.differences["equal_opportunity"] == pytest.approx(0.2)
    assert found.differences["predictive_parity"] == pytest.approx(2 / 3)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None)
def test_intervals_are_wilsons(case):
    count, n = case
    found = rate(count, n)
    expected = binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))
    assert found.low <= found.value <= found.high


def test_katz():
    # 15 of 100 by 30 of 100: ln 0.5 +- 1.96 sqrt(1/15 - 1/100 + 1/30 - 1/100)
    assert katz(15, 100, 30, 100) == (pytest.approx(0.28722, abs=1e-5), pytest.approx(0.87041, abs=1e-5))
    low, high = katz(0, 20, 10, 20)
    assert 0 < low < high


def test_what_is_too_small_is_insufficient_and_in_no_gap(tmp_path):
    found = of(
        tmp_path,
        [(1, 1, "big", 40), (0, 0, "big", 20), (1, 0, "small", 5), (1, 1, "other", 35)],
        min_group=30,
        min_denominator=10,
    )
    big, other, small = found.groups
    assert [one.group["g"] for one in found.groups] == ["big", "other", "small"]
    assert small.n == 5
    assert {(rate.value, rate.low, rate.status) for rate in small.metrics.values()} == {(None, None, "insufficient")}
    assert small.metrics["tpr"].n == 5
    assert big.metrics["fpr"].status == "ok"
    assert (other.metrics["fpr"].status, other.metrics["fpr"].n) == ("insufficient", 0)
    assert found.differences["equal_opportunity"] == 0.0
    assert found.differences["equalized_odds"] is None  # one group alone has a false positive rate
    assert found.differences["demographic_parity"] == pytest.approx(1 - 40 / 60)


def test_nobody_selected_is_no_ratio(tmp_path):
    found = of(tmp_path, [(1, 0, "a", 40), (0, 0, "b", 40)])
    assert found.ratios["demographic_parity"] is None
    assert found.differences["demographic_parity"] == 0.0
    assert found.differences["predictive_parity"] is None
    assert found.four_fifths is None


def test_who_is_in_no_figure_is_named(tmp_path):
    path = table(
        tmp_path,
        "y,p,sex,race",
        *["1,1,F,01", "1,0, nan ,01", "0,1,F,", ",1,F,1", "1,NaN,M,1", ",,M,1", "0,1.0,F,1", "1,0,M,01"],
    )
    status, out, _ = command("--data", path, "--label", "y", "--prediction", "p", "--group", "sex", "--group", "race")
    assert status == 0
    found = json.loads(out)
    assert {(one["group"]["sex"], one["group"]["race"]): one["n"] for one in found["groups"]} == {
        ("F", "01"): 1,
        ("F", "1"): 1,
        ("M", "01"): 1,
        ("M", "1"): 0,
    }
    assert found["unknown"] == {"n": 2}
    assert found["excluded"] == [
        {"reason": "no label", "n": 1},
        {"reason": "no label and no prediction", "n": 1},
        {"reason": "no prediction", "n": 1},
    ]
    assert sum(one["n"] for one in found["groups"]) + 2 + 3 == 8
    status, out, _ = command("--data", path, "--label", "y", "--prediction", "p", "--group", "sex", "--format", "text")
    assert status == 0
    assert "excluded: 1 rows, no label" in out


def test_what_is_positive(tmp_path):
    path = table(tmp_path, "y,p,g", "yes,yes,a", "no,maybe,a", "yes,,a")
    found = report(read(path), label="y", prediction="p", by=["g"], positive="yes")
    assert (found.groups[0].tp, found.groups[0].tn) == (1, 1)
    path = table(tmp_path, "y,p,g", "2.0,2,a", "1,3,a")
    found = report(read(path), label="y", prediction="p", by=["g"], positive="2")
    assert (found.groups[0].tp, found.groups[0].tn) == (1, 1)
    with pytest.raises(DataError, match=r"data.csv:2: y '2.0' is neither 0 nor 1"):
        report(read(path), label="y", prediction="p", by=["g"])


def test_four_fifths_is_a_flag_with_counts(tmp_path):
    found = of(tmp_path, [(1, 1, "a", 30), (1, 0, "a", 70), (1, 1, "b", 15), (1, 0, "b", 85)])
    flag = found.four_fifths
    assert flag["ratio"] == pytest.approx(0.5)
    assert flag["below"] is True
    assert flag["lowest"] == {"group": {"g": "b"}, "selected": 15, "n": 100}
    assert (flag["low"], flag["high"]) == katz(15, 100, 30, 100)


# -- Local Law 144 -------------------------------------------------------------------------------------------


def test_selection_as_in_the_rules_example(tmp_path):
    # 6 RCNY 5-301: 1390 men of whom 667 were selected, 1181 women, 555.
    rows = [
        f"{chosen},{sex},x" for sex, n, k in (("M", 1390, 667), ("F", 1181, 555)) for chosen in [1] * k + [0] * (n - k)
    ]
    found = ll144.tables(read(table(tmp_path, "p,sex,race", *rows)), "selection", "p", ("sex", "race"))["ll144"]
    assert found["median"] is None
    assert [one["by"] for one in found["tables"]] == [["sex"], ["race"], ["sex", "race"]]
    women, men = found["tables"][0]["rows"]
    assert (women["n"], women["selected"], round(women["rate"], 2), round(women["impact_ratio"], 3)) == (
        1181,
        555,
        0.47,
        0.979,
    )
    assert (men["n"], men["selected"], round(men["rate"], 2), men["impact_ratio"]) == (1390, 667, 0.48, 1.0)


def test_scoring_counts_above_the_median_of_all(tmp_path):
    path = table(tmp_path, "s,sex,race", "1,F,x", "2,F,y", "3,M,x", "4,M,y", "5,,x", ",F,x", "3,M,")
    status, out, _ = command("--data", path, "--ll144", "scoring", "--score", "s", "--group", "sex", "--group", "race")
    assert status == 0
    found = json.loads(out)
    assert found["excluded"] == [{"reason": "no s", "n": 1}]
    found = found["ll144"]
    assert (found["kind"], found["median"]) == ("scoring", 3.0)
    by_sex, by_race, by_both = found["tables"]
    assert by_sex["unknown"] == 1
    assert [(row["group"]["sex"], row["n"], row["selected"]) for row in by_sex["rows"]] == [("F", 2, 0), ("M", 3, 1)]
    assert by_sex["rows"][0]["impact_ratio"] == 0.0
    assert by_race["unknown"] == 1
    assert by_both["unknown"] == 2
    assert sum(row["n"] for row in by_both["rows"]) == 4


def test_a_small_category_keeps_its_counts_and_has_no_ratio(tmp_path):
    rows = [*["1,F,x"] * 50, *["0,F,x"] * 50, *["1,M,x"] * 40, *["0,M,x"] * 60, "1,O,x", "1,,x"]
    path = table(tmp_path, "p,sex,race", *rows)
    found = ll144.tables(read(path), "selection", "p", ("sex", "race"), exclude_below=0.02)["ll144"]["tables"][0]
    assert found["unknown"] == 1
    women, men, others = found["rows"]
    assert (others["n"], others["rate"], others["impact_ratio"], others["excluded"]) == (1, 1.0, None, True)
    assert (women["impact_ratio"], men["impact_ratio"]) == (1.0, pytest.approx(0.8))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--label", "y", "--prediction", "p", "--group", "nope"], "there is no column 'nope'"),
        (["--label", "y", "--prediction", "g", "--group", "g"], "data.csv:2: g 'a' is neither 0 nor 1"),
        (["--label", "y", "--group", "g"], "--label and --prediction are needed"),
        (["--label", "y", "--prediction", "p", "--score", "y", "--group", "g"], "go with --ll144"),
        (["--label", "y", "--prediction", "p", "--group", "g", "--group", "g"], "twice"),
        (["--label", "y", "--prediction", "p", "--group", "g", "--min-group", "0"], "no whole number"),
        (["--ll144", "selection", "--prediction", "p", "--group", "g"], "--group SEX --group RACE"),
        (["--ll144", "scoring", "--group", "g", "--group", "y"], "needs --score"),
        (["--ll144", "scoring", "--score", "g", "--group", "g", "--group", "y"], "data.csv:2: g 'a' is no number"),
        (["--ll144", "selection", "--prediction", "p", "--label", "y", "--group", "g", "--group", "y"], "no --label"),
        (
            ["--ll144", "selection", "--prediction", "p", "--group", "g", "--group", "y", "--exclude-below", "2"],
            "no share",
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, says):
    path = table(tmp_path, "y,p,g", "1,1,a", "0,1,b")
    status, out, err = command("--data", path, *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
