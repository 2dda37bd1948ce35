"""Witnesses: what one cosigns and what it refuses, and a log that has itself cosigned."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from audit_fixture import a_log, sequencer, write_segment
from hypothesis import given
from hypothesis import strategies as st
from independent import cosigned_at

from gateway.cli import main
from governance.audit.checkpoint import Checkpoint, unverified
from governance.audit.cosignature import Cosigner, cosigned, parse_cosigner, parse_cosigner_key
from governance.audit.cosigning import Cosigning, WitnessAddress
from governance.audit.layout import Layout
from governance.audit.note import NoteError, Signer, parse_vkey, sign_note
from governance.audit.secrets import signing_keys
from governance.audit.treefiles import TreeFiles
from governance.audit.witness import AddCheckpoint, Witness, parse_request
from governance.errors import AuditBroken
from kernels import merkle

NOW = 1_800_000_000
LOG = Signer("example.com/log", bytes(range(32)))
ENTRIES = [f"entry {number}".encode() for number in range(40)]


def root_of(entries):
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    return merkle.root(len(leaves), lambda level, at: merkle.fold(leaves[at << level : (at + 1) << level]))


def note_of(entries, signer=LOG, origin=None):
    return sign_note(Checkpoint(origin or signer.name, len(entries), root_of(entries)).text, [signer])


def proof_of(entries, old):
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    node = lambda level, at: merkle.fold(leaves[at << level : (at + 1) << level])  # noqa: E731
    return tuple(merkle.consistency_proof(old, len(leaves), node))


def asked(entries, old, **more):
    return AddCheckpoint(old, proof_of(entries, old), note_of(entries, **more)).encode()


@pytest.fixture
def witness(tmp_path):
    return Witness(Layout(tmp_path / "w"), [LOG.verifier], "example.com/other", clock=lambda: NOW)


def test_a_cosignature_is_what_the_specification_says(witness, tmp_path):
    answer = witness.add_checkpoint(asked(ENTRIES[:7], 0))
    assert (answer.status, answer.body.count(b"\n")) == (200, 1)
    note = note_of(ENTRIES[:7]) + answer.body
    vkey = Layout(tmp_path / "w").witness_vkey.read_text()
    assert cosigned_at(note, vkey) == NOW
    key = parse_cosigner_key(vkey.strip())
    assert key.name == "example.com/other/witness"
    assert cosigned(note, key) == NOW
    with pytest.raises(NoteError, match="does not verify"):
        cosigned(note.replace(b"\n7\n", b"\n8\n"), key)
    assert cosigned(note_of(ENTRIES[:7]), key) is None
    private = Layout(tmp_path / "w").witness_key
    assert private.stat().st_mode & 0o777 == 0o600
    assert parse_cosigner(private.read_text().strip()).key == key


def test_the_answers_are_those_of_tlog_witness(witness):
    assert witness.add_checkpoint(asked(ENTRIES[:5], 0)).status == 200
    stranger = Signer("example.com/stranger", bytes(32))
    impostor = Signer(LOG.name, bytes(32))
    for body, status in [
        (asked(ENTRIES[:9], 0, signer=stranger), 404),
        (asked(ENTRIES[:9], 5, signer=impostor), 403),
        (AddCheckpoint(10, (), note_of(ENTRIES[:9])).encode(), 400),
        (b"old 5\n\nno checkpoint\n", 400),
        (b"old 05\n\n" + note_of(ENTRIES[:5]), 400),
        (b"old -1\n\n" + note_of(ENTRIES[:5]), 400),
        (b"new 5\n\n" + note_of(ENTRIES[:5]), 400),
        (b"", 400),
        (b"\xff\n\n", 400),
        (AddCheckpoint(5, (bytes(32),) * 64, note_of(ENTRIES[:9])).encode(), 400),
        (AddCheckpoint(5, (), note_of(ENTRIES[:9])).encode(), 422),
        (AddCheckpoint(5, (bytes(32),), note_of(ENTRIES[:9])).encode(), 422),
        (AddCheckpoint(5, (bytes(32),), note_of(ENTRIES[:5])).encode(), 422),
        (AddCheckpoint(0, (), sign_note(Checkpoint(LOG.name, 0, bytes(32)).text, [LOG])).encode(), 409),
    ]:
        assert witness.add_checkpoint(body).status == status, body
    for old in (0, 4):
        stale = witness.add_checkpoint(asked(ENTRIES[:9], old))
        assert (stale.status, stale.body, stale.content_type) == (409, b"5\n", "text/x.tlog.size")
    assert witness.add_checkpoint(asked(ENTRIES[:5], 5)).status == 200, "once more the same"
    assert witness.add_checkpoint(asked(ENTRIES[:9], 5)).status == 200
    assert witness.add_checkpoint(asked(ENTRIES[:5], 5)).status == 409, "never a smaller one"


def test_an_empty_tree_has_one_root(witness):
    body = AddCheckpoint(0, (), sign_note(Checkpoint(LOG.name, 0, bytes(32)).text, [LOG])).encode()
    assert witness.add_checkpoint(body).status == 422
    assert witness.add_checkpoint(asked([], 0)).status == 200
    assert witness.add_checkpoint(asked(ENTRIES[:3], 0)).status == 200


def test_a_rewritten_log_is_not_cosigned_and_what_it_signed_is_kept(witness, tmp_path):
    assert witness.add_checkpoint(asked(ENTRIES[:8], 0)).status == 200
    other = [b"another", *ENTRIES[1:]]
    same = witness.add_checkpoint(asked(other[:8], 8))
    assert (same.status, same.suspicion.proved, same.suspicion.cosigned) == (409, True, 8)
    assert witness.add_checkpoint(asked(other[:8], 8)).suspicion is None, "said once"
    longer = witness.add_checkpoint(asked(other[:20], 8))
    assert (longer.status, longer.suspicion.proved, longer.suspicion.shown) == (422, False, 20)
    kept = {unverified(path.read_bytes()).size for path in (tmp_path / "w").rglob("*.contradicts-*")}
    assert kept == {8, 20}
    assert witness.add_checkpoint(asked(ENTRIES[:20], 8)).status == 200


def test_what_was_seen_outlives_a_restart_and_is_never_guessed(witness, tmp_path):
    assert witness.add_checkpoint(asked(ENTRIES[:8], 0)).status == 200
    again = Witness(Layout(tmp_path / "w"), [LOG.verifier])
    assert again.add_checkpoint(asked(ENTRIES[:9], 0)).body == b"8\n"
    (kept,) = (path for path in (tmp_path / "w/audit-private/witness").iterdir() if not path.suffix)
    kept.write_bytes(b"damaged")
    with pytest.raises(AuditBroken, match="restore"):
        again.add_checkpoint(asked(ENTRIES[:9], 0))


def test_workers_agree_on_what_was_seen(tmp_path):
    """Many at once, each with a witness of its own over one folder: sizes only grow."""
    workers = [Witness(Layout(tmp_path / "w"), [LOG.verifier]) for _ in range(4)]
    sizes, lock = [0], threading.Lock()

    def push(number):
        size = 1 + number % len(ENTRIES)
        for _ in range(3):
            old = sizes[-1]
            if size < old:
                return
            answer = workers[number % 4].add_checkpoint(asked(ENTRIES[:size], old))
            if answer.status == 200:
                with lock:
                    sizes.append(max(size, sizes[-1]))
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(push, range(40)))
    latest = int(workers[0].add_checkpoint(asked(ENTRIES, 0)).body)
    assert latest == sizes[-1]


@given(st.integers(0, 2**62), st.lists(st.binary(min_size=32, max_size=32), max_size=63), st.binary(max_size=200))
def test_requests_are_read_as_they_are_written(old, proof, note):
    request = AddCheckpoint(old, tuple(proof), note)
    assert parse_request(request.encode()) == request


@given(st.binary(max_size=300))
def test_no_body_breaks_the_witness(body):
    try:
        request = parse_request(body)
    except ValueError:
        return
    assert request.encode() == body


@contextmanager
def served(witness):
    """The witness over HTTP; its submission prefix."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/prefix/add-checkpoint"
            answer = witness.add_checkpoint(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(answer.status)
            self.send_header("content-type", answer.content_type)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/prefix/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def site(tmp_path):
    """A log of 300 entries, a witness of it, and what asks."""
    state = tmp_path / "log"
    a_log(state, [f"entry {number}".encode() for number in range(300)])
    layout = Layout(state)
    witness = Witness(Layout(tmp_path / "w"), [parse_vkey(layout.vkey.read_text().strip())])
    key = parse_cosigner_key(Layout(tmp_path / "w").witness_vkey.read_text().strip())
    with served(witness) as url:
        asking = Cosigning(layout, [WitnessAddress(url, key)])
        yield state, layout, key, asking
        asking.close()


def grow(state, entries):
    made = sequencer(state)
    write_segment(state, entries)
    made.integrate()
    made.release()


def verify(capsys, log, *words):
    status = main(["audit", "verify", str(log), "--key", str(log / "log.vkey"), *map(str, words), "--format", "json"])
    result = json.loads(capsys.readouterr().out)
    return status, result, [finding["code"] for finding in result["findings"]]


def test_a_log_has_itself_cosigned_and_auditors_can_ask_for_it(site, tmp_path, capsys):
    state, layout, key, asking = site
    keys = tmp_path / "w/audit/witness.vkey"
    assert verify(capsys, layout.log, "--witness", keys)[2] == ["unwitnessed"]
    for size in (300, 300, 301, 900):
        if size > 300:
            grow(state, [b"more"] * (size - unverified(layout.checkpoint.read_bytes()).size))
        asking.step()
        note = layout.witnessed(key.id).read_bytes()
        assert unverified(note).size == size
        assert cosigned_at(note, key.vkey)
    grow(state, [b"not yet seen"])
    status, result, _ = verify(capsys, layout.log, "--witness", keys)
    assert (status, result["size"], result["witnessed"]) == (0, 901, 900)
    assert "witnessed" not in verify(capsys, layout.log)[1]
    note = layout.witnessed(key.id).read_bytes()
    layout.witnessed(key.id).write_bytes(note.replace(b"\n900\n", b"\n899\n"))
    assert "signature" in verify(capsys, layout.log, "--witness", keys)[2]


def test_one_who_asks_anew_is_told_where_the_witness_is(site, tmp_path):
    state, layout, key, asking = site
    asking.step()
    layout.witnessed(key.id).unlink()
    grow(state, [b"more"])
    anew = Cosigning(layout, asking._witnesses)
    anew.step()
    assert not layout.witnessed(key.id).exists(), "one process asks"
    asking.close()
    anew.step()
    anew.close()
    assert unverified(layout.witnessed(key.id).read_bytes()).size == 301


@pytest.mark.parametrize("size", [100, 300, 700])
def test_a_rewritten_history_is_found(site, tmp_path, capsys, caplog, size):
    """Its own key signs it, its files agree with each other, and only its witness knows better."""
    state, layout, key, asking = site
    asking.step()
    seen = layout.witnessed(key.id).read_bytes()
    shutil.rmtree(layout.log / "tile")
    for path in (layout.head, layout.checkpoint):
        path.unlink()
    grow(state, [b"rewritten %d" % number for number in range(size)])
    assert verify(capsys, layout.log)[:2][0] == 0, "by itself it holds"
    asking.step()
    (told,) = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert ("taken back" if size < 300 else "another history") in told.getMessage()
    assert layout.witnessed(key.id).read_bytes() == seen
    found = verify(capsys, layout.log, "--witness", tmp_path / "w/audit/witness.vkey")
    assert (found[0], set(found[2])) == (1, {"rolled-back" if size < 300 else "forked"})
    asking.step()
    assert len([record for record in caplog.records if record.levelname == "CRITICAL"]) == 1, "said once"


def test_a_witness_that_is_away_or_another_is_said(tmp_path, caplog):
    state = tmp_path / "log"
    a_log(state, [b"one"])
    layout = Layout(state)
    key = Cosigner("example.com/w", bytes(32)).key
    asking = Cosigning(layout, [WitnessAddress("http://127.0.0.1:1", key)])
    asking.step()
    asking.step()
    assert [record.getMessage() for record in caplog.records] == [
        "the witness example.com/w cannot be asked: ConnectionRefusedError"
    ]
    caplog.clear()
    real = Witness(Layout(tmp_path / "w"), [signing_keys(layout)[0].verifier])
    with served(real) as url:
        other = Cosigning(layout, [WitnessAddress(url, key)])
        asking.close()
        other.step()
        other.close()
    assert ["signs with another key" in record.getMessage() for record in caplog.records] == [True]
    assert TreeFiles(layout.log, 1).entry(0) == b"one"
