"""Which replica gets a call: the one with less in flight of two drawn at random, new ones less often.

Contract: pure. Power of two choices (M. Mitzenmacher, "The Power of Two Choices in Randomized Load
Balancing", IEEE TPDS 12(10), 2001) as Envoy's `LEAST_REQUEST` does it: looking at two keeps the largest load
within log log n of the mean, and unlike looking at all does not send every worker's burst to the one that
was idle a moment ago.

Warm-up is Envoy's slow start with aggression 1: the share of a replica that came beside others grows linearly
from `LEAST_SHARE` to 1 over `health.warmup`. A replica that warms up takes part in a draw with that
probability; weighing the loads instead would starve it as long as the others are idle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

LEAST_SHARE = 0.1
"""Of a replica that has just come (Envoy's `min_weight_percent`): it must get some calls to become warm."""


class Loaded(Protocol):
    """What is looked at."""

    in_flight: int
    warm_at: float
    """Monotonic time from which on it gets its full share; 0: it never was cold."""
    came_at: float
    """Monotonic time at which its warm-up began."""


T = TypeVar("T", bound=Loaded)


def share(came_at: float, warm_at: float, now: float) -> float:
    """The share of its full traffic that a replica gets `now`, from `LEAST_SHARE` to 1."""
    if now >= warm_at or warm_at <= came_at:
        return 1.0
    return max(LEAST_SHARE, (now - came_at) / (warm_at - came_at))


def warmed(candidates: Sequence[T], now: float, random: Callable[[], float]) -> Sequence[T]:
    """The candidates of one draw: warm ones, and each cold one with the probability of its share.

    All of them when that leaves none.
    """
    drawn = [one for one in candidates if one.warm_at <= now or random() < share(one.came_at, one.warm_at, now)]
    return drawn or candidates


def choose(candidates: Sequence[T], random: Callable[[], float]) -> T:
    """The less loaded of two different candidates drawn at random; the first drawn of equals.

    Args:
        candidates: at least one.
        random: uniform in [0, 1).
    """
    count = len(candidates)
    if count == 1:
        return candidates[0]
    first = int(random() * count)
    second = int(random() * (count - 1))
    if second >= first:
        second += 1
    one, other = candidates[first], candidates[second]
    return other if other.in_flight < one.in_flight else one
