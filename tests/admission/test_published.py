"""The published limiters that docs/overload.md compares with do what is published of them, and the table's order holds."""

from itertools import pairwise

import pytest
from admission.compare import OTHERS, overload
from admission.published import Codel, Gradient2, Unlimited, Vegas

from gateway.admission.priority import Waiter


def steady(limiter: Unlimited, rtt: float, seconds: int, in_flight: int = 1000) -> None:
    """Twenty answers a second of one latency."""
    for at in range(20 * seconds):
        limiter.answer(rtt, in_flight, at / 20)


@pytest.mark.parametrize("make", [Gradient2, Vegas])
def test_without_a_queue_the_limit_grows_and_with_one_it_shrinks(make):
    limiter = make()
    steady(limiter, 0.02, 30)
    grown = limiter.limit
    assert grown > 30
    for at in range(400):
        limiter.answer(0.2, 1000, 30 + at / 20)
    assert limiter.limit < grown


@pytest.mark.parametrize("make", [Gradient2, Vegas])
def test_the_limit_stays_where_hardly_anything_is_asked(make):
    limiter = make()
    steady(limiter, 0.02, 30, in_flight=3)
    assert limiter.limit == 20


def test_codel_drops_more_often_the_longer_the_queue_stands():
    codel, dropped, clock = Codel(1), [], [0.0]

    def tell(place: int, _: str) -> None:
        if not place:
            dropped.append(clock[0])

    assert codel.try_enter(0.0) == 1
    for at in range(4000):
        now = clock[0] = at / 1000
        codel.queue(Waiter(0, now, 99.0, 1, tell), now)
        if at % 10 == 9:  # a tenth of what comes is served
            codel.leave(1, now, now, True)
    gaps = [later - earlier for earlier, later in pairwise(dropped)]
    assert dropped[0] > 0.1  # not within the first interval
    assert gaps[0] == pytest.approx(0.1, abs=0.011)
    assert sum(gaps[-5:]) < sum(gaps[:5]) / 2


def test_ours_is_the_shortest_queue_of_those_that_keep_the_throughput():
    ours, *others = (overload(name, "noisy", 0.02, 2, cold=True, seed=1) for name in OTHERS)
    assert ours[0] > 0.95
    assert all(share > 0.95 and multiple > 1.2 * ours[1] for share, multiple in others)
