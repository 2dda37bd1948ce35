"""Attributes that are told later: each decision once, by whoever tells, and none that is too old."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fairness_alert import LEAST

from gateway.fairness import Board, pending
from gateway.fairness.joining import Joined, Told
from gateway.fairness.pending import Decided, Ring, digest, find
from gateway.fairness.reading import Reader, joined_groups
from gateway.metrics import Registry
from gateway.settings import Fairness, FairnessAttribute, FairnessJoin, Route, Variant
from gateway.wire.types import InferAnswer, InferCall, OutputTensor

SLOTS = itertools.count()
SEX = FairnessAttribute(name="sex", joined=True, values=("F", "M"))
REGION = FairnessAttribute(name="region", header="x-region", values=("north", "south", "east"))
RACE = FairnessAttribute(name="race", joined=True, values=("a", "b"))


def block(slots):
    return memoryview(bytearray(pending.nbytes(slots)))


@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.integers(1, 8))
def test_a_ring_keeps_the_latest(ids, slots):
    room = block(slots)
    ring = Ring(room)
    for at, one in enumerate(ids):
        if at % 7 == 3:
            ring = Ring(room)  # a restart goes on where it was
        ring.add(one, Decided(at + 1, 0, 1, 2, 1))
    kept = list(enumerate(ids))[-slots:]
    for one in "abcdefg":
        found = list(find([room], [digest(one)]))
        assert sorted(each.decided.minute - 1 for each in found) == [at for at, name in kept if name == one]
        assert not any(each.told for each in found)


def test_a_mark_is_of_one_decision_and_a_torn_slot_is_none():
    room = block(2)
    ring = Ring(room)
    ring.add("x", Decided(1, 0, 0, 1, 1))
    (one,) = find([room], [digest("x")])
    ring.add("y", Decided(1, 0, 0, 1, 1))
    ring.add("x", Decided(2, 0, 0, 1, 1))  # in the place of the first
    one.tell()
    (other,) = find([room], [digest("x")])
    assert (other.decided.minute, other.told) == (2, False)
    other.tell()
    assert next(find([room], [digest("x")])).told
    room[other.at + 30] ^= 1
    assert list(find([room], [digest("x")])) == []


@settings(max_examples=50)
@given(
    st.permutations([SEX, REGION, RACE]), st.sampled_from("FM"), st.sampled_from("ab"), st.sampled_from(REGION.values)
)
def test_what_is_told_later_leads_to_the_group_that_a_request_would_have_told(order, sex, race, region):
    later = Fairness(attributes=tuple(order), decision=LEAST)
    parameters = {"sex": sex, "race": race}
    at_once = Fairness(
        attributes=tuple(
            FairnessAttribute(name=one.name, parameter=one.name, values=one.values) if one.joined else one
            for one in order
        ),
        decision=LEAST,
    )
    call, headers = InferCall("m", parameters=parameters), {"x-region": region}
    ((whole, _, _),) = Reader(at_once).rows(call, headers, ANSWER)
    ((known, _, _),) = Reader(later).rows(call, headers, ANSWER)
    assert known + joined_groups(later)(parameters) == whole
    assert joined_groups(later)({"sex": sex}) is None
    assert joined_groups(at_once) is None


ANSWER = InferAnswer("m", outputs=[OutputTensor("p", "FP32", [2], data=np.array([0.9, 0.1], "<f4").tobytes())])


def watches(tmp_path, workers=1, join=None):
    fairness = Fairness(attributes=(SEX, REGION), decision=LEAST, min_group=1, join=join)
    route = Route(variants=(Variant(name="a", model="m"),), fairness=fairness)
    registry = Registry(tmp_path / "run", next(SLOTS))
    boards = [Board(tmp_path / "fairness", registry) for _ in range(workers)]
    return [board.of(SimpleNamespace(routes={"loan": route}))["loan"] for board in boards]


def serve(watch, request_id, region="north"):
    headers = {"x-region": region}
    call = InferCall("loan")
    exchange = SimpleNamespace(call=call, variant=SimpleNamespace(name="a"), headers=headers, request_id=request_id)
    watch.count(exchange, ANSWER)


def counts(report):
    found = {tuple(one["group"].values()): (one["n"], one["selected"]) for one in report.all.groups if one["n"]}
    return {**found, "unknown": tuple(report.all.unknown.values())}


def told(*ids, sex="F"):
    return [Told(one, {"sex": sex}) for one in ids]


def test_rows_move_from_the_unknown_to_their_group_over_all_workers(tmp_path):
    one, other = watches(tmp_path, 2)
    serve(one, "1")
    serve(other, "2", "south")
    serve(other, "2", "south")  # an id that comes twice
    serve(other, "3", "nowhere")  # of an unknown group whatever is told
    assert counts(one.report()) == {"unknown": (8, 4)}
    result = one.join([*told("1", "2", "3", "4"), Told("2", {"sex": "x"}), Told("1", {})])
    assert result == Joined(joined=2, unmatched=2, undeclared=2)
    expected = {("F", "north"): (2, 1), ("F", "south"): (4, 2), "unknown": (2, 1)}
    assert counts(other.report()) == expected == counts(one.report(5))
    # What was told stands, whoever tells otherwise.
    assert other.join(told("1", "2", sex="M")) == Joined(again=2)
    assert counts(one.report()) == expected
    del one, other
    (again,) = watches(tmp_path)
    assert again.join(told("1")) == Joined(again=1)
    assert counts(again.report()) == expected


def test_many_tell_at_once_and_each_decision_counts_once(tmp_path):
    workers = watches(tmp_path, 3)
    ids = [str(at) for at in range(300)]
    for at, one in enumerate(ids):
        serve(workers[at % 3], one)
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda at: workers[at % 3].join(told(*ids[at * 40 : at * 40 + 100])), range(6)))
    assert sum(one.joined for one in results) == 300
    assert counts(workers[0].report()) == {("F", "north"): (600, 300), "unknown": (0, 0)}


@pytest.mark.parametrize(
    ("minutes", "age", "result"),
    [
        (1440, 1439, Joined(joined=1)),
        (1440, 1440, Joined(late=1)),
        (1440, -1, Joined(late=1)),
        (1, 0, Joined(joined=1)),
        (1, 1, Joined(late=1)),
    ],
)
def test_the_window_is_the_limit(tmp_path, minutes, age, result):
    (one,) = watches(tmp_path)
    minute = int(time.time() // 60)
    one._joining.wait("old", Decided(minute - age, 0, 0, 1, 1))
    assert one._joining.join(told("old"), lambda _: 0, minute, minutes) == result


def test_another_window_or_capacity_keeps_counting(tmp_path):
    """A reload to another window keeps what waits, to another capacity not; no count is lost in either."""
    board = Board(tmp_path / "fairness", Registry(tmp_path / "run", next(SLOTS)))

    def declared(**join):
        fairness = Fairness(attributes=(SEX, REGION), decision=LEAST, min_group=1, join=FairnessJoin(**join))
        route = Route(variants=(Variant(name="a", model="m"),), fairness=fairness)
        found = board.of(SimpleNamespace(routes={"loan": route}))["loan"]
        board.retain([found])
        return found

    one = declared(capacity=1024)
    for at in range(1026):
        serve(one, str(at))
    assert one.join(told("0", "1", "2")) == Joined(joined=1, unmatched=2)
    one = declared(capacity=1024, minutes=5)
    assert one.join(told("3")) == Joined(joined=1)
    one = declared(capacity=2048, minutes=5)
    assert one.join(told("4")) == Joined(unmatched=1)
    serve(one, "4")
    assert one.join(told("4")) == Joined(joined=1)
    assert counts(one.report()) == {("F", "north"): (6, 3), "unknown": (2 * 1024, 1024)}
    assert {path.name for path in one.folder.glob("pending-*")} == {"pending-2048-0"}


def test_nothing_of_who_somebody_is_lies_in_the_files(tmp_path):
    (one,) = watches(tmp_path)
    serve(one, "customer-4711")
    assert one.join(told("customer-4711")).joined == 1
    files = [path for path in (tmp_path / "fairness").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"shard-0", "pending-131072-0", "joined-0", "join"}
    assert not any(b"4711" in path.read_bytes() for path in files)
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
