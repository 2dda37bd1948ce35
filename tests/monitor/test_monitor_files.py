"""Where monitors count: files that outlive their writers, and the minutes of windows."""

import datetime as dt
import gc
import random
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from gateway import telemetry
from gateway.monitors import Board, History, MonitorError, meters, tiles
from gateway.shards import Shards
from governance.monitor import profile
from governance.tables import Column, Table
from kernels import drift

SECOND = 10**9
MINUTE = 60 * SECOND
COLUMNS = [drift.Numbers((0.0, 1.0), 0.0, 1.0)]
HASH = "ab" * 32


def shards(folder, mark=HASH):
    return Shards(folder, b"TGDRIFT1", mark, drift.nbytes(COLUMNS))


def call(*values):
    data = np.array(values, dtype=np.float64).tobytes()
    return [SimpleNamespace(name="x", datatype="FP64", shape=[len(values)], data=data)]


def board_in(tmp_path):
    return Board(tmp_path / "monitors", History(None, tmp_path))


def made(tmp_path, columns=1, seed=1):
    path = tmp_path / "data"
    path.touch()
    rng = np.random.default_rng(seed)
    names = ["x", *(f"c{at}" for at in range(1, columns))]
    return profile.build(Table(path, 100, {n: Column(rng.normal(size=100).tolist(), written=False) for n in names}, ()))


# -- shards --------------------------------------------------------------------------------------------------


def test_a_file_is_taken_again_where_its_writer_left_off(tmp_path):
    one = shards(tmp_path).open()
    other = shards(tmp_path).open()
    for block in (one, other):
        drift.Shard(block, COLUMNS, {"x": [0]}).count(call(0.5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-0", "shard-1"]
    assert drift.merge(COLUMNS, [b for _, b in shards(tmp_path).read()])[drift.ROWS] == 2
    began = [at for at, _ in shards(tmp_path).read()]
    del block, one
    gc.collect()
    again = shards(tmp_path).open()
    assert bytes(again) == bytes(other)
    assert len(list(tmp_path.iterdir())) == 2
    assert [at for at, _ in shards(tmp_path).read()] == began


@pytest.mark.parametrize("content", [b"", b"x" * 64, b"x" * 500, bytes(64 + drift.nbytes(COLUMNS))])
def test_a_file_that_is_not_whole_is_passed_over_and_begun_anew(tmp_path, content):
    (tmp_path / "shard-0").write_bytes(content)
    assert list(shards(tmp_path).read()) == []
    block = shards(tmp_path).open()
    assert not any(block)
    assert len(list(shards(tmp_path).read())) == 1


def test_another_profiles_counts_are_not_taken(tmp_path):
    drift.Shard(shards(tmp_path).open(), COLUMNS, {"x": [0]}).count(call(0.5))
    gc.collect()
    assert list(shards(tmp_path, "cd" * 32).read()) == []
    assert not any(shards(tmp_path, "cd" * 32).open())


# -- the board -----------------------------------------------------------------------------------------------


def test_what_is_taken_away_and_comes_back_begins_anew(tmp_path):
    board = board_in(tmp_path)
    first, second = made(tmp_path), made(tmp_path, seed=2)
    one = board.of({"r": first})["r"]
    one.count(call(1, 2, 3))
    assert one.report().rows["current"] == 3
    assert board.of({"r": first})["r"] is one  # a reload
    board.retain([one])
    assert one.report().rows["current"] == 3
    other = board.of({"r": second})["r"]
    board.retain([other])
    one.count(call(4))  # a request that began before the swap
    assert other.report().rows["current"] == 0
    back = board.of({"r": first})["r"]
    board.retain([back])
    assert back.report().rows["current"] == 0
    board.retain([])
    assert list((tmp_path / "monitors").iterdir()) == []


def test_routes_of_any_name_count_apart(tmp_path):
    board = board_in(tmp_path)
    found = board.of({"a/../b": made(tmp_path), "é": made(tmp_path)})
    found["é"].count(call(1))
    assert [found[name].report().rows["current"] for name in ("a/../b", "é")] == [0, 1]


def test_without_room_it_says_so(tmp_path):
    (tmp_path / "monitors").write_text("a file")
    with pytest.raises(MonitorError, match=r"monitor of route `r` cannot count there \(.*\): make room, or remove it"):
        board_in(tmp_path).of({"r": made(tmp_path)})


# -- windows -------------------------------------------------------------------------------------------------


def test_a_window_begins_at_the_latest_minute_that_is_old_enough(tmp_path):
    one = board_in(tmp_path).of({"r": made(tmp_path)})["r"]
    now = 1_700_000_000 * SECOND
    for minute in range(10):
        one.count(call(*range(minute)))  # 0, 1, 2, ... rows
        one.keep(now + minute * 60 * SECOND)
    end = now + 9 * 60 * SECOND + 30 * SECOND
    found = one.report("5m", end)
    assert found.rows["current"] == 5 + 6 + 7 + 8 + 9
    assert found.since == dt.datetime.fromtimestamp(now / SECOND + 4 * 60, dt.UTC)
    assert found.columns[0].moments["current"].low is None
    assert found.columns[0].moments["current"].mean == pytest.approx(
        sum(sum(range(n)) for n in range(5, 10)) / 35, rel=1e-3
    )
    assert one.report("1h", end).rows["current"] == one.report().rows["current"] == 45


def test_records_are_thinned_and_windows_keep_their_grain(tmp_path):
    path = tmp_path / "tiles"
    start = 1_700_000_000
    for minute in range(4 * 60):
        tiles.keep(path, (start + 60 * minute) * SECOND, b"%d" % minute)
    now = start + 60 * 239
    found = [record.at // SECOND for record in tiles.records(path)]
    young = [at for at in found if now - at <= 2 * 3600]
    old = [at for at in found if now - at > 2 * 3600]
    assert len(young) >= 120
    assert len(old) <= 24 + len(found) // 10
    for age in (300, 3600, 3 * 3600):
        at, block = tiles.block_at(path, (now - age) * SECOND)
        grain = 60 if age <= 2 * 3600 else 300
        assert 0 <= now - age - at // SECOND <= grain
        assert int(block) == (at // SECOND - start) // 60
    assert tiles.block_at(path, (start - 1) * SECOND) is None


def test_a_file_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, "MOST_BYTES", 5000)
    path = tmp_path / "tiles"
    noise = random.Random(1)
    for minute in range(100):
        tiles.keep(path, minute * 60 * SECOND, noise.randbytes(200))
    assert path.stat().st_size <= 5000
    assert tiles.records(path)[-1].at == 99 * 60 * SECOND
    assert len(tiles.records(path)) > 15


def test_a_record_that_is_cut_off_ends_the_file_and_is_written_over(tmp_path):
    path = tmp_path / "tiles"
    for at in (1, 2, 3):
        tiles.keep(path, at * MINUTE, b"block%d" % at)
    whole = path.read_bytes()
    for cut in range(1, len(whole) - tiles.records(path)[-1].offset):
        path.write_bytes(whole[:-cut])
        assert tiles.block_at(path, 9 * MINUTE) == (2 * MINUTE, b"block2")
    tiles.keep(path, 4 * MINUTE, b"block4")
    assert [record.at // MINUTE for record in tiles.records(path)] == [1, 2, 4]
    # One that holds something else is passed over.
    last = tiles.records(path)[-1]
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert zlib.crc32(damaged[-last.size :]) != zlib.crc32(whole[-last.size :])
    assert tiles.block_at(path, 9 * MINUTE) == (2 * MINUTE, b"block2")
    assert tiles.records(tmp_path / "none") == []
    assert tiles.block_at(tmp_path / "none", 1) is None


def test_a_minute_of_another_version_is_no_window(tmp_path):
    one = board_in(tmp_path).of({"r": made(tmp_path)})["r"]
    one.count(call(1, 2))
    tiles.keep(one.folder / "tiles", SECOND, b"12345678")
    assert one.report("5m").rows["current"] == 2
    rows = np.full(drift.nbytes(COLUMNS) // 8, 99, np.uint64)
    tiles.keep(one.folder / "tiles", 2 * SECOND, rows.tobytes())
    assert one.report("5m").rows["current"] == 2


# -- metrics -------------------------------------------------------------------------------------------------


def test_metrics_are_of_the_first_hundred_columns(tmp_path):
    board = board_in(tmp_path)
    one = board.of({"r": made(tmp_path, columns=130)})["r"]
    one.count(call(*range(40)))
    found = {}
    for metric, labels, value in meters.samples_of(one.report()):
        found.setdefault(metric, {})[labels] = value
    assert found[telemetry.DRIFT_ROWS] == {("r",): 40.0}
    assert found[telemetry.DRIFT_UNSEEN] == {("r",): 0.0}
    assert found[telemetry.DRIFT_HIDDEN] == {("r",): 30.0}
    assert len(found[telemetry.DRIFT_MISSING]) == 100
    assert found[telemetry.DRIFT_MISSING]["r", "x"] == 0.0
    assert found[telemetry.DRIFT_MISSING]["r", "c1"] == 1.0
    assert list(found[telemetry.DRIFT_PSI]) == [("r", "x")]


def test_a_full_disk_costs_a_line_and_no_report(tmp_path, caplog):
    one = board_in(tmp_path).of({"r": made(tmp_path)})["r"]
    (one.folder / "tiles").mkdir()
    assert meters._looked(((one, None),), keep=True)[0]
    assert "a window's minute is not kept" in caplog.text
    assert list((one.folder / "tiles").iterdir()) == []
