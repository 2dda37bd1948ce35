"""Our snapshot against pycasbin as its users run it: file adapter, own role manager, own enforce."""

from __future__ import annotations

from pathlib import Path

import casbin
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governance.policy.model import ACTIONS, BUILTIN_MODEL, key_match
from governance.policy.snapshot import PolicySnapshot

USERS = [f"user:u{n}" for n in range(4)]
ROLES = [f"role:r{n}" for n in range(5)]
TENANTS = ["t1", "t2", "*"]
OBJECTS = ["model:a", "model:ab", "model:b", "server", "policy", "registry:a", "route:a"]
PATTERNS = [*OBJECTS, "model:*", "model:a*", "model:*b", "*", "registry:*"]

rules = st.tuples(
    st.sampled_from(USERS + ROLES),
    st.sampled_from(TENANTS),
    st.sampled_from(PATTERNS),
    st.sampled_from([*ACTIONS[:3], "*"]),
    st.sampled_from(["allow", "allow", "deny"]),
)
memberships = st.tuples(st.sampled_from(USERS + ROLES), st.sampled_from(ROLES), st.sampled_from(TENANTS))
requests = st.tuples(
    st.sampled_from([*USERS, "user:stranger", "role:r0"]),
    st.sampled_from([*TENANTS, "t3"]),
    st.sampled_from([*OBJECTS, "model:abc", "", "*"]),
    st.sampled_from([*ACTIONS[:3], "edit", "*"]),
)
lines = st.lists(st.one_of(rules.map(lambda r: ("p", *r)), memberships.map(lambda g: ("g", *g))), max_size=25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("casbin")
    (path / "model.conf").write_text(BUILTIN_MODEL)
    return path


def oracle(folder: Path, text: str) -> casbin.Enforcer:
    (folder / "policy.csv").write_text(text)
    return casbin.Enforcer(str(folder / "model.conf"), str(folder / "policy.csv"))


def text_of(policy) -> str:
    return "".join(", ".join(line) + "\n" for line in policy)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines, st.lists(requests, min_size=1, max_size=12))
def test_the_verdict_is_casbins_and_the_line_is_the_first_that_decides(folder, policy, asked):
    text = text_of(policy)
    theirs = oracle(folder, text)
    ours = PolicySnapshot.compile(text, "policy.csv")
    for request in asked:
        decision = ours.decide(*request)
        assert decision.allow == theirs.enforce(*request), request
        # The line, found the slow way: each rule alone, as a policy of one rule.
        deciding = None
        for effect in ("deny", "allow"):
            for number, line in enumerate(policy, 1):
                if deciding is None and line[0] == "p" and line[5] == effect and matches(theirs, line, request):
                    deciding = number
        assert decision.line == deciding, (request, text)


def matches(enforcer: casbin.Enforcer, line: tuple[str, ...], request: tuple[str, ...]) -> bool:
    _, sub, dom, obj, act, _ = line
    return (
        enforcer.get_role_manager().has_link(request[0], sub, request[1])
        and dom in (request[1], "*")
        and casbin.util.key_match(request[2], obj)
        and act in (request[3], "*")
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines,
    st.lists(requests, min_size=1, max_size=8),
    st.lists(st.sampled_from(ROLES), max_size=2, unique=True),
)
def test_a_credentials_roles_are_memberships_of_that_request(folder, policy, asked, roles):
    ours = PolicySnapshot.compile(text_of(policy), "policy.csv")
    for sub, dom, obj, act in asked:
        added = [("g", sub, role, dom) for role in roles if dom != "*"]
        theirs = oracle(folder, text_of([*policy, *added]))
        decision = ours.decide(sub, dom, obj, act, tuple(role.removeprefix("role:") for role in roles))
        assert decision.allow == theirs.enforce(sub, dom, obj, act)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(7, 12), st.integers(0, 3), st.booleans())
def test_long_chains_end_where_casbins_do(folder, hops, skip, circle):
    chain = ["user:u0", *(f"role:c{n}" for n in range(1, hops + 1))]
    policy = [("p", chain[-1], "t1", "model:a", "infer", "allow")]
    policy += [("g", one, other, "t1") for one, other in zip(chain, chain[1:], strict=False)]
    policy += [("g", chain[0], chain[skip], "t1")] if skip else []
    policy += [("g", chain[-1], chain[1], "t1")] if circle else []
    text = text_of(policy)
    assert PolicySnapshot.compile(text, "p").decide("user:u0", "t1", "model:a", "infer").allow == oracle(
        folder, text
    ).enforce("user:u0", "t1", "model:a", "infer")


@given(st.text("ab*:/", max_size=6), st.text("ab*:/", max_size=6))
def test_key_match_is_casbins(key, pattern):
    assert key_match(key, pattern) == casbin.util.key_match(key, pattern)
