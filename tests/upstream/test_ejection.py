"""Passive health: who is left out, for how long, and who never is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import settings
from gateway.upstream.ejection import LEAST_REPLICAS, MOST_TIMES, Ejection, Outlier


def ejection(replicas: int, **config) -> tuple[Ejection, list[Outlier], list[tuple[int, str]]]:
    told: list[tuple[int, str]] = []
    members = [Outlier() for _ in range(replicas)]
    made = Ejection(settings.Ejection(**config), ejected=lambda one, reason: told.append((members.index(one), reason)))
    made.members = members
    return made, members, told


def fail(made: Ejection, one: Outlier, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        made.failed(one, now)


def test_failures_in_a_row_eject():
    made, (one, two), told = ejection(2, consecutive_failures=3)
    fail(made, one, 2)
    made.succeeded(one, 0.0)
    fail(made, one, 2)
    assert not one.out
    fail(made, one, 1)
    assert told == [(0, "consecutive_failures")]
    assert one.out
    assert not one.allows(4.9)
    assert two.allows(0.0)


def test_back_on_probation_one_request_at_a_time():
    made, (one, _), _ = ejection(2, time=5.0)
    fail(made, one, 5)
    assert one.allows(5.0)
    assert made.began(one, 5.0)
    assert not one.allows(5.0)
    assert not made.began(one, 5.0)
    made.ended(one)
    made.succeeded(one, 5.1)
    assert not one.out


def test_a_failed_probe_ejects_for_longer_each_time():
    made, (one, _), told = ejection(2, time=5.0)
    fail(made, one, 5)
    now, waits = 0.0, []
    for _ in range(MOST_TIMES + 2):
        waits.append(one.until - now)
        now = one.until
        assert made.began(one, now)
        made.ended(one)
        made.failed(one, now)
    assert waits == [min(times, MOST_TIMES) * 5.0 for times in range(1, MOST_TIMES + 3)]
    assert len(told) == MOST_TIMES + 3


def test_intervals_without_failure_are_forgiven():
    made, (one, _), _ = ejection(2, interval=10.0)
    fail(made, one, 5)
    made.succeeded(one, 6.0)
    assert one.times == 1
    for now in (11.0, 22.0, 33.0):
        made.succeeded(one, now)
    assert one.times == 0


def test_the_last_one_is_never_ejected():
    made, (only,), _ = ejection(1)
    fail(made, only, 100)
    assert not only.out
    made, (one, two), _ = ejection(2, max_share=1.0)
    fail(made, one, 5)
    fail(made, two, 100)
    assert one.out
    assert not two.out


@pytest.mark.parametrize(
    ("replicas", "share", "most"), [(2, 0.5, 1), (4, 0.5, 2), (10, 0.3, 3), (10, 0.05, 1), (4, 0.0, 0)]
)
def test_the_share_is_capped_though_one_may_always_be(replicas, share, most):
    made, members, _ = ejection(replicas, max_share=share)
    for one in members:
        fail(made, one, 5)
    assert sum(one.out for one in members) == most


def test_an_active_check_ends_the_waiting():
    made, (one, _), _ = ejection(2)
    fail(made, one, 5)
    made.recovered(one, 1.0)
    assert one.allows(1.0)
    assert one.out


def rates(made: Ejection, members: list[Outlier], failed: list[int], requests: int = 100) -> None:
    """Every replica had `requests`, of which so many failed, never many in a row; then the interval ends."""
    made.succeeded(members[0], 0.0)  # the first judgement: nothing yet
    for one, count in zip(members, failed, strict=True):
        one.requests, one.failed, one.consecutive = requests, count, 0
    made.succeeded(members[0], 1000.0)


@pytest.mark.parametrize(
    ("failed", "out"),
    [
        ([0, 0, 0, 0, 50], [4]),
        ([0, 0, 0, 0, 0], []),
        ([5, 5, 5, 5, 5], []),
        ([10, 20, 30, 40, 50], []),  # no outlier: they differ all
        ([0, 0, 0, 90], []),  # too few to compare
        ([1, 1, 1, 1, 1, 1, 1, 60], [7]),
    ],
)
def test_success_rate_outliers(failed, out):
    made, members, told = ejection(len(failed), consecutive_failures=1000)
    rates(made, members, failed)
    assert [at for at, one in enumerate(members) if one.out] == out
    assert told == [(at, "success_rate") for at in out]


def test_few_requests_and_zero_deviations_judge_nobody():
    made, members, _ = ejection(5)
    rates(made, members, [0, 0, 0, 0, 50], requests=99)
    made, others, _ = ejection(5, success_rate_stdev=0.0)
    rates(made, others, [0, 0, 0, 0, 50])
    assert not any(one.out for one in members + others)


def test_how_far_a_single_one_can_be_off():
    """sqrt(n - 1) standard deviations: what the module says of the default."""
    assert math.sqrt(LEAST_REPLICAS - 1) > settings.Ejection().success_rate_stdev > math.sqrt(LEAST_REPLICAS - 2)


@given(
    st.integers(1, 8),
    st.floats(0, 1),
    st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.floats(0, 8)), max_size=150),
)
def test_whatever_happens(replicas, share, steps):
    made, members, _ = ejection(
        replicas, max_share=share, consecutive_failures=2, success_rate_requests=3, interval=5.0
    )
    now = 0.0
    for which, ok, pause in steps:
        now += pause
        one = members[which % replicas]
        probing = one.out and made.began(one, now)
        if one.out and not probing:
            continue
        if probing:
            made.ended(one)
        (made.succeeded if ok else made.failed)(one, now)
        out = sum(each.out for each in members)
        assert out < replicas
        assert out <= max(1, share * replicas)
        assert all(each.until - now <= settings.Ejection().time * MOST_TIMES for each in members)
