"""`tidegate policy lint|decide|test` as programs see them."""

from __future__ import annotations

import argparse
import io
import json
import sys
import types

import pytest

from gateway.commands import policy as command_module

POLICY = """\
p, role:scorer, acme, model:credit, infer, allow
p, user:mallory, acme, model:credit, infer, deny
p, role:scorer, acme, model:unused, infer, allow
g, user:alice, role:scorer, acme
g, user:mallory, role:scorer, acme
"""
ALICE = ["user:alice", "acme", "model:credit", "infer"]
MALLORY = ["user:mallory", "acme", "model:credit", "infer"]
NOBODY = ["user:nobody", "acme", "model:credit", "infer"]


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command_module.add_parser(parser.add_subparsers())
    args = parser.parse_args(["policy", *words])
    return args.run(args)


@pytest.fixture
def policy(tmp_path) -> str:
    (tmp_path / "policy.csv").write_text(POLICY)
    return str(tmp_path / "policy.csv")


def test_decide_answers_line_by_line(policy, tmp_path, capsys):
    requests = tmp_path / "requests.jsonl"
    requests.write_text("\n".join(map(json.dumps, (ALICE, MALLORY, NOBODY))) + "\n")
    assert command("decide", "--policy", policy, "--requests", str(requests)) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"allow": True, "line": 1},
        {"allow": False, "line": 2},
        {"allow": False, "line": None},
    ]
    assert err == ""


def test_decide_reads_standard_input(policy, monkeypatch, capsys):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(json.dumps(ALICE).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert command("decide", "--policy", policy, "--format", "text") == 0
    assert capsys.readouterr().out == "allow by line 1\n"


@pytest.mark.parametrize(
    "line", ["{}", "[1, 2, 3, 4]", '["a", "b", "c"]', "nonsense", '["a", "b", "c", "d", "e"]', "\xff"]
)
def test_a_request_that_is_none_is_2_with_its_line(policy, tmp_path, capsys, line):
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes((json.dumps(ALICE) + "\n" + line + "\n").encode("latin-1"))
    assert command("decide", "--policy", policy, "--requests", str(requests)) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert err.count("\n") == 1
    assert f"{requests}:2: not a request" in err


@pytest.mark.parametrize("bad", ["p, a", "p, role:a, t, model:m, infer, Deny", "x", 'p, "a", t, model:m, infer, allow'])
def test_decide_with_a_policy_that_does_not_parse_is_2_in_one_line(tmp_path, capsys, bad):
    (tmp_path / "policy.csv").write_text(POLICY + bad + "\n")
    assert command("decide", "--policy", str(tmp_path / "policy.csv")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "policy.csv:6:" in err


def test_decide_judges_no_words(tmp_path, capsys):
    (tmp_path / "policy.csv").write_text("p, alice, t, data, write, allow\n")
    (tmp_path / "requests").write_text('["alice", "t", "data", "write"]\n')
    args = ("--policy", str(tmp_path / "policy.csv"), "--requests", str(tmp_path / "requests"))
    assert command("decide", *args) == 0
    assert json.loads(capsys.readouterr().out) == {"allow": True, "line": 1}


def test_lint(tmp_path, capsys):
    file = tmp_path / "policy.csv"
    file.write_text(POLICY + "p, role:scorer, acme, model:m, infr, allow\n")
    assert command("lint", "--policy", str(file), "--format", "json") == 1
    out, err = capsys.readouterr()
    findings = json.loads(out)["findings"]
    assert [(one["line"], one["severity"], one["code"]) for one in findings] == [(6, "error", "action")]
    assert set(findings[0]) == {"file", "line", "column", "severity", "code", "message"}
    assert err == ""
    assert command("lint", "--policy", str(file)) == 1
    assert f"{file}:6:32: error: " in capsys.readouterr().out


def test_lint_with_warnings_alone_is_0(tmp_path, capsys):
    file = tmp_path / "policy.csv"
    file.write_text(POLICY + POLICY)
    assert command("lint", "--policy", str(file), "--format", "json") == 0
    assert {one["severity"] for one in json.loads(capsys.readouterr().out)["findings"]} == {"warning"}


def test_test(policy, tmp_path, capsys):
    tests = tmp_path / "tests.yaml"
    tests.write_text(
        "tests:\n"
        f"  - {{name: alice scores, request: {json.dumps(ALICE)}, allow: true}}\n"
        f"  - {{name: mallory scores, request: {json.dumps(MALLORY)}, allow: true}}\n"
    )
    assert command("test", "--policy", policy, "--tests", str(tests), "--format", "json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "passed": 1,
        "failed": 1,
        "cases": [
            {"name": "alice scores", "passed": True, "got": True},
            {"name": "mallory scores", "passed": False, "got": False},
        ],
        "undecided_lines": [3],
    }
    tests.write_text(
        tests.read_text()
        .replace("mallory scores", "no")
        .replace("allow: true}\n  - {name: no", "allow: true}\n  - {name: no")
        .rsplit("true", 1)[0]
        + "false}\n"
    )
    assert command("test", "--policy", policy, "--tests", str(tests)) == 0
    assert "2 passed, 0 failed" in capsys.readouterr().err


def test_what_cannot_be_judged_is_2_in_one_line(policy, tmp_path, capsys):
    nowhere = str(tmp_path / "nowhere")
    bad_tests = tmp_path / "bad.yaml"
    bad_tests.write_text("tests: nonsense\n")
    for words in (
        ("lint", "--policy", nowhere),
        ("decide", "--policy", nowhere),
        ("decide", "--policy", policy, "--requests", nowhere),
        ("test", "--policy", policy, "--tests", nowhere),
        ("test", "--policy", policy, "--tests", str(bad_tests)),
        ("lint", "--policy", policy, "--model", nowhere),
    ):
        assert command(*words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("tidegate: ")
