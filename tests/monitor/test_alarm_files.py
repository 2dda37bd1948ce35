"""What alarms keep between two looks: told at least once, never lost, and begun anew where it cannot be read."""

import asyncio
import fcntl
import os
import threading
import zlib
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from alarm_tables import Reference

from gateway import telemetry
from gateway.errors import Overloaded
from gateway.metrics import Registry
from gateway.monitors import Board, History, alarms, meters
from gateway.settings.routes import Alarms
from gateway.shards import take
from governance.monitor.profile import sealed

SECOND = 10**9
BEGIN = 1_800_000_000 * SECOND
SETTINGS = Alarms(budget=0.01, every=1.0, clear=1, cooldown=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    found = Reference(tmp_path_factory.mktemp("few") / "t.csv", 1000, sizes=(100, 300), streams=50, windows=100)
    head = msgspec.structs.replace(found.profile.head, alarms=found.thresholds)
    return sealed(head, found.profile.columns)


def monitor_of(tmp_path, made):
    """As another process would have it: the same files."""
    return Board(tmp_path / "monitors", History(None, tmp_path)).of({"r": made})["r"]


def count(one, shift=0.0, rows=300, seed=1):
    data = np.random.default_rng(seed).normal(shift, 1, rows)
    one.count([SimpleNamespace(name="x0", datatype="FP64", shape=[rows], data=data.tobytes())], [])


def begun(one):
    """An alarm that nobody has been told of, and when."""
    alarms.look(one, SETTINGS, BEGIN)
    count(one, 8.0)
    return alarms.look(one, SETTINGS, BEGIN + SECOND).events


def test_what_began_is_said_until_it_is_told(tmp_path, made):
    one = monitor_of(tmp_path, made)
    (event,) = begun(one)
    assert (event.route, event.what, event.alarm.causes[0].column) == ("r", "began", "x0")
    # Killed before its record was on the disk: the next process says it, with the same id, amid a window or behind it.
    for now in (BEGIN + SECOND + 1, BEGIN + 9 * SECOND):
        other = monitor_of(tmp_path, made)
        assert [each.id for each in alarms.look(other, SETTINGS, now).events] == [event.id]
    # Other settings end it, and lose nothing.
    others = msgspec.structs.replace(SETTINGS, effect=0.2)
    both = alarms.look(one, others, BEGIN + 10 * SECOND).events
    assert [each.what for each in both] == ["began", "ended"]
    assert len({each.id for each in both}) == 2
    alarms.told(one, both[0])
    alarms.told(one, both[0])
    assert alarms.look(one, others, BEGIN + 10 * SECOND + 1).events == both[1:]
    alarms.told(one, both[1])
    assert alarms.look(one, others, BEGIN + 10 * SECOND + 2).events == []


def rubbish(kept):
    return msgspec.structs.replace(kept, block=b"rubbish")


def cut(kept):
    return msgspec.structs.replace(kept, block=zlib.compress(bytes(64))[:-3])


def ragged(kept):
    return msgspec.structs.replace(kept, charts=[kept.charts[0][:-1], *kept.charts[1:]])


def few(kept):
    return msgspec.structs.replace(kept, effects=kept.effects[1:])


@pytest.mark.parametrize("change", [rubbish, cut, ragged, few, None])
def test_a_damaged_file_is_said_once_and_set_aside(tmp_path, made, caplog, change):
    one = monitor_of(tmp_path, made)
    begun(one)
    path = one.folder / "alarms"
    whole = path.read_bytes()
    path.write_bytes(whole[:40] if change is None else alarms._encode(change(alarms._decode(whole))))
    assert alarms.report_of(one) is None  # a page says nothing, and leaves the file
    assert path.exists()
    for at in range(3):
        assert alarms.look(one, SETTINGS, BEGIN + 5 * SECOND + at).report.windows == 0
    assert caplog.text.count("what alarms had gathered cannot be read") == 1
    assert (one.folder / "alarms.broken").exists()
    assert alarms.report_of(one).active is None


def test_a_clock_that_is_put_back_does_not_silence_alarms(tmp_path, made):
    one = monitor_of(tmp_path, made)
    alarms.look(one, SETTINGS, BEGIN)
    back = BEGIN - 86400 * SECOND
    count(one)
    assert alarms.look(one, SETTINGS, back).report.windows == 0
    assert alarms.look(one, SETTINGS, back + SECOND // 2).report.windows == 0
    found = alarms.look(one, SETTINGS, back + SECOND).report
    assert (found.windows, found.active) == (1, None)
    count(one, 8.0)
    assert alarms.look(one, SETTINGS, back + 2 * SECOND).report.active is not None


def test_a_record_that_cannot_be_written_is_written_later_and_one_monitor_hides_no_other(
    tmp_path, made, monkeypatch, caplog
):
    monkeypatch.setattr(meters, "EVERY_S", 0.01)
    broken, one = (Board(tmp_path / "monitors", History(None, tmp_path)).of({name: made})[name] for name in "ar")
    begun(one)
    (broken.folder / "alarms").mkdir()  # what cannot be read at all
    (tmp_path / "run").mkdir()
    registry = Registry(tmp_path / "run", 0)
    asked, written, done = [], [], asyncio.Event()

    def record(event):
        asked.append(event.id)
        if len(asked) == 1:
            return Overloaded("no room", retry_after=1)
        written.append(event.id)
        done.set()
        return None

    async def run():
        both = {"a": (broken, SETTINGS), "r": (one, SETTINGS)}
        watching = asyncio.ensure_future(
            meters.watch(tmp_path / "run", registry, lambda: both, record, History(None, tmp_path))
        )
        told = asyncio.ensure_future(done.wait())
        await asyncio.wait({watching, told}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.1)  # some turns more
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    asyncio.run(run())
    assert len(asked) == 2
    assert asked[0] == written[0]
    assert caplog.text.count("an alarm of drift began") == 1
    assert "an alarm is not recorded yet" in caplog.text
    assert "a monitor could not be read" in caplog.text
    assert registry.counter(telemetry.DRIFT_ALARMS).labels("r").value() == 1


def test_the_lock_is_held_until_a_thread_has_written(tmp_path):
    path = tmp_path / "lock"
    mine, other = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert take(mine)
    go, done = threading.Event(), threading.Event()
    work = meters._holding(mine, go.wait)
    thread = threading.Thread(target=lambda: (work(), done.set()))
    thread.start()
    os.close(mine)  # whoever waited for the thread was cancelled
    assert not take(other)
    go.set()
    thread.join()
    assert done.is_set()
    assert take(other)
    fcntl.flock(other, fcntl.LOCK_UN)
    os.close(other)
