"""Rules on columns: both twins against each other, against plain comparisons, and merged blocks against one."""

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_drift_kernel import NAMED, TRUTHS, TYPES, finite, kinds, packed, tensor, texts

from kernels import drift
from kernels.drift import AMONG, BROKEN, MISSING, RANGE, REFUSED, SCHEMA, UNREAD, VALUES, Names, Numbers, Rule, Times
from kernels.drift import _drift_c as c
from kernels.drift import _drift_py as py
from kernels.drift import _rules as plan

TWINS = pytest.mark.parametrize("twin", [py, c], ids=["py", "c"])
ANY = Numbers((), 0.0, 1.0)
bounds = st.one_of(finite, st.sampled_from([-inf, inf, 0.1, 1.0, -3.0]))
sets = st.sampled_from(
    [
        None,
        Names(("a", "é", "1"), (), (None, None, 1.0), False),
        Names(("true",), (), (None,), True),
        Names(("0.1", "-3"), (), (0.1, -3.0), False),
    ]
)
rules = st.builds(Rule, st.booleans(), st.booleans(), bounds, bounds, sets, st.booleans())


def shard(twin, columns, ruled, tensors=None, *, outputs=False):
    names = [f"x_{at}" for at in range(len(columns))]
    both = drift.tensors_of(names, ["x_0"] if outputs else []) if tensors is None else (tensors, {})
    buffer, broken = bytearray(drift.nbytes(columns)), bytearray(drift.rule_nbytes(ruled))
    return twin.Shard(buffer, columns, *both, ruled, broken), buffer, broken


def words(broken, ruled, column):
    place = drift.rule_places(ruled)[0][column]
    return np.frombuffer(bytes(broken), np.uint64)[place : place + 8].tolist()


@given(st.data(), st.sampled_from([*TYPES, "BYTES"]), st.integers(1, 4), st.integers(0, 5), st.booleans())
@settings(deadline=None, max_examples=500)
def test_the_twins_agree_on_every_word_and_verdict(data, datatype, width, rows, outputs):
    columns = data.draw(st.lists(kinds, min_size=width, max_size=width))
    ruled = data.draw(st.dictionaries(st.integers(0, width - 1), rules))
    if datatype == "BYTES":
        raw = packed(data.draw(st.lists(texts, min_size=rows * width, max_size=rows * width)))
    else:
        raw = data.draw(hnp.arrays(np.dtype(TYPES[datatype]), (rows, width))).tobytes()
    calls = [
        ([tensor("x", datatype, (rows, width), raw)], []),
        ([tensor("other", datatype, (rows, width), raw), tensor("more", datatype, (rows, width), raw)], []),
        ([tensor("x_1", "FP64", (2,), np.array([nan, 0.1]).tobytes())], [tensor("x_0", "FP32", (2,), b"\0" * 8)]),
        ([tensor("x", datatype, (rows, width), None)], []),
        ([tensor("x", datatype, (rows + 1, width), raw + b"1")], []),
    ]
    one, first, broken = shard(py, columns, ruled, outputs=outputs)
    other, second, also = shard(c, columns, ruled, outputs=outputs)
    for inputs, answer in calls:
        assert one.judge(inputs) == other.judge(inputs)
        assert broken == also
        assert one.count(inputs, answer) == other.count(inputs, answer)
        assert broken == also
        assert first == second
    plain = bytearray(drift.nbytes(columns))
    names = [f"x_{at}" for at in range(len(columns))]
    alone = c.Shard(plain, columns, *drift.tensors_of(names, ["x_0"] if outputs else []))
    for inputs, answer in calls:
        alone.count(inputs, answer)
        assert alone.judge(inputs) is None
    assert plain == first  # rules change nothing of what is counted beside them


@TWINS
@given(st.lists(st.floats(width=32), max_size=20), st.floats(width=32, allow_nan=False), st.floats(-9, 9, width=32))
@settings(deadline=None)
def test_a_range_is_what_a_comparison_says(twin, values, low, high):
    ruled = {0: Rule(low=low, high=high)}
    one, _, broken = shard(twin, [ANY], ruled, {"x": (0,)})
    array = np.array(values, np.float32)
    given_ = [tensor("x", "FP32", array.shape, array.tobytes())]
    outside = (array < low) | (array > high)
    found = one.judge(given_)
    assert found == ((0, int(np.argmax(outside)), RANGE) if outside.any() else None)
    one.count(given_)
    counts = words(broken, ruled, 0)
    assert counts[VALUES] == np.count_nonzero(~np.isnan(array))
    assert counts[BROKEN + RANGE] == np.count_nonzero(outside)
    assert counts[REFUSED + RANGE] == outside.any()


@TWINS
@pytest.mark.parametrize(("datatype", "kind"), [("FP32", np.float32), ("FP16", np.float16), ("FP64", np.float64)])
def test_a_bound_is_allowed_in_the_tensors_own_precision(twin, datatype, kind):
    one, _, _ = shard(twin, [ANY], {0: Rule(low=0.1, high=0.3)}, {"x": (0,)})
    array = np.array([0.1, 0.3, 0.2], kind)
    assert one.judge([tensor("x", datatype, (3,), array.tobytes())]) is None
    assert one.judge([tensor("x", datatype, (1,), np.nextafter(array[:1], kind(0)).tobytes())]) == (0, 0, RANGE)


@TWINS
@pytest.mark.parametrize(
    ("column", "rule", "datatype", "data", "verdict"),
    [
        (ANY, Rule(required=True), "FP32", np.array([nan], np.float32).tobytes(), MISSING),
        (ANY, Rule(required=True), "BYTES", packed([b" "]), MISSING),
        (ANY, Rule(), "BYTES", packed([b" "]), None),
        (ANY, Rule(typed=True), "BYTES", packed([b"12"]), SCHEMA),
        (ANY, Rule(typed=True), "BYTES", packed([b"\xc2\xa0NaN"]), None),
        (ANY, Rule(required=True), "BYTES", packed([b"12"]), MISSING),
        (Times(), Rule(typed=True), "INT64", (7).to_bytes(8, "little"), SCHEMA),
        (Times(), Rule(typed=True), "BYTES", packed([b"2026-01-01"]), None),
        (NAMED, Rule(among=Names(("a", "1"), (), (None, 1.0), False)), "BYTES", packed([b"a"]), None),
        (NAMED, Rule(among=Names(("a", "1"), (), (None, 1.0), False)), "BYTES", packed([b"rare"]), AMONG),
        (NAMED, Rule(among=Names(("a", "1"), (), (None, 1.0), False)), "INT64", (1).to_bytes(8, "little"), None),
        (NAMED, Rule(among=Names(("a", "1"), (), (None, 1.0), False)), "INT64", (7).to_bytes(8, "little"), AMONG),
        (NAMED, Rule(among=Names(("new",), (), (None,), False)), "BYTES", packed([b"new"]), None),
        (TRUTHS, Rule(among=Names(("true",), (), (None,), True)), "BOOL", b"\1", None),
        (TRUTHS, Rule(among=Names(("true",), (), (None,), True)), "BOOL", b"\0", AMONG),
        (TRUTHS, Rule(among=Names(("true",), (), (None,), True)), "BYTES", packed([b" TRUE "]), None),
        (ANY, Rule(among=Names(("0.1",), (), (0.1,), False)), "FP32", np.array([0.1], np.float32).tobytes(), None),
        (ANY, Rule(among=Names(("0.1",), (), (0.1,), False)), "FP32", np.array([0.2], np.float32).tobytes(), AMONG),
        (ANY, Rule(low=0.0, required=True), "FP32", np.array([nan], np.float32).tobytes(), MISSING),
    ],
)
def test_what_breaks_which_rule(twin, column, rule, datatype, data, verdict):
    ruled = {0: rule}
    one, _, broken = shard(twin, [column], ruled, {"x": (0,)})
    given_ = [tensor("x", datatype, (1,), data)]
    assert one.judge(given_) == (None if verdict is None else (0, 0, verdict))
    assert one.count(given_) == 1
    counts = words(broken, ruled, 0)
    assert counts[BROKEN + 1 : BROKEN + 4] == [int(verdict == each) for each in (SCHEMA, RANGE, AMONG)]
    assert counts[REFUSED : REFUSED + 4] == [int(verdict == each) for each in (MISSING, SCHEMA, RANGE, AMONG)]


@TWINS
def test_a_column_that_is_left_out_breaks_schema_or_is_missing(twin):
    ruled = {0: Rule(), 1: Rule(required=True), 2: Rule(typed=True)}
    one, _, broken = shard(twin, [ANY] * 3, ruled, {"a": (0,), "b": (1,), "c": (2,)})

    def call(*names):
        return [tensor(name, "FP64", (2,), bytes(16)) for name in names]

    assert one.judge(call("a", "b", "c")) is None
    assert one.judge(call("b", "c")) is None
    assert one.judge(call("a", "c")) == (1, 0, MISSING)
    assert one.judge(call("a", "b")) == (2, 0, SCHEMA)
    assert one.judge(call("a", "other")) == (1, 0, MISSING)
    one.count(call("a"))
    assert [words(broken, ruled, at)[BROKEN + SCHEMA] for at in range(3)] == [0, 0, 2]
    assert [words(broken, ruled, at)[VALUES] for at in range(3)] == [2, 0, 0]
    assert np.frombuffer(bytes(broken), np.uint64)[drift.ROWS] == 2


@TWINS
def test_what_cannot_be_looked_at_is_said_and_counted(twin):
    one, _, broken = shard(twin, [ANY] * 2, {0: Rule()}, {"a": (0,), "b": (1,)})
    good = tensor("a", "FP64", (1,), bytes(8))
    assert one.judge([good, tensor("b", "FP64", (1,), None)]) == (-1, 1, -1)
    assert one.judge([good, tensor("b", "FP64", (2,), bytes(16))]) == (-1, 1, -1)
    assert one.judge([tensor("a", "FP64", (1,), bytes(7))]) == (-1, 0, -1)
    assert np.frombuffer(bytes(broken), np.uint64)[UNREAD] == 3


@TWINS
@given(st.lists(st.lists(st.integers(-3, 40), max_size=20), min_size=1, max_size=4))
@settings(deadline=None)
def test_blocks_of_several_workers_add_up_to_one(twin, values):
    ruled = {0: Rule(low=0.0, high=30.0, distinct=True)}
    whole, _, all_of_it = shard(twin, [ANY], ruled, {"x": (0,)})
    parts = []
    for each in values:
        array = np.array(each, np.float64)
        one, _, broken = shard(twin, [ANY], ruled, {"x": (0,)})
        for counter in (one, whole):
            counter.judge([tensor("x", "FP64", array.shape, array.tobytes())])
            counter.count([tensor("x", "FP64", array.shape, array.tobytes())])
        parts.append(bytes(broken))
    assert np.array_equal(drift.merge_rules(ruled, parts), drift.merge_rules(ruled, [bytes(all_of_it)]))
    with pytest.raises(ValueError, match="a block of other rules"):
        drift.merge_rules(ruled, [parts[0] + bytes(8)])


@TWINS
def test_a_sketch_takes_values_and_nothing_else(twin):
    ruled = {0: Rule(distinct=True), 1: Rule(distinct=True)}
    one, _, broken = shard(twin, [ANY, NAMED], ruled, {"n": (0,), "t": (1,)})
    one.count(
        [
            tensor("n", "FP64", (3,), np.array([nan, -0.0, 0.0]).tobytes()),
            tensor("t", "BYTES", (3,), packed([b"a", b"", b"a"])),
        ]
    )
    found = drift.merge_rules(ruled, [bytes(broken)])
    for at, hashed in ((0, plan.mixed(0)), (1, plan.mixed(plan.fnv(b"a")))):
        register, least = plan.sketched(hashed)
        registers = drift.registers(ruled, found, at)
        assert registers[register] == least
        assert np.count_nonzero(registers) == 1


def test_hashes_are_those_of_their_sources():
    # http://www.isthe.com/chongo/src/fnv/test_fnv.c; SMHasher has no vector of fmix64 alone, 0 and 1 are by hand
    assert plan.fnv(b"foobar") == 0x85944171F73967E8
    assert plan.fnv(b"") == 0xCBF29CE484222325
    assert plan.mixed(0) == 0
    assert plan.mixed(1) == 0xB456BCFC34C2CB2C
    assert plan.sketched(0) == (0, 54)
    assert plan.sketched(2**64 - 1) == (2047, 1)


@TWINS
@pytest.mark.parametrize(
    ("ruled", "broken", "says"),
    [
        ({1: Rule()}, bytearray(128), "a rule is of no column"),
        ({0: Rule()}, None, "rules need a buffer"),
        ({0: Rule()}, bytearray(120), "the buffer is of other rules"),
        ({0: Rule(low=nan)}, bytearray(128), "a bound is no number"),
        ({0: Rule(among=NAMED)}, bytearray(128), "a set of values has others"),
    ],
)
def test_rules_that_do_not_fit_are_refused(twin, ruled, broken, says):
    with pytest.raises(ValueError, match=says):
        twin.Shard(bytearray(drift.nbytes([ANY])), [ANY], {"x": (0,)}, None, ruled, broken)
