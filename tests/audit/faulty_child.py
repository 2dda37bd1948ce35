"""Runs with `faults.c` preloaded: `python faulty_child.py SCENARIO STATE`. Each scenario is the same for both writers."""

import asyncio
import ctypes
import errno
import logging
import os
import sys
import time
from pathlib import Path

from audit_fixture import a_record, records_of

from governance.audit import log as log_module
from governance.audit import sequencing, wal
from governance.audit.layout import Layout
from governance.audit.log import AuditLog
from governance.errors import AuditUnavailable

faults = ctypes.CDLL(None)
HOW = ["before", "after", "torn"]


FOR_EVER = 1 << 30


def fail(call, error, times, half=0):
    faults.faults_fail(call.encode(), error, ctypes.c_long(times), half)


async def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def ids(state):
    return [record["id"] for record in records_of(state)]


def names(numbers):
    return [f"request-{number}" for number in numbers]


async def failed_fsync(state):
    """The request is refused; whether its record stayed is not known, and it is there at most once."""
    log = await asyncio.to_thread(lambda: AuditLog(state, mode="strict"))
    await log.record(a_record(0))
    fail("fdatasync", errno.EIO, FOR_EVER)
    try:
        await log.record(a_record(1))
    except AuditUnavailable as error:
        assert "Input/output" in str(error)
    else:
        raise AssertionError("it was acknowledged")
    try:
        log.admit()
    except AuditUnavailable:
        pass
    else:
        raise AssertionError("it was admitted")
    fail("fdatasync", errno.EIO, 0)
    await until(lambda: not log.failing)
    await log.record(a_record(2))
    assert log.recorded == 2
    await asyncio.to_thread(log.close)
    found = ids(state)
    assert sorted(set(found)) == sorted(found)
    assert {"request-0", "request-2"} <= set(found)


async def failed_fsync_async(state):
    """What was written is not written again: it could be doubled; the next segment is another."""
    log = await asyncio.to_thread(lambda: AuditLog(state, mode="async"))
    first = next(Layout(state).wal.iterdir())
    fail("fdatasync", errno.EIO, FOR_EVER)
    log.record(a_record(0))
    await until(lambda: log.failing)
    fail("fdatasync", errno.EIO, 0)
    await until(lambda: not log.failing)
    log.record(a_record(1))
    await asyncio.to_thread(log.close)
    assert ids(state) == names(range(2))
    assert not first.exists()


async def strict_refused(state):
    """Everyone who waits for a group that was given up is told, and none of it is in the log."""
    log = await asyncio.to_thread(lambda: AuditLog(state, mode="strict"))
    fail("write", errno.ENOSPC, 1, half=1)
    waits = [log.record(a_record(number)) for number in range(100)]
    told = await asyncio.gather(*waits, return_exceptions=True)
    refused = [number for number, answer in enumerate(told) if isinstance(answer, AuditUnavailable)]
    assert refused
    assert refused == list(range(len(refused))), "the first group"
    await until(lambda: not log.failing)
    await asyncio.to_thread(log.close)
    assert log._journal.lost == len(refused)
    assert ids(state) == names(range(len(refused), 100))


async def kept(state, half=1):
    """An asynchronous log keeps what it could not write, in its order; of half a write nothing stays."""
    log = await asyncio.to_thread(lambda: AuditLog(state, mode="async", on_failure="serve"))
    fail("write", errno.ENOSPC, 3, half)
    for number in range(10):
        log.record(a_record(number))
    await until(lambda: log.recorded == 10)
    assert faults.faults_left() == faults.faults_stuck() == 0
    await asyncio.to_thread(log.close)
    assert ids(state) == names(range(10))


async def torn_end(state):
    """The half cannot be taken back: the segment is let go with a torn end, and the next one has all."""
    await kept(state, half=2)


async def served(state):
    """`on_failure: serve`: kept in memory while there is room, then served without a record, counted and said."""
    wal.MOST_QUEUED = 8
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("tidegate.audit").addHandler(handler)
    log = await asyncio.to_thread(lambda: AuditLog(state, mode="async", on_failure="serve"))
    log.record(a_record(0))
    await until(lambda: log.recorded == 1)
    fail("write", errno.ENOSPC, FOR_EVER)
    log.record(a_record(1))
    await until(lambda: log.failing)
    for number in range(2, 22):
        log.admit()
        assert log.record(a_record(number)) is None
    assert log.dropped == 12
    fail("write", errno.ENOSPC, 0)
    await until(lambda: not log.failing)
    await asyncio.to_thread(log.close)
    assert ids(state) == names(range(10))
    assert [line.split()[0] for line in said if "in no record" in line] == ["1", "2", "4", "8"]
    assert sum("cannot be written" in line for line in said) == 1
    assert sum("can be written again" in line for line in said) == 1


async def no_next_segment(state):
    """A segment that is full is sealed and the next begun, also when the disk refuses that for a while."""
    wal.SEGMENT_BYTES = 1000
    log = await asyncio.to_thread(lambda: AuditLog(state, mode="async"))
    fail("rename", errno.ENOSPC, 2)
    for number in range(20):
        log.record(a_record(number))
        await asyncio.sleep(0.05)
        await until(lambda: log.recorded or log.failing)
    await until(lambda: log.recorded == 20)
    await asyncio.to_thread(log.close)
    assert faults.faults_left() == 0
    assert ids(state) == names(range(20))


async def closed_while_full(state):
    """Tried once more, then lost and said so: a process that ends does not wait for room."""
    log = await asyncio.to_thread(lambda: AuditLog(state, mode="async", on_failure="serve"))
    fail("write", errno.ENOSPC, FOR_EVER)
    for number in range(5):
        log.record(a_record(number))
    await until(lambda: log.failing)
    await asyncio.to_thread(log.close)
    assert log._journal.lost == 5
    assert ids(state) == []


def one_life(state, writer, kill_at, how):
    """A strict log of small segments, until the process is killed; what was acknowledged goes to a pipe."""
    wal.SEGMENT_BYTES = 1500
    sequencing.INTERVAL_S = 3600.0

    async def go():
        log = await asyncio.to_thread(lambda: AuditLog(state, mode="strict"))
        faults.faults_kill(ctypes.c_long(kill_at), HOW.index(how))
        for first in range(0, 12, 3):
            numbers = range(first, first + 3)
            await asyncio.gather(*[log.record(a_record(number)) for number in numbers])
            os.write(writer, "".join(f"{number}\n" for number in numbers).encode())
        await asyncio.to_thread(log._journal.close)

    asyncio.run(go())
    os.write(writer, f"steps {faults.faults_steps()}\n".encode())


def killed(state, how, every):
    """A life for each step, from a process that was not started anew each time."""
    step = 1
    while True:
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                one_life(state / f"{step}", writer, step, how)
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as stream:
            lines = stream.read().splitlines()
        os.wait()
        whole = bool(lines) and lines[-1].startswith("steps")
        acknowledged = names(int(line) for line in lines if not line.startswith("steps"))
        after = AuditLog(state / f"{step}", mode="async")
        after.close()
        found = ids(state / f"{step}")
        assert len(set(found)) == len(found), "doubled"
        assert found[: len(acknowledged)] == acknowledged, "lost"
        if whole:
            assert len(acknowledged) == 12
            return step
        step += every


if __name__ == "__main__":
    scenario, state_dir = sys.argv[1], Path(sys.argv[2])
    native = "TIDEGATE_NO_EXTENSIONS" not in os.environ
    assert log_module.Journal.__name__ == ("NativeJournal" if native else "Journal")
    if scenario == "killed":
        print(killed(state_dir, sys.argv[3], int(sys.argv[4])))
    else:
        asyncio.run(globals()[scenario](state_dir))
