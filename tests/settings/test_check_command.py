"""`tidegate check` and `tidegate keys new` as programs see them."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

import pytest

from gateway.commands import check, keys
from gateway.settings.file import load

GOOD = "upstreams: {triton: {http: 127.0.0.1:8000}}\n"


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    check.add_parser(subparsers)
    keys.add_parser(subparsers)
    args = parser.parse_args(words)
    return args.run(args)


def test_a_good_file_is_0(tmp_path, capsys):
    file = tmp_path / "tidegate.yaml"
    file.write_text(GOOD)
    assert command("check", str(file), "--format", "json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"ok": True, "findings": []}
    assert err == ""
    assert command("check", str(file)) == 0
    assert capsys.readouterr() == ("", f"{file}: ok\n")


@pytest.mark.parametrize("text", ["a: [", GOOD + GOOD, "upstreams: ${NOT_SET_ANYWHERE}\n", "", "\xff"])
def test_a_file_that_can_be_opened_is_judged(tmp_path, capsys, text):
    file = tmp_path / "tidegate.yaml"
    file.write_bytes(text.encode("latin-1"))
    assert command("check", str(file), "--format", "json") == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["ok"] is False
    assert set(result["findings"][0]) == {"file", "line", "column", "severity", "code", "message"}
    assert err == ""
    assert command("check", str(file)) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{file}:")
    assert err == f"{file}: not ok, 1 error, 0 warnings\n"


def test_a_file_that_cannot_be_opened_is_2_in_one_line(tmp_path, capsys):
    assert command("check", str(tmp_path / "nowhere.yaml"), "--format", "json") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "nowhere.yaml:1:1" in err
    assert "check the path" in err


def test_a_file_name_that_no_terminal_can_show(tmp_path, capfd):
    file = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml")
    assert command("check", file) == 2
    Path(file).write_text("a: [")
    assert command("check", file, "--format", "json") == 1
    assert json.loads(capfd.readouterr().out)["findings"][0]["file"] == file
    assert command("check", file) == 1
    assert "\\udcff.yaml:1:4: error" in capfd.readouterr().out


def test_warnings_alone_are_0(tmp_path, capsys):
    file = tmp_path / "tidegate.yaml"
    file.write_text(GOOD + "routes: {m: {assign_by: tenant}}\n")
    assert command("check", str(file), "--format", "json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is True
    assert [finding["severity"] for finding in result["findings"]] == ["warning"]


@pytest.mark.parametrize(("user", "tenant"), [("alice", "acme"), ("1", "true"), ("a: b", "off"), ("é'\"", "${X}")])
def test_the_line_of_a_new_key_is_what_the_settings_take(tmp_path, capsys, user, tenant):
    assert command("keys", "new", "--user", user, "--tenant", tenant, "--format", "json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["key"].startswith("tg_")
    assert len(made["key"]) == 46
    assert hashlib.sha256(made["key"].encode()).hexdigest() == made["sha256"]
    file = tmp_path / "tidegate.yaml"
    file.write_text(GOOD + "identity:\n  api_keys:\n    " + made["line"] + "\n", "utf-8")
    settings, findings = load(file, {})
    assert settings is not None, findings
    (key,) = settings.identity.api_keys
    assert (key.sha256, key.user, key.tenant) == (made["sha256"], user, tenant)


def test_a_new_key_as_text_is_key_and_line_alone(capsys):
    assert command("keys", "new", "--user", "alice", "--tenant", "acme") == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["key:", "line:"]
    assert "tg_" not in err


@pytest.mark.parametrize(("user", "tenant"), [("", "t"), (" a", "t"), ("a\n", "t"), ("user:a", "t"), ("a", "*")])
def test_names_that_the_settings_would_refuse_get_no_key(capsys, user, tenant):
    assert command("keys", "new", "--user", user, "--tenant", tenant) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tidegate: --")
