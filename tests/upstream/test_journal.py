"""The journal: whoever is killed in it, and wherever, what was recorded before stays and others go on."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from contextlib import suppress

import pytest

from gateway.upstream import journal as journal_module
from gateway.upstream.desired import Wanted
from gateway.upstream.journal import MOST_MARKED, Journal, key_of, pending

KEY, LIFE = 7, 3


def load(name: str) -> Wanted:
    return Wanted("model", name, "load", {"parameters": {"config": "{}"}})


def names(journal: Journal) -> list[str]:
    return [entry.name for entry in journal.entries("fleet")]


def forked(work) -> int:
    """A process that does it and ends; its id."""
    pid = os.fork()
    if pid:
        return pid
    gc.disable()  # what other tests have left, such as channels of gRPC, must not be collected in a fork
    status = 1
    with suppress(BaseException):
        work()
        status = 0
    os._exit(status)


def ended(pid: int) -> int:
    """Its exit status; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(line: int, work) -> int:
    """Done by a process that is killed before it executes the `line`-th line of the journal's code."""

    def traced() -> None:
        left = line

        def trace(frame, event, _arg):
            nonlocal left
            if frame.f_code.co_filename != journal_module.__file__:
                return None
            if event == "line":
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        work()
        sys.settrace(None)

    return ended(forked(traced))


def test_killed_at_every_step_of_a_record(tmp_path):
    folder = tmp_path / "desired"
    journal = Journal(folder)
    journal.record("fleet", load("first"), {KEY: LIFE})
    files = {name: (folder / name).read_bytes() for name in ("asked", "marks")}
    line = unrecorded = unmarked = 0
    status = -signal.SIGKILL
    while status:
        assert status == -signal.SIGKILL
        line += 1
        for name, content in files.items():
            (folder / name).write_bytes(content)
        status = killed_at(line, lambda: journal.record("fleet", load("m"), {KEY: LIFE}))
        # What a worker reads that starts now.
        other = Journal(folder)
        assert names(other) in (["first"], ["first", "m"])
        waits = [entry.name for entry in pending(other.entries("fleet"), other.mark(KEY, LIFE))]
        assert waits in ([], ["m"]), "at worst what is done already is asked again"
        unrecorded += "m" not in names(other)
        unmarked += bool(waits)
        # Its lock has gone with it, and the next one completes what it left.
        other.record("fleet", load("m"), {KEY: LIFE})
        assert names(journal) == ["first", "m"]
        assert not pending(journal.entries("fleet"), journal.mark(KEY, LIFE))
    assert unrecorded > 10
    assert unmarked > 10, "it was killed between the two files"


def test_killed_at_every_step_of_a_mark(tmp_path):
    journal = Journal(tmp_path / "desired")
    journal.record("fleet", load("first"), {KEY: LIFE})
    entry = journal.entries("fleet")[0]
    line, status = 0, -signal.SIGKILL
    while status:
        line += 1
        status = killed_at(line, lambda: journal.carried_out(KEY + 1, LIFE, entry, "no"))
        mark = Journal(tmp_path / "desired").mark(KEY + 1, LIFE)
        assert mark.refused in ({}, {"model first": entry.serial})
        assert journal.mark(KEY, LIFE).done == {"model first": entry.serial}, "another's mark stays"
    assert mark.reasons == {"model first": "no"}
    assert line > 20


def test_workers_append_at_once(tmp_path):
    journal = Journal(tmp_path / "desired")

    def work(worker: int) -> None:
        mine = Journal(tmp_path / "desired")
        for number in range(25):
            mine.record("fleet", load(f"{worker}-{number}"), {worker + 1: LIFE})

    workers = [forked(lambda at=at: work(at)) for at in range(4)]
    seen: list[str] = []
    while len(seen) < 100:
        now = names(journal)
        assert now[: len(seen)] == seen, "a reader sees what was there, and more"
        seen = now
        if all(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in workers):
            seen = names(journal)
            break
    assert [ended(pid) for pid in workers] == [0] * 4
    assert sorted(seen) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(25))
    entries = journal.entries("fleet")
    assert len({entry.serial for entry in entries}) == 100
    for worker in range(4):
        mine = [entry for entry in entries if entry.name.startswith(f"{worker}-")]
        assert journal.mark(worker + 1, LIFE).done == {key_of(entry): entry.serial for entry in mine}
    assert not [path for path in (tmp_path / "desired").iterdir() if path.name.rpartition(".")[2].isdigit()]


def test_who_dies_with_the_lock_does_not_block_the_others(tmp_path):
    journal = Journal(tmp_path / "desired")
    reading, writing = os.pipe()

    def hold() -> None:
        with journal._locked():
            os.write(writing, b"held")
            signal.pause()

    holder = forked(hold)
    assert os.read(reading, 4) == b"held"
    waiting = forked(lambda: journal.record("fleet", load("m"), {KEY: LIFE}))
    assert journal.empty
    assert os.waitpid(waiting, os.WNOHANG) == (0, 0)
    os.kill(holder, signal.SIGKILL)
    assert ended(waiting) == 0
    assert ended(holder) == -signal.SIGKILL
    assert names(journal) == ["m"]
    os.close(reading)
    os.close(writing)


def test_a_full_disk_leaves_what_there_was(tmp_path):
    journal = Journal(tmp_path / "desired")
    journal.record("fleet", load("first"), {KEY: LIFE})
    before = {path.name: path.read_bytes() for path in (tmp_path / "desired").iterdir()}

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
        with pytest.raises(OSError):
            journal.record("fleet", load("second"), {KEY: LIFE})

    assert ended(forked(work)) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "desired").iterdir()} == before
    journal.record("fleet", load("second"), {KEY: LIFE})
    assert names(journal) == ["first", "second"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"fleet":[{"kind":"mo', b'{"fleet":3}', b"\xff\xfe", b"null"])
@pytest.mark.parametrize("file", ["asked", "marks"])
def test_a_damaged_file_ends_no_worker(tmp_path, caplog, file, damage):
    """The disk's doing: nothing of the gateway writes into them. What is lost is said."""
    journal = Journal(tmp_path / "desired")
    journal.record("fleet", load("first"), {KEY: LIFE})
    (tmp_path / "desired" / file).write_bytes(damage)
    assert names(journal) == ([] if file == "asked" else ["first"])
    assert len(pending(journal.entries("fleet"), journal.mark(KEY, LIFE))) == (file == "marks")
    assert "cannot be read" in caplog.text
    journal.record("fleet", load("second"), {KEY: LIFE})
    assert names(journal)[-1] == "second"
    assert (tmp_path / "desired" / f"{file}.damaged").read_bytes() == damage


def test_a_mark_is_of_one_life(tmp_path):
    journal = Journal(tmp_path / "desired")
    journal.record("fleet", load("m"), {KEY: LIFE})
    assert journal.mark(KEY, LIFE).done
    assert journal.mark(KEY, LIFE + 1).done == {}
    entry = journal.entries("fleet")[0]
    journal.carried_out(KEY, LIFE + 1, entry, "no such model")
    assert journal.mark(KEY, LIFE + 1).reasons == {"model m": "no such model"}
    assert journal.mark(KEY, LIFE).done == {}, "the life before is over"
    assert not pending(journal.entries("fleet"), journal.mark(KEY, LIFE + 1))
    journal.record("fleet", load("m"), {})
    assert pending(journal.entries("fleet"), journal.mark(KEY, LIFE + 1)), "asked anew"


def test_marks_that_are_forgotten_are_the_oldest(tmp_path):
    journal = Journal(tmp_path / "desired")
    journal.record("fleet", load("m"), dict.fromkeys(range(1, MOST_MARKED + 11), LIFE))
    assert not any(journal.mark(replica, LIFE).done for replica in (1, 10))
    assert all(journal.mark(replica, LIFE).done for replica in (11, 500, MOST_MARKED + 10))
