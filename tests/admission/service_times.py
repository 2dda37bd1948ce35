"""How long the executions of a simulated model take, by the names that the tests give them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

ServiceTime = Callable[[random.Random, int], float]


def fixed(mean: float) -> ServiceTime:
    return lambda rng, taken: mean


def noisy(mean: float) -> ServiceTime:
    """A model that always does the same, on a machine that does other things too."""
    return lambda rng, taken: 0.9 * mean + rng.expovariate(10 / mean)


def lognormal(mean: float) -> ServiceTime:
    return lambda rng, taken: rng.lognormvariate(math.log(mean) - 0.125, 0.5)


def bimodal(mean: float) -> ServiceTime:
    """One in ten takes nine times as long as the others."""
    return lambda rng, taken: mean * 5 if rng.random() < 0.1 else mean * 5 / 9


KINDS = {"fixed": fixed, "noisy": noisy, "lognormal": lognormal, "bimodal": bimodal}


def slow_at_first(service: ServiceTime, first: int, times: float = 5.0) -> ServiceTime:
    """As models are that load, compile or allocate with their first requests."""
    count = 0

    def seconds(rng: random.Random, taken: int) -> float:
        nonlocal count
        count += 1
        return service(rng, taken) * (times if count <= first else 1.0)

    return seconds
