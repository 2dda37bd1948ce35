"""Killed at every step: nothing that was acknowledged is lost, nothing is doubled, the log never forks."""

import collections
import shutil

import pytest
from audit_fixture import records_of, sequencer
from crash_child import GROUP, run, write_log
from power import recorded, restore

from governance.audit.layout import Layout
from governance.audit.verify import read_keys, verify

ROUNDS = 2


def recover(state_dir):
    """What any process does that becomes the sequencer."""
    made = sequencer(state_dir)
    made.integrate()
    made.release()


def check(state_dir, acknowledged):
    ids = [record["id"] for record in records_of(state_dir)]
    counts = collections.Counter(ids)
    assert [i for i in acknowledged if counts[i] != 1] == [], "lost or doubled"
    assert max(counts.values(), default=1) == 1, "doubled"
    return len(ids)


@pytest.fixture(scope="session")
def steps(session_path):
    state = session_path / "uninterrupted"
    acknowledged, steps = run(state, "a", ROUNDS)
    assert check(state, acknowledged) == 2 * GROUP * ROUNDS
    return steps


def one_kill(folder, kill_at, how):
    state = folder / f"{how}-{kill_at}"
    acknowledged, _ = run(state, "a", ROUNDS, kill_at, how)
    log = Layout(state).log
    seen = (log / "checkpoint").read_bytes() if (log / "checkpoint").exists() else None
    remembered = folder / f"{how}-{kill_at}.checkpoint"
    remembered.write_bytes(seen or b"")
    recover(state)
    check(state, acknowledged)
    # A second life goes on from there, and what anyone saw before the crash is still a part of it.
    more, finished = run(state, "b", 1)
    assert finished
    check(state, [*acknowledged, *more])
    assert verify(log, read_keys(log / "log.vkey"), [remembered] if seen else []).ok
    return len(acknowledged)


@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_killed_at_a_step(tmp_path, steps, how):
    """Each sixteenth step; all of them in the slow tier."""
    for kill_at in range(1 + ["before", "after", "torn"].index(how) * 5, steps + 1, 16):
        one_kill(tmp_path, kill_at, how)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_killed_at_every_step(tmp_path, steps, how):
    acknowledged = [one_kill(tmp_path, at, how) for at in range(1, steps + 1)]
    print(f"{how}: {steps} kills, {sum(acknowledged)} acknowledged, 0 lost, 0 doubled")


@pytest.mark.parametrize("kill_at", [5, 25, 45])
def test_killed_again_while_recovering(tmp_path, steps, kill_at):
    acknowledged, _ = run(tmp_path, "a", ROUNDS, steps - kill_at)
    for again, prefix in enumerate("bcd"):
        more, _ = run(tmp_path, prefix, ROUNDS, 1 + kill_at // (again + 1), "after")
        acknowledged += more
    recover(tmp_path)
    check(tmp_path, acknowledged)


def test_the_power_fails_at_any_moment(tmp_path):
    """After each call: with nothing left that was not synced, and with all names but no contents."""
    state = tmp_path / "state"
    state.mkdir()
    acknowledged, told = [], []
    with recorded(state) as disk:

        def acknowledge(ids):
            acknowledged.extend(ids)
            told.append((len(disk.snapshots), len(acknowledged)))

        write_log(state, "a", ROUNDS, acknowledge)
    published = 0
    for number, extremes in enumerate(disk.snapshots):
        safe = max((count for at, count in told if at <= number), default=0)
        for which, snapshot in enumerate(extremes):
            after = tmp_path / f"{number}-{which}"
            after.mkdir()
            restore(snapshot, state, after)
            checkpoint = Layout(after).checkpoint
            seen = checkpoint.read_bytes() if checkpoint.exists() else None
            if number and not safe and not Layout(after).head.exists() and seen is None:
                shutil.rmtree(after)
                continue  # it is still being made
            recover(after)
            assert check(after, acknowledged[:safe]) >= safe
            if seen:
                published += 1
                (after / "seen").write_bytes(seen)
                keys = read_keys(Layout(after).vkey)
                assert verify(Layout(after).log, keys, [after / "seen"]).ok
            shutil.rmtree(after)
    assert published > len(disk.snapshots)
