"""Records of decisions, decided again: what comes out is what a gateway under that policy would have decided."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_policy_differential import ACTIONS, OBJECTS, ROLES, lines, text_of

from gateway.decisions import Decisions, PageDecision
from gateway.errors import Forbidden, UpstreamAnswered
from gateway.operations import OPERATIONS, Operation
from gateway.snapshot import Admitted, Snapshot
from gateway.tracing import Trace
from governance.audit.record import decode, encode
from governance.policy import PolicySnapshot
from governance.policy.ask import ask
from governance.policy.compare import replay
from governance.types import Subject
from kernels.hashing import HmacSha256

MAC = HmacSha256(bytes(32))
OLD = "p, role:scorer, acme, model:income, infer, allow\ng, user:alice, role:scorer, acme\n"

subjects = st.builds(
    Subject,
    st.sampled_from(["u0", "u1", "stranger"]),
    st.sampled_from(["t1", "t2"]),
    st.lists(st.sampled_from([role.removeprefix("role:") for role in ROLES]), max_size=2, unique=True).map(tuple),
)
asked = st.tuples(subjects, st.sampled_from(OBJECTS), st.sampled_from(ACTIONS[:3]), st.booleans())


class Kept:
    def __init__(self) -> None:
        self.entries = []

    def admit(self):
        pass

    def form(self, record) -> None:
        """There is none."""

    def record(self, record, inputs=None, outputs=None):
        self.entries.append(encode(record, MAC.hex))

    def objects(self):
        return [{"index": index, **decode(entry)} for index, entry in enumerate(self.entries)]


def snapshot_of(policy):
    snapshot = SimpleNamespace(hash="s", policy=policy)
    snapshot.authorise = lambda *words: Snapshot.authorise(snapshot, *words)
    return snapshot


def decided(policy, subject, obj, action, error=None):
    """The error that the gateway's own decision ends with, and its line."""
    try:
        return error, snapshot_of(policy).authorise(subject, obj, action)
    except Forbidden as forbidden:
        return forbidden, None


def infer(log, policy, subject, model, error=None):
    """An inference request's record, as the pipeline has it made."""
    error, line = decided(policy, subject, "model:" + model, "infer", error)
    known = {"subject": subject, "decision_line": line, "error": error, "snapshot": snapshot_of(policy)}
    request = {
        "model": model,
        "request_id": "r",
        "protocol": "http",
        "started": 0.0,
        "trace": Trace(1),
    }
    nothing = {"variant": None, "assignment": None, "bracketed": False, "inputs": None, "outputs": None}
    Decisions(log).inference(SimpleNamespace(**known, **request, **nothing))


def page(log, policy, subject, obj, action):
    """A page's record, likewise."""
    error, line = decided(policy, subject, obj, action)
    needs = "model" if obj.startswith("model:") else "server"
    decision = PageDecision(snapshot_of(policy), Operation("page", "", needs, action), "http", obj[6:], "r")
    decision.admitted = Admitted(subject, asked=True, line=line) if error is None else None
    Decisions(log)._page(decision, error)


@given(lines, lines, st.lists(asked, min_size=1, max_size=10))
def test_a_replay_decides_as_the_gateway_would(before, after, requests):
    old, new = (PolicySnapshot.compile(text_of(one), "p", judge=False) for one in (before, after))
    log, expected = Kept(), []
    for subject, obj, action, fails in requests:
        if action == "infer" and obj.startswith("model:"):
            # A model server's 403 is not the policy's.
            infer(log, old, subject, obj[6:], UpstreamAnswered("no", status=403) if fails else None)
        elif obj == "server" or obj.startswith("model:"):
            page(log, old, subject, obj, action)
        else:
            continue
        if len(log.entries) == len(expected):
            continue  # of what was only read and allowed nothing is recorded
        was, now = (ask(policy, subject, obj, action) for policy in (old, new))
        expected.append((was.allow, now.allow, now.line))
    result = replay(new, log.objects())
    assert (result.replayed, result.unreplayable) == (len(expected), 0)
    got = {one.index: (one.was, one.now, one.line) for one in result.changed}
    assert got == {index: one for index, one in enumerate(expected) if one[0] != one[1]}
    assert replay(old, log.objects()).changed == []


def test_rules_of_refusals_and_pages_are_recorded():
    policy = PolicySnapshot.compile("p, user:u0, t1, *, *, deny\np, user:u1, *, server, configure, allow\n", "p")
    log = Kept()
    infer(log, policy, Subject("u0", "t1"), "a")
    page(log, policy, Subject("u1", "t1", ("r1",)), "server", "configure")
    page(log, policy, Subject("u2", "t1"), "server", "configure")
    found = [[one[name] for name in ("subject", "tenant", "roles", "allowed", "rule")] for one in log.objects()]
    assert found == [
        ["user:u0", "t1", None, False, 1],
        ["user:u1", "t1", ["r1"], True, 2],
        ["user:u2", "t1", None, False, None],
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "inference", "subject": None, "tenant": None, "object": "model:a", "action": "infer", "status": "401"},
        {"kind": "control", "subject": "user:a", "tenant": "t", "object": "server", "action": "read", "status": "400"},
        {"kind": "settings", "subject": "user:a", "tenant": "t", "object": "server", "action": "edit"},
        {"kind": "erasure", "subject": "local:root", "tenant": None, "object": "person:1f", "action": "erase"},
        {"kind": "inference", "subject": "user:a", "tenant": "t", "object": "model:a", "action": "infer", "cut": ["object"], "allowed": True},
        {"kind": "inference", "subject": "user:a", "tenant": "t", "object": "model:a", "action": "infer", "sealed": "x", "allowed": True},
        {"index": 3, "entry": "AAAA"},
    ],
)  # fmt: skip
def test_what_the_policy_was_not_asked_cannot_be_replayed(record):
    policy = PolicySnapshot.compile(OLD, "p")
    assert replay(policy, [record]) == replay(policy, [{"index": 0, "kind": "settings"}])


def test_a_page_whose_caller_only_had_to_be_known_is_no_decision():
    log, snapshot = Kept(), snapshot_of(PolicySnapshot.compile(OLD, "p"))
    decision = PageDecision(snapshot, OPERATIONS["index"], "http", "", "r")
    decision.admitted = Admitted(Subject("alice", "acme"))
    Decisions(log)._page(decision, Forbidden("as if"))
    assert log.objects()[0]["allowed"] is None
