"""The log that the gateway writes: what is recorded comes out, in any mode, through any number of processes."""

import asyncio
import hashlib
import hmac
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import rfc8785
from audit_fixture import a_log, a_record, entries_of, record_all, records_of, sequencer, write_segment

from governance.audit.layout import Layout
from governance.audit.log import AuditLog
from governance.audit.sequencing import sequencing_of
from governance.audit.verify import read_keys
from governance.errors import AuditBroken, AuditInputError, AuditUnavailable


@pytest.mark.parametrize("mode", ["async", "strict"])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_what_is_recorded_is_in_the_log(tmp_path, mode, count):
    record_all(tmp_path, [a_record(number) for number in range(count)], mode)
    entries = entries_of(tmp_path)
    assert [json.loads(entry)["id"] for entry in entries] == [f"request-{number}" for number in range(count)]
    assert [rfc8785.dumps(json.loads(entry)) for entry in entries] == entries


def test_there_is_a_signed_checkpoint_before_anything_happens(tmp_path):
    log = AuditLog(tmp_path, mode="async", origin="bank.example/gateway-1")
    try:
        assert entries_of(tmp_path) == []
        assert (tmp_path / "audit/checkpoint").read_text().startswith("bank.example/gateway-1\n0\n47DEQpj8HBSa")
        assert log.origin == "bank.example/gateway-1"
    finally:
        log.close()


def test_secrets_lie_outside_of_the_log_and_are_nobody_elses(tmp_path):
    record_all(tmp_path, [a_record()], erasure=True)
    layout = Layout(tmp_path)
    for path in (layout.signing_key, layout.digest_key, layout.master_key, layout.vault, layout.head):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert not path.is_relative_to(layout.log)
    assert stat.S_IMODE(layout.private.stat().st_mode) == 0o700
    layout.signing_key.chmod(0o644)
    with pytest.raises(AuditInputError, match="chmod 600"):
        AuditLog(tmp_path, mode="async")


def test_a_log_keeps_its_name(tmp_path):
    a_log(tmp_path, [b"x"], origin="first.example")
    with pytest.raises(AuditInputError, match=r"first\.example"):
        AuditLog(tmp_path, mode="async", origin="second.example")


def test_names_that_cannot_name_a_log_are_refused(tmp_path):
    with pytest.raises(AuditInputError, match=r"audit\.origin"):
        AuditLog(tmp_path, mode="async", origin="two words")


def test_digests_are_hmacs_of_the_bodies(tmp_path):
    body, answer = b'{"inputs": []}', [b"{}", bytearray(b"\0" * 5000), memoryview(b"tail")]
    record_all(tmp_path, [a_record(), a_record(1)], bodies=[([body], answer), (None, None)])
    key = bytes.fromhex(Layout(tmp_path).digest_key.read_text())
    first, second = records_of(tmp_path)
    assert first["input_digest"] == hmac.new(key, body, hashlib.sha256).hexdigest()
    assert first["output_digest"] == hmac.new(key, b"".join(answer), hashlib.sha256).hexdigest()
    assert second["input_digest"] is second["output_digest"] is None


def test_bodies_beyond_what_is_held_are_digested_on_the_spot(tmp_path, monkeypatch):
    monkeypatch.setattr("governance.audit.log._SMALL", -1)
    monkeypatch.setattr("governance.audit.log._MOST_HELD", -1)
    record_all(tmp_path, [a_record()], mode="async", bodies=[([b"abc"], None)])
    key = bytes.fromhex(Layout(tmp_path).digest_key.read_text())
    assert records_of(tmp_path)[0]["input_digest"] == hmac.new(key, b"abc", hashlib.sha256).hexdigest()


@pytest.mark.parametrize("mode", ["async", "strict"])
@pytest.mark.parametrize("erasure", [False, True])
def test_large_bodies_and_new_people_keep_their_place(tmp_path, mode, erasure):
    """Entries are made on the spot or on the thread; which of the two is nobody's business."""
    bodies = [([b"x" * size], None) for size in (10, 1 << 20, 20, 40_000, 0) for _ in range(8)]
    made = [a_record(number, subject=f"user:{number % 5}") for number in range(len(bodies))]
    record_all(tmp_path, made, mode, erasure=erasure, bodies=bodies)
    found = records_of(tmp_path)
    assert [record["id"] for record in found] == [f"request-{number}" for number in range(len(bodies))]
    assert len({record["subject"] for record in found}) == 5
    if not erasure:
        key = bytes.fromhex(Layout(tmp_path).digest_key.read_text())
        assert [record["input_digest"] for record in found] == [
            hmac.new(key, body[0], hashlib.sha256).hexdigest() for body, _ in bodies
        ]


_WRITER = """
import sys; sys.path[:0] = ["tests/audit", "."]
from pathlib import Path
from audit_fixture import a_record, record_all
who, count, mode = sys.argv[2], int(sys.argv[3]), sys.argv[4]
record_all(Path(sys.argv[1]), [a_record(i, id=f"{who}-{i}") for i in range(count)], mode)
"""


def test_several_processes_write_one_log(tmp_path):
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, name, "400", mode])
        for name, mode in [("a", "strict"), ("b", "async"), ("c", "async")]
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    ids = [record["id"] for record in records_of(tmp_path)]
    assert sorted(ids) == sorted(f"{name}-{number}" for name in "abc" for number in range(400))
    for name in "abc":  # each writer's own order is kept
        assert [i for i in ids if i.startswith(name)] == [f"{name}-{number}" for number in range(400)]
    assert list(Layout(tmp_path).wal.iterdir()) == []


def test_the_log_grows_over_many_steps_and_restarts(tmp_path):
    entries = [f"entry {number}".encode() for number in range(1000)]
    a_log(tmp_path, entries[:700], steps=7)
    a_log(tmp_path, entries[700:], steps=50)
    assert entries_of(tmp_path) == entries
    # Partial tiles go once the full one is there.
    log = Layout(tmp_path).log
    assert not list(log.glob("tile/0/000.p")) + list(log.glob("tile/entries/000.p"))
    assert list(log.glob("tile/entries/003.p/*"))


def test_more_than_one_level_of_full_tiles(tmp_path):
    entries = [number.to_bytes(4) for number in range(65536 + 300)]
    a_log(tmp_path, entries, steps=3)
    assert entries_of(tmp_path) == entries
    assert len((Layout(tmp_path).log / "tile/1/000").read_bytes()) == 8192


def test_large_segments_are_taken_in_several_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("governance.audit.sequencer.STEP_BYTES", 1000)
    made = sequencer(tmp_path)
    for number in range(3):
        write_segment(tmp_path, [f"{number} {i}".encode() * 20 for i in range(30)])
    steps = 1 + (made.integrate() > 0)
    while made.behind:
        made.integrate()
        steps += 1
    assert steps > 3
    assert len(entries_of(tmp_path)) == 90
    assert list(Layout(tmp_path).wal.iterdir()) == []
    made.release()


def test_keys_may_be_rotated(tmp_path):
    from governance.audit.note import Signer

    a_log(tmp_path, [b"one"], origin="example.com/audit")
    layout = Layout(tmp_path)
    first = layout.vkey.read_text()
    second = Signer("example.com/audit", bytes(32))
    with layout.signing_key.open("a") as stream:
        stream.write(second.skey + "\n")
    a_log(tmp_path, [b"two"], origin="example.com/audit")
    assert layout.vkey.read_text() == first + second.verifier.vkey + "\n"
    from independent import read_log

    assert read_log(layout.log, first) == read_log(layout.log, second.verifier.vkey) == [b"one", b"two"]
    layout.signing_key.write_text(second.skey + "\n")
    a_log(tmp_path, [], origin="example.com/audit")
    assert read_log(layout.log, second.verifier.vkey) == [b"one", b"two"]
    with pytest.raises(AssertionError):
        read_log(layout.log, first)


def test_an_older_state_never_forks_the_log(tmp_path):
    a_log(tmp_path, [b"one"])
    before = Layout(tmp_path).head.read_bytes()
    a_log(tmp_path, [b"two"])
    Layout(tmp_path).head.write_bytes(before)
    with pytest.raises(AuditBroken, match="fork"):
        sequencer(tmp_path)


def test_another_history_is_never_published(tmp_path):
    a_log(tmp_path / "a", [b"one"])
    a_log(tmp_path / "b", [b"1"])
    (tmp_path / "a/audit/checkpoint").write_bytes((tmp_path / "b/audit/checkpoint").read_bytes())
    with pytest.raises(AuditBroken, match="forked"):
        sequencer(tmp_path / "a")


@pytest.mark.parametrize("what", ["head", "checkpoint", "tile/0/000.p/3", "tile/entries/000.p/3", "no head", "no tile"])
def test_damage_stops_the_sequencer_and_says_where(tmp_path, what):
    log = a_log(tmp_path, [b"one", b"two", b"three"])
    head = Layout(tmp_path).head
    if what.startswith("no "):
        (head if what == "no head" else log / "tile/0/000.p/3").unlink()
    else:
        path = head if what == "head" else log / what
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(AuditBroken, match=r"audit/|head|audit:"):
        sequencer(tmp_path)


def test_refused_while_the_log_is_broken(tmp_path):
    async def go():
        log = await asyncio.to_thread(lambda: AuditLog(tmp_path, mode="async"))
        try:
            log.admit()
            log._sequencing._stop("somebody edited it")
            with pytest.raises(AuditUnavailable, match="edited"):
                log.admit()
        finally:
            await asyncio.to_thread(log.close)

    asyncio.run(go())
    assert (tmp_path / "audit-private/broken").read_text() == "somebody edited it"


def test_closed_logs_take_nothing(tmp_path):
    log = AuditLog(tmp_path, mode="async")
    log.close()

    async def go():
        with pytest.raises(AuditUnavailable):
            log.record(a_record())

    asyncio.run(go())


def test_the_second_process_waits_for_the_first_checkpoint(tmp_path):
    first = AuditLog(tmp_path, mode="async")
    second = AuditLog(tmp_path, mode="async")
    assert (first._sequencing._sequencer.holds, second._sequencing._sequencer.holds) == (True, False)
    first.close()
    second.close()
    assert Path(tmp_path / "audit/checkpoint").exists()


@pytest.mark.parametrize("orphan", [False, True])
def test_a_worker_leaves_it_to_its_parent_to_publish_what_it_wrote_last(tmp_path, monkeypatch, orphan):
    """And waits for who does it else, once the parent is gone."""
    monkeypatch.setattr("governance.audit.sequencing.INTERVAL_S", 3600.0)
    monkeypatch.setattr("governance.audit.sequencing._HANDOVER_S", 60.0)
    parent = sequencing_of(tmp_path)
    worker = AuditLog(tmp_path, mode="async", standby=True)

    async def go():
        worker.record(a_record())

    asyncio.run(go())
    if orphan:
        monkeypatch.setattr(os, "getppid", lambda: 1)
        parent._sequencer.release()
    worker.close()
    assert len(entries_of(tmp_path)) == orphan
    parent.close()
    assert len(entries_of(tmp_path)) == 1


def test_the_first_process_of_a_container_waits_for_who_writes_the_log_too(tmp_path, monkeypatch):
    """Its parent has the number 0, and is no sequencer."""
    monkeypatch.setattr("governance.audit.sequencing.INTERVAL_S", 3600.0)
    monkeypatch.setattr("governance.audit.sequencing._HANDOVER_S", 60.0)
    monkeypatch.setattr(os, "getppid", lambda: 0)
    worker = AuditLog(tmp_path, mode="async", standby=True)
    parent = sequencing_of(tmp_path)  # the worker was first
    asked = []
    acquire = parent._sequencer.acquire

    def once_more() -> bool:
        asked.append(acquire())
        if len(asked) == 1:
            worker._sequencing._sequencer.release()
        return asked[-1]

    monkeypatch.setattr(parent._sequencer, "acquire", once_more)
    parent.close()
    assert asked == [False, True]
    worker.close()


def test_a_sequencer_that_cannot_begin_leaves_the_lock(tmp_path):
    a_log(tmp_path, [b"one"])
    head = Layout(tmp_path).head
    content = head.read_bytes()
    head.write_bytes(b"?")
    with pytest.raises(AuditBroken):
        sequencing_of(tmp_path)
    head.write_bytes(content)
    sequencer(tmp_path, next(iter(read_keys(Layout(tmp_path).vkey))).name).release()


def test_processes_that_start_together_publish_one_key(tmp_path):
    """Workers do: whoever comes second must not find the first one's file gone from under it."""
    code = (
        "import sys; from pathlib import Path; from governance.audit.layout import Layout;"
        "from governance.audit.secrets import publish_vkeys, signing_keys;"
        "layout = Layout(Path(sys.argv[1])); sys.stdin.readline(); keys = signing_keys(layout); publish_vkeys(layout, keys);"
        "print(keys[0].verifier.vkey)"
    )
    Layout(tmp_path).make_private()
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for other in others:
        other.stdin.write("\n")
        other.stdin.flush()
    said = {other.communicate()[0].strip() for other in others}
    assert [other.returncode for other in others] == [0] * 6
    assert said == {(tmp_path / "audit" / "log.vkey").read_text().strip()}
