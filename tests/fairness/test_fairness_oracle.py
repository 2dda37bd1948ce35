"""The report against Fairlearn, on random decisions."""

import json
import random
import subprocess

import pytest
from venv_fixture import environment

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
    ours = report(read(path), label="y", prediction="p", by=["g"])
    done = subprocess.run(
        [environment("oracles") / "python", "-W", "ignore", "-c", FAIRLEARN, path], check=True, capture_output=True
    )
    theirs = json.loads(done.stdout)
    for one in ours.groups:
        for name, value in theirs["groups"][one.group["g"]].items():
            assert one.metrics[name].value == pytest.approx(value, abs=1e-12)
    for name in ("demographic_parity", "equalized_odds", "equal_opportunity"):
        assert ours.differences[name] == pytest.approx(theirs[name], abs=1e-12)
    assert ours.ratios["demographic_parity"] == pytest.approx(theirs["ratio"], abs=1e-12)
