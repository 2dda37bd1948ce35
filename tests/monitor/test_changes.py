"""`tidegate drift changes`: which column changed, how, and when."""

import json
import subprocess
import sys

import numpy as np
import pytest
from alarm_tables import columns_of, table_of

from governance.errors import DataError
from governance.monitor import changes, profile


def test_a_column_that_changed_is_found_by_every_test_soon_after(tmp_path):
    reference = profile.build(table_of(tmp_path / "a.csv", columns_of(1, 8000)))
    before, after = columns_of(2, 3000), columns_of(3, 3000, 0.5)
    now = table_of(tmp_path / "b.csv", {name: before[name] + after[name] for name in before})
    found = changes.find(reference, now, rows=100)
    assert (found.rows, found.windows) == (100, 60)
    first = next(change for change in found.changes if (change.column, change.what) == ("x0", "location"))
    assert first.effect == pytest.approx(0.5, abs=0.1)
    for test in ("cusum", "page_hinkley", "adwin"):
        assert 3100 <= first.found[test][0] <= 4500, test
    assert [change.column for change in found.changes if change.what == "location"] == ["x0"]


def test_nothing_is_found_where_nothing_changed(tmp_path):
    reference = profile.build(table_of(tmp_path / "a.csv", columns_of(1, 20_000)))
    assert changes.find(reference, table_of(tmp_path / "b.csv", columns_of(2, 3000)), rows=100).changes == []


def test_a_table_that_says_nothing_is_an_error(tmp_path):
    reference = profile.build(table_of(tmp_path / "a.csv", columns_of(1, 200)))
    with pytest.raises(DataError, match="200 rows are not two windows of 150; say fewer with --rows"):
        changes.find(reference, table_of(tmp_path / "b.csv", columns_of(2, 200)), rows=150)
    with pytest.raises(DataError, match="no column in common"):
        changes.find(reference, table_of(tmp_path / "b.csv", {"other": [1.0] * 200}), rows=50)


def test_the_command(tmp_path):
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(0, 1, 1000), rng.normal(1, 1, 1000)])
    for name, numbers in (("train", rng.normal(0, 1, 4000)), ("log", values)):
        (tmp_path / f"{name}.csv").write_text("age\n" + "".join(f"{value:.6f}\n" for value in numbers))
    command = [sys.executable, "-m", "gateway", "drift", "changes", "--reference", "train.csv", "--current", "log.csv"]
    done = subprocess.run([*command, "--rows", "100"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("20 windows of 100 rows\nage  ")
    assert "location  row 1100  effect +0.9" in done.stdout or "location  row 1100  effect +1.0" in done.stdout
    done = subprocess.run(
        [*command, "--rows", "100", "--format", "json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["changes"][0]["column"] == "age"
    done = subprocess.run([*command, "--rows", "29"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "29 is no whole number of 30 or more" in done.stderr


def test_what_the_reference_has_by_chance_is_no_change(tmp_path):
    # As many rows as a window: without allowing for it, CUSUM found some 900 changes here in 6,000 windows of a column.
    found = {"cusum": 0, "page_hinkley": 0}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        reference = profile.build(table_of(tmp_path / "a.csv", {"x": rng.normal(size=500).tolist()}))
        now = table_of(tmp_path / "b.csv", {"x": rng.normal(size=500 * 60).tolist()})
        for change in changes.find(reference, now, rows=500).changes:
            for test in found:
                found[test] += len(change.found[test])
    assert found["cusum"] <= 1  # 0.18 expected: 10 x 60 windows of three scores, one in 10,000
    assert found["page_hinkley"] <= 1


def test_a_shift_that_chance_cannot_explain_is_found_with_a_small_reference(tmp_path):
    rng = np.random.default_rng(3)
    reference = profile.build(table_of(tmp_path / "a.csv", {"x": rng.normal(size=500).tolist()}))
    values = np.concatenate([rng.normal(size=5000), rng.normal(0.5, 1, 5000)])
    found = changes.find(reference, table_of(tmp_path / "b.csv", {"x": values.tolist()}), rows=500).changes
    location = next(change for change in found if change.what == "location")
    assert 5500 <= location.found["cusum"][0] <= 6000
