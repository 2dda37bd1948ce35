"""The retry budget: a share of the live requests, and a floor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.budget import WINDOW, RetryBudget


@pytest.mark.parametrize(
    ("share", "floor", "requests", "granted"),
    [
        (0.2, 0, 100, 20),
        (0.2, 0, 4, 0),
        (0.2, 0, 5, 1),
        (0.0, 0, 1000, 0),
        (0.0, 3, 0, 30),
        (0.2, 3, 100, 50),
        (1.0, 0, 7, 7),
    ],
)
def test_what_is_granted_at_once(share, floor, requests, granted):
    budget = RetryBudget(share, floor)
    for _ in range(requests):
        budget.deposit(5.0)
    assert sum(budget.withdraw(5.5) for _ in range(requests + 100)) == granted


def test_requests_and_tries_are_forgotten_after_the_window():
    budget = RetryBudget(0.1, 0)
    for _ in range(50):
        budget.deposit(100.0)
    assert [budget.withdraw(100.5) for _ in range(6)] == [True] * 5 + [False]
    assert not budget.withdraw(100.0 + WINDOW - 1)
    for _ in range(10):
        budget.deposit(100.0 + WINDOW)
    assert budget.withdraw(100.0 + WINDOW)
    assert not budget.withdraw(100.0 + WINDOW)


def test_a_refused_try_is_not_counted():
    budget = RetryBudget(0.5, 0)
    budget.deposit(1.0)
    assert not budget.withdraw(1.0)
    budget.deposit(1.0)
    assert budget.withdraw(1.0)


@given(
    st.floats(0, 1),
    st.floats(0, 5),
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=200),
)
def test_never_more_than_the_budget_in_any_window(share, floor, steps):
    """Whatever comes when: the tries of the last ten slots stay within what the requests of these allow."""
    budget = RetryBudget(share, floor)
    now = 0.0
    requests: list[int] = []
    tries: list[int] = []
    for pause, is_try in steps:
        now += pause
        if not is_try:
            budget.deposit(now)
            requests.append(int(now))
        elif budget.withdraw(now):
            tries.append(int(now))
            since = int(now) - WINDOW
            assert sum(at > since for at in tries) <= share * sum(at > since for at in requests) + floor * WINDOW
