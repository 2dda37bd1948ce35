"""Both writers of the log, the thread in C and its specification, on a disk that fails at each of their calls."""

import asyncio
import errno
import gc
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from audit_fixture import a_record, records_of

from governance.audit import log as log_module
from governance.audit import wal
from governance.audit.layout import Layout
from governance.audit.log import AuditLog
from governance.audit.segments import read_segment
from governance.audit.tiles import entries_of

HERE = Path(__file__).parent
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for what is preloaded")
SCENARIOS = [
    "failed_fsync",
    "failed_fsync_async",
    "strict_refused",
    "kept",
    "torn_end",
    "served",
    "no_next_segment",
    "closed_while_full",
]


@pytest.fixture(scope="session")
def faults(session_path):
    library = session_path / "faults.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, HERE / "faults.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


def in_child(faults, writer, *arguments, timeout=300):
    environment = {**os.environ, "LD_PRELOAD": str(faults), "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    environment.pop("TIDEGATE_NO_EXTENSIONS", None)
    if writer == "python":
        environment["TIDEGATE_NO_EXTENSIONS"] = "1"
    command = [sys.executable, str(HERE / "faulty_child.py"), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_compiler
@pytest.mark.parametrize("writer", ["native", "python"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_disk_that_fails(tmp_path, faults, writer, scenario):
    in_child(faults, writer, scenario, tmp_path)


@needs_compiler
@pytest.mark.parametrize("writer", ["native", "python"])
@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_killed_at_a_call(tmp_path, faults, writer, how):
    """Each eighth call that reaches the disk; all of them in the slow tier. Nothing acknowledged is lost or doubled."""
    assert int(in_child(faults, writer, "killed", tmp_path, how, 8)) > 12


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("writer", ["native", "python"])
@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_killed_at_every_call(tmp_path, faults, writer, how):
    assert int(in_child(faults, writer, "killed", tmp_path, how, 1)) > 12


# --- the one in C ---


def a_writer(folder, strict=False, **more):
    from governance.audit._writer_c import Writer

    options = {"linger_s": 0.0, "retry_s": 0.05, "most_queued": 65_536, "segment_bytes": 8 << 20, **more}
    return Writer(os.fsencode(folder), strict=strict, **options)


def test_the_extension_is_what_runs():
    if os.environ.get("TIDEGATE_NO_EXTENSIONS"):
        pytest.skip("asked not to")
    assert log_module.Journal.__name__ == "NativeJournal"


@pytest.mark.parametrize("sizes", [[0], [1, 65_535, 0, 7], [65_535] * 40, [900] * 5000])
def test_frames_are_those_of_the_specification(tmp_path, sizes):
    """Whatever their sizes: what it wrote is read as what was put, whole, sealed and in order."""
    writer = a_writer(tmp_path)
    writer.start()
    entries = [os.urandom(size) for size in sizes]
    assert all(writer.put(entry) for entry in entries)
    assert writer.close(60)
    assert (writer.written, writer.lost, writer.failing, writer.queued) == (len(entries), 0, 0, 0)
    (path,) = tmp_path.iterdir()
    read = read_segment(path, 0, 1 << 30)
    assert [entry for _, body in read.batches for entry in entries_of(body)] == entries
    assert read.end == path.stat().st_size
    stamps = [stamp for stamp, _ in read.batches]
    assert sorted(set(stamps)) == stamps
    assert path.stat().st_mode & 0o777 == 0o600


def test_full_segments_are_sealed_and_the_next_begun(tmp_path):
    writer = a_writer(tmp_path, strict=True, segment_bytes=100)
    writer.start()
    for number in range(20):
        writer.put(bytes(50), number)
        while not (ended := writer.ended()):
            pass
        assert ended == [([number], 0)]
    assert writer.close(60)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 11 - 1 + (20 % 2)
    assert all(path.suffix == ".wal" for path in paths)
    assert all(path.read_bytes()[-28:-24] == b"TGwE" for path in paths)


def test_what_cannot_be_put(tmp_path):
    writer = a_writer(tmp_path, most_queued=3)
    # It was not started, so that nothing is taken.
    assert [writer.put(b"x") for _ in range(5)] == [True, True, True, False, False]
    with pytest.raises(ValueError, match="65536"):
        writer.put(bytes(65_536))
    with pytest.raises(ValueError, match="strict"):
        writer.put(b"x", "somebody waits")
    with pytest.raises(TypeError):
        writer.put("text")
    assert writer.close(1)
    assert writer.put(b"x") is False
    with pytest.raises(ValueError, match="zero byte"):
        a_writer("/tmp/\0")
    missing = a_writer(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        missing.start()


def test_a_writer_that_is_dropped_leaves_nothing_open(tmp_path):
    gc.collect()  # what other tests left is closed now, not between the two looks
    before = set(Path("/proc/self/fd").iterdir())
    for strict in (False, True):
        writer = a_writer(tmp_path, strict)
        writer.start()
        writer.put(b"x", "waiting" if strict else None)
        writer.close(60)
        del writer
    gc.collect()
    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_a_child_of_fork_does_not_wait_for_a_thread_that_it_lacks(tmp_path):
    writer = a_writer(tmp_path)
    writer.start()
    child = os.fork()
    if child == 0:
        os._exit(0 if writer.close(5) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert writer.put(b"x")
    assert writer.close(60)
    assert writer.written == 1


@pytest.mark.parametrize("loops", [1, 3])
def test_each_loop_that_waits_is_told(tmp_path, loops):
    """A strict log outlives a loop, and lets go of it."""
    log = AuditLog(tmp_path, mode="strict")

    async def go(number):
        await asyncio.gather(*[log.record(a_record(100 * number + i)) for i in range(10)])

    for number in range(loops):
        asyncio.run(go(number))
    log.close()
    assert log.recorded == 10 * loops == len(records_of(tmp_path))


def test_an_entry_that_cannot_be_made_refuses_and_then_serves_again(tmp_path, monkeypatch):
    """The vault is away for a moment: strict says so, asynchronous keeps the record."""
    real = log_module.Scribe.entries
    left = [1]

    def entries(self, batch):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, batch)

    monkeypatch.setattr(log_module.Scribe, "entries", entries)
    monkeypatch.setattr(log_module, "_SMALL", -1)

    async def until(holds):
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    async def asynchronous():
        log = await asyncio.to_thread(lambda: AuditLog(tmp_path / "async", mode="async"))
        for number in range(10):
            log.record(a_record(number))
        await until(lambda: log.recorded == 10)
        await asyncio.to_thread(log.close)

    asyncio.run(asynchronous())
    assert [record["id"] for record in records_of(tmp_path / "async")] == [f"request-{n}" for n in range(10)]

    monkeypatch.setattr(wal, "RETRY_S", 3.0)

    async def strict():
        log = await asyncio.to_thread(lambda: AuditLog(tmp_path / "strict", mode="strict"))
        left[0] = 1
        with pytest.raises(log_module.AuditUnavailable, match="Input/output"):
            await log.record(a_record(0))
        with pytest.raises(log_module.AuditUnavailable):
            log.admit()
        await until(lambda: not log.failing)
        await log.record(a_record(1))
        await asyncio.to_thread(log.close)
        return log

    log = asyncio.run(strict())
    assert (log.recorded, log._journal.lost, log._held - log._freed) == (1, 1, 0)
    assert [record["id"] for record in records_of(tmp_path / "strict")] == ["request-1"]
    assert list(Layout(tmp_path / "strict").wal.iterdir()) == []


@pytest.mark.parametrize("journal", [log_module.Journal, wal.Journal], ids=["in force", "python"])
@pytest.mark.parametrize("broken", [RuntimeError("a defect"), None, bytes(65_536)])
def test_a_record_that_cannot_be_made_costs_no_other(tmp_path, monkeypatch, caplog, journal, broken):
    """Whatever it is: the thread goes on, the one is counted and said; strict refuses it alone."""
    real = log_module.Scribe.entries

    def entries(self, batch):
        made = real(self, batch)
        at = [item.record.id for item in batch].index("request-3") if has_third(batch) else None
        if at is not None and isinstance(broken, Exception):
            raise broken
        return made if at is None else [*made[:at], *([] if broken is None else [broken]), *made[at + 1 :]]

    def has_third(batch):
        return any(item.record.id == "request-3" for item in batch)

    monkeypatch.setattr(log_module.Scribe, "entries", entries)
    monkeypatch.setattr(log_module, "_SMALL", -1)
    monkeypatch.setattr(log_module, "Journal", journal)

    async def go(mode):
        log = await asyncio.to_thread(lambda: AuditLog(tmp_path / mode, mode=mode))
        waiters = [log.record(a_record(number)) for number in range(8)]
        if mode == "strict":
            told = await asyncio.gather(*waiters, return_exceptions=True)
            assert [number for number, error in enumerate(told) if error is not None] == [3]
            assert isinstance(told[3], log_module.AuditUnavailable)
            await log.record(a_record(8))
        else:
            log.record(a_record(8))
        assert not log.failing
        await asyncio.to_thread(log.close)
        return log

    for mode in ("async", "strict"):
        log = asyncio.run(go(mode))
        assert (log.recorded, log._journal.lost, log._held - log._freed) == (8, 1, 0)
        assert log.dropped == (mode == "async")
        wanted = [f"request-{number}" for number in range(9) if number != 3]
        assert [record["id"] for record in records_of(tmp_path / mode)] == wanted
    assert caplog.text.count("a decision is in no record") == 2
