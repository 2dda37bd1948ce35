"""`tidegate backfill`: recorded rows become the tiles that a monitor would have made of them."""

import datetime as dt
import json
import os
import signal
import time

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tile_site import BEGIN

from gateway import cli
from gateway.monitors import Board, History
from governance import tables
from governance.errors import DataError, StoreError
from governance.monitor import live, profile, tile
from governance.monitor.backfill import Span, count
from governance.monitor.report import compare
from governance.store import tiles as stored
from governance.store.database import open_database
from kernels import drift

DAY = 86400


def rows_of(seed, rows):
    rng = np.random.default_rng(seed)
    number = rng.normal(seed / 10, 1, rows).round(3)
    number[rng.random(rows) < 0.1] = np.nan
    number[0] = np.inf
    return {
        "number": number.tolist(),
        "code": rng.integers(0, 5, rows).tolist(),
        "job": [["", " nan", "clerk", "Clerk ", "é"][at] for at in rng.integers(0, 5, rows)],
        "yes": [["TRUE", "false", "", "x"][at] for at in rng.integers(0, 4 if seed > 1 else 3, rows)],
        "when": [["2020-01-01", "", "soon"][at] for at in rng.integers(0, 3 if seed > 1 else 2, rows)],
    }


def csv_of(path, columns):
    lines = zip(*columns.values(), strict=True)
    text = [",".join(columns), *(",".join(map(str, line)) for line in lines)]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def made(tmp_path):
    return profile.build(tables.read(csv_of(tmp_path / "train.csv", rows_of(1, 300))), categorical=["code"])


def times(rows, step=600):
    return [dt.datetime.fromtimestamp(BEGIN - step * at, dt.UTC).isoformat() for at in range(rows)]


SPAN = Span(BEGIN - 700 * DAY, BEGIN + 1, stored.AGES, BEGIN + 1)


def test_backfilled_rows_are_those_of_the_drift_report(tmp_path, made):
    columns = rows_of(2, 500)
    written = csv_of(tmp_path / "now.csv", {**columns, "at": times(500)})
    found = count(made, written, "at", SPAN)
    assert (found.rows, found.left_out, found.newest) == (500, 0, BEGIN)
    assert {level for level, _ in found.tiles} == {60, 300, 3600}
    assert all(start % level == 0 for level, start in found.tiles)
    block = tile.Format(live.counted(made)).decode(tile.merge([*found.tiles.values()]))
    assert block[drift.CALLS] == block[drift.ROWS] == 500
    expected = compare(tables.read(tmp_path / "train.csv"), tables.read(written), categorical=["code"])
    by_name = {column.name: column for column in expected.columns}
    for column in live.report(made, block).columns:
        other = by_name[column.name]
        assert (column.n_current, column.missing_current) == (other.n_current, other.missing_current), column.name
        assert column.bins == other.bins, column.name
        assert column.statistics["psi"] == other.statistics["psi"]
    # However a table is written down, and however it is cut.
    plain = {name: [None if str(value) == "nan" else value for value in values] for name, values in columns.items()}
    plain["at"] = [dt.datetime.fromisoformat(at) for at in times(500)]
    parquet.write_table(pa.table(plain), tmp_path / "now.parquet")
    assert count(made, tmp_path / "now.parquet", "at", SPAN).tiles == found.tiles
    parts = []
    for name, part in (("a", slice(0, 210)), ("b", slice(210, None))):
        cut = {key: values[part] for key, values in columns.items()}
        seconds = [int(dt.datetime.fromisoformat(at).timestamp()) for at in times(500)][part]
        parts.append(count(made, csv_of(tmp_path / f"{name}.csv", {**cut, "at": seconds}), "at", SPAN).tiles)
    for place, each in found.tiles.items():
        assert tile.merge([part[place] for part in parts if place in part]) == each


def test_rows_outside_of_the_time_are_left_out(tmp_path, made):
    at = [BEGIN - 800 * DAY, BEGIN - 3 * DAY, BEGIN - 5, BEGIN, BEGIN + 9]
    written = csv_of(tmp_path / "now.csv", {**rows_of(2, 5), "at": at})
    found = count(made, written, "at", SPAN._replace(until=BEGIN))
    assert (found.rows, found.left_out, found.newest) == (2, 3, BEGIN - 5)
    assert list(found.tiles) == [(60, (BEGIN - 5) // 60 * 60), (3600, BEGIN - 3 * DAY)]
    none = count(made, written, "at", SPAN._replace(until=0))
    assert (none.rows, none.newest, none.tiles) == (0, 0, {})


@pytest.mark.parametrize("at", ["", "soon", "nan", "inf", "1e30", "1" + "0" * 400, "-1", "true", "12:00"])
def test_a_row_without_a_time_is_named(tmp_path, made, at):
    written = csv_of(tmp_path / "now.csv", {**rows_of(2, 2), "at": ["2026-01-01T00:00", at]})
    with pytest.raises(DataError, match=r"now\.csv:3: 'at' is no time: write ISO 8601"):
        count(made, written, "at", SPAN)


def test_a_column_that_is_not_there_is_named(tmp_path, made):
    columns = rows_of(2, 2)
    del columns["job"]
    with pytest.raises(DataError, match="there is no column 'job'; compare the header with the profile"):
        count(made, csv_of(tmp_path / "now.csv", {**columns, "at": [1, 2]}), "at", SPAN)
    with pytest.raises(DataError, match="there is no column 'at'"):
        count(made, csv_of(tmp_path / "now.csv", rows_of(2, 2)), "at", SPAN)


def test_the_command_adds_a_file_once_and_windows_show_it(store_url, tmp_path, made, capsys):
    open_database(store_url, tmp_path / "state").dispose()
    (tmp_path / "credit.profile").write_bytes(profile.encode(made))
    store = f"store: {{url: '{store_url}'}}\n" if store_url else ""
    config = tmp_path / "tidegate.yaml"
    config.write_text(
        store + "upstreams: {triton: {http: 127.0.0.1:1, grpc: 127.0.0.1:2}}\n"
        "routes: {credit: {monitor: {profile: credit.profile, outputs: [number]}}, plain: {}}\n"
    )
    now = int(time.time())
    files = []
    for at in range(3):
        moments = [now - 2 * DAY * at - 30 * row for row in range(50)]
        files.append(str(csv_of(tmp_path / f"{at}.csv", {**rows_of(at + 2, 50), "at": moments})))
    (tmp_path / "bad.csv").write_text("number\n1\n")
    words = ["backfill", "--config", str(config), "--route", "credit", "--time", "at"]
    # Interrupted, or with a file that is broken: the others are there.
    assert cli.main([*words, files[0], str(tmp_path / "bad.csv")]) == 2
    said = capsys.readouterr()
    assert "bad.csv: there is no column 'at'" in said.err
    assert f"{files[0]}: 50 rows added, 0 left out" in said.out
    assert cli.main([*words, *files, "--jobs", "2", "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert sorted((each["file"], each["rows"], each["added"]) for each in said["files"]) == [
        (name, 50, at > 0) for at, name in enumerate(files)
    ]
    assert said["rows"] == 100
    history = History(store_url or None, tmp_path / "state")
    one = Board(tmp_path / "monitors", history).of({"credit": made}, {"credit": ("number",)})["credit"]
    found = {window: one.report(window).rows["current"] for window in ("1h", "1d", "7d")}
    assert found == {"1h": 50, "1d": 50, "7d": 150}
    assert cli.main([*words[:4], "plain", "--time", "at", files[0]]) == 2
    assert "no route 'plain' with a monitor" in capsys.readouterr().err


def config_of(tmp_path, made, store_url):
    open_database(store_url, tmp_path / "state").dispose()
    (tmp_path / "credit.profile").write_bytes(profile.encode(made))
    store = f"store: {{url: '{store_url}'}}\n" if store_url else ""
    config = tmp_path / "tidegate.yaml"
    config.write_text(
        store + "upstreams: {triton: {http: 127.0.0.1:1, grpc: 127.0.0.1:2}}\n"
        "routes: {credit: {monitor: {profile: credit.profile}}}\n"
    )
    return ["backfill", "--config", str(config), "--route", "credit"]


def test_the_same_file_with_other_rows_or_times_is_refused_and_not_said_to_be_there(store_url, tmp_path, made, capsys):
    words = config_of(tmp_path, made, store_url)
    now = int(time.time())
    moments = [now - 60 * row for row in range(50)]
    data = {**rows_of(2, 50), "at": moments, "then": [at - DAY for at in moments]}
    path = str(csv_of(tmp_path / "now.csv", data))
    until = dt.datetime.fromtimestamp(now - 1500, dt.UTC).isoformat()
    assert cli.main([*words, "--time", "at", "--until", until, path]) == 0
    assert "24 rows added, 26 left out" in capsys.readouterr().out
    assert cli.main([*words, "--time", "at", "--until", until, path]) == 0
    assert "24 rows were there before" in capsys.readouterr().out
    for other in (["--time", "at"], ["--time", "then", "--until", until]):
        assert cli.main([*words, *other, path]) == 2
        said = capsys.readouterr()
        assert "was added before with another --until or --time" in said.err
        assert said.out == ""
        assert cli.main([*words, *other, path, "--format", "json"]) == 2
        assert json.loads(capsys.readouterr().out)["files"][0]["added"] is False


def test_a_store_that_goes_away_midway_leaves_the_list_of_what_is_there(tmp_path, made, capsys, monkeypatch):
    words = config_of(tmp_path, made, "")
    now = int(time.time())
    files = [
        str(csv_of(tmp_path / f"{at}.csv", {**rows_of(at + 2, 5), "at": [now - DAY * at - 60] * 5})) for at in range(3)
    ]
    real, done = stored.add, []

    def add(*args):
        if done:
            raise StoreError("store: it is away")
        done.append(real(*args))
        return done[-1]

    monkeypatch.setattr(stored, "add", add)
    assert cli.main([*words, "--time", "at", *files, "--format", "json"]) == 2
    said = capsys.readouterr()
    assert "store: it is away" in said.err
    found = json.loads(said.out)
    assert [each["added"] for each in found["files"]] == [True]
    assert found["rows"] == 5


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_said_for_each_of_its_files(tmp_path, made, capsys, monkeypatch):
    words = config_of(tmp_path, made, "")
    path = str(csv_of(tmp_path / "a.csv", {**rows_of(2, 5), "at": [int(time.time()) - 60] * 5}))
    monkeypatch.setattr("governance.monitor.backfill.count", killed)  # in the process that reads
    assert cli.main([*words, "--time", "at", path, "--format", "json"]) == 2
    said = capsys.readouterr()
    assert "a.csv: the process that read it was killed" in said.err
    assert json.loads(said.out)["files"] == []
