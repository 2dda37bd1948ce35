"""A disk that refuses: full, or read-only for the sequencer; what its segments hold. `test_audit_writer.py` has the rest."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from audit_fixture import a_record, records_of, sequencer, write_segment

from governance.audit.layout import Layout
from governance.audit.log import AuditLog
from governance.audit.segments import Segment, read_segment
from governance.audit.tiles import bundle
from governance.errors import AuditBroken

_UNSHARE = ["unshare", "--mount", "--map-root-user"]


def can_mount():
    if shutil.which("unshare") is None:
        return False
    mounted = subprocess.run([*_UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    return mounted.returncode == 0


_FULL = """
import asyncio, os, sys, time
from pathlib import Path
from audit_fixture import a_record, records_of
from governance.audit.log import AuditLog
from governance.errors import AuditUnavailable

async def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)

async def main(mode, on_failure):
    state = Path("/mnt/state")
    log = await asyncio.to_thread(lambda: AuditLog(state, mode=mode, on_failure=on_failure))
    answered, refused = [], []

    async def decide(number):
        try:
            log.admit()
            wait = log.record(a_record(number))
            if wait is not None:
                await wait
            answered.append(f"request-{number}")
        except AuditUnavailable:
            refused.append(f"request-{number}")

    for number in range(50):
        await decide(number)
    # Somebody else fills the disk to the last byte.
    filler = os.open("/mnt/filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(filler, bytes(4096))
    except OSError:
        pass
    for number in range(50, 250):
        await decide(number)
        await asyncio.sleep(0.005)
    await until(lambda: log.failing)
    before = len(refused)
    await decide(250)
    os.unlink("/mnt/filler")
    os.close(filler)
    await until(lambda: not log.failing)  # by itself: nobody restarts it, nobody asks for anything
    for number in range(300, 350):
        await decide(number)
    await asyncio.to_thread(log.close)
    ids = [record["id"] for record in records_of(state)]
    assert len(set(ids)) == len(ids), "doubled"
    lost = set(answered) - set(ids)
    print(len(answered), len(refused), len(lost), log.dropped)
    assert not lost
    if on_failure == "refuse":
        assert refused and len(refused) > before
    else:
        assert not refused

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace for a small disk")
@pytest.mark.parametrize(("mode", "on_failure"), [("strict", "refuse"), ("async", "refuse"), ("async", "serve")])
def test_a_full_disk_and_room_again(mode, on_failure):
    """A real one of 2 MiB."""
    script = 'mount -t tmpfs -o size=2m tmpfs /mnt && exec "$@"'
    here = Path(__file__)
    done = subprocess.run(
        [*_UNSHARE, "sh", "-c", script, "sh", sys.executable, "-c", _FULL, mode, on_failure],
        env={**os.environ, "PYTHONPATH": f"{here.parent}:{here.parents[2]}"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def _until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_what_does_not_fit_the_queue_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("governance.audit.wal.MOST_QUEUED", 2)

    async def go():
        log = await asyncio.to_thread(lambda: AuditLog(tmp_path, mode="async", on_failure="serve"))
        for number in range(10):
            log.record(a_record(number))
        await asyncio.to_thread(log.close)
        return log.dropped

    dropped = asyncio.run(go())
    # How many the writer takes meanwhile is its own affair; it has no time for all.
    assert 0 < dropped <= 8
    assert len(records_of(tmp_path)) == 10 - dropped


def test_the_sequencer_tries_again_and_begins_from_the_disk(tmp_path, monkeypatch):
    """Each rename of a step fails once: the log is whole afterwards."""
    made = sequencer(tmp_path)
    real = os.rename
    renames = [0]
    for fail_at in range(1, 5):
        write_segment(tmp_path, [f"{fail_at} {number}".encode() for number in range(100)])
        renames[0] = 0

        def rename(*args, fail_at=fail_at, **kwargs):
            renames[0] += 1
            if renames[0] == fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(*args, **kwargs)

        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(OSError, match="No space"):
            made.integrate()
        monkeypatch.setattr(os, "rename", real)
        write_segment(tmp_path, [f"{fail_at} more".encode()])
        made.integrate()
    made.release()
    from audit_fixture import entries_of

    assert len(entries_of(tmp_path)) == len(set(entries_of(tmp_path))) == 404


# --- segments ---


def test_a_torn_batch_is_dropped_and_what_is_before_it_stays(tmp_path):
    layout = Layout(tmp_path)
    layout.make_private()
    path = write_segment(tmp_path, [b"one"], seal=False)
    whole = path.read_bytes()
    segment_two = write_segment(tmp_path, [b"two"], seal=False)
    torn = whole + segment_two.read_bytes()
    segment_two.unlink()
    for cut in range(len(whole), len(torn)):
        path.write_bytes(torn[:cut])
        read = read_segment(path, 0, 1 << 20)
        assert [body for _, body in read.batches] == [bundle([b"one"])]
        assert (read.end, read.rest, read.more) == (len(whole), cut - len(whole), False)


@pytest.mark.parametrize("seal", [True, False])
def test_damage_before_what_was_synced_stops_the_log(tmp_path, seal):
    made = sequencer(tmp_path)
    segment = Segment.create(Layout(tmp_path).wal)
    for number in range(3):
        segment.append(bundle([f"entry {number}".encode() * 10]))
        segment.sync()
    segment.seal() if seal else segment.abandon()
    content = bytearray(segment.path.read_bytes())
    content[50] ^= 1
    segment.path.write_bytes(content)
    with pytest.raises(AuditBroken, match="byte 0"):
        made.integrate()
    made.release()


def test_a_live_segment_is_left_alone(tmp_path):
    made = sequencer(tmp_path)
    segment = Segment.create(Layout(tmp_path).wal)
    segment.append(bundle([b"one"]))
    made.integrate()
    assert made.size == 1
    assert segment.path.exists()
    segment.append(bundle([b"two"]))
    segment.abandon()
    made.integrate()
    assert made.size == 2
    assert not segment.path.exists()
    made.release()


def test_only_one_is_the_sequencer(tmp_path):
    first = sequencer(tmp_path)
    with pytest.raises(AssertionError):
        sequencer(tmp_path)
    first.release()
    sequencer(tmp_path).release()


def test_what_one_process_wrote_after_another_comes_after_it(tmp_path):
    """Two writers in turn, one step: the log has their order, and not first the one and then the other."""
    from audit_fixture import entries_of

    made = sequencer(tmp_path)
    writers = [Segment.create(Layout(tmp_path).wal) for _ in range(2)]
    for number in range(10):
        writers[number % 2].append(bundle([f"entry {number}".encode()]))
    made.integrate()
    assert entries_of(tmp_path) == [f"entry {number}".encode() for number in range(10)]
    for writer in writers:
        writer.seal()
    made.integrate()
    made.release()


def test_a_clock_that_is_set_back_delays_nothing(tmp_path, monkeypatch):
    made = sequencer(tmp_path)
    segment = Segment.create(Layout(tmp_path).wal)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 3600 * 10**9)
    segment.append(bundle([b"an hour ahead"]))
    monkeypatch.setattr(time, "time_ns", lambda: now)
    segment.append(bundle([b"set back"]))
    made.integrate()
    assert made.size == 2
    monkeypatch.setattr(time, "time_ns", lambda: now - 10**9)
    segment.abandon()
    later = Segment.create(Layout(tmp_path).wal)
    monkeypatch.setattr(time, "time_ns", lambda: now + 10**9)
    later.append(bundle([b"a second ahead"]))
    monkeypatch.setattr(time, "time_ns", lambda: now)
    made.integrate()
    assert made.size == 2
    monkeypatch.setattr(time, "time_ns", lambda: now + 2 * 10**9)
    made.integrate()
    assert made.size == 3
    later.abandon()
    made.release()
