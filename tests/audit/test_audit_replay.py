"""`tidegate policy replay --log DIR`: every entry verified, and people's names only with their keys."""

from __future__ import annotations

import json
import shutil

import pytest
from audit_fixture import a_record, record_all

from gateway.cli import main
from governance.audit import erasure
from governance.audit.layout import Layout

NEW = "p, role:scorer, acme, model:income, infer, allow\ng, user:bob, role:scorer, acme\n"


def command(capsys, *words):
    status = main(["policy", "replay", *map(str, words), "--format", "json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else None, err


def seen(number, subject, allowed=True, **more):
    status = "200" if allowed else "403"
    return a_record(number, subject=subject, allowed=allowed, status=status, **more)


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "new.csv").write_text(NEW)
    return tmp_path / "new.csv"


def test_a_folder_is_read_and_verified(tmp_path, policy, capsys):
    state = tmp_path / "state"
    people = [seen(0, "user:alice"), seen(1, "user:bob", allowed=False), seen(2, "user:eve", roles=["scorer"])]
    record_all(state, [*people, *(seen(n, "user:bob") for n in range(3, 400)), a_record(400, kind="settings")])
    log = Layout(state).log
    status, result, _ = command(capsys, "--policy", policy, "--log", log)
    assert status == 0
    assert result == {
        "replayed": 400,
        "unreplayable": 1,
        "changed": [
            {"index": 0, "id": "request-0", "was": True, "now": False, "line": None},
            {"index": 1, "id": "request-1", "was": False, "now": True, "line": 1},
        ],
    }
    copy = shutil.copytree(log, tmp_path / "copy")
    key = (copy / "log.vkey").rename(tmp_path / "key")
    status, _, err = command(capsys, "--policy", policy, "--log", copy)
    assert (status, "--key FILE" in err) == (2, True)
    assert command(capsys, "--policy", policy, "--log", copy, "--key", key)[1] == result
    bundle = copy / "tile/entries/000"
    bundle.write_bytes(bundle.read_bytes().replace(b"user:bob", b"user:rob", 1))
    status, out, err = command(capsys, "--policy", policy, "--log", copy, "--key", key)
    assert (status, out, "audit verify" in err) == (2, None, True)
    bundle.unlink()
    assert command(capsys, "--policy", policy, "--log", copy, "--key", key)[:2] == (2, None)
    record_all(tmp_path / "other", [a_record()])
    status, _, err = command(capsys, "--policy", policy, "--log", log, "--key", Layout(tmp_path / "other").vkey)
    assert (status, "[unsigned]" in err) == (2, True)


def test_pseudonyms_are_opened_with_the_keys_alone(tmp_path, policy, capsys):
    state = tmp_path / "state"
    record_all(state, [seen(0, "user:alice"), seen(1, "user:bob"), seen(2, "user:alice")], erasure=True)
    config = tmp_path / "tidegate.yaml"
    config.write_text("upstreams: {t: {http: '127.0.0.1:1'}}\naudit: {erasure: true}\nstate_dir: state\n")
    log = Layout(state).log
    assert command(capsys, "--policy", policy, "--log", log)[1] == {"replayed": 0, "unreplayable": 3, "changed": []}
    result = command(capsys, "--policy", policy, "--log", log, "--config", config)[1]
    assert (result["replayed"], [one["index"] for one in result["changed"]]) == (3, [0, 2])
    erasure.erase(state, "user:alice")
    result = command(capsys, "--policy", policy, "--log", log, "--config", config)[1]
    assert result == {"replayed": 1, "unreplayable": 4, "changed": []}


def test_a_log_that_still_grows_is_read_to_its_checkpoint(tmp_path, policy, capsys):
    state = tmp_path / "state"
    record_all(state, [seen(n, "user:bob") for n in range(5)])
    log = Layout(state).log
    before = (log / "checkpoint").read_bytes()
    record_all(state, [seen(n, "user:bob") for n in range(5, 300)])
    (log / "checkpoint").write_bytes(before)
    assert command(capsys, "--policy", policy, "--log", log)[1]["replayed"] == 5


@pytest.mark.parametrize("pseudonyms", [False, True])
def test_settings_of_a_log_that_seals_nobody_are_no_error(tmp_path, policy, capsys, pseudonyms):
    """They are given for the names in them: `lint` and `report` hold the policy's against those."""
    state = tmp_path / "state"
    record_all(state, [seen(0, "user:alice"), seen(1, "user:bob")])
    config = tmp_path / "tidegate.yaml"
    audit = f"audit: {{pseudonyms: {str(pseudonyms).lower()}}}\n"
    config.write_text(f"upstreams: {{t: {{http: '127.0.0.1:1'}}}}\n{audit}state_dir: state\n")
    words = ["--log", Layout(state).log, "--config", config]
    status, result, err = command(capsys, "--policy", policy, *words)
    assert (status, result and result["replayed"]) == (0, 2), err
    assert main(["policy", "lint", "--policy", str(policy), *map(str, words)]) == 0
    assert "2 recorded decisions asked again" in capsys.readouterr().err


def test_settings_that_seal_need_their_keys(tmp_path, policy, capsys):
    record_all(tmp_path / "state", [seen(0, "user:alice")])
    config = tmp_path / "tidegate.yaml"
    config.write_text("upstreams: {t: {http: '127.0.0.1:1'}}\naudit: {erasure: true}\nstate_dir: state\n")
    status, _, err = command(capsys, "--policy", policy, "--log", Layout(tmp_path / "state").log, "--config", config)
    assert (status, "vault.db: no such file" in err) == (2, True)
