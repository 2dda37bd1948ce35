"""The dossier of an incident: its records with proofs, its clocks, and a hold that keeps evidence from being erased."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from audit_fixture import a_record, record_all, records_of
from compliance_fixture import (
    BEGAN,
    accessible,
    decisions,
    entry,
    log_of,
    proved,
    read_json,
    run,
    summed,
    verify_proof,
)
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import main
from governance.audit.erasure import hold, hold_people
from governance.audit.people import Vault
from governance.compliance import clocks, times
from governance.compliance.pack import load

START = datetime.fromtimestamp(BEGAN, UTC)


def at(second):
    return times.short(START + timedelta(seconds=second))


def change(number, kind="settings"):
    return entry(
        number,
        kind=kind,
        action="edit",
        object=kind,
        model=None,
        id=None,
        details={"before": "0", "after": str(number)},
    )


@pytest.fixture
def site(tmp_path):
    entries = decisions(400)
    entries[3], entries[4], entries[200] = change(3), change(4, "policy"), change(200)
    log_of(tmp_path / "state", entries)
    return tmp_path


def dossier(site, *more):
    status = run("incident", "--log", site / "state/audit", "--aware", at(1000), "--output", site / "out", *more)
    return status, site / "out"


def test_an_incident_by_its_time(site):
    status, out = dossier(site, "--around", at(210), "--window", "20s")
    found = read_json(out / "incident.json")
    assert status == 0
    assert found["period"] == {
        "from": times.text_of(START + timedelta(seconds=190)),
        "to": times.text_of(START + timedelta(seconds=230)),
    }
    assert found["records"]["in_period"] == 40
    assert found["queries"]["around"]["cited"] == list(range(190, 230))
    assert found["queries"]["not-served"]["records"] == 8
    assert found["queries"]["changes"]["cited"] == [200]
    assert found["queries"]["before"]["cited"] == [3, 4]
    assert found["in_force"] == {"settings": 3, "policy": 4}
    assert found["hold"] is None
    assert any("No legal hold" in line for line in found["missing"])
    assert summed(out)
    key = (site / "state/audit/log.vkey").read_text()
    assert all(proved(out, one["index"], key) for one in found["cited"])
    page = accessible((out / "index.html").read_text())
    assert "Article 73(3)" in " ".join(page.words)
    assert verify_proof(out, 210) == 0


def test_an_incident_by_its_requests(site):
    status, out = dossier(site, "--request", "request-210", "--request", "request-220", "--window", "5s")
    found = read_json(out / "incident.json")
    assert status == 0
    assert found["queries"]["named"]["cited"] == [210, 220]
    assert found["queries"]["around"]["cited"] == list(range(205, 226))
    assert found["in_force"] == {"settings": 200, "policy": 4}


def test_a_request_that_the_log_does_not_have(site, capsys):
    status, out = dossier(site, "--request", "request-210", "--request", "nobody's")
    assert status == 1
    assert "missing: The log has no record of the request nobody's." in capsys.readouterr().out
    assert read_json(out / "incident.json")["queries"]["named"]["cited"] == [210]
    (site / "out").rename(site / "before")
    assert dossier(site, "--request", "nobody's")[0] == 1


def test_the_whole_log_can_be_kept(site):
    status, out = dossier(site, "--around", at(210), "--whole-log")
    assert status == 0
    assert summed(out)
    done = [sys.executable, "-m", "gateway", "audit", "verify", "log", "--key", "log/log.vkey", "--format", "json"]
    verified = json.loads(subprocess.run(done, cwd=out, capture_output=True, check=True).stdout)
    assert (verified["ok"], verified["size"]) == (True, 400)


def test_a_log_that_was_changed(site):
    bundle = site / "state/audit/tile/entries/000"
    bundle.write_bytes(bundle.read_bytes().replace(b"request-210", b"request-999"))
    status, out = dossier(site, "--around", at(210))
    assert status == 1
    assert "entry 210" in (out / "index.html").read_text()


@pytest.fixture
def sealed(tmp_path):
    people = ["alice", "bob", "alice", "carol", "dora"]
    records = [a_record(number, subject=f"user:{name}") for number, name in enumerate(people)]
    record_all(tmp_path / "state", records, erasure=True)
    (tmp_path / "tidegate.yaml").write_text("state_dir: state\nupstreams:\n  triton: {http: 127.0.0.1:8000}\n")
    return tmp_path


def erase(site, who):
    return main(["audit", "erase", "--config", str(site / "tidegate.yaml"), "--subject", f"user:{who}"])


def test_the_people_concerned_are_held_by_their_pseudonyms(sealed, capsys):
    pseudonyms = [record["subject"] for record in records_of(sealed / "state")]
    assert hold(sealed / "state", "user:bob", "case 1") == pseudonyms[1]
    assert erase(sealed, "carol") == 0
    requests = [word for number in (0, 1, 2, 3) for word in ("--request", f"request-{number}")]
    status, out = dossier(sealed, *requests, "--config", sealed / "tidegate.yaml", "--reason", "incident 7")
    found = read_json(out / "incident.json")
    assert status == 0
    assert found["hold"] == {
        "new": [pseudonyms[0]],
        "before": {pseudonyms[1]: "case 1"},
        "without_key": [pseudonyms[3]],
    }
    assert any("no key in this vault" in line for line in found["missing"])
    # The hold itself is a record of the log, and in the dossier with its proof.
    holds = [one for one in found["cited"] if one["record"]["action"] == "hold"]
    assert [
        (one["record"]["object"], one["record"]["details"]) for one in holds if one["record"]["object"] == pseudonyms[0]
    ] == [(pseudonyms[0], {"reason": "incident 7"})]
    assert all(one["proof"] for one in holds)
    assert (erase(sealed, "alice"), erase(sealed, "bob"), erase(sealed, "dora")) == (1, 1, 0)
    assert not any(
        name.encode() in path.read_bytes() for name in ("alice", "bob") for path in out.rglob("*") if path.is_file()
    )
    accessible((out / "index.html").read_text())


def test_a_second_hold_keeps_the_first_reason(sealed):
    pseudonym = records_of(sealed / "state")[0]["subject"]
    assert hold_people(sealed / "state", {pseudonym}, "one").new == [pseudonym]
    assert hold_people(sealed / "state", {pseudonym, "person:nobody"}, "two").before == {pseudonym: "one"}
    size = len(records_of(sealed / "state"))
    hold_people(sealed / "state", {pseudonym}, "three")
    assert len(records_of(sealed / "state")) == size


names = st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=1, max_size=6)


@given(names, st.data())
def test_holds_by_pseudonym_and_by_name_are_the_same_holds(tmp_path_factory, everybody, data):
    folder = tmp_path_factory.mktemp("vault")
    vault = Vault(folder / "vault.db", b"m" * 32, b"d" * 32)
    try:
        people = vault.of(everybody)
        chosen = data.draw(st.lists(st.sampled_from(everybody), unique=True))
        earlier = data.draw(st.lists(st.sampled_from(everybody), unique=True))
        for name in earlier:
            vault.hold(name, "earlier")
        pseudonyms = {people[name].subject for name in chosen}
        assert vault.held_of(pseudonyms) == {
            people[name].subject: "earlier" if name in earlier else None for name in chosen
        }
        assert vault.hold_people({*pseudonyms, "person:nobody"}, "now") == pseudonyms
        for name in everybody:
            assert vault.held(name) == ("earlier" if name in earlier else "now" if name in chosen else None)
    finally:
        vault.close()


def test_without_anything_sealed_there_is_nothing_to_hold(site):
    (site / "tidegate.yaml").write_text("state_dir: state\nupstreams:\n  triton: {http: 127.0.0.1:8000}\n")
    status, out = dossier(site, "--around", at(210), "--config", site / "tidegate.yaml")
    assert status == 0
    assert any("no hold was put on" in line for line in read_json(out / "incident.json")["missing"])


def test_the_clocks():
    aware = datetime(2026, 11, 30, 8, 15, tzinfo=UTC)
    found = clocks.due([load("eu-ai-act"), load("gdpr"), load("reg-b")], aware, aware + timedelta(days=3, minutes=1))
    assert [(one.due, one.citation, one.left) for one in found] == [
        ("2026-12-02T08:15:00Z", "Article 73(3)", "ended 1 d 0 h 1 min ago"),
        ("2026-12-03T08:15:00Z", "Article 33(1)", "ended 0 d 0 h 1 min ago"),
        ("2026-12-10T08:15:00Z", "Article 73(4)", "6 d 23 h 59 min left"),
        ("2026-12-15T08:15:00Z", "Article 73(2)", "11 d 23 h 59 min left"),
    ]


BAD = [
    (["--around", "today"], "write a day"),
    (["--around", "2026-11-30", "--window", "1w"], "is no duration"),
    (["--around", "2026-11-30", "--request", "x"], "not allowed with"),
    ([], "one of the arguments"),
]


@pytest.mark.parametrize(("more", "said"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_usage(site, capsys, more, said):
    with pytest.raises(SystemExit) as ended:
        dossier(site, *more)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


UNREADABLE = [
    (["--config", "nowhere.yaml"], "nowhere.yaml:1:1: error: cannot be read"),
    (["--pack", "gdpt"], "did you mean `gdpr`?"),
    (["--card", "nowhere"], "nowhere:1: cannot be read"),
]


@pytest.mark.parametrize(("more", "said"), UNREADABLE, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_judged(site, capsys, monkeypatch, more, said):
    monkeypatch.chdir(site)
    assert dossier(site, "--around", at(210), *more)[0] == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (site / "out").exists()


def test_a_hold_without_a_vault_is_refused_and_nothing_is_made(sealed, capsys):
    (sealed / "state/audit-private/vault.db").unlink()
    status, out = dossier(sealed, "--request", "request-0", "--config", sealed / "tidegate.yaml")
    assert status == 2
    assert "vault.db: no such file" in capsys.readouterr().err
    assert not out.exists()
