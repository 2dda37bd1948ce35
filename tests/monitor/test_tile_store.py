"""Tiles in a real database: none is lost or doubled, whoever writes, merges, is killed or is away."""

import datetime as dt
import json
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tile_site import AWAY, BEGIN, SECOND, Gateway, in_store, merged

from gateway.monitors import past as pasts
from gateway.monitors import tiles
from governance.errors import StoreError
from governance.monitor import tile
from governance.store import tiles as stored
from governance.store.database import open_database
from governance.store.plain import Plain
from kernels import drift

HERE = Path(__file__).parent
DAY = 86400


def test_tiles_of_all_gateways_are_the_counts_of_one_bit_for_bit(store_url, tmp_path):
    """Over days, through every level, with minutes that are written late and gateways that come back without a disk."""
    gateways = [Gateway(tmp_path / str(at), store_url, tmp_path, seed=at) for at in range(3)]
    gone = []
    noise = random.Random(3)
    for day in (0, 40, 77, 80):
        for minute in (0, 1, 5, 200, 300):
            for at, one in enumerate(gateways):
                one.count(noise.randrange(1, 30))
                one.minute(BEGIN + DAY * day + 60 * minute, feed=at != 1 or minute > 200)
        if day == 40:
            gone.append(gateways[2])
            gateways[2] = Gateway(tmp_path / "new", store_url, tmp_path, seed=9)
    for one in gateways:
        one.history.feed([one.monitor.past], (BEGIN + DAY * 80 + 18000) * SECOND)
    found, levels = in_store(gateways[0].history.plain, gateways[0].monitor)
    assert np.array_equal(found, merged(*gateways, *gone))
    assert all(levels.values()), levels
    # Merged whenever, it is the same.
    stored.fold(gateways[0].history.plain, BEGIN + DAY * 200)
    again, levels = in_store(gateways[0].history.plain, gateways[0].monitor)
    assert np.array_equal(again, found)
    assert levels == {60: 0, 300: 0, 3600: 0, 86400: 4}


def test_windows_are_of_all_gateways_and_outlive_a_machine(store_url, tmp_path):
    one, other = (Gateway(tmp_path / name, store_url, tmp_path) for name in "ab")
    for minute in range(20):
        for gateway in (one, other):
            gateway.count(10)
            gateway.minute(BEGIN + 60 * minute + 2)
    now = (BEGIN + 60 * 19 + 30) * SECOND
    one.count(7)  # this minute's
    for window, rows, since in (("5m", 2 * 50 + 7, 14), ("1h", 407, None), ("30d", 407, None)):
        found = one.monitor.report(window, now)
        assert (found.rows["current"], found.of) == (rows, "store"), window
        if since:
            assert found.since == dt.datetime.fromtimestamp(BEGIN + 60 * since, dt.UTC)
        assert found.columns[0].moments["current"].low is None
        assert sum(found.columns[0].bins["current"]) == found.columns[0].n_current
        assert one.monitor.report(window, now).columns == found.columns
    assert other.monitor.report("5m", now).rows["current"] == 100
    assert one.monitor.report().rows["current"] == 207
    assert one.monitor.report().of == "machine"
    # Another machine, with nothing but the store.
    new = Gateway(tmp_path / "c", store_url, tmp_path)
    assert new.monitor.report("1h", now).rows["current"] == 400
    # Of another route, or another profile, there is nothing.
    assert Gateway(tmp_path / "d", store_url, tmp_path, route="s").monitor.report("1h", now).rows["current"] == 0


def test_while_the_store_is_away_the_journal_keeps_what_it_gets_later(store_url, tmp_path, caplog):
    caplog.set_level("INFO")
    one = Gateway(tmp_path / "a", AWAY, tmp_path)
    assert one.monitor.report("5m").of == "machine"
    for minute in range(150):
        one.count(5)
        one.minute(BEGIN + 60 * minute, feed=minute % 100 == 1)
    assert "this machine keeps what it counts" in caplog.text
    assert caplog.text.count("not in the store") == 1
    now = (BEGIN + 60 * 149) * SECOND
    window = one.monitor.report("5m", now)
    assert (window.rows["current"], window.of) == (25, "machine")
    one.history.plain = Plain(store_url, tmp_path)  # with no schema yet
    fed = 0
    while one.history.feed([one.monitor.past], now) is None and fed < 4:
        fed += 1
        found, _ = in_store(one.history.plain, one.monitor)
        # Whatever it has by now, the window has everything once.
        assert one.monitor.report("1d", now).rows["current"] == 750
        assert one.monitor.report("5m", now).rows["current"] == 25
    assert np.array_equal(found, one.block())
    assert one.monitor.report("5m", now).of == "store"
    assert "the store has what was kept" in caplog.text


def test_a_journal_keeps_the_record_that_the_store_has(tmp_path):
    path = tmp_path / "tiles"
    held = (BEGIN + 60 * 61) * SECOND
    for minute in (*range(130), *range(180, 40 * 24 * 60, 400)):
        tiles.keep(path, (BEGIN + 60 * minute) * SECOND, b"x", {held})
    found = [record.at for record in tiles.records(path)]
    assert held in found
    assert min(found) == held  # all others of that age are gone
    assert tiles.after(path, held, 1) == (b"x", [(found[1], b"x")])


def test_a_lost_record_costs_what_lies_between_and_doubles_nothing(tmp_path, caplog):
    one = Gateway(tmp_path, None)
    for minute in range(5):
        one.count(10)
        one.minute(BEGIN + 60 * minute)
    (one.monitor.folder / "tiles").unlink()
    for minute in range(5, 8):
        one.count(10)
        one.minute(BEGIN + 60 * minute)
    found, _ = in_store(one.history.plain, one.monitor)
    assert found[drift.ROWS] == 70  # one minute is in none
    assert "lost record" in caplog.text
    # Shards that somebody took away: counting goes on from what is left.
    for shard in one.monitor.folder.glob("shard-*"):
        shard.unlink()
    again = Gateway(tmp_path, None)
    again.count(3)
    again.minute(BEGIN + 60 * 9)
    again.count(4)
    again.minute(BEGIN + 60 * 10)
    found, _ = in_store(one.history.plain, one.monitor)
    assert found[drift.ROWS] == 74
    assert "taken away" in caplog.text


@pytest.mark.parametrize("commits", [False, True])
def test_a_write_whose_end_nobody_saw_is_not_done_twice(store_url, tmp_path, monkeypatch, commits):
    one = Gateway(tmp_path, store_url)
    one.count(10)
    one.minute(BEGIN)
    one.count(20)
    written = pasts._write

    def broken(path, text):
        if path.name == "held" and (" " in text) != commits:
            raise OSError("killed")
        written(path, text)

    monkeypatch.setattr(pasts, "_write", broken)
    one.minute(BEGIN + 60)
    assert in_store(one.history.plain, one.monitor)[0][drift.ROWS] == (30 if commits else 10)
    monkeypatch.undo()
    one.count(5)
    one.minute(BEGIN + 120)
    assert np.array_equal(in_store(one.history.plain, one.monitor)[0], one.block())


def kills(tmp_path, how, which):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the extensions could not have been built")
    library = tmp_path / "killing.so"
    source = HERE.parent / "registry/killing.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, str(HERE / "tile_kill_child.py"), str(tmp_path), how, which],
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    print(how, done.stdout)
    return json.loads(done.stdout)


def test_killed_at_every_call_to_the_disk_nothing_is_lost_or_doubled(tmp_path):
    found = kills(tmp_path, "before", "1:1")
    assert found["kills"] == found["calls"]
    assert 0 < found["made"] < found["kills"]


@pytest.mark.slow
def test_killed_behind_every_call_to_the_disk(tmp_path):
    assert kills(tmp_path, "after", "1:1")["made"]


def test_a_hundred_gateways_write_and_merge_at_once(postgres_server, tmp_path):
    url = postgres_server.database()
    open_database(url, tmp_path).dispose()
    plain, series = Plain(url, tmp_path), stored.Series("r", "k")
    form = tile.Format(Gateway(tmp_path, None).monitor.past._format.columns)
    rng = np.random.default_rng(5)
    expected = []

    def writes(at):
        mine = np.random.default_rng(at)
        for minute in range(4):
            block = np.zeros(form._block, np.uint64)
            block[form._at] = mine.integers(0, 2**40, len(form._at), dtype=np.uint64)
            expected.append(block.tobytes())
            new = stored.Tile(BEGIN + 60 * minute, form.encode(block))
            at_ns = (BEGIN + minute) * SECOND
            # Twice, as after a crash that hid the commit.
            for _ in range(2):
                stored.append(plain, series, f"g{at}", lambda through, new=new, to=at_ns: ([new] * (through < to), to))
        stored.fold(plain, BEGIN + 60 * int(mine.integers(0, 90)))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(writes, rng.permutation(100).tolist()))
    for hours in (1, 60, 2000):
        stored.fold(plain, BEGIN + 3600 * hours)
    with plain.transaction(write=False) as execute:
        ((found,),) = execute("SELECT tile FROM monitor_tile", ())
    assert np.array_equal(form.decode(bytes(found)), drift.merge(form.columns, expected))


def test_what_is_too_old_is_forgotten(store_url, tmp_path):
    one = Gateway(tmp_path, store_url)
    one.count(10)
    one.minute(BEGIN)
    one.minute(BEGIN + 700 * DAY)
    one.count(3)
    one.minute(BEGIN + 700 * DAY + 60)
    stored.fold(one.history.plain, BEGIN + 800 * DAY)
    assert in_store(one.history.plain, one.monitor)[0][drift.ROWS] == 3
    stored.fold(one.history.plain, BEGIN + 1500 * DAY)
    with one.history.plain.transaction(write=False) as execute:
        assert execute("SELECT COUNT(*) FROM monitor_tile", ()) == [(0,)]
        assert execute("SELECT COUNT(*) FROM monitor_replica", ()) == [(0,)]


def test_a_damaged_tile_is_said_and_this_machine_answers(store_url, tmp_path, caplog):
    one = Gateway(tmp_path, store_url)
    for at in (0, 60, 120):
        one.count(5)
        one.minute(BEGIN + at)
    with one.history.plain.transaction(write=True) as execute:
        execute("UPDATE monitor_tile SET tile = ?", (b"\x01x",))
    found = one.monitor.report("1h", (BEGIN + 130) * SECOND)
    assert (found.of, found.rows["current"]) == ("machine", 15)
    with pytest.raises(
        StoreError, match=r"monitor_tile holds a tile that is .* \(route 'r', level 300, start .*delete"
    ):
        stored.fold(one.history.plain, BEGIN + DAY)


def test_a_transaction_that_breaks_leaves_nothing(store_url, tmp_path):
    plain = Plain(store_url, tmp_path)
    open_database(store_url, tmp_path).dispose()
    plain.ready()
    with pytest.raises(ZeroDivisionError), plain.transaction(write=True) as execute:
        execute("INSERT INTO monitor_replica (route, key, replica, through) VALUES (?, ?, ?, ?)", ("r", "k", "g", 1))
        raise ZeroDivisionError
    with pytest.raises(StoreError), plain.transaction(write=True) as execute:
        execute("SELECT 1 FROM nowhere", ())
    with plain.transaction(write=False) as execute:
        assert execute("SELECT COUNT(*) FROM monitor_replica", ()) == [(0,)]


def test_a_database_of_a_newer_version_is_left_alone(tmp_path, caplog):
    one = Gateway(tmp_path, None)
    with one.history.plain.transaction(write=True) as execute:
        execute("UPDATE alembic_version SET version_num = ?", ("9999",))
    one.count(1)
    one.minute(BEGIN)
    assert "of a newer version of Tidegate" in caplog.text


def test_what_a_monitor_that_is_taken_away_had_counted_gets_to_the_store_later(store_url, tmp_path):
    """Its journal outlives it, a restart, and its own coming back; so the store has every row once."""
    one = Gateway(tmp_path, AWAY)
    one.count(10)
    one.minute(BEGIN)
    one.count(5)
    one.minute(BEGIN + 60)
    one.board.retain([])
    assert list((tmp_path / "monitors").iterdir()) == []
    assert len(list((tmp_path / "monitors-left").iterdir())) == 1
    again = Gateway(tmp_path, store_url)  # restarted, with its store, and the monitor again
    assert again.monitor.report().rows["current"] == 0
    again.count(3)
    again.minute(BEGIN + 120)
    found, _ = in_store(again.history.plain, again.monitor)
    assert found[drift.ROWS] == 18
    assert list((tmp_path / "monitors-left").iterdir()) == []
    again.minute(BEGIN + 180)
    assert in_store(again.history.plain, again.monitor)[0][drift.ROWS] == 18


def test_what_nobody_can_say_of_is_let_go(tmp_path):
    one = Gateway(tmp_path, None)
    one.count(10)
    one.monitor.keep(BEGIN * SECOND)
    (one.monitor.folder / "series").write_text("{}")
    one.board.retain([])
    old = tmp_path / "monitors-left/abc-1000"
    old.mkdir()
    assert len(list((tmp_path / "monitors-left").iterdir())) == 2
    one.history.feed([], BEGIN * SECOND)
    assert list((tmp_path / "monitors-left").iterdir()) == []
