"""The waiting room: order, bounds, patience."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.priority import CALM, MOST_BYTES, Waiter, WaitingRoom, class_of, priority_of


def waiter(priority: int = 0, came: float = 0.0, deadline: float = 1e9, nbytes: int = 1) -> Waiter:
    return Waiter(priority, came, deadline, nbytes, lambda place, reason: None)


@pytest.mark.parametrize(
    ("first", "then"),
    [((1, 0), (2, 1)), ((10, 1), (10, 2)), ((10, 2), (10, 0)), ((10, 31), (10, 10**9)), ((1, "x"), (2, 1))],
)
def test_order_of_priorities(first, then):
    assert priority_of(*first) < priority_of(*then)
    assert class_of(priority_of(*first)) == first[0]


@pytest.mark.parametrize("said", [0, None, -1, "1", True, 1.0])
def test_what_is_no_priority_is_the_default_level(said):
    assert priority_of(10, said) == priority_of(10, 0)


def test_first_come_first_served_within_a_priority():
    room = WaitingRoom(0.5)
    waiters = [waiter(p, came=i) for i, p in enumerate([2, 1, 2, 1])]
    for each in waiters:
        assert room.add(each, each.came) == []
    assert [room.next(4.0) for _ in range(5)] == [waiters[1], waiters[3], waiters[0], waiters[2], None]


def test_a_full_room_turns_away_the_newest_of_the_lowest():
    room = WaitingRoom(0.5, most=2)
    low, lower, high = waiter(5), waiter(5), waiter(1)
    assert room.add(low, 0.0) == []
    assert room.add(lower, 0.0) == []
    assert room.add(high, 0.0) == [lower]
    late = waiter(5)
    assert room.add(late, 0.0) == [late]
    assert room.waiting == 2


def test_bytes_are_bounded_too_but_one_is_always_let_in():
    room = WaitingRoom(0.5)
    large, small = waiter(nbytes=MOST_BYTES + 1), waiter()
    assert room.add(large, 0.0) == []
    assert room.add(small, 0.0) == [small]


def test_who_cannot_be_in_time_is_told_so():
    room = WaitingRoom(0.5)
    hurried, patient = waiter(deadline=1.0), waiter(deadline=9.0)
    room.add(hurried, 0.0)
    room.add(patient, 0.0)
    assert room.late(0.9) == []
    assert room.late(1.0) == [hurried]
    assert room.late(8.9) == []
    assert room.late(9.0) == [patient]
    assert room.waiting == 0


def grow(room: WaitingRoom, priority: int, until: float) -> list[Waiter]:
    """One more each hundredth of a second."""
    out, steps = [], round(until * 100)
    for i in range(steps):
        out += room.add(waiter(priority, i / 100), i / 100)
        out += room.expire(i / 100, 0.01)
    return out


def test_a_queue_that_grows_is_overload_and_then_the_newest_is_next():
    room = WaitingRoom(0.5)
    assert grow(room, 7, 0.5) == []
    assert room.waiting == 50
    out = grow(room, 7, 0.0) + room.expire(0.501, 0.1)
    assert out
    assert all(0.501 - each.came >= 0.1 for each in out)
    assert room.overloaded(0.6)
    newest = waiter(7, 0.55)
    room.add(newest, 0.55)
    assert room.next(0.56) is newest
    assert not room.overloaded(0.52 + CALM * 0.5)


def test_a_queue_that_stays_is_none():
    room = WaitingRoom(0.5)
    for each in range(64):
        room.add(waiter(7, each / 1000), each / 1000)
    for tick in range(1, 400):
        now = tick / 16
        assert room.expire(now, 0.01) == []
        room.next(now)
        room.add(waiter(7, now), now)


def test_with_a_high_one_all_lower_ones_are_turned_away():
    room = WaitingRoom(0.5)
    grow(room, 1, 0.5)
    low = waiter(9, 0.5)
    room.add(low, 0.5)
    assert low in room.expire(0.51, 0.1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "next", "expire", "late", "remove"]),
            st.integers(0, 3),
            st.floats(0.0, 0.3),
            st.floats(0.0, 2.0),
        ),
        max_size=200,
    )
)
@settings(deadline=None)
def test_nobody_is_lost_and_no_low_one_goes_before_a_high_one(steps):
    room, inside, now = WaitingRoom(0.2, most=5), set(), 0.0
    for what, priority, seconds, patience in steps:
        now += seconds
        out = []
        if what == "add":
            one = waiter(priority, now, now + patience)
            inside.add(one)
            out = room.add(one, now)
        elif what == "next":
            one = room.next(now)
            assert (one is None) == (not inside)
            if one is not None:
                assert one.priority == min(each.priority for each in inside)
                inside.remove(one)
        elif what == "expire":
            out = room.expire(now, patience)
            if out:
                highest = min(each.priority for each in out)
                assert all(each.priority <= highest for each in inside - set(out))
        elif what == "late":
            out = room.late(now)
            assert set(out) == {each for each in inside if each.deadline <= now}
        elif inside:
            one = min(inside, key=lambda each: each.came)
            room.remove(one)
            room.remove(one)
            inside.remove(one)
        if what == "add":
            assert all(each.priority == max(i.priority for i in inside) for each in out)
        inside -= set(out)
        assert room.waiting == len(inside)
        assert room.waiting <= 5
