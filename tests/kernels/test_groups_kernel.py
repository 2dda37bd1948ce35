"""Counting by group: both twins against each other and against a dictionary; several blocks read as one."""

import os
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import groups
from kernels.groups import _groups_c as c
from kernels.groups import _groups_py as py

TWINS = pytest.mark.parametrize("twin", [py, c], ids=["py", "c"])
BASE = 29_400_000
"""A minute of 2025."""


def block(variants, number):
    return bytearray(groups.nbytes(variants, number))


def test_the_c_twin_is_the_one_that_is_used():
    if not os.environ.get("TIDEGATE_NO_EXTENSIONS"):
        assert groups.Shard is c.Shard
    assert sys.byteorder == "little"


adds = st.lists(
    st.tuples(
        st.integers(BASE, BASE + 4) | st.integers(BASE + groups.MINUTES - 1, BASE + groups.MINUTES + 2),
        st.integers(0, 1),
        st.integers(0, 3),
        st.integers(0, 5).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, rows))),
    ).map(lambda one: (one[0], one[1], one[2], *one[3])),
    max_size=20,
)


@settings(max_examples=40)
@given(st.lists(adds, min_size=1, max_size=3), st.integers(0, 6))
def test_counts_are_those_of_a_dictionary(workers, span):
    now = BASE + groups.MINUTES + 2
    written = {py: [], c: []}
    total, window, calls = Counter(), Counter(), 0
    for work in map(sorted, workers):  # time goes forward
        for twin, blocks in written.items():
            blocks.append(block(2, 4))
            shard = twin.Shard(blocks[-1], 2, 4)
            for one in work:
                shard.add(*one)
                shard.called(one[3] > 0)
        for minute, variant, group, rows, selected in work:
            total[variant, group] += np.array([rows, selected])
            if now - span <= minute <= now:
                window[variant, group] += np.array([rows, selected])
            calls += rows > 0
    assert written[py] == written[c]
    for first, expected in ((None, total), (now - span, window)):
        counts, counted, uncounted = groups.read(written[c], 2, 4, first, now)
        assert counts.shape == (2, 4, 2)
        for variant in range(2):
            for group in range(4):
                assert counts[variant, group].tolist() == np.array(expected[variant, group] + np.zeros(2)).tolist()
        assert (counted, counted + uncounted) == (calls, sum(map(len, workers)))


@TWINS
def test_a_slot_of_another_day_is_cleared(twin):
    memory = block(1, 2)
    shard = twin.Shard(memory, 1, 2)
    shard.add(BASE, 0, 0, 5, 5)
    shard.add(BASE + groups.MINUTES, 0, 1, 1, 0)
    assert groups.read([memory], 1, 2, BASE, BASE)[0].tolist() == [[[0, 0], [0, 0]]]
    assert groups.read([memory], 1, 2, BASE + groups.MINUTES, BASE + groups.MINUTES)[0].tolist() == [[[0, 0], [1, 0]]]
    assert groups.read([memory], 1, 2)[0].tolist() == [[[5, 5], [1, 0]]]


WRONG = [(BASE, 2, 0, 1, 0), (BASE, -1, 0, 1, 0), (BASE, 0, 4, 1, 0), (BASE, 0, -1, 1, 0), (0, 0, 0, 1, 0), (BASE, 0, 0, 1, 2), (BASE, 0, 0, 1, -1), (BASE, 0, 0, -1, -2)]  # fmt: skip


@TWINS
@pytest.mark.parametrize("one", WRONG)
def test_what_cannot_be_counted_is_refused_and_changes_nothing(twin, one):
    memory = block(2, 4)
    shard = twin.Shard(memory, 2, 4)
    with pytest.raises(ValueError, match="no such"):
        shard.add(*one)
    assert not any(memory)


@TWINS
@pytest.mark.parametrize(
    "arguments", [(bytearray(8), 1, 1), (bytes(1 << 20), 1, 1), (bytearray(1 << 20), 0, 1), (bytearray(1 << 20), 1, 0)]
)
def test_a_buffer_that_is_too_small_or_not_writable_is_refused(twin, arguments):
    with pytest.raises(ValueError, match=r"at least one|needs a writable buffer"):
        twin.Shard(*arguments)


def test_more_selected_than_rows_are_never_read():
    memory = block(1, 1)
    view = memoryview(memory).cast("Q")
    view[py.HEAD], view[py.HEAD + 1] = 7, 5  # as a reader may find it between two writes
    assert groups.read([memory], 1, 1)[0].tolist() == [[[5, 5]]]
