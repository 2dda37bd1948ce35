"""Why, and what would flip it: every reason is tried on a changed policy; comparisons against brute force."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import HealthCheck, assume, given, settings
from test_policy_command import command
from test_policy_differential import lines, requests, text_of

from governance.policy import PolicySnapshot
from governance.policy.compare import Grant, compare, replay
from governance.policy.explain import explain
from governance.policy.snapshot import read_policy

POLICY = """\
# who may score
p, role:scorer, acme, model:credit, infer, allow
p, role:suspended, acme, model:*, *, deny
p, role:lead, acme, model:*, read, allow
p, user:olga, *, policy, edit, allow
g, user:alice, role:senior, acme
g, role:senior, role:scorer, acme
g, user:mallory, role:scorer, acme
g, user:mallory, role:suspended, acme
g, user:bob, role:guest, acme
"""


def said(*request, roles=()):
    return explain(PolicySnapshot.compile(POLICY, "p", judge=False), request, roles)


def test_an_allowed_request_names_its_line_and_its_roles():
    found = said("user:alice", "acme", "model:credit", "infer")
    assert found.allow
    assert [(one.line, one.rule) for one in found.matched] == [(2, "p, role:scorer, acme, model:credit, infer, allow")]
    assert found.roles == [["user:alice", "role:senior", "role:scorer"]]
    assert found.nearest[0].line == 3
    assert found.nearest[0].missing == ["role:suspended in tenant acme"]
    assert found.nearest[0].grant == ["g, user:alice, role:suspended, acme"]


def test_a_denied_request_names_what_is_missing():
    found = said("user:bob", "acme", "model:credit", "infer")
    assert not found.allow
    assert found.matched == []
    assert found.roles == [["user:bob", "role:guest"]]
    assert found.nearest[0].line == 2
    assert found.nearest[0].held == ["tenant acme", "object model:credit", "action infer"]
    assert found.nearest[0].grant == ["g, user:bob, role:scorer, acme"]


def test_a_denial_that_wins_has_to_go():
    found = said("user:mallory", "acme", "model:credit", "infer")
    assert [one.line for one in found.matched] == [3]
    assert (found.nearest[0].line, found.nearest[0].remove, found.nearest[0].grant) == (2, [3], [])


def test_a_credentials_role_is_on_the_path():
    found = said("user:eve", "acme", "model:credit", "infer", roles=("senior",))
    assert found.allow
    assert found.roles == [["user:eve", "role:senior", "role:scorer"]]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines, requests)
def test_the_nearest_flips_the_decision(policy, request):
    before = PolicySnapshot.compile(text_of(policy), "p", judge=False)
    found = explain(before, request)
    assert found.allow is before.answer(request).allow
    assert bool(found.matched) is (before.answer(request).line is not None)
    assume(found.nearest)
    near = found.nearest[0]
    assert [len(one.missing) for one in found.nearest] == sorted(len(one.missing) for one in found.nearest)
    assume(all(field and field != "*" for field in request))  # a rule cannot be written for an empty object
    kept = [line for number, line in enumerate(policy, 1) if number not in near.remove]
    after = PolicySnapshot.compile(text_of(kept) + "".join(line + "\n" for line in near.grant), "p", judge=False)
    assert after.answer(request).allow is not found.allow


def brute(old: PolicySnapshot, new: PolicySnapshot, policies) -> tuple[set[Grant], set[Grant]]:
    users, tenants, objects, actions = set(), set(), set(), set()
    for line in itertools.chain(*policies):
        if line[0] == "p":
            users.add(line[1])
            tenants.add(line[2])
            objects.add(line[3])
            actions.add(line[4])
        else:
            users.update(line[1:3])
            tenants.add(line[3])
    gained, lost = set(), set()
    for request in itertools.product((u for u in users if u.startswith("user:")), tenants, objects, actions):
        was, now = old.answer(request).allow, new.answer(request).allow
        if was is not now:
            (gained if now else lost).add(Grant(*request))
    return gained, lost


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines, lines)
def test_a_comparison_is_that_of_every_request_that_can_be_named(one, other):
    old, new = (PolicySnapshot.compile(text_of(policy), "p", judge=False) for policy in (one, other))
    changes = compare(old, new)
    assert (set(changes.gained), set(changes.lost)) == brute(old, new, (one, other))
    flags = [grant.escalates for grant in changes.gained]
    assert flags == sorted(flags, reverse=True)


@pytest.fixture
def files(tmp_path) -> tuple[str, str]:
    (tmp_path / "old.csv").write_text(POLICY)
    draft = POLICY.replace("g, user:mallory, role:suspended, acme\n", "g, user:bob, role:scorer, acme\n")
    (tmp_path / "new.csv").write_text(draft.replace("policy, edit", "policy, approve"))
    return str(tmp_path / "old.csv"), str(tmp_path / "new.csv")


def test_diff_says_escalations_first(files, capsys):
    assert command("diff", *files, "--format", "json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["gained"][0] == {"subject": "user:olga", "tenant": "*", "object": "policy", "action": "approve"}
    assert {"subject": "user:bob", "tenant": "acme", "object": "model:credit", "action": "infer"} in result["gained"]
    assert {"subject": "user:olga", "tenant": "*", "object": "policy", "action": "edit"} in result["lost"]
    assert set(result) == {"gained", "lost"}
    assert command("diff", *files, "--exit-code") == 1
    assert "+ approve on policy in *   (look at it first)" in capsys.readouterr().out
    assert command("diff", files[0], files[0], "--exit-code") == 0
    assert command("diff", files[0], files[1] + "x") == 2


RECORDS = [
    {"index": 4, "id": "a", "subject": "user:mallory", "tenant": "acme", "object": "model:credit", "action": "infer", "roles": [], "status": 403},
    {"index": 5, "id": "b", "subject": "user:alice", "tenant": "acme", "object": "model:credit", "action": "infer", "roles": [], "status": 200},
    {"index": 6, "id": "c", "subject": "user:olga", "tenant": "acme", "object": "policy", "action": "edit", "roles": [], "status": 200},
    {"index": 7, "id": "d", "subject": "user:eve", "tenant": "acme", "object": "model:credit", "action": "infer", "roles": ["scorer"], "status": "OK"},
    {"index": 8, "id": "e", "subject": None, "tenant": None, "object": "model:credit", "action": "infer", "status": 401},
    {"index": 9, "id": "f", "subject": "p:9f3c", "tenant": "acme", "object": "model:credit", "action": "infer", "status": 200},
    {"index": 10, "kind": "settings"},
]  # fmt: skip


def test_recorded_requests_are_decided_again(files, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    assert command("replay", "--policy", files[1], "--log", str(log), "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "replayed": 4,
        "unreplayable": 3,
        "changed": [
            {"index": 4, "id": "a", "was": False, "now": True, "line": 2},
            {"index": 6, "id": "c", "was": True, "now": False, "line": None},
        ],
    }
    log.write_text(log.read_text() + "nonsense\n")
    assert command("replay", "--policy", files[1], "--log", str(log)) == 2
    assert f"{log}:8: no record" in capsys.readouterr().err
    assert command("replay", "--policy", files[1], "--log", str(tmp_path)) == 2
    assert "log.vkey" in capsys.readouterr().err


def test_what_is_in_force_replays_without_a_change(files):
    policy = PolicySnapshot.compile(POLICY, "p", judge=False)
    assert replay(policy, RECORDS).changed == []


def test_explain_as_a_program_sees_it(files, capsys):
    words = ("user:bob", "acme", "model:credit", "infer")
    assert command("explain", "--policy", files[0], *words, "--format", "json") == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"allow", "matched", "roles", "nearest", "snapshot"}
    assert {"line", "held", "missing"} <= set(result["nearest"][0])
    assert command("explain", "--policy", files[0], *words) == 0
    assert "3 of 4 hold; missing: role:scorer in tenant acme" in capsys.readouterr().out


def test_the_page_of_a_change_stands_alone_and_escapes(files, tmp_path, capsys):
    page = tmp_path / "change.html"
    (tmp_path / "new.csv").write_text(read_policy(tmp_path / "new.csv").decode() + "# <script>alert(1)</script>\n")
    (tmp_path / "tests.yaml").write_text(
        f"tests:\n  - {{name: '<b>bob', request: {json.dumps(['user:bob', 'acme', 'model:credit', 'infer'])}, allow: false}}\n"
    )
    assert command("report", *files, "--tests", str(tmp_path / "tests.yaml"), "--output", str(page)) == 0
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;b&gt;bob" in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.index("Look at first") < text.index("<td>approve</td>") < text.index("<h2>Grants</h2>")
    assert "FAILS" in text
    for hashed in (
        PolicySnapshot.load(tmp_path / "old.csv", judge=False),
        PolicySnapshot.load(tmp_path / "new.csv", judge=False),
    ):
        assert hashed.hash in text
    assert command("report", *files, "--output", str(tmp_path / "no" / "where.html")) == 2


def test_the_page_says_which_names_the_settings_do_not_know(files, tmp_path):
    config, page = tmp_path / "tidegate.yaml", tmp_path / "change.html"
    config.write_text("upstreams: {triton: {http: 127.0.0.1:1}}\nroutes: {loan: {}}\n")
    assert command("report", *files, "--output", str(page)) == 0
    assert "unknown model" not in page.read_text()
    assert command("report", *files, "--config", str(config), "--output", str(page)) == 0
    assert "unknown model `credit`" in page.read_text()
    config.write_text("nothing: 1\n")
    assert command("report", *files, "--config", str(config), "--output", str(page)) == 2
