"""The circuit breaker as a table of events, and what holds whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.breaker import LONGEST, Breaker


def call(breaker: Breaker, now: float, failed: bool | None) -> bool | None:
    """One request that ends at once; None when it was not let through, else whether the circuit opened."""
    epoch = breaker.enter(now)
    return None if epoch is None else breaker.leave(epoch, now, failed=failed)


def opened(at: float = 0.0, **more) -> Breaker:
    breaker = Breaker(**({"failures": 3, "open_seconds": 1.0, "probes": 1} | more))
    assert [call(breaker, at, failed=True) for _ in range(3)] == [False, False, True]
    return breaker


def test_only_failures_in_a_row_open_it():
    breaker = Breaker(3, 1.0, 1)
    for failed in (True, True, False, True, True, None, True):
        outcome = call(breaker, 0.0, failed)
    assert outcome is True
    assert breaker.state(0.5) == "open"
    assert not breaker.allows(0.5)
    assert breaker.enter(0.5) is None
    assert breaker.opens_in(0.25) == pytest.approx(0.75)


def test_half_open_lets_probes_through_one_at_a_time():
    breaker = opened()
    assert breaker.state(1.0) == "half_open"
    first = breaker.enter(1.0)
    assert first is not None
    assert breaker.enter(1.0) is None
    assert not breaker.leave(first, 1.1, failed=False)
    assert breaker.closed
    assert breaker.allows(1.1)


def test_several_probes():
    breaker = opened(probes=2)
    one, two = breaker.enter(1.0), breaker.enter(1.0)
    assert one is not None
    assert two is not None
    assert breaker.enter(1.0) is None
    assert breaker.leave(one, 1.2, failed=True)
    # The other one's end belongs to a state that is over.
    assert not breaker.leave(two, 1.3, failed=False)
    assert not breaker.closed


def test_a_probe_whose_client_left_gives_its_place_back():
    breaker = opened()
    epoch = breaker.enter(1.0)
    assert epoch is not None
    breaker.leave(epoch, 1.1, failed=None)
    assert breaker.state(1.1) == "half_open"
    assert breaker.enter(1.1) is not None


def test_the_open_time_doubles_up_to_the_longest_and_starts_anew():
    breaker = opened()
    now, waits = 0.0, []
    for _ in range(7):
        wait = breaker.opens_in(now)
        waits.append(wait)
        now += wait
        assert call(breaker, now, failed=True) is True
    assert waits == [1, 2, 4, 8, 16, LONGEST, LONGEST]
    now += breaker.opens_in(now)
    assert call(breaker, now, failed=False) is False
    for _ in range(3):
        call(breaker, now, failed=True)
    assert breaker.opens_in(now) == 1.0


def test_an_active_check_that_sees_it_back_ends_the_waiting():
    breaker = opened()
    assert breaker.recovered(0.2)
    assert breaker.state(0.2) == "half_open"
    assert not breaker.recovered(0.3)
    assert call(breaker, 0.3, failed=False) is False
    assert breaker.closed
    assert not breaker.recovered(0.4)


def test_what_was_sent_before_it_opened_says_nothing_afterwards():
    breaker = Breaker(1, 1.0, 1)
    early = [breaker.enter(0.0) for _ in range(3)]
    assert breaker.leave(early[0], 0.1, failed=True)
    assert not breaker.leave(early[1], 0.2, failed=False)
    assert breaker.state(0.2) == "open"
    probe = breaker.enter(1.1)
    assert not breaker.leave(early[2], 1.2, failed=True)
    assert not breaker.leave(probe, 1.3, failed=False)
    assert breaker.closed


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["enter", "ok", "failed", "left", "recovered"]), st.floats(0, 4)), max_size=80),
)
def test_whatever_happens(failures, probes, steps):
    """While not closed at most `probes` are under way, none while open; and it always opens up again in time."""
    breaker = Breaker(failures, 1.0, probes)
    now, flying = 0.0, []
    for what, pause in steps:
        now += pause
        if what == "enter":
            state, epoch = breaker.state(now), breaker.enter(now)
            if state == "open":
                assert epoch is None
            elif state == "closed":
                assert epoch is not None
            if epoch is not None:
                flying.append(epoch)
        elif what == "recovered":
            breaker.recovered(now)
        elif flying:
            breaker.leave(flying.pop(0), now, failed={"ok": False, "failed": True, "left": None}[what])
        if not breaker.closed:
            assert sum(epoch == breaker.epoch for epoch in flying) <= probes
        assert breaker.opens_in(now) <= LONGEST
    for epoch in flying:
        breaker.leave(epoch, now, failed=None)
    assert breaker.allows(now + LONGEST)
