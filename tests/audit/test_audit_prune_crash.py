"""A pruning that is killed at every step, and a power failure after each: nothing goes unstated, another run ends it."""

import os
import shutil
import signal
import traceback

import pytest
from crash_child import count_steps
from power import recorded, restore
from prune_fixture import an_old_log, pruned

from governance.audit.layout import Layout
from governance.audit.show import entries
from governance.audit.tiles import bundle_path
from governance.audit.verify import read_keys, verify

OLD, NEW = 520, 60
BEFORE = 512


@pytest.fixture(scope="session")
def whole(session_path):
    an_old_log(session_path / "old", OLD, NEW, steps=1)
    return session_path / "old"


def killed(state_dir, kill_at, how):
    """Prune in a process that dies at that step; how many steps it took, None: it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            real = os.write
            steps = count_steps(kill_at, how)
            pruned(state_dir)
            real(writer, str(steps[0]).encode())
        except BaseException:  # noqa: BLE001  it must not come back into the test
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    assert said or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL), "it failed by itself"
    return int(said) if said else None


def check(state_dir, remembered):
    """The log holds, whatever is gone of it is stated, and nothing is gone that had to stay."""
    log = Layout(state_dir).log
    report = verify(log, read_keys(log / "log.vkey"), [remembered])
    assert report.ok, report.findings
    assert report.pruned is None or report.pruned.before == BEFORE
    there = [index for index in range(BEFORE // 256) if (log / bundle_path(index)).exists()]
    assert len(there) == BEFORE // 256 or report.pruned is not None
    shown = [index for index, _ in entries(log)]
    assert shown == list(range(shown[0], report.size))
    assert shown[0] in {0, BEFORE}
    return report


def finish(state_dir, remembered):
    """Another run ends it, and the records say what was done."""
    pruned(state_dir)
    log = Layout(state_dir).log
    report = check(state_dir, remembered)
    assert report.pruned.before == BEFORE
    assert not any((log / bundle_path(index)).exists() for index in range(BEFORE // 256))
    assert not any((log / (bundle_path(index) + ".p")).exists() for index in range(BEFORE // 256))
    return report


def one_kill(whole, folder, kill_at, how):
    state = folder / f"{how}-{kill_at}"
    shutil.copytree(whole, state)
    remembered = whole / "audit" / "checkpoint"
    steps = killed(state, kill_at, how)
    check(state, remembered)
    finish(state, remembered)
    shutil.rmtree(state)
    return steps


@pytest.fixture(scope="session")
def steps(whole, session_path):
    counted = one_kill(whole, session_path, 0, "before")
    assert counted
    return counted


@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_killed_at_a_step_of_a_pruning(whole, tmp_path, steps, how):
    """Each fourth step; all of them in the slow tier."""
    for kill_at in range(1 + ["before", "after", "torn"].index(how), steps + 1, 4):
        assert one_kill(whole, tmp_path, kill_at, how) is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_killed_at_every_step_of_a_pruning(whole, tmp_path, steps, how):
    for kill_at in range(1, steps + 1):
        assert one_kill(whole, tmp_path, kill_at, how) is None
    print(f"{how}: {steps} kills")


def test_the_power_fails_while_entries_are_pruned(tmp_path):
    """After each call: with nothing left that was not synced, and with all names but no contents."""
    state, kept = tmp_path / "state", tmp_path / "kept"
    state.mkdir()
    with recorded(state) as disk:
        an_old_log(state, OLD, NEW, steps=1)
        shutil.copy(Layout(state).checkpoint, kept)
        begun = len(disk.snapshots)
        pruned(state)
    assert len(disk.snapshots) > begun
    gone = 0
    for number, extremes in enumerate(disk.snapshots[begun - 1 :]):
        for which, snapshot in enumerate(extremes):
            after = tmp_path / f"{number}-{which}"
            after.mkdir()
            restore(snapshot, state, after)
            gone += check(after, kept).pruned is not None
            finish(after, kept)
            shutil.rmtree(after)
    assert gone
