"""Online fairness: bounds against every way to tell the unknown apart, reports against the offline one, readers."""

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fairness.reading import UNKNOWN, Reader, groups_of
from gateway.settings import Decision, Fairness, FairnessAttribute
from gateway.wire.types import InferAnswer, InferCall, InputTensor, OutputTensor, SharedMemory
from governance.compliance.given import Fairness as HandedIn
from governance.fairness.bounds import gap_bounds, rate_bounds
from governance.fairness.online import online
from governance.fairness.report import report
from governance.tables import read as read_table

group = st.integers(0, 6).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, rows)))


def splits(number, groups):
    """Every way to hand out so many people to so many groups."""
    if groups == 1:
        yield (number,)
        return
    for first in range(number + 1):
        for rest in splits(number - first, groups - 1):
            yield (first, *rest)


@settings(max_examples=60)
@given(
    st.lists(group, min_size=2, max_size=3),
    st.integers(0, 3).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
)
def test_bounds_are_those_of_every_way_to_tell_the_unknown_apart(known, unknown):
    rows, selected = unknown
    rates = [[] for _ in known]
    gaps = []
    for chosen, others in itertools.product(splits(selected, len(known)), splits(rows - selected, len(known))):
        mine = [
            (s + a) / (n + a + b) if n + a + b else None for (n, s), a, b in zip(known, chosen, others, strict=True)
        ]
        for found, one in zip(rates, mine, strict=True):
            found.append(one)
        there = [one for one in mine if one is not None]
        if len(there) == len(known):
            gaps.append(max(there) - min(there))
    bounds = [rate_bounds(n, s, rows, selected) for n, s in known]
    for found, one in zip(rates, bounds, strict=True):
        there = [rate for rate in found if rate is not None]
        if one.low is not None:
            assert one.low == pytest.approx(min(there))
        if one.high is not None:
            assert one.high == pytest.approx(max(there))
    gap = gap_bounds(bounds)
    if gaps and all(n for n, _ in known):
        assert gap.high == pytest.approx(max(gaps))
        assert gap.low <= min(gaps) + 1e-12
        if not rows:
            assert gap.low == pytest.approx(gap.high)


def test_without_unknown_people_nothing_is_open():
    assert (rate_bounds(10, 4, 0, 0).low, rate_bounds(10, 4, 0, 0).high) == (0.4, 0.4)
    assert (rate_bounds(0, 0, 0, 0).low, rate_bounds(0, 0, 0, 0).high) == (None, None)
    assert gap_bounds([rate_bounds(10, 4, 0, 0)]).high is None


def test_the_online_report_is_the_offline_one_where_both_know(tmp_path):
    people = [("F", 1)] * 30 + [("F", 0)] * 30 + [("M", 1)] * 50 + [("M", 0)] * 14 + [("", 1)] * 3 + [("", 0)] * 4
    (tmp_path / "d.csv").write_text("y,p,sex\n" + "".join(f"1,{p},{sex}\n" for sex, p in people))
    offline = msgspec.to_builtins(report(read_table(tmp_path / "d.csv"), label="y", prediction="p", by=["sex"]))
    found = online([("sex", ("F", "M"))], [(60, 30), (64, 50), (7, 3)], uncounted=2)
    plain = msgspec.to_builtins(found)
    for one, other in zip(plain["groups"], offline["groups"], strict=True):
        assert (one["group"], one["n"]) == (other["group"], other["n"])
        assert one["metrics"]["selection_rate"] == other["metrics"]["selection_rate"]
        assert one["metrics"].keys() == other["metrics"].keys()
        assert one["metrics"]["tpr"] == {"value": None, "low": None, "high": None, "n": 0, "status": "insufficient"}
    assert plain["differences"]["demographic_parity"] == offline["differences"]["demographic_parity"]
    assert plain["differences"]["equalized_odds"] is None
    assert plain["ratios"] == offline["ratios"]
    assert plain["four_fifths"] == offline["four_fifths"]
    assert plain["unknown"] == {"n": 7, "selected": 3}
    assert plain["excluded"] == [{"reason": "no decision could be read from the answer", "calls": 2}]
    assert plain["bounds"]["groups"][0] == {"group": {"sex": "F"}, "low": 30 / 64, "high": 33 / 63}
    # It may be handed in to `tidegate compliance report --fairness`.
    assert msgspec.json.decode(msgspec.json.encode(found), type=HandedIn).groups is not None


def test_small_groups_have_no_rate():
    found = online([("sex", ("F", "M"))], [(29, 20), (100, 50), (0, 0)])
    assert [one["metrics"]["selection_rate"].status for one in found.groups] == ["insufficient", "ok"]
    assert found.differences["demographic_parity"] is None
    assert found.four_fifths is None


SEX = FairnessAttribute(name="sex", parameter="sex", values=("F", "M"))
RACE = FairnessAttribute(name="race", header="X-Race", values=("a", "b", "c"))
AGE = FairnessAttribute(name="age", column="AGE", values=("1", "2"))


def strings(*values):
    return b"".join(len(one).to_bytes(4, "little") + one for one in map(str.encode, values))


def an_answer(data, datatype, shape, name="p"):
    return InferAnswer(
        "m",
        outputs=[OutputTensor("other", "FP32", [1], data=b"\0\0\0\0"), OutputTensor(name, datatype, shape, data=data)],
    )


def floats(*values):
    return np.array(values, "<f4").tobytes()


def rows(attributes, decision, answer, *, parameters=None, headers=None, inputs=()):
    fairness = Fairness(attributes=attributes, decision=decision)
    call = InferCall("m", parameters=parameters or {}, inputs=list(inputs))
    return Reader(fairness).rows(call, headers or {}, answer)


LEAST = Decision(output="p", at_least=0.5)
ONE = an_answer(floats(0.7), "FP32", [1, 1])


def test_one_person_in_a_call():
    assert rows((SEX, RACE), LEAST, ONE, parameters={"sex": "M"}, headers={"x-race": "b"}) == [(4, 1, 1)]
    assert rows((SEX, RACE), LEAST, ONE, parameters={"sex": "M"}, headers={"x-race": "z"}) == [(6, 1, 1)]
    assert rows((SEX, RACE), LEAST, ONE, headers={"x-race": "b"}) == [(6, 1, 1)]
    assert rows((SEX,), LEAST, an_answer(floats(0.49), "FP32", [1]), parameters={"sex": "F"}) == [(0, 1, 0)]


@pytest.mark.parametrize(("value", "group"), [("1", 0), (1, 0), (True, 2), (1.0, 2), ("", 2), (None, 2), ("true", 2)])
def test_parameters_as_text(value, group):
    attribute = FairnessAttribute(name="x", parameter="x", values=("1", "0"))
    assert rows((attribute,), LEAST, ONE, parameters={"x": value}) == [(group, 1, 1)]


def test_many_people_in_a_call():
    answer = an_answer(floats(0.1, 0.9, 0.9, 0.2, float("nan")), "FP32", [5, 1])
    ages = InputTensor("AGE", "BYTES", [5, 1], data=strings("1", "2", "2", "3", "1"))
    assert sorted(rows((SEX, AGE), LEAST, answer, parameters={"sex": "M"}, inputs=[ages])) == [
        (2, 2, 0),
        (3, 2, 2),
        (4, 1, 0),
    ]
    numbers = InputTensor("AGE", "INT64", [5], data=np.array([1, 2, 2, 3, 1], "<i8").tobytes())
    assert sorted(rows((AGE,), LEAST, answer, inputs=[numbers])) == [(0, 2, 0), (1, 2, 2), (2, 1, 0)]


BROKEN = [
    [],
    [InputTensor("AGE", "FP32", [1], data=floats(1))],
    [InputTensor("AGE", "BYTES", [1], data=b"\x09\0\0\0a")],
    [InputTensor("AGE", "BYTES", [1], data=strings("1", "2"))],
    [InputTensor("AGE", "BYTES", [1], data=b"\x01\0\0\0\xff")],
    [InputTensor("AGE", "BYTES", [1], shm=SharedMemory("r", 5))],
]


@pytest.mark.parametrize("inputs", BROKEN)
def test_who_cannot_be_read_is_unknown(inputs):
    assert rows((AGE,), LEAST, ONE, inputs=inputs) == [(2, 1, 1)]


DECISIONS = [
    (Decision(output="p", positive=("1",)), an_answer(np.array([1, 0, 2], "<i4").tobytes(), "INT32", [3]), 1),
    (Decision(output="p", positive=("1.0", "2")), an_answer(floats(1, 0, 2), "FP32", [3]), 2),
    (Decision(output="p", positive=("yes",)), an_answer(strings("yes", "no", "YES"), "BYTES", [3, 1]), 1),
    (Decision(output="p", positive=("true",)), an_answer(b"\1\0\2", "BOOL", [3]), 2),
    (Decision(output="p", index=1, at_least=0.5), an_answer(floats(0.9, 0.1, 0.2, 0.8, 0.5, 0.5), "FP32", [3, 2]), 2),
    (Decision(output="p", at_least=0.5), an_answer(np.array([0.4, 0.5, 0.6], "<f2").tobytes(), "FP16", [3]), 2),
    (
        Decision(output="p", at_least=1.0),
        an_answer(np.array([0x3F80, 0x3F7F, 0x4000], "<u2").tobytes(), "BF16", [3]),
        2,
    ),
]


@pytest.mark.parametrize(("decision", "answer", "selected"), DECISIONS)
def test_what_was_decided(decision, answer, selected):
    assert rows((SEX,), decision, answer, parameters={"sex": "F"}) == [(0, 3, selected)]


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=65),
    st.sampled_from([LEAST, Decision(output="p", positive=("1", "0.5"))]),
)
def test_few_and_many_elements_are_judged_alike(values, decision):
    few = [
        rows((SEX,), decision, an_answer(floats(value), "FP32", [1]), parameters={"sex": "F"})[0][2] for value in values
    ]
    data = np.tile(np.array(values, "<f4"), 65).tobytes()
    answer = an_answer(data, "FP32", [65 * len(values)])
    assert rows((SEX,), decision, answer, parameters={"sex": "F"}) == [(0, 65 * len(values), 65 * sum(few))]


UNREADABLE = [
    an_answer(floats(1), "FP32", [1], name="q"),
    an_answer(floats(1, 2), "FP32", [1, 2]),
    an_answer(floats(1, 2), "FP32", [1]),
    an_answer(strings("0.9:1"), "BYTES", [1]),
    an_answer(b"", "FP32", []),
    an_answer(floats(1), "FP32", [-1]),
    InferAnswer("m", outputs=[OutputTensor("p", "FP32", [1], shm=SharedMemory("r", 4))]),
]


@pytest.mark.parametrize("answer", UNREADABLE)
def test_a_decision_that_cannot_be_read_is_no_decision(answer):
    assert rows((SEX,), LEAST, answer, parameters={"sex": "F"}) is None


def test_an_answer_without_rows_decides_nothing():
    assert rows((SEX,), LEAST, an_answer(b"", "FP32", [0, 1]), parameters={"sex": "F"}) == [(0, 0, 0)]


def test_groups_are_every_combination_and_the_unknown():
    assert groups_of(Fairness(attributes=(SEX, RACE, AGE), decision=LEAST)) == 13
    assert UNKNOWN == -1
