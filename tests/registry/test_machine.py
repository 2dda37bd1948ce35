"""The life of a version: what may follow what, whose approvals count, and a history that cannot be bent."""

from __future__ import annotations

import datetime as dt
from itertools import permutations
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from governance.errors import RegistryBroken, RegistryRefused
from governance.registry.events import Binding, Event, GateResult, Kind, Need, Sources, decode, encode
from governance.registry.machine import MAY, REASONED, SERVABLE, Standing, unmet

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PEOPLE = ("user:ann", "user:bob", "user:cem", "user:dee", "user:eva")
ROLES = ("role:validator", "role:officer")
SOURCES = Sources("m/1", "card.yaml")


class Life(RuleBasedStateMachine):
    """Random steps by random people, beside a model that knows the rules in its own words."""

    @initialize()
    def begin(self) -> None:
        self.standing = Standing()
        self.now = START
        self.state: str | None = None
        self.bound = ""
        self.authors: set[str] = set()
        self.approved: dict[str, tuple[str, ...]] = {}
        self.needs: tuple[Need, ...] = ()
        self.ends: dt.datetime | None = None

    def step(self, kind, by="user:ann", **more):
        return Event(
            model="m", version="1", number=len(self.standing.history), time=self.now, kind=kind, by=by,
            previous=self.standing.previous, **more,
        )  # fmt: skip

    def tries(self, step: Event, allowed: bool) -> bool:
        """Makes a step; it must be refused exactly when the model says so, and a refusal changes nothing."""
        before = len(self.standing.history), self.standing.state
        if allowed:
            self.standing.add(step)
            return True
        with pytest.raises(RegistryRefused):
            self.standing.add(step)
        assert (len(self.standing.history), self.standing.state) == before
        return False

    @rule(by=st.sampled_from(PEOPLE), files=st.sampled_from("ab"))
    def register(self, by, files):
        step = self.step("registered", by, binding=Binding(files, "card"), sources=SOURCES)
        if self.tries(step, self.state in (None, "draft", "in review", "approved")):
            self.state, self.bound = "draft", files
            self.authors.add(by)
            self.approved, self.ends = {}, None

    @rule(
        by=st.sampled_from(PEOPLE),
        files=st.sampled_from("ab"),
        counts=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        ok=st.sampled_from([True, True, True, False]),
        valid=st.sampled_from([None, 5]),
    )
    def submit(self, by, files, counts, ok, valid):
        needs = tuple(Need(role, count) for role, count in zip(ROLES, counts, strict=True) if count)
        step = self.step(
            "submitted", by, binding=Binding(files, "card", requirements="r", policy="p"), needs=needs, valid_s=valid,
            gates=(GateResult("card", ok, "complete", "complete"),),
        )  # fmt: skip
        if self.tries(step, self.state == "draft" and ok and files == self.bound):
            self.state = "in review" if needs else "approved"
            self.ends = self.now + dt.timedelta(seconds=valid) if valid and not needs else None
            self.valid = valid
            self.authors.add(by)
            self.approved, self.needs = {}, needs

    @rule(
        by=st.sampled_from(PEOPLE),
        roles=st.sets(st.sampled_from(ROLES)).map(sorted).map(tuple),
        same=st.sampled_from([True, True, False]),
    )
    def approve(self, by, roles, same):
        binding = self.standing.binding
        digest = binding.digest if binding is not None and same else "other"
        allowed = self.state == "in review" and same and bool(roles) and by not in self.authors | self.approved.keys()
        if self.tries(self.step("approved", by, digest=digest, roles=roles), allowed):
            self.approved[by] = roles
            if enough(self.needs, list(self.approved.values())):
                self.state = "approved"
                self.ends = None if self.valid is None else self.now + dt.timedelta(seconds=self.valid)

    @rule(kind=st.sampled_from(["rejected", "voided"]), reason=st.sampled_from(["", " ", "too early"]))
    def sent_back(self, kind, reason):
        allowed = self.state in ("in review", "approved") and bool(reason.strip())
        if self.tries(self.step(kind, reason=reason), allowed):
            self.state, self.approved, self.ends = "draft", {}, None

    @rule()
    def promote(self):
        ended = self.ends is not None and self.now >= self.ends
        if self.tries(self.step("promoted"), self.state in ("approved", "deprecated") and not ended):
            self.state = "live"

    @rule(sunset=st.sampled_from([None, -1, 0, 90]))
    def deprecate(self, sunset):
        at = None if sunset is None else self.now + dt.timedelta(days=sunset)
        step = self.step("deprecated", reason="a better one", sunset=at)
        if self.tries(step, self.state == "live" and (sunset is None or sunset >= 0)):
            self.state = "deprecated"

    @precondition(lambda self: self.state in ("live", "deprecated", "approved"))
    @rule(reason=st.sampled_from(["", "wrong"]))
    def retire(self, reason):
        if self.tries(self.step("retired", reason=reason), bool(reason)):
            self.state = "retired"

    @rule(seconds=st.integers(0, 6))
    def time_passes(self, seconds):
        self.now += dt.timedelta(seconds=seconds)

    @invariant()
    def they_agree(self):
        standing = self.standing
        assert standing.state == self.state
        assert {step.by: step.roles for step in standing.approvals} == self.approved
        ended = self.ends is not None and self.now >= self.ends
        assert standing.serves(self.now) == (self.state in ("approved", "live", "deprecated") and not ended)
        if self.state in ("approved", "live"):
            people = {step.by for step in standing.approvals}
            assert len(people) == len(standing.approvals)
            assert not people & {step.by for step in standing.history if step.kind in ("registered", "submitted")}
            assert all(step.digest == standing.binding.digest for step in standing.approvals)

    @invariant()
    def the_store_gives_it_back(self):
        again = Standing(decode(encode(step)) for step in self.standing.history)
        assert (again.state, again.expires, again.previous) == (
            self.standing.state, self.standing.expires, self.standing.previous,
        )  # fmt: skip


def enough(needs, people) -> bool:
    """By trying every way to give the wanted roles to people."""
    wanted = [need.role for need in needs for _ in range(need.count)]
    if len(people) < len(wanted):
        return False
    return any(
        all(role in held for role, held in zip(wanted, some, strict=True)) for some in permutations(people, len(wanted))
    )


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=40)


@given(
    st.lists(st.builds(Need, st.sampled_from("abc"), st.integers(1, 2)), max_size=3, unique_by=lambda need: need.role),
    st.lists(st.sets(st.sampled_from("abc")).map(tuple), max_size=5),
)
def test_each_person_counts_for_one_role_and_the_best_way_is_found(needs, people):
    assert (not unmet(needs, people)) == enough(needs, people)


def test_who_holds_two_roles_fills_the_one_that_nobody_else_can():
    needs = [Need("role:validator"), Need("role:officer")]
    assert unmet(needs, [("role:validator", "role:officer")]) == ["role:officer"]
    assert unmet(needs, [("role:validator", "role:officer"), ("role:validator",)]) == []


def history() -> list[Event]:
    standing = Standing()

    def add(kind, by, **more):
        common = {"model": "m", "version": "1", "time": START, "previous": standing.previous}
        standing.add(Event(number=len(standing.history), kind=kind, by=by, **common, **more))

    bound = Binding("f", "c", requirements="r", policy="p")
    add("registered", "user:ann", binding=Binding("f", "c"), sources=SOURCES)
    add("submitted", "user:ann", binding=bound, needs=(Need("role:validator", 2),))
    add("approved", "user:bob", digest=bound.digest, roles=("role:validator",))
    add("approved", "user:cem", digest=bound.digest, roles=("role:validator",))
    add("promoted", "user:ann")
    return standing.history


@pytest.mark.parametrize("at", range(4))
def test_a_history_with_a_step_changed_taken_out_or_doubled_is_broken(at):
    steps = history()
    assert Standing(steps).state == "live"
    changed = [*steps]
    changed[at] = msgspec.structs.replace(steps[at], reason="other words")
    for bent in (changed, steps[:at] + steps[at + 1 :], [*steps[:at], steps[at], *steps[at:]]):
        with pytest.raises(RegistryBroken, match="restore it from a backup"):
            Standing(bent)


def test_the_tables_name_every_kind_and_state():
    kinds = set(get_args(Kind))
    assert set(MAY) == kinds
    assert kinds >= REASONED
    assert {state for states in MAY.values() for state in states} >= SERVABLE
    assert all(hasattr(Standing, f"_on_{kind}") for kind in kinds)
