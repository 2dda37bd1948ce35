"""The parts of a fleet that decide: choice, health, lives, addresses, pins of sequences."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import settings
from gateway.errors import SequenceLost
from gateway.routing.pins import MemoryPins
from gateway.upstream.choose import LEAST_SHARE, choose, share, warmed
from gateway.upstream.health import Health
from gateway.upstream.lives import MemoryLives, SharedLives
from gateway.upstream.resolve import expand, names_of
from gateway.upstream.sequences import SequencePins


@dataclass
class One:
    in_flight: int = 0
    came_at: float = 0.0
    warm_at: float = 0.0
    life: int = 1
    life_key: int = 7
    usable: bool = True
    draining: bool = False


@given(st.lists(st.integers(0, 9), min_size=2, max_size=8), st.integers(0, 2**32))
def test_the_chosen_one_is_never_the_only_most_loaded(loads, seed):
    ones = [One(load) for load in loads]
    chosen = choose(ones, random.Random(seed).random)
    assert chosen in ones
    if loads.count(max(loads)) == 1:
        assert chosen.in_flight < max(loads)


def test_equal_loads_are_drawn_evenly():
    ones, draw = [One() for _ in range(4)], random.Random(1).random
    drawn = Counter(id(choose(ones, draw)) for _ in range(8000))
    assert all(1800 < drawn[id(one)] < 2200 for one in ones)


@pytest.mark.parametrize(
    ("now", "wanted"), [(0.0, LEAST_SHARE), (0.5, LEAST_SHARE), (5.0, 0.5), (9.0, 0.9), (10.0, 1.0), (99.0, 1.0)]
)
def test_a_share_grows_linearly(now, wanted):
    assert share(0.0, 10.0, now) == pytest.approx(wanted)


def test_a_cold_replica_gets_its_share_and_not_more():
    warm, cold = One(), One(came_at=0.0, warm_at=10.0)
    draw = random.Random(2).random
    drawn = Counter(choose(warmed([warm, cold], 2.0, draw), draw) is cold for _ in range(10_000))
    assert 800 < drawn[True] < 1200  # half of the draws that it takes part in


def test_only_cold_ones_serve_all_the_same():
    cold = One(came_at=0.0, warm_at=10.0)
    assert list(warmed([cold], 0.0, lambda: 0.999)) == [cold]


def test_health_by_table():
    health = Health(unhealthy_after=2, healthy_after=2)
    assert not health.good()
    assert health.good()
    assert health.phase == "checking"
    assert health.checked(whole=True)
    assert not health.good()
    assert not health.bad()
    assert not health.good()  # a good look forgives
    assert not health.bad()
    assert health.bad()
    assert health.phase == "down"


def test_refused_at_once_and_only_once():
    health = Health(3, 1)
    assert health.good()
    assert health.checked(whole=True)
    assert health.refused()
    assert not health.refused()


def test_refused_while_it_is_checked_stays_down():
    health = Health(2, 1)
    assert health.good()
    assert not health.refused()
    assert not health.checked(whole=True)
    assert health.phase == "down"


@given(st.lists(st.sampled_from(["good", "bad", "refused", "whole", "failed"])), st.integers(1, 4), st.integers(1, 4))
def test_up_only_by_a_whole_check_and_falls_are_told(steps, unhealthy, healthy):
    health = Health(unhealthy, healthy)
    for step in steps:
        before = health.phase
        match step:
            case "good":
                assert health.good() == (before == "down" and health.phase == "checking")
            case "bad":
                assert health.bad() == (before == "up" and health.phase == "down")
            case "refused":
                assert health.refused() == (before == "up")
            case _:
                assert health.checked(whole=step == "whole") == (before == "checking" and step == "whole")
        assert health.phase != "up" or before == "up" or step == "whole"


@pytest.fixture(params=["memory", "shared"])
def lives(request, tmp_path):
    return MemoryLives() if request.param == "memory" else SharedLives(tmp_path / "lives")


def test_a_fall_begins_another_life(lives):
    first = lives.current(5)
    assert lives.current(5) == first
    lives.fell(5, 2**63)  # seen well since: this is a new fall
    second = lives.current(5)
    assert second != first
    lives.fell(5, 0)  # not seen well since the fall: another worker has told it
    assert lives.current(5) == second


def test_workers_agree_on_lives(tmp_path):
    one, other = SharedLives(tmp_path / "lives"), SharedLives(tmp_path / "lives")
    assert one.current(5) == other.current(5)
    other.fell(5, 2**63)
    assert one.current(5) == other.current(5)
    assert one.current(6) == other.current(6)


def test_names_become_replicas_with_both_ports():
    config = settings.Upstream(http="dns://tritons:8000", grpc="dns://tritons:8001")
    assert names_of(config) == ("tritons",)
    assert expand(config, {}) == ()
    found = expand(config, {"tritons": ["10.0.0.1", "fd00::1"]})
    assert [(one.http, one.grpc, one.host) for one in found] == [
        ("10.0.0.1:8000", "10.0.0.1:8001", "tritons"),
        ("[fd00::1]:8000", "[fd00::1]:8001", "tritons"),
    ]


def test_an_address_is_one_replica_however_often_it_is_named():
    one = settings.ReplicaAddress(http="10.0.0.1:8000")
    config = settings.Upstream(replicas=(one, settings.ReplicaAddress(http="dns://t:8000")))
    assert [each.http for each in expand(config, {"t": ["10.0.0.1", "10.0.0.2"]})] == ["10.0.0.1:8000", "10.0.0.2:8000"]


def test_a_sequence_stays_and_is_lost_for_good():
    pins = SequencePins("up", MemoryPins())
    a, b = One(life_key=1), One(life_key=2)
    key = pins.key("m", "", {"sequence_id": 5})
    assert pins.holder(key, [a, b], begins=True) is None
    pins.pin(key, b, ends=False)
    assert pins.holder(key, [a, b], begins=False) is b
    b.life += 1
    for _ in range(3):
        with pytest.raises(SequenceLost):
            pins.holder(key, [a, b], begins=False)
    assert pins.holder(key, [a, b], begins=True) is None
    pins.pin(key, a, ends=False)
    assert pins.holder(key, [a, b], begins=False) is a
    pins.lose(key)
    with pytest.raises(SequenceLost):
        pins.holder(key, [a, b], begins=False)
    pins.pin(key, a, ends=True)
    assert pins.holder(key, [a, b], begins=False) is None


def test_a_sequence_that_began_while_every_replica_was_taken_for_down_goes_on():
    pins = SequencePins("up", MemoryPins())
    a = One(life_key=1, usable=False)
    key = pins.key("m", "", {"sequence_id": 5})
    pins.pin(key, a, ends=False)
    assert pins.holder(key, [a], begins=False) is a
    a.draining = True
    with pytest.raises(SequenceLost):
        pins.holder(key, [a], begins=False)


def test_ids_of_another_kind_or_model_are_other_sequences():
    pins = SequencePins("up", MemoryPins())
    keys = {pins.key(*each) for each in [
        ("m", "", {"sequence_id": 5}), ("m", "", {"sequence_id": "5"}), ("m", "1", {"sequence_id": 5}), ("n", "", {"sequence_id": 5}),
    ]}  # fmt: skip
    assert len(keys) == 4
    assert pins.key("m", "", {"sequence_id": 0}) == 0
