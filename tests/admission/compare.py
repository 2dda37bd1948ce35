"""The table of docs/overload.md: the gate and published limiters under the same loads, in simulated time.

PYTHONPATH=tests python -m admission.compare
"""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import mean

from admission.published import Codel, Gradient2, Unlimited, Vegas
from admission.service_times import KINDS, slow_at_first
from admission.simulated import Simulation, quantile

SEEDS = (1, 2, 3)
OTHERS: dict[str, Callable[[int], Callable[[], Unlimited]] | None] = {
    "Tidegate": None,
    "Gradient2": lambda _: Gradient2,
    "Vegas": lambda _: Vegas,
    "CoDel": lambda instances: lambda: Codel(instances),
    "none": lambda _: Unlimited,
}


def _batching(_: random.Random, taken: int) -> float:
    return 0.01 * (1 + 2 * taken / 64)


def _simulation(name: str, service: Callable, instances: int, seed: int, places: int, **options) -> Simulation:
    make = OTHERS[name]
    return Simulation(service, instances, seed=seed, other=make and make(places), **options)


def _unloaded(service: Callable, instances: int, seconds: float) -> float:
    sim = Simulation(service, instances, other=Unlimited)
    sim.open_loop(0.25 * instances / seconds, 1600 * seconds / instances)
    sim.run(1600 * seconds / instances)
    return quantile(sim.latencies(), 0.99)


def overload(name: str, kind: str, seconds: float, instances: int, *, cold: bool, workers: int = 1, seed: int = 1):
    """Twice the capacity; share of the capacity, and p99 in multiples of the unloaded one, after ten seconds."""
    capacity, service = instances / seconds, KINDS[kind](seconds)
    share = max(1, instances // workers)
    first = slow_at_first(service, 2 * instances if cold else 0)
    sim = _simulation(name, first, instances, seed, share, gates=workers)
    if not cold:
        sim.open_loop(capacity / 4, 4.0)
        sim.run(4.0)
    until = sim.now + 20.0
    sim.open_loop(2 * capacity, until)
    sim.run(sim.now + 10.0)
    served = len(sim.answers)
    sim.run(until)
    latencies = sorted(taken for _, taken, _ in sim.answers[served:])
    return len(latencies) / 10.0 / capacity, quantile(latencies, 0.99) / _unloaded(service, instances, seconds)


def batching(name: str, *, seed: int = 1):
    """128 clients, each waiting for its answer, of a model that takes 64 at once: its best is 2,133 a second."""
    sim = _simulation(name, _batching, 1, seed, 1, batch=64)
    sim.open_loop(10.0, 2.0)
    sim.call_later(2.0, lambda: sim.closed_loop(128, 22.0))
    sim.run(12.0)
    served = len(sim.answers)
    sim.run(22.0)
    latencies = sorted(taken for _, taken, _ in sim.answers[served:])
    return len(latencies) / 10.0 / (64 / 0.03), quantile(latencies, 0.99) / _batching(sim.rng, 1)


LOADS: dict[str, Callable[..., tuple[float, float]]] = {
    "20 ms, 2 instances, known": lambda name, seed: overload(name, "noisy", 0.02, 2, cold=False, seed=seed),
    "the same, cold": lambda name, seed: overload(name, "noisy", 0.02, 2, cold=True, seed=seed),
    "20 ms lognormal, 8 instances, cold": lambda name, seed: overload(name, "lognormal", 0.02, 8, cold=True, seed=seed),
    "200 ms, 64 instances, known": lambda name, seed: overload(name, "noisy", 0.2, 64, cold=False, seed=seed),
    "20 ms, 8 instances, 4 workers, cold": lambda name, seed: overload(
        name, "noisy", 0.02, 8, cold=True, workers=4, seed=seed
    ),
    "batches of 64, 128 waiting clients": lambda name, seed: batching(name, seed=seed),
}


def main() -> None:
    """Print it."""
    print("|", " | ".join(["load", *OTHERS]), "|\n|---" + "|--:" * len(OTHERS) + "|")
    for load, run in LOADS.items():
        cells = []
        for name in OTHERS:
            shares, multiples = zip(*(run(name, seed) for seed in SEEDS), strict=True)
            cells.append(f"{mean(shares):.0%}, {mean(multiples):.1f}")
        print("|", " | ".join([load, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
