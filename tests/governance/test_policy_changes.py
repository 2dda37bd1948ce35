"""Change control: who may do which step, what is in force after it, and a ledger that nobody can bend."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import subprocess

import pytest
from test_policy_command import command

from gateway.cli import main
from gateway.policy_in_force import load_policy, pulse
from gateway.settings.file import load
from governance.audit.show import entries
from governance.errors import PolicyError
from governance.policy import PolicySnapshot
from governance.policy.changes import ChangeError, Ledger
from governance.policy.compare import replay

POLICY = b"""\
p, role:editor, *, policy, edit, allow
p, role:approver, *, policy, approve, allow
p, user:erin, acme, model:m, infer, allow
g, user:carol, role:editor, *
g, user:dave, role:approver, *
g, user:fay, role:approver, *
g, user:gus, role:break-glass, *
p, role:break-glass, *, server, read, allow
"""
DRAFT = POLICY + b"p, user:hal, acme, model:m, infer, allow\n"
HASH, DRAFT_HASH = (hashlib.sha256(text).hexdigest() for text in (POLICY, DRAFT))
NOW = dt.datetime.now(dt.UTC)
CAROL, DAVE, FAY, GUS = (f"user:{name}" for name in ("carol", "dave", "fay", "gus"))


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.adopt(POLICY) == HASH
    return ledger


def in_force(ledger: Ledger, later: dt.timedelta = dt.timedelta()) -> str | None:
    return ledger.state().in_force(dt.datetime.now(dt.UTC) + later)


def test_a_draft_takes_effect_with_its_last_approval(ledger):
    assert ledger.propose(DRAFT, CAROL, 2, "hal scores") == DRAFT_HASH
    assert in_force(ledger) == HASH
    assert not ledger.approve(DRAFT_HASH, DAVE)
    assert in_force(ledger) == HASH
    assert ledger.approve(DRAFT_HASH, FAY)
    assert in_force(ledger) == DRAFT_HASH
    assert ledger.text(DRAFT_HASH) == DRAFT
    assert [entry.kind for entry in ledger.entries()] == ["adopted", "proposed", "approved", "approved"]


def test_the_first_policy_is_adopted_once(ledger):
    assert ledger.adopt(DRAFT) == HASH
    assert len(ledger.entries()) == 1


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (lambda one: one.propose(DRAFT, DAVE, 1), "does not allow user:dave to `edit`"),
        (lambda one: one.propose(POLICY, CAROL, 1), "in force already"),
        (lambda one: one.approve(DRAFT_HASH, CAROL), "does not allow user:carol to `approve`"),
        (lambda one: one.approve("0" * 64, DAVE), "no open proposal"),
        (lambda one: [one.approve(DRAFT_HASH, DAVE) for _ in range(2)], "approved it already"),
        (lambda one: one.reject(DRAFT_HASH, DAVE, " "), "a reason is needed"),
        (lambda one: one.emergency(DRAFT, CAROL, "x", dt.timedelta(hours=1)), "no `role:break-glass`"),
        (lambda one: one.emergency(DRAFT, GUS, "", dt.timedelta(hours=1)), "a reason is needed"),
        (lambda one: one.emergency(DRAFT, GUS, "x", dt.timedelta(days=8)), "up to 7 days"),
        (lambda one: one.emergency(DRAFT, GUS, "x", dt.timedelta(0)), "up to 7 days"),
        (lambda one: one.roll_back(DRAFT_HASH, CAROL, "x"), "never in force"),
        (lambda one: one.roll_back(HASH, DAVE, "x"), "does not allow user:dave to `edit`"),
    ],
)
def test_what_is_not_allowed(ledger, step, says):
    ledger.propose(DRAFT, CAROL, 2)
    with pytest.raises(ChangeError, match=says):
        step(ledger)
    assert in_force(ledger) == HASH


def test_nobody_approves_their_own_even_with_both_rights(tmp_path):
    both = POLICY.replace(b"g, user:carol, role:editor, *\n", b"p, user:root, *, policy, *, allow\n")
    ledger = Ledger(tmp_path)
    ledger.adopt(both)
    draft = both + b"# more\n"
    ledger.propose(draft, "user:root", 1)
    with pytest.raises(ChangeError, match="somebody else must approve"):
        ledger.approve(hashlib.sha256(draft).hexdigest(), "user:root")


def test_other_bytes_are_another_proposal(ledger):
    ledger.propose(DRAFT, CAROL, 1)
    other = ledger.propose(DRAFT + b"# one word more\n", CAROL, 1)
    assert ledger.approve(DRAFT_HASH, DAVE)
    assert in_force(ledger) == DRAFT_HASH
    assert other in ledger.state().open


def test_a_proposal_that_could_not_take_effect_is_none(ledger):
    with pytest.raises(PolicyError):
        ledger.propose(DRAFT + b"p, x\n", CAROL, 1)
    tests = b"tests: [{name: hal does not, request: [user:hal, acme, model:m, infer], allow: false}]"
    with pytest.raises(PolicyError, match="hal does not"):
        ledger.propose(DRAFT, CAROL, 1, tests=(tests, "t.yaml"))
    assert len(ledger.entries()) == 1


def test_a_rejected_proposal_needs_a_new_one(ledger):
    ledger.propose(DRAFT, CAROL, 1)
    ledger.reject(DRAFT_HASH, DAVE, "too wide")
    with pytest.raises(ChangeError, match="no open proposal"):
        ledger.approve(DRAFT_HASH, FAY)
    ledger.propose(DRAFT, CAROL, 1)
    assert ledger.approve(DRAFT_HASH, FAY)


def test_an_emergency_ends_by_itself(ledger):
    ledger.emergency(DRAFT, GUS, "incident", dt.timedelta(hours=2))
    assert in_force(ledger) == DRAFT_HASH
    assert in_force(ledger, dt.timedelta(hours=1, minutes=59)) == DRAFT_HASH
    assert in_force(ledger, dt.timedelta(hours=2, minutes=1)) == HASH


def test_an_emergency_that_is_approved_stays(ledger):
    ledger.emergency(DRAFT, GUS, "incident", dt.timedelta(hours=2))
    other = DRAFT + b"# meanwhile\n"
    hashed = ledger.propose(other, CAROL, 1)
    ledger.approve(hashed, DAVE)
    assert in_force(ledger) == in_force(ledger, dt.timedelta(days=9)) == hashed


def test_rights_are_those_of_the_policy_in_force(ledger):
    without = DRAFT.replace(b"g, user:fay, role:approver, *\n", b"")
    ledger.propose(without, CAROL, 1)
    ledger.approve(hashlib.sha256(without).hexdigest(), FAY)
    ledger.propose(POLICY, CAROL, 1)
    with pytest.raises(ChangeError, match="user:fay"):
        ledger.approve(HASH, FAY)


def test_a_roll_back_is_a_step_forward(ledger):
    ledger.propose(DRAFT, CAROL, 1)
    ledger.approve(DRAFT_HASH, DAVE)
    ledger.roll_back(HASH, CAROL, "wrong model")
    assert in_force(ledger) == HASH
    assert [entry.kind for entry in ledger.entries()][-1] == "rolled-back"


def test_a_line_that_a_crash_tore_was_never_a_step(ledger):
    whole = ledger.file.read_bytes()
    ledger.propose(DRAFT, CAROL, 1)
    torn = ledger.file.read_bytes()
    for cut in range(len(whole), len(torn)):
        ledger.file.write_bytes(torn[:cut])
        assert [entry.kind for entry in ledger.entries()] == ["adopted"]
    assert ledger.propose(DRAFT, CAROL, 1) == DRAFT_HASH
    assert ledger.approve(DRAFT_HASH, DAVE)


@pytest.mark.parametrize(
    "bend",
    [
        lambda lines: [lines[0].replace("system", "user:x"), *lines[1:]],
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[0], lines[0], *lines[1:]],
        lambda lines: ["nonsense", *lines],
    ],
)
def test_a_bent_ledger_is_no_ledger(ledger, bend):
    ledger.propose(DRAFT, CAROL, 2)
    ledger.approve(DRAFT_HASH, DAVE)
    lines = ledger.file.read_text().splitlines()
    ledger.file.write_text("".join(line + "\n" for line in bend(lines)))
    with pytest.raises(ChangeError, match=r"changes\.jsonl:"):
        ledger.state()


def test_a_bent_text_is_no_text(ledger):
    (ledger.file.parent / "texts" / HASH).write_bytes(DRAFT)
    with pytest.raises(ChangeError, match="has been changed"):
        ledger.text(HASH)


KEYS = {name: f"tg_{name}" for name in ("carol", "dave", "gus")}


@pytest.fixture
def site(tmp_path):
    (tmp_path / "policy.csv").write_bytes(POLICY)
    keys = "".join(
        f"    - {{sha256: {hashlib.sha256(key.encode()).hexdigest()}, user: {name}, tenant: acme}}\n"
        for name, key in KEYS.items()
    )
    (tmp_path / "tidegate.yaml").write_text(
        "upstreams: {triton: {http: 127.0.0.1:1}}\npolicy: {file: policy.csv, approvals: 1}\nidentity:\n  api_keys:\n"
        + keys
    )
    return tmp_path


def load_site(site) -> PolicySnapshot:
    settings, findings = load(site / "tidegate.yaml")
    assert settings is not None, findings
    return load_policy(settings, settings.policy)


def test_an_edit_is_a_draft_until_somebody_else_agrees(site, monkeypatch, capsys):
    config = ("--config", str(site / "tidegate.yaml"))
    assert load_site(site).hash == HASH
    (site / "policy.csv").write_bytes(DRAFT)
    assert load_site(site).hash == HASH

    monkeypatch.setenv("TIDEGATE_API_KEY", "tg_nobody")
    assert command("propose", *config) == 2
    assert "holds no API key" in capsys.readouterr().err
    monkeypatch.setenv("TIDEGATE_API_KEY", KEYS["dave"])
    assert command("propose", *config) == 1
    monkeypatch.setenv("TIDEGATE_API_KEY", KEYS["carol"])
    assert command("propose", *config, "--reason", "hal scores", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["hash"] == DRAFT_HASH
    assert command("approve", *config, DRAFT_HASH) == 1
    settings, _ = load(site / "tidegate.yaml")
    before = pulse(settings)
    monkeypatch.setenv("TIDEGATE_API_KEY", KEYS["dave"])
    assert command("approve", *config, DRAFT_HASH) == 0
    assert pulse(settings) != before
    assert load_site(site).hash == DRAFT_HASH

    monkeypatch.setenv("TIDEGATE_API_KEY", KEYS["carol"])
    assert command("rollback", *config, HASH, "--reason", "wrong") == 0
    assert load_site(site).hash == HASH
    monkeypatch.setenv("TIDEGATE_API_KEY", KEYS["gus"])
    assert command("emergency", *config, "--hours", "1", "--reason", "incident") == 0
    assert load_site(site).hash == DRAFT_HASH
    capsys.readouterr()
    monkeypatch.delenv("TIDEGATE_API_KEY")
    assert command("history", *config, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["in_force"] == DRAFT_HASH
    assert [step["kind"] for step in found["steps"]] == ["adopted", "proposed", "approved", "rolled-back", "emergency"]
    assert command("history", *config, "--diffs") == 0
    assert "    +p, user:hal, acme, model:m, infer, allow" in capsys.readouterr().out


@pytest.mark.parametrize("erasure", [False, True])
def test_every_step_is_in_the_audit_log_and_so_is_every_refusal(site, monkeypatch, capsys, erasure):
    config = ("--config", str(site / "tidegate.yaml"))
    with (site / "tidegate.yaml").open("a") as stream:
        stream.write(f"audit: {{erasure: {str(erasure).lower()}, origin: bank.example/log}}\n")
    load_site(site)
    (site / "policy.csv").write_bytes(DRAFT)
    for who, *words, status in [
        ("dave", "propose", 1),
        ("carol", "propose", "--reason", "hal scores", 0),
        ("carol", "approve", DRAFT_HASH, 1),
        ("dave", "approve", DRAFT_HASH, 0),
        ("carol", "rollback", HASH, "--reason", "carol was wrong", 0),
        ("gus", "emergency", "--hours", "1", "--reason", "incident", 0),
    ]:
        monkeypatch.setenv("TIDEGATE_API_KEY", KEYS[who])
        assert command(words[0], *config, *words[1:]) == status
    capsys.readouterr()
    log = site / "state" / "audit"
    assert main(["audit", "verify", str(log), "--key", str(log / "log.vkey")]) == 0
    found = [json.loads(entry) for _, entry in entries(log)]
    assert [(one["kind"], one["details"]["step"], one["outcome"], one["allowed"]) for one in found] == [
        ("policy", "propose", "refused", None),
        ("policy", "propose", "served", True),
        ("approval", "approve", "refused", None),
        ("approval", "approve", "served", True),
        ("policy", "rollback", "served", True),
        ("policy", "emergency", "served", None),
    ]
    assert [one["policy"] for one in found] == [HASH] * 4 + [DRAFT_HASH, HASH]
    assert {one["object"] for one in found} == {"policy"}
    assert found[3]["details"] == {"hash": DRAFT_HASH, "in_force": True, "step": "approve"}
    if erasure:
        whole = b"".join(path.read_bytes() for path in log.rglob("*") if path.is_file())
        assert not any(name.encode() in whole for name in KEYS)
        assert len({one["subject"] for one in found}) == 3
    else:
        assert [one["subject"] for one in found] == [DAVE, CAROL, CAROL, DAVE, CAROL, GUS]
        assert replay(PolicySnapshot.compile(POLICY, "p"), found).changed == []
        assert len(replay(PolicySnapshot.compile(b"", "p"), found).changed) == 3


def test_a_checkouts_commit_is_recorded(site, monkeypatch, capsys):
    def git(*words):
        subprocess.run(
            ["git", "-C", str(site), "-c", "user.name=x", "-c", "user.email=x@y", *words],
            check=True,
            capture_output=True,
        )

    load_site(site)
    (site / "policy.csv").write_bytes(DRAFT)
    git("init")
    git("add", "policy.csv")
    git("commit", "-m", "hal")
    head = subprocess.run(
        ["git", "-C", str(site), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout
    monkeypatch.setenv("TIDEGATE_API_KEY", KEYS["carol"])
    assert command("propose", "--config", str(site / "tidegate.yaml")) == 0
    assert Ledger(site / "state" / "policy").entries()[-1].commit == head.strip()


def test_a_ledger_that_cannot_be_trusted_lets_nothing_take_effect(site):
    load_site(site)
    settings, _ = load(site / "tidegate.yaml")
    file = settings.state_dir / "policy" / "changes.jsonl"
    file.write_text(file.read_text().replace("system", "user:x") + "{}\n")
    with pytest.raises(PolicyError, match="change-control"):
        load_site(site)


def test_approvals_need_keys_and_the_built_in_model(tmp_path):
    (tmp_path / "policy.csv").write_bytes(POLICY)
    file = tmp_path / "tidegate.yaml"
    for more, says in (("approvals: 1}", "API keys"), ("approvals: 1, model: policy.csv}", "own cannot be approved")):
        file.write_text("upstreams: {triton: {http: 127.0.0.1:1}}\npolicy: {file: policy.csv, " + more + "\n")
        settings, findings = load(file)
        assert settings is None
        assert any(says in one.message for one in findings), findings
