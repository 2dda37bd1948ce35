"""What a policy in force decides, by which line, and what a caller cannot make it do."""

from __future__ import annotations

import hashlib
import sys
import threading

import pytest

from governance.errors import GovernanceError, PolicyError
from governance.policy import PolicySnapshot, ask, request_of
from governance.policy.model import BUILTIN_MODEL
from governance.policy.snapshot import _GENERATION
from governance.types import Decision, Subject

POLICY = """\
# who may score
p, role:scorer, acme, model:credit, infer, allow
p, role:scorer, acme, model:*, read, allow
p, user:mallory, acme, model:credit, *, deny
p, role:admin, *, *, *, allow
p, role:ops, acme, *, *, allow
g, user:alice, role:scorer, acme
g, user:mallory, role:scorer, acme
g, user:root, role:admin, *
g, role:lead, role:scorer, acme
g, user:olga, role:ops, acme
"""
SNAPSHOT = PolicySnapshot.compile(POLICY, "policy.csv")


@pytest.mark.parametrize(
    ("request_", "allow", "line"),
    [
        (("user:alice", "acme", "model:credit", "infer"), True, 2),
        (("user:alice", "acme", "model:other", "infer"), False, None),
        (("user:alice", "acme", "model:other", "read"), True, 3),
        (("user:alice", "globex", "model:credit", "infer"), False, None),
        (("user:mallory", "acme", "model:credit", "infer"), False, 4),
        (("user:mallory", "acme", "model:other", "read"), True, 3),
        (("user:root", "*", "server", "configure"), True, 5),
        (("user:root", "acme", "model:credit", "infer"), False, None),
        (("user:olga", "acme", "model:credit", "load"), True, 6),
        (("user:nobody", "acme", "model:credit", "infer"), False, None),
        (("role:scorer", "acme", "model:credit", "infer"), True, 2),
        (("", "", "", ""), False, None),
        (("user:alice", "acme", "model:credit", "*"), False, None),
        (("user:alice", "*", "model:credit", "infer"), False, None),
        (("*", "*", "*", "*"), False, None),
    ],
)
def test_decisions_and_their_lines(request_, allow, line):
    assert SNAPSHOT.decide(*request_) == Decision(allow, line)
    assert SNAPSHOT.decide(*request_) == Decision(allow, line)  # from the cache


def test_a_deny_wins_wherever_it_stands_and_the_first_one_is_named():
    text = (
        "p, user:u, t, model:*, infer, allow\np, user:u, t, model:m, infer, allow\n"
        "p, user:u, t, *, infer, deny\np, user:u, t, model:m, *, deny\n"
    )
    assert PolicySnapshot.compile(text, "p").decide("user:u", "t", "model:m", "infer") == Decision(False, 3)


def test_nothing_is_allowed_by_default():
    empty = PolicySnapshot.compile("", "p")
    only_deny = PolicySnapshot.compile("p, user:u, t, model:m, infer, deny\n", "p")
    for snapshot in (empty, only_deny):
        for obj in ("model:m", "model:other", "server", "policy", "audit", "registry:m", "route:m", "*", ""):
            for act in ("infer", "read", "load", "configure", "edit", "*", ""):
                assert not snapshot.decide("user:u", "t", obj, act).allow
                assert not snapshot.decide("user:u", "*", obj, act).allow


@pytest.mark.parametrize("obj", ["policy", "audit", "server", "registry:m", "route:m"])
def test_a_tenants_own_star_never_reaches_governance_objects(obj):
    assert request_of(Subject("olga", "acme"), obj, "edit") == ("user:olga", "*", obj, "edit")
    assert not ask(SNAPSHOT, Subject("olga", "acme"), obj, "edit").allow
    assert ask(SNAPSHOT, Subject("root", "acme"), obj, "edit").allow


def test_models_are_asked_in_the_subjects_tenant():
    assert request_of(Subject("a", "acme"), "model:x", "infer") == ("user:a", "acme", "model:x", "infer")


def test_a_credentials_roles_hold_in_its_tenant_and_for_that_request():
    visitor = Subject("visitor", "acme", ("scorer",))
    assert ask(SNAPSHOT, visitor, "model:credit", "infer") == Decision(True, 2)
    assert ask(SNAPSHOT, Subject("visitor", "acme", ("x", "lead")), "model:credit", "infer") == Decision(True, 2)
    assert not ask(SNAPSHOT, Subject("visitor", "globex", ("scorer",)), "model:credit", "infer").allow
    assert not ask(SNAPSHOT, Subject("visitor", "acme"), "model:credit", "infer").allow
    # admin holds everywhere by its rule, but the role is the credential's and not of tenant `*`
    admin = Subject("visitor", "acme", ("admin",))
    assert ask(SNAPSHOT, admin, "model:credit", "load") == Decision(True, 5)
    assert not ask(SNAPSHOT, admin, "server", "configure").allow
    assert not SNAPSHOT.decide("user:visitor", "*", "server", "configure", ("admin",)).allow
    # a deny on the user still wins
    assert ask(SNAPSHOT, Subject("mallory", "acme", ("ops",)), "model:credit", "infer") == Decision(False, 4)


def test_a_credentials_role_counts_as_one_hop():
    chain = "".join(f"g, role:r{n}, role:r{n + 1}, t\n" for n in range(1, 10))
    text = "p, role:r9, t, model:nine, infer, allow\np, role:r10, t, model:ten, infer, allow\n" + chain
    snapshot = PolicySnapshot.compile(text, "p")
    assert snapshot.decide("user:u", "t", "model:nine", "infer", ("r1",)).allow
    assert not snapshot.decide("user:u", "t", "model:ten", "infer", ("r1",)).allow


def test_the_hash_is_that_of_the_bytes():
    assert SNAPSHOT.hash == hashlib.sha256(POLICY.encode()).hexdigest()
    assert SNAPSHOT.hash != PolicySnapshot.compile(POLICY + "\n", "policy.csv").hash
    assert PolicySnapshot.open_models().hash != PolicySnapshot.allow_all().hash


def test_without_a_policy_models_are_open_and_nothing_else():
    for snapshot in (PolicySnapshot.open_models(), PolicySnapshot.compile(None, "none")):
        for act in ("infer", "read"):
            assert snapshot.decide("user:u", "t", "model:m", act) == Decision(True, None)
        for act in ("load", "unload", "configure", "edit"):
            assert not snapshot.decide("user:u", "t", "model:m", act).allow
        for obj in ("server", "policy", "audit", "registry:m", "route:m"):
            assert not ask(snapshot, Subject("u", "t"), obj, "read").allow


def test_without_identity_everything_is_open():
    snapshot = PolicySnapshot.allow_all()
    assert ask(snapshot, Subject("anonymous", "public"), "server", "configure") == Decision(True, None)
    assert ask(snapshot, Subject("anonymous", "public"), "model:m", "unload") == Decision(True, None)


def test_names_that_callers_make_up_do_not_grow_the_snapshot():
    snapshot = PolicySnapshot.compile(POLICY, "p")
    for number in range(3 * _GENERATION):
        snapshot.decide(f"user:x{number}", f"t{number}", f"model:{number}", "infer", (f"r{number}",))
    assert len(snapshot._young) <= _GENERATION
    assert len(snapshot._old) <= _GENERATION
    assert len(snapshot.engine.roles["g"].known) == 5
    snapshot.decide("user:alice", "acme", "model:" + "x" * 5000, "infer")
    assert all(sum(map(len, key[:4])) < 600 for key in snapshot._young)


def test_a_snapshot_is_shared_by_threads():
    snapshot = PolicySnapshot.compile(POLICY, "p")
    wrong: list[object] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def hammer(seed: int) -> None:
        for number in range(400):
            name = f"model:{(number * seed) % 97}"
            if not snapshot.decide("user:alice", "acme", name, "read").allow:
                wrong.append(name)
            if snapshot.decide("user:alice", "globex", name, "read").allow:
                wrong.append(name)
            if snapshot.decide(f"user:{number}", "acme", "model:credit", "infer", ("scorer",)).line != 2:
                wrong.append(number)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in (1, 3, 5, 7)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []


def test_casbin_writes_no_log_of_requests(caplog, capfd):
    PolicySnapshot.compile(POLICY, "p").decide("user:alice", "acme", "model:secret", "infer")
    assert "secret" not in caplog.text
    assert "secret" not in "".join(capfd.readouterr())


def test_the_model_is_the_pinned_one():
    lines = [line for line in BUILTIN_MODEL.splitlines() if line]
    assert lines == [
        "[request_definition]", "r = sub, dom, obj, act",
        "[policy_definition]", "p = sub, dom, obj, act, eft",
        "[role_definition]", "g = _, _, _",
        "[policy_effect]", "e = some(where (p.eft == allow)) && !some(where (p.eft == deny))",
        "[matchers]",
        'm = g(r.sub, p.sub, r.dom) && (r.dom == p.dom || p.dom == "*") && keyMatch(r.obj, p.obj)'
        ' && (r.act == p.act || p.act == "*")',
    ]  # fmt: skip


GOOD_TESTS = b"""\
tests:
  - {name: alice scores, request: [user:alice, acme, model:credit, infer], allow: true}
  - {name: mallory does not, request: [user:mallory, acme, model:credit, infer], allow: false}
"""


def test_tests_run_at_compile():
    PolicySnapshot.compile(POLICY, "p", tests=(GOOD_TESTS, "t.yaml"))
    with pytest.raises(PolicyError) as caught:
        PolicySnapshot.compile(POLICY, "p", tests=(GOOD_TESTS.replace(b"true", b"false"), "t.yaml"))
    errors = [one for one in caught.value.findings if one.severity == "error"]
    assert [(one.file, one.line, one.code) for one in errors] == [("t.yaml", 2, "test-failed")]
    assert "allowed by line 2" in errors[0].message


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        (b"tests: [{name: a, request: [a, b, c], allow: true}]", 1, "wrong-value"),
        (b"tests:\n - {name: a, request: [a, b, c, d], allow: yes}", 2, "wrong-type"),
        (b"tests:\n - {name: a, request: [a, b, c, d], alow: true}", 2, "unknown-key"),
        (b"cases: []", 1, "unknown-key"),
        (b"tests: [\n", 1, "yaml"),
        (b"", 1, "empty"),
        (GOOD_TESTS + GOOD_TESTS.partition(b"\n")[2], 4, "duplicate-name"),
    ],
)
def test_a_broken_test_file_refuses_the_policy(text, line, code):
    with pytest.raises(PolicyError) as caught:
        PolicySnapshot.compile(POLICY, "p", tests=(text, "t.yaml"))
    assert (line, code) in [(one.line, one.code) for one in caught.value.findings if one.severity == "error"]


def test_load_reads_files_and_says_which_one_it_cannot(tmp_path):
    policy, tests = tmp_path / "policy.csv", tmp_path / "tests.yaml"
    policy.write_text(POLICY)
    tests.write_bytes(GOOD_TESTS)
    assert PolicySnapshot.load(policy, tests).hash == SNAPSHOT.hash
    for missing in ((tmp_path / "x", None), (policy, tmp_path / "x"), (tmp_path, None)):
        with pytest.raises(GovernanceError, match="cannot be read"):
            PolicySnapshot.load(*missing)
