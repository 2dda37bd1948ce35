"""Every mistake in a policy file that Casbin lets pass, found at its line and column."""

from __future__ import annotations

import pytest

from governance.errors import PolicyError
from governance.policy.lint import lint
from governance.policy.parse import parse
from governance.policy.snapshot import PolicySnapshot

RULE = "p, role:a, t, model:m, infer, allow\n"
MEMBER = "g, user:u, role:a, t\n"

# (line put between a good rule and a good membership, column, code, what the message must say)
ERRORS = [
    ("P, role:a, t, model:m, infer, allow", 1, "unknown-line", "write `p`"),
    ("perm, role:a, t, model:m, infer, allow", 1, "unknown-line", "`perm`"),
    ("role:a, t, model:m, infer, allow", 1, "unknown-line", "missing before"),
    ("p2, role:a, t, model:m, infer, allow", 1, "unknown-line", "declares no `p2`"),
    ("  , role:a", 3, "unknown-line", "starts with a comma"),
    ("p", 1, "arity", "takes 5 fields"),
    ("p, role:a, t, model:m, infer", 1, "arity", "effect"),
    ("p, role:a, t, model:m, infer, allow, x", 1, "arity", "not 6"),
    ("p, role:a, t, model:m, infer, allow,", 1, "arity", "comma too many"),
    ("g, user:u, role:a", 1, "arity", "tenant is missing"),
    ("g, user:u, role:a, t, t2", 1, "arity", "not 4"),
    ("p, role:a, , model:m, infer, allow", 12, "empty-field", "tenant is empty"),
    ("p, role:a, t, model:m, infer, Deny", 31, "effect", "did you mean `deny`?"),
    ("p, role:a, t, model:m, infer, denied", 31, "effect", "did you mean `deny`?"),
    ("p, role:a, t, model:m, infer, ALLOW", 31, "effect", "did you mean `allow`?"),
    ("p, role:a, t, model:m, infer, no", 31, "effect", "write `allow` or `deny`"),
    ('p, "role:a", t, model:m, infer, allow', 4, "quotes", "remove"),
    ("p, 'role:a', t, model:m, infer, allow", 4, "quotes", "remove"),
    ("p, role:a, t, model:m, infer, allow # note", 37, "inline-comment", "line of its own"),
    ("p, role:a, t, model:m, infer, allow,# note", 37, "inline-comment", "line of its own"),
    ("p, role:a), t, model:m, infer, allow", 10, "brackets", "closes nothing"),
    ("p, role:(a, t, model:m, infer, allow", 9, "brackets", "never closed"),
    ("p, role:(a], t, model:m, infer, allow", 11, "brackets", "closes nothing"),
    ("p, role:a\u00a0, t, model:m, infer, allow", 10, "character", "U+00A0"),
    ("p, role:a\u200b, t, model:m, infer, allow", 10, "character", "U+200B"),
    ("p, role:a, t, model:m, infer, allow\rx", 36, "character", "U+000D"),
    ("\ufeffp, role:a, t, model:m, infer, allow", 1, "character", "U+FEFF"),
    # words that no request can hold
    ("p, alice, t, model:m, infer, allow", 4, "prefix", "`user:alice` or `role:alice`"),
    ("p, *, t, model:m, infer, allow", 4, "prefix", "nobody is called that"),
    ("p, User:alice, t, model:m, infer, allow", 4, "prefix", "`user:alice`"),
    ("p, user:, t, model:m, infer, allow", 4, "prefix", "user:"),
    ("g, alice, role:a, t", 4, "prefix", "user:alice"),
    ("g, user:alice, a, t", 16, "prefix", "role:a"),
    ("g, user:alice, user:bob, t", 16, "prefix", "role:bob"),
    ("p, role:a, t, credit, infer, allow", 15, "object", "write `model:credit`"),
    ("p, role:a, t, models:credit, infer, allow", 15, "object", "did you mean `model:`?"),
    ("p, role:a, t, model:, infer, allow", 15, "object", "needs a name"),
    ("p, role:a, t, polcy, infer, allow", 15, "object", "did you mean `policy`?"),
    ("p, role:a, t, dataset:x, infer, allow", 15, "object", "objects are"),
    ("p, role:a, t, mod*, infer, allow", 15, "object", "model:"),
    ("p, role:a, t, model:m, inferr, allow", 24, "action", "did you mean `infer`?"),
    ("p, role:a, t, model:m, write, allow", 24, "action", "actions are"),
    ("p, role:a, t, model:m, Infer, allow", 24, "action", "did you mean `infer`?"),
]


@pytest.mark.parametrize(("line", "column", "code", "says"), ERRORS)
def test_an_error_stands_where_it_is_and_refuses_the_policy(line, column, code, says):
    with pytest.raises(PolicyError) as caught:
        PolicySnapshot.compile(RULE + line + "\n" + MEMBER, "policy.csv")
    errors = [one for one in caught.value.findings if one.severity == "error"]
    assert [(one.line, one.column, one.code) for one in errors] == [(2, column, code)], str(caught.value)
    assert says in errors[0].message
    assert f"policy.csv:2:{column}: error: " in str(caught.value)


def test_a_byte_order_mark_is_an_error_and_nothing_else_is_lost():
    policy = parse(b"\xef\xbb\xbf" + RULE.encode(), "p")
    assert [(one.line, one.code) for one in policy.findings] == [(1, "bom")]
    assert len(policy.rules) == 1


@pytest.mark.parametrize(("data", "line", "column"), [(b"# a\np, \xff", 2, 4), ("p".encode("utf-16"), 1, 1)])
def test_bytes_that_are_no_utf_8(data, line, column):
    (finding,) = parse(data, "p").findings
    assert (finding.line, finding.column, finding.code) == (line, column, "encoding")


def test_what_is_fine_stays_fine():
    text = (
        '# a comment, with commas, and "quotes" # and another\n\n   \t\n\t# indented\n'
        "p,role:a ,t,\tmodel:m#2, infer,allow\r\n"
        "p, user:o'brien, t, model:caf\u00e9 au lait, infer, deny\n"
        "g, user:x(y), role:a, t"
    )
    policy = parse(text, "p")
    assert policy.findings == []
    assert [(rule.line, rule.values) for rule in policy.rules] == [
        (5, ("role:a", "t", "model:m#2", "infer", "allow")),
        (6, ("user:o'brien", "t", "model:caf\u00e9 au lait", "infer", "deny")),
    ]
    assert [one.values for one in policy.memberships] == [("user:x(y)", "role:a", "t")]
    assert policy.rules[0].columns == (3, 11, 13, 23, 29) or policy.rules[0].columns[0] == 3


TWO = "p, role:a, t, model:m, infer, allow\np, role:b, t, model:m, read, allow\n"

# Powers that nobody may hold together: (policy, line, column, code, what the message must say)
DUTIES = [
    ("p, user:a, *, policy, edit, allow\np, user:a, *, policy, approve, allow\n", 2, 23, "self-approval", "(by line 1)"),
    ("p, role:x, *, registry:*, approve, allow\np, role:y, *, registry:m, edit, allow\ng, user:a, role:x, *\ng, role:x, role:y, *\n", 1, 27, "self-approval", "`registry:m`"),
    ("p, user:a, *, *, *, allow\np, user:a, *, policy, approve, allow\n", 2, 23, "self-approval", "`policy`"),
    ("# sod: role:a, role:b\n" + TWO + "g, user:u, role:a, t\ng, user:u, role:b, t\n", 5, 12, "sod", "line 1 forbids"),
    ("# sod: role:a\n" + TWO, 1, 1, "sod", "two roles"),
    ("# SoD: role:a, b\n" + TWO, 1, 1, "sod", "two roles"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "column", "code", "says"), DUTIES)
def test_powers_that_nobody_should_hold_alone_are_errors(text, line, column, code, says):
    policy = parse(text, "p")
    lint(policy)
    (error,) = (one for one in policy.findings if one.severity == "error")
    assert (error.line, error.column, error.code) == (line, column, code), str(error)
    assert says in error.message


def test_a_denial_ends_a_self_approval():
    text = "p, user:a, *, policy, edit, allow\np, user:a, *, policy, approve, allow\np, user:a, *, policy, edit, deny\n"
    policy = parse(text, "p")
    lint(policy)
    assert not policy.broken


def test_roles_apart_in_other_tenants_are_apart():
    policy = parse("# sod: role:a, role:b\n" + TWO + "g, user:u, role:a, t\ng, user:u, role:b, s\n", "p")
    lint(policy)
    assert not policy.broken


# (policy, [(line, code)]) in file order
WARNINGS = [
    ("; note\n" + RULE + MEMBER, [(1, "semicolon")]),
    (RULE + RULE + MEMBER, [(2, "duplicate")]),
    (RULE + MEMBER + MEMBER, [(3, "duplicate")]),
    (RULE + RULE.replace("allow", "deny") + MEMBER, [(1, "unreachable")]),
    (RULE, [(1, "unknown-role")]),
    (RULE.replace("role:a", "user:u"), []),
    (RULE + MEMBER + "g, user:u, role:b, t\n", [(3, "unknown-role")]),
    (RULE + MEMBER + "g, user:u, role:a, tt\n", [(3, "orphan-tenant")]),
    (RULE + RULE.replace(" t,", " s,") + MEMBER, [(2, "unknown-role")]),
    ("p, user:u, *, model:m, infer, allow\n", [(1, "wildcard")]),
    ("p, user:u, *, model:m, infer, deny\n" + RULE + MEMBER, [(1, "conflict")]),
    (RULE + MEMBER + "p, role:b, t, model:*, *, deny\ng, user:u, role:b, t\n", [(3, "conflict")]),
    (RULE + MEMBER + "p, role:b, t, model:n*, *, deny\ng, user:u, role:b, t\n", []),
    ("p, role:a, t, model:*, infer, deny\n" + RULE + MEMBER, [(2, "unreachable")]),
    ("p, role:a, *, model:*, *, deny\n" + RULE + MEMBER, [(2, "unreachable")]),
    ("p, role:a, t, model:n*, infer, deny\n" + RULE + MEMBER, []),
    ("p, role:a, t, model:m*, infer, allow\n" + RULE + MEMBER, [(2, "shadowed")]),
    (RULE + "p, role:a, t, model:m, *, allow\n" + MEMBER, [(1, "shadowed"), (2, "wildcard")]),
    ("p, role:a, t, model:m, read, allow\n" + RULE + MEMBER, []),
    # powers
    ("p, role:a, *, *, *, allow\ng, user:u, role:a, *\n", [(1, "wildcard"), (1, "self-approval"), (2, "wildcard")]),
    ("p, role:a, *, policy, edit, allow\n", [(1, "unknown-role"), (1, "lockout"), (1, "governance-grant")]),
    ("p, user:a, *, policy, edit, allow\np, user:b, *, policy, approve, allow\n", [(1, "governance-grant"), (2, "governance-grant")]),
    ("p, user:a, *, policy, edit, allow\np, user:a, *, registry:m, approve, allow\n", [(1, "governance-grant"), (2, "governance-grant")]),
    # names
    (RULE + MEMBER + "g, user:U, role:a, t\n", [(3, "look-alike")]),
    (RULE + MEMBER + "g, user:v, role:\u0430, t\n", [(3, "unknown-role"), (3, "look-alike")]),
    (RULE + MEMBER + "p, role:a, t, model: m, infer, allow\n", [(3, "look-alike")]),
    ("# sod: role:a, role:b\n" + RULE + MEMBER, []),
    (RULE + MEMBER + "g, user:u, role:break-glass, *\n", []),
    ("p, user:u, t, *, read, allow\n", [(1, "wildcard")]),
    ("p, user:u, t, model:a*b, read, allow\n", [(1, "pattern")]),
    ("p, user:u, t, model:a*, read, allow\n", []),
    ("p, user:u, t, server, read, allow\n", [(1, "unreachable")]),
    ("p, user:u, *, server, read, allow\n", [(1, "governance-grant")]),
    ("p, role:a, *, *, read, allow\ng, user:u, role:a, *\n", [(1, "wildcard"), (2, "wildcard")]),
    (RULE + MEMBER + "g, role:a, role:a, t\n", [(3, "cycle")]),
    (RULE + MEMBER + "g, role:a, role:b, t\ng, role:b, role:a, t\n", [(4, "cycle")]),
    ("", [(1, "allows-nothing")]),
    ("p, user:u, t, model:m, infer, deny\n", [(1, "allows-nothing")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), WARNINGS)
def test_what_is_likely_wrong_is_a_warning(text, found):
    policy = parse(text, "p")
    lint(policy)
    assert [(one.line, one.code) for one in policy.findings] == found, [str(one) for one in policy.findings]
    assert all(one.severity == "warning" for one in policy.findings)
    snapshot = PolicySnapshot.compile(text, "p")
    for one in policy.findings:
        if one.code in ("conflict", "unreachable") and one.witness is not None:
            assert not snapshot.answer(one.witness).allow, str(one)
        if one.code in ("shadowed", "self-approval") and one.witness is not None:
            assert snapshot.answer(one.witness).allow, str(one)


def test_a_chain_that_casbin_stops_following_is_a_warning():
    def policy(hops: int) -> str:
        chain = ["user:u", *(f"role:r{n}" for n in range(1, hops + 1))]
        links = "".join(f"g, {one}, {other}, t\n" for one, other in zip(chain, chain[1:], strict=False))
        return f"p, role:r{hops}, t, model:m, infer, allow\n" + links

    fine = PolicySnapshot.compile(policy(9), "p")
    assert fine.findings == ()
    assert fine.decide("user:u", "t", "model:m", "infer").allow
    deep = PolicySnapshot.compile(policy(10), "p")
    assert [(one.line, one.code) for one in deep.findings] == [(11, "depth")]
    assert not deep.decide("user:u", "t", "model:m", "infer").allow


def test_a_misspelt_role_is_named():
    policy = parse(RULE + "g, user:u, role:A, t\n", "p")
    lint(policy)
    assert "did you mean `role:a`?" in policy.findings[1].message
