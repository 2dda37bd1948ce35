"""People in the log: pseudonyms, sealed names, erasure, holds; and what stays provable."""

import base64
import json
import sqlite3
import subprocess
import sys

import pytest
from audit_fixture import a_record, entries_of, record_all, records_of, sequencer

from governance.audit.erasure import erase, hold
from governance.audit.layout import Layout
from governance.audit.people import HeldError, Named, Vault
from governance.audit.proof import prove, verify_proof
from governance.audit.secrets import secret_key
from governance.audit.verify import read_keys, verify
from governance.errors import AuditInputError, AuditUnavailable

MASTER, DIGEST = b"m" * 32, b"d" * 32


@pytest.fixture
def vault(tmp_path):
    made = Vault(tmp_path / "vault.db", MASTER, DIGEST)
    yield made
    made.close()


def one(people, subject):
    return people.of([subject])[subject]


def files_of(state_dir):
    return b"".join(path.read_bytes() for path in sorted(state_dir.rglob("*")) if path.is_file())


def test_names_are_names_without_a_vault():
    person = one(Named(DIGEST), "user:alice")
    assert (person.subject, person.sealed) == ("user:alice", None)
    assert person.mac.hex(b"x") == one(Named(DIGEST), None).mac.hex(b"x")


def test_a_pseudonym_is_stable_and_says_nothing(vault, tmp_path):
    alice, bob = one(vault, "user:alice"), one(vault, "user:bob")
    assert alice.subject.startswith("person:")
    assert len({alice.subject, bob.subject}) == 2
    assert vault.unseal("user:alice", alice.sealed) == "user:alice"
    with pytest.raises(AuditInputError, match="another key"):
        vault.unseal("user:bob", alice.sealed)
    other = Vault(tmp_path / "vault.db", MASTER, DIGEST)
    assert one(other, "user:alice").subject == alice.subject
    other.close()
    assert b"alice" not in files_of(tmp_path)


def test_digests_of_two_people_cannot_be_matched(vault):
    alice, bob, nobody = one(vault, "user:alice"), one(vault, "user:bob"), one(vault, None)
    assert len({person.mac.hex(b"input") for person in (alice, bob, nobody)}) == 3
    assert alice.mac.hex(b"input") == one(vault, "user:alice").mac.hex(b"input")
    assert (nobody.subject, nobody.sealed) == (None, None)


def test_names_that_are_no_text_have_pseudonyms_too(vault):
    person = one(vault, "user:\udcff")
    assert vault.unseal("user:\udcff", person.sealed) == "user:\udcff"


def test_who_is_remembered_is_at_hand_until_the_file_changes(vault, tmp_path):
    assert vault.at_hand("user:alice") is None
    assert vault.at_hand(None) is None
    before = one(vault, "user:alice")
    assert vault.at_hand("user:alice") is None, "its own commit has changed the file"
    one(vault, "user:alice")
    assert vault.at_hand("user:alice") is before
    assert vault.at_hand(None) is one(vault, None)
    other = Vault(tmp_path / "vault.db", MASTER, DIGEST)
    assert vault.at_hand("user:alice") is before, "reading changes nothing"
    other.erase("user:alice")
    assert vault.at_hand("user:alice") is None
    after = one(vault, "user:alice")
    one(vault, "user:alice")
    assert vault.at_hand("user:alice") is after
    assert after.subject != before.subject
    other.close()


def test_nobody_is_at_hand_once_the_vault_is_closed(tmp_path):
    made = Vault(tmp_path / "vault.db", MASTER, DIGEST)
    for _ in range(2):
        one(made, "user:alice")
    assert made.at_hand("user:alice") is not None
    made.close()
    assert made.at_hand("user:alice") is None


def test_an_erased_person_is_nobody(vault, tmp_path):
    before = one(vault, "user:alice")
    other = Vault(tmp_path / "vault.db", MASTER, DIGEST)  # another worker, which has the key in memory
    assert one(other, "user:alice").subject == before.subject
    assert vault.erase("user:alice") == before.subject
    assert vault.pseudonym("user:alice") is None
    assert vault.erase("user:alice") is None
    with pytest.raises(AuditInputError, match="erased"):
        vault.unseal("user:alice", before.sealed)
    after = one(other, "user:alice")
    assert after.subject != before.subject
    assert after.mac.hex(b"x") != before.mac.hex(b"x")
    assert one(vault, "user:alice").subject == after.subject
    other.close()


def test_a_destroyed_key_is_not_in_the_file(tmp_path):
    vault = Vault(tmp_path / "vault.db", MASTER, DIGEST)
    one(vault, "user:alice")
    (wrapped,) = sqlite3.connect(tmp_path / "vault.db").execute("SELECT wrapped FROM subject").fetchone()
    assert wrapped in files_of(tmp_path)
    vault.erase("user:alice")
    vault.close()
    assert wrapped not in files_of(tmp_path)


def test_a_hold_blocks_erasure(vault):
    one(vault, "user:alice")
    assert vault.held("user:alice") is None
    vault.hold("user:alice", "case 7")
    assert vault.held("user:alice") == "case 7"
    with pytest.raises(HeldError, match="case 7"):
        vault.erase("user:alice")
    vault.hold("user:alice", None)
    assert vault.erase("user:alice")


def test_another_master_key_opens_nothing(vault, tmp_path):
    one(vault, "user:alice")
    other = Vault(tmp_path / "vault.db", b"x" * 32, DIGEST)
    assert other.pseudonym("user:alice") is None
    other.close()


def test_vaults_that_are_none(tmp_path):
    path = tmp_path / "vault.db"
    path.write_bytes(b"not a database" * 100)
    path.chmod(0o600)
    with pytest.raises(AuditInputError, match="not a vault"):
        Vault(path, MASTER, DIGEST)
    path.chmod(0o640)
    with pytest.raises(AuditInputError, match="chmod 600"):
        Vault(path, MASTER, DIGEST)


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "ab" * 31])
def test_keys_that_are_none(tmp_path, content):
    path = tmp_path / "master.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(AuditInputError, match="64 hexadecimal"):
        secret_key(path)


def test_a_vault_that_another_process_holds_makes_the_log_wait(vault, tmp_path, monkeypatch):
    monkeypatch.setattr("governance.audit.people._BUSY_S", 0.0)
    other = Vault(tmp_path / "vault.db", MASTER, DIGEST)
    vault._db.execute("BEGIN EXCLUSIVE")
    with pytest.raises(AuditUnavailable, match="locked"):
        one(other, "user:new")
    vault._db.execute("COMMIT")
    assert one(other, "user:new").subject
    other.close()


# --- in the log ---


def test_no_name_stands_in_any_file_of_the_log(tmp_path):
    records = [a_record(n, subject=f"user:{name}") for n, name in enumerate(["alice", "bob", "alice", "carol"])]
    body = [b"the same input"]
    record_all(tmp_path, records, erasure=True, bodies=[(body, body)] * 4)
    content = files_of(tmp_path)
    for name in (
        b"user:alice",
        b"user:bob",
        b"user:carol",
        b"the same input",
    ):  # "bob" alone stands in base64 by chance
        assert name not in content
    first, second, third, _ = records_of(tmp_path)
    assert first["subject"] == third["subject"] != second["subject"]
    assert first["input_digest"] == third["input_digest"] != second["input_digest"]


def test_erasure_is_recorded_and_everything_still_verifies(tmp_path):
    record_all(tmp_path, [a_record(number) for number in range(5)], erasure=True)
    log = Layout(tmp_path).log
    keys = read_keys(log / "log.vkey")
    entry = entries_of(tmp_path)[2]
    proof = prove(log, 2).encode()
    (tmp_path / "before").write_bytes((log / "checkpoint").read_bytes())
    pseudonym = records_of(tmp_path)[2]["subject"]

    assert hold(tmp_path, "user:alice", "case 7") == pseudonym
    assert erase(tmp_path, "user:alice").held == "case 7"
    assert hold(tmp_path, "user:alice", None) == pseudonym
    assert erase(tmp_path, "user:alice", "asked for").subject == pseudonym
    assert erase(tmp_path, "user:alice").subject == ""
    assert hold(tmp_path, "user:alice", "too late") == ""

    last = records_of(tmp_path)[5:]
    assert [(r["action"], r["phase"], r["outcome"]) for r in last] == [
        ("hold", None, "served"),
        ("erase", None, "refused"),
        ("release", None, "served"),
        ("erase", "start", "served"),
        ("erase", "end", "served"),
    ]
    assert {r["object"] for r in last} == {pseudonym}
    assert {r["kind"] for r in last} == {"erasure"}
    assert all(r["subject"].startswith("person:") for r in last)
    assert last[-1]["details"] == {"reason": "asked for"}
    # Entry and proof are what they were, in the log and in the copy that somebody kept.
    assert entries_of(tmp_path)[2] == entry
    assert verify(log, keys, [tmp_path / "before"]).ok
    assert verify_proof(proof, keys, entry, "p")[0].ok
    assert verify_proof(prove(log, 2).encode(), keys, entry, "p")[0].ok
    # Who comes back is somebody else.
    record_all(tmp_path, [a_record(9)], erasure=True)
    assert records_of(tmp_path)[-1]["subject"] != pseudonym


def test_erasure_beside_a_gateway_that_runs(tmp_path):
    """The gateway is the sequencer and has the key in memory; both keep their part."""
    import asyncio

    from governance.audit.log import AuditLog

    async def go():
        log = await asyncio.to_thread(lambda: AuditLog(tmp_path, mode="strict", erasure=True))
        await log.record(a_record(0))
        code = "import sys; from pathlib import Path; from governance.audit.erasure import erase; print(erase(Path(sys.argv[1]), 'user:alice').subject)"
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        )
        await log.record(a_record(1))
        await asyncio.to_thread(log.close)
        return done.stdout.strip()

    pseudonym = asyncio.run(go())
    records = records_of(tmp_path)
    first, last = (next(r for r in records if r["id"] == f"request-{number}") for number in (0, 1))
    assert first["subject"] == pseudonym != last["subject"]
    assert [r["phase"] for r in records if r["kind"] == "erasure"] == ["start", "end"]


def test_without_a_vault_nobody_can_be_erased(tmp_path):
    record_all(tmp_path, [a_record()])
    with pytest.raises(AuditInputError, match=r"audit\.erasure"):
        erase(tmp_path, "user:alice")


def test_a_crash_between_destroying_and_recording_shows(tmp_path, monkeypatch):
    record_all(tmp_path, [a_record()], erasure=True)
    real = Vault.erase

    def dies(self, subject):
        real(self, subject)
        raise KeyboardInterrupt

    monkeypatch.setattr(Vault, "erase", dies)
    with pytest.raises(KeyboardInterrupt):
        erase(tmp_path, "user:alice")
    made = sequencer(tmp_path, "")
    made.integrate()
    made.release()
    assert [(r["action"], r["phase"]) for r in records_of(tmp_path)[1:]] == [("erase", "start")]


def test_what_is_sealed_is_base64(vault):
    assert len(base64.b64decode(one(vault, "user:alice").sealed)) == 12 + len("user:alice") + 16
    assert json.dumps(one(vault, "user:alice").sealed)
