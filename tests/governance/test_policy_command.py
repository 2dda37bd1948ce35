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
    assert [(one["line"], one["severity"], one["code"]) for one in findings] == [
        (2, "warning", "conflict"),
        (6, "error", "action"),
    ]
    assert findings[0]["witness"] == MALLORY
    assert findings[1]["fix"] == "p, role:scorer, acme, model:m, infer, allow"
    assert set(findings[1]) == {"file", "line", "column", "severity", "code", "message", "fix"}
    assert err == ""
    assert command("lint", "--policy", str(file)) == 1
    assert f"{file}:6:32: error: " in capsys.readouterr().out


def test_lint_with_warnings_alone_is_0(tmp_path, capsys):
    file = tmp_path / "policy.csv"
    file.write_text(POLICY + POLICY)
    assert command("lint", "--policy", str(file), "--format", "json") == 0
    assert {one["severity"] for one in json.loads(capsys.readouterr().out)["findings"]} == {"warning"}


def test_lint_with_a_log_names_rules_that_no_decision_needed(tmp_path, capsys):
    file = tmp_path / "policy.csv"
    file.write_text(
        POLICY + "p, user:mallory, acme, model:credit, read, allow\np, user:eve, *, registry:*, edit, allow\n"
    )
    log = tmp_path / "log.jsonl"
    fields = ("subject", "tenant", "object", "action")
    records = [{**dict(zip(fields, one, strict=True)), "status": "200"} for one in (ALICE, MALLORY, ALICE)]
    log.write_text("\n".join(json.dumps(one) for one in [*records, {"kind": "settings"}]))
    assert command("lint", "--policy", str(file), "--log", str(log), "--format", "json") == 0
    out, err = capsys.readouterr()
    # Reading leaves no record when it is allowed, so that the log says nothing of line 6.
    found = [(one["line"], one["message"]) for one in json.loads(out)["findings"] if one["code"] == "unused"]
    message = "matches none of 3 recorded decisions: nothing would have changed without it"
    assert found == [(3, message), (7, message)]
    assert "3 recorded decisions asked again, 1 cannot be" in err
    step = {"kind": "registry", "outcome": "served", "subject": "user:eve", "object": "registry:m", "action": "edit"}
    log.write_text(json.dumps({**step, "tenant": None}))
    assert command("lint", "--policy", str(file), "--log", str(log), "--format", "json") == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [one["line"] for one in findings if one["code"] == "unused"] == [1, 2, 3]
    assert command("lint", "--policy", str(file), "--log", str(tmp_path / "nowhere")) == 2


def test_lint_with_settings_names_what_they_do_not_know(tmp_path, capsys):
    file = tmp_path / "policy.csv"
    file.write_text(POLICY)
    config = tmp_path / "tidegate.yaml"
    key = f"{{sha256: {'a' * 64}, user: alice, tenant: acme}}"
    config.write_text(
        f"upstreams: {{triton: {{http: 127.0.0.1:1}}}}\nroutes: {{credit: {{}}}}\nidentity: {{api_keys: [{key}]}}\n"
    )
    assert command("lint", "--policy", str(file), "--config", str(config), "--format", "json") == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [(one["line"], one["code"]) for one in findings] == [
        (2, "conflict"),
        (2, "unknown-user"),
        (3, "unknown-model"),
        (5, "unknown-user"),
    ]
    config.write_text("nothing: 1\n")
    assert command("lint", "--policy", str(file), "--config", str(config)) == 2


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


MODEL = """\
[request_definition]
r = who, what
[policy_definition]
p = priority, who, what, eft
[role_definition]
g = _, _
[policy_effect]
e = priority(p.eft) || deny
[matchers]
m = g(r.who, p.who) && keyMatch2(r.what, p.what)
"""


@pytest.fixture
def own(tmp_path) -> tuple[str, ...]:
    (tmp_path / "model.conf").write_text(MODEL)
    (tmp_path / "own.csv").write_text(
        "p, 2, staff, /a/:id, allow\np, 1, ann, /a/7, deny\ng, ann, staff\ng, bob, staff\n"
    )
    return "--policy", str(tmp_path / "own.csv"), "--model", str(tmp_path / "model.conf")


def test_a_model_of_ones_own(own, tmp_path, capsys):
    requests = tmp_path / "requests"
    requests.write_text('["ann", "/a/7"]\n["ann", "/a/8"]\n["bob", "/a/7"]\n["eve", "/a/7"]\n')
    assert command("decide", *own, "--requests", str(requests)) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"allow": False, "line": 2},
        {"allow": True, "line": 1},
        {"allow": True, "line": 1},
        {"allow": False, "line": None},
    ]
    tests = tmp_path / "tests.yaml"
    tests.write_text("tests: [{name: ann, request: [ann, /a/8], allow: true}]\n")
    assert command("test", *own, "--tests", str(tests), "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["undecided_lines"] == [2]
    assert command("lint", *own) == 0
    requests.write_text('["ann", "/a/7", "read"]\n')
    assert command("decide", *own, "--requests", str(requests)) == 2
    assert '3 fields): write ["WHO", "WHAT"]' in capsys.readouterr().err


def test_a_model_that_is_refused(own, tmp_path, capsys):
    (tmp_path / "model.conf").write_text(MODEL.replace("g(r.who, p.who)", "eval(p.who)"))
    assert command("decide", *own) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "model.conf:10:5: error: matcher: `eval` runs text" in err
    assert command("lint", *own, "--format", "json") == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [(one["file"], one["line"], one["code"]) for one in findings] == [(own[3], 10, "unsupported")]


def test_what_a_spreadsheet_did_is_undone(tmp_path, capsys):
    file = tmp_path / "policy.csv"
    saved = (
        '\ufeff"# Who may score, and who may not",,,,,\r\np,role:scorer,acme,model:credit,infer,Allow\r\n'
        '"p","user:mallory","acme","model:credit","infer","deny"\r\n,,,,,\r\ng,user:alice,role:scorer,acme,,\r\n'
    )
    file.write_bytes(saved.encode())
    assert command("lint", "--policy", str(file)) == 1
    capsys.readouterr()
    assert file.read_bytes() == saved.encode()
    assert command("lint", "--policy", str(file), "--fix") == 0
    assert "repaired (lines 1, 2, 3, 4, 5)" in capsys.readouterr().err
    assert file.read_bytes().decode() == (
        "# Who may score, and who may not\r\np, role:scorer, acme, model:credit, infer, allow\r\n"
        "p, user:mallory, acme, model:credit, infer, deny\r\n\r\ng, user:alice, role:scorer, acme\r\n"
    )


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("p;role:a;t;model:m;infer;allow", "p, role:a, t, model:m, infer, allow"),
        ("P, role:a, t, model:m, infer, DENY", "p, role:a, t, model:m, infer, deny"),
        ("p, role:a\u200b, t, model:m\u00a0, infer, allow", "p, role:a, t, model:m, infer, allow"),
        ("p, role:a, t, model:m, infer, allow # why", "# why\np, role:a, t, model:m, infer, allow"),
        ("; note", "# note"),
        # what would need a guess stays
        ("p, role:a, t, model:m, infer, denied", None),
        ('p, "role:a, b", t, model:m, infer, allow', None),
        ("p, role:a, t, model:m, infer", None),
        ("perm, role:a, t, model:m, infer, allow", None),
        ("p, role:(a, t, model:m, infer, allow", None),
    ],
)
def test_repairs_are_sure_or_not_made(tmp_path, capsys, line, becomes):
    file = tmp_path / "policy.csv"
    file.write_text(POLICY + line)
    command("lint", "--policy", str(file), "--fix", "--format", "json")
    assert file.read_text() == POLICY + (line if becomes is None else becomes)
    fixed = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["line"] > 5 and "fix" in one]
    assert fixed == []


def test_a_repair_that_cannot_be_written_is_2(tmp_path, capsys, monkeypatch):
    file = tmp_path / "policy.csv"
    file.write_bytes(b"\xef\xbb\xbf" + POLICY.encode())
    monkeypatch.setattr(
        type(file), "write_bytes", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    assert command("lint", "--policy", str(file), "--fix") == 2
    assert "cannot be written (Permission denied)" in capsys.readouterr().err
