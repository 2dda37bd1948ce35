"""The adaptive limit in simulated time: what it must do in overload, and must not do without."""

import pytest
from admission.simulated import Simulation, quantile
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.adaptive import Limiter
from gateway.admission.priority import priority_of
from gateway.settings import AdaptiveConcurrency


def fixed(seconds: float):
    return lambda rng, taken: seconds


def offered(service, instances: int, rate: float, *, quiet: float, seconds: float = 15.0, **options) -> Simulation:
    """Four seconds of little load, then `seconds` of `rate`."""
    sim = Simulation(service, instances, **options)
    sim.open_loop(quiet, 4.0)
    sim.call_later(4.0, lambda: sim.open_loop(rate, 4.0 + seconds))
    sim.run(4.0 + seconds)
    return sim


@pytest.mark.parametrize(("seconds", "instances"), [(0.02, 2), (0.05, 4), (0.02, 1), (0.01, 8)])
@pytest.mark.parametrize("times", [2.0, 4.0])
def test_overload_keeps_goodput_and_latency(seconds: float, instances: int, times: float):
    capacity = instances / seconds
    unloaded = quantile(offered(fixed(seconds), instances, capacity / 4, quiet=capacity / 4).latencies(), 0.99)
    sim = offered(fixed(seconds), instances, capacity * times, quiet=capacity / 4)
    served = sim.latencies(after=8.0)
    assert len(served) / 11.0 >= 0.9 * capacity
    assert quantile(served, 0.99) <= 3 * unloaded
    assert sim.shed


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
@pytest.mark.parametrize(
    ("service", "mean", "instances"),
    [
        (fixed(0.02), 0.02, 2),
        (fixed(1.0), 1.0, 4),
        (lambda rng, taken: rng.expovariate(50.0), 0.02, 4),
        (lambda rng, taken: 0.1 if rng.random() < 0.1 else 0.002, 0.0118, 4),
        (lambda rng, taken: rng.uniform(0.001, 0.1), 0.0505, 3),
    ],
    ids=["fixed", "slow", "exponential", "bimodal", "by-size"],
)
def test_nothing_is_shed_at_normal_load(service, mean: float, instances: int, load: float):
    sim = offered(service, instances, load * instances / mean, quiet=0.1 * instances / mean, seconds=20)
    assert sim.shed == []


@pytest.mark.parametrize(
    ("seconds", "instances", "clients"), [(0.002, 1, 64), (0.02, 2, 64), (0.1, 1, 32), (1.0, 1, 16), (0.1, 16, 64)]
)
def test_clients_that_wait_for_their_answers_are_not_shed(seconds: float, instances: int, clients: int):
    sim = Simulation(fixed(seconds), instances)
    sim.closed_loop(clients, 40 * seconds + 4)
    sim.run(40 * seconds + 4)
    assert sim.shed == []
    assert len(sim.answers) >= 0.9 * (sim.now - 0.1) * instances / seconds


def test_bursts_are_not_shed():
    sim = Simulation(fixed(0.02), 2)
    sim.open_loop(10.0, 30.0)
    for at in range(2, 30, 3):
        sim.call_later(float(at), lambda: [sim.request() for _ in range(60)])
    sim.run(32.0)
    assert sim.shed == []


def test_a_model_that_becomes_slower_is_not_throttled():
    """Sixteen instances for sixteen clients: nothing ever queues at the server, though latency grows fivefold."""
    now = [0.02]
    sim = Simulation(lambda rng, taken: now[0], 16)
    sim.open_loop(5.0, 2.0)
    sim.closed_loop(16, 30.0)
    sim.call_later(10.0, lambda: now.__setitem__(0, 0.1))
    sim.run(30.0)
    assert sim.shed == []
    assert len(sim.latencies(after=14.0)) >= 0.85 * 16.0 * 160.0


@pytest.mark.parametrize("clients", [32, 128])
def test_a_model_that_batches_keeps_its_throughput(clients: int):
    """Its best throughput is at three times the unloaded latency; a pure latency gradient would stay at a third."""

    def run(config: AdaptiveConcurrency) -> int:
        sim = Simulation(lambda rng, taken: 0.01 * (1 + 2 * taken / 64), 1, batch=64, config=config)
        sim.open_loop(10.0, 2.0)
        sim.call_later(2.0, lambda: sim.closed_loop(clients, 22.0))
        sim.run(22.0)
        assert sim.shed == []
        return len(sim.latencies(after=6.0))

    assert run(AdaptiveConcurrency()) >= 0.85 * run(AdaptiveConcurrency(max=100_000, tolerance=1e6))


def test_several_workers_each_limit_their_share():
    capacity = 8 / 0.02
    sim = offered(fixed(0.02), 8, 2 * capacity, quiet=capacity / 10, gates=4)
    served = sim.latencies(after=8.0)
    assert len(served) / 11.0 >= 0.9 * capacity
    assert quantile(served, 0.99) <= 5 * 0.02
    assert sum(gate.limiter.limit for gate in sim.gates) <= 40


def test_high_priority_is_never_shed_while_low_is_there():
    sim = Simulation(fixed(0.02), 2)
    sim.open_loop(30.0, 20.0, tenant=1)
    sim.open_loop(170.0, 20.0, tenant=10)
    sim.run(21.0)
    high = priority_of(1, 0)
    assert {priority for _, priority, _ in sim.shed} == {priority_of(10, 0)}
    assert quantile(sim.latencies(after=5.0, priority=high), 0.99) <= 0.15
    # Triton's own priority takes part within the class.
    sim = Simulation(fixed(0.02), 2)
    sim.open_loop(30.0, 20.0, triton=1)
    sim.open_loop(170.0, 20.0, triton=2)
    sim.run(21.0)
    assert {priority for _, priority, _ in sim.shed} == {priority_of(10, 2)}


def test_the_limit_is_gone_when_the_load_is():
    sim = offered(fixed(0.02), 2, 200.0, quiet=10.0, seconds=8.0)
    gate = sim.gates[0]
    assert gate.limiter.limiting
    sim.open_loop(10.0, sim.now + 10.0)
    sim.run(sim.now + 10.0)
    assert not gate.limiter.limiting


def test_the_first_requests_are_free():
    limiter = Limiter(AdaptiveConcurrency(), 0.0)
    assert [limiter.enter(0.0) for _ in range(1000)] == list(range(1, 1001))
    assert limiter.enter(0.0) == 0


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0.0, 0.2), st.booleans()),
        max_size=300,
    ),
    st.integers(1, 5),
    st.integers(0, 50),
)
@settings(deadline=None)
def test_whatever_comes_the_limit_stays_within_its_bounds(steps, least: int, more: int):
    config = AdaptiveConcurrency(min=least, max=least + more)
    limiter, now, inside = Limiter(config, 0.0), 0.0, []
    for comes, seconds, answered in steps:
        now += seconds
        if comes:
            had_room = limiter.in_flight < limiter.limit
            place = limiter.enter(now)
            assert bool(place) == had_room
            if place:
                inside.append((place, now))
        elif inside:
            limiter.leave(*inside.pop(0), now, answered)
        assert limiter.in_flight == len(inside)
        assert least <= limiter.limit <= least + more
