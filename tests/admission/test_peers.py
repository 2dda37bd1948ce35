"""What workers tell each other about a model: rates, probes, the unloaded latency."""

import pytest

from gateway.admission import limit_table
from gateway.admission.adaptive import Limiter
from gateway.admission.concurrency import SharedRates
from gateway.admission.peers import Peers, nobody
from gateway.settings import AdaptiveConcurrency
from kernels.counters import Atomics


def workers(count: int) -> list[Peers]:
    words = Atomics(bytearray(16 * count))
    return [Peers(words, 0, count, slot, count) for slot in range(count)]


def test_rates_are_added_and_a_lowered_limit_is_seen_by_the_others():
    one, other = workers(2)
    assert one.share(10.5, lowered=False) == (10.5, 1, False)
    assert other.share(4.0, lowered=True) == (14.5, 2, False)
    assert one.share(0.0, lowered=False) == (4.0, 1, True)
    other.hold(3)  # the rate stays while it probes
    assert one.share(1.0, lowered=False) == (5.0, 2, True)
    other.release()
    assert other.share(0.0, lowered=False) == (1.0, 1, False)


def test_what_does_not_fit_its_bits_is_cut():
    one, other = workers(2)
    one.share(1e12, lowered=False)
    one.hold(1 << 40)
    assert other.share(0.0, lowered=False)[1:] == (1, True)
    one.tell(1e9, 7.5)
    assert other.told(7.9) == (pytest.approx(4294.967295), 8.0)


def test_the_word_that_is_good_for_longest_is_taken_until_it_is_over():
    one, other = workers(2)
    assert one.told(0.0) == (0.0, 0.0)
    one.tell(0.25, 64.0)
    other.tell(0.5, 128.0)
    assert one.told(10.0) == (0.5, 128.0)
    assert one.told(128.0) == (0.0, 0.0)


def test_the_first_who_asks_measures_once_all_in_the_probe_have_drained():
    first, second, third = workers(3)
    for one in (first, second, third):
        one.share(10.0, lowered=False)
    second.hold(0)
    assert second.probing
    assert first.probing
    assert not second.claim(all_in=True)  # two have load and have not come yet
    first.hold(2)
    third.hold(0)
    assert not second.claim(all_in=True)
    first.hold(0)
    assert second.claim(all_in=True)
    assert not first.claim(all_in=False)
    second.release()  # without a result: the next one tries, and waits no longer for who is not in it
    assert not third.claim(all_in=True)
    assert third.claim(all_in=False)


def test_alone_everything_is_ones_own():
    one = nobody()
    assert one.share(2.0, lowered=True) == (2.0, 1, False)
    one.hold(1)
    assert not one.claim(all_in=True)
    one.hold(0)
    assert one.claim(all_in=True)


def test_workers_of_a_machine_share_a_file_and_models_do_not_mix(tmp_path):
    first, second = SharedRates(tmp_path, 0, 2), SharedRates(tmp_path, 1, 2)
    a, b = first.of("a", "m"), second.of("a", "m")
    a.share(10.5, lowered=False)
    a.tell(0.5, 9.0)
    assert b.share(4.0, lowered=False) == (14.5, 2, False)
    assert b.told(0.0) == (0.5, 9.0)
    other = second.of("a", "other")
    assert other.share(1.0, lowered=False) == (1.0, 1, False)
    assert other.told(0.0) == (0.0, 0.0)
    second.close()
    assert a.share(10.5, lowered=False) == (10.5, 1, False)
    first.close()


def test_models_beyond_the_table_are_judged_by_each_worker_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(limit_table, "ROWS", 2)
    first, second = SharedRates(tmp_path, 0, 2), SharedRates(tmp_path, 1, 2)
    first.of("a", "m")
    a, b = first.of("a", "other"), second.of("a", "other")
    a.share(10.0, lowered=True)
    a.tell(0.5, 9.0)
    assert b.share(4.0, lowered=False) == (4.0, 1, False)
    assert b.told(0.0) == (0.0, 0.0)
    first.close()
    second.close()


def overloaded(limiter: Limiter, inside: list[tuple[int, float]], now: float) -> float:
    """Twenty at a time, of 100 ms each, until it probes; the time."""
    while not limiter.probing:
        now += 0.1
        while place := limiter.enter(now) if len(inside) < 20 else 0:
            inside.append((place, now))
        limiter.leave(*inside.pop(0), now, True)
    return now


def test_one_worker_measures_and_the_other_takes_its_word():
    config = AdaptiveConcurrency(max=20)
    one, other = (Limiter(config, 0.0, peers) for peers in workers(2))
    inside, others = [], []
    now = overloaded(one, inside, 0.0)
    now = overloaded(other, others, now)  # joins at once
    for place, began in inside:
        one.leave(place, began, now, True)
    one.look(now + 0.01, waiting=True)
    assert one.enter(now + 0.01) == 0  # the other's are still there
    for place, began in others:
        other.leave(place, began, now, True)
    one.look(now + 0.02, waiting=True)
    other.look(now + 0.02, waiting=True)
    assert other.enter(now + 0.02) == 0
    now += 0.02
    while one.probing:
        assert one.enter(now) == 1
        now += 0.1
        one.leave(1, now - 0.1, now, True)
    assert one.unloaded == pytest.approx(0.1)
    assert other.probing
    other.look(now, waiting=True)
    assert not other.probing
    assert other.unloaded == pytest.approx(0.1)
    assert min(one.limit, other.limit) >= 2


def test_a_worker_that_died_in_a_probe_holds_the_others_up_until_theirs_is_due():
    words = workers(2)
    words[0].share(10.0, lowered=False)
    words[0].hold(5)
    limiter, inside = Limiter(AdaptiveConcurrency(max=20), 0.0, words[1]), []
    now = overloaded(limiter, inside, 0.0)
    for place, began in inside:
        limiter.leave(place, began, now, True)
    limiter.look(now + 0.1, waiting=True)
    assert limiter.enter(now + 0.1) == 0
    limiter.look(now + 60.0, waiting=True)
    assert not limiter.probing
    assert limiter.enter(now + 60.0) == 1


def test_a_worker_that_nobody_asks_any_more_has_no_rate():
    one, other = workers(2)
    limiter, inside = Limiter(AdaptiveConcurrency(max=20), 0.0, one), []
    now = overloaded(limiter, inside, 0.0)
    for place, began in inside:
        limiter.leave(place, began, now, True)
    limiter.look(now + 60.0, waiting=True)
    assert other.share(0.0, lowered=False)[0] > 0
    limiter.look(now + 70.0, waiting=True)
    assert other.share(0.0, lowered=False) == (0.0, 1, False)
    assert limiter.limit == 20
