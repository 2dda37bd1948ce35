"""CUSUM, Page-Hinkley and ADWIN against published figures and second implementations."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.monitor.sequential import adwin, cusum, cusum_run_length, cusum_threshold, page_hinkley

_RNG = random.Random(12345)
RIVER = _RNG.choices([0, 1], k=1000) + _RNG.choices(range(4, 8), k=1000)
"""The stream of river's documentation: it changes at 1000."""


def test_run_lengths_are_those_of_the_textbooks():
    # One-sided, k = 1/2; Montgomery's table has 168 and 465 for two sides, 8.38 and 10.38 at a shift of one sigma.
    assert cusum_run_length(4) == pytest.approx(335.37, abs=0.005)
    assert cusum_run_length(5) == pytest.approx(930.89, abs=0.005)
    assert cusum_run_length(4, shift=1) == pytest.approx(8.38, abs=0.005)
    assert cusum_run_length(5, shift=1) == pytest.approx(10.38, abs=0.005)
    assert [round(cusum_threshold(windows / 2), 3) for windows in (1e3, 1e4, 1e5, 1e6)] == [5.071, 7.361, 9.662, 11.964]


def test_a_cusum_is_wrong_as_often_as_its_threshold_says():
    found = cusum(np.random.default_rng(1).normal(size=400_000), h=cusum_threshold(200.0))
    assert 400_000 / len(found) == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize(("clock", "at"), [(1, 1002), (2, 1003), (4, 1003), (8, 1007), (16, 1007), (32, 1023)])
def test_adwin_finds_the_change_when_river_does(clock, at):
    assert adwin(RIVER, clock=clock)[0] == at


def test_page_hinkley_finds_the_change_when_river_does():
    assert page_hinkley(RIVER) == [1006]


def plain_cusum(values, k, h):
    """The same by its other definition: the largest sum of a run that ends here."""
    found, begin = [], 0
    for at in range(len(values)):
        runs = [sum(values[start : at + 1]) for start in range(begin, at + 1)]
        lengths = range(at + 1 - begin, 0, -1)
        if max(abs(run) - k * n for run, n in zip(runs, lengths, strict=True)) > h:
            found.append(at)
            begin = at + 1
    return found


@given(st.lists(st.integers(-24, 24).map(lambda n: n / 8), max_size=60))
def test_a_cusum_is_the_largest_sum_of_a_run(values):
    assert cusum(values, k=0.5, h=3.0) == plain_cusum(values, 0.5, 3.0)


def plain_adwin(values, delta):
    """ADWIN of all values themselves, where no bucket holds two."""
    window, found = [], []
    for at, value in enumerate(values):
        window.append(value)
        shrunk = False
        while len(window) > 10 and cut_of(window, delta):
            del window[0]
            shrunk = True
        if shrunk:
            found.append(at)
    return found


def cut_of(window, delta):
    w = np.array(window)
    d = np.log(2 * np.log(len(w)) / delta)
    for n0 in range(5, len(w) - 4):
        m = 1 / (n0 - 4) + 1 / (len(w) - n0 - 4)
        if abs(w[:n0].mean() - w[n0:].mean()) > np.sqrt(2 * m * w.var() * d) + 2 / 3 * d * m:
            return True
    return False


@pytest.mark.parametrize("seed", range(6))
def test_adwin_with_room_for_all_values_is_the_plain_definition(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 60), rng.normal(3, 1, 60)]).tolist()
    assert adwin(values, clock=1, buckets=1000)[:1] == plain_adwin(values, 0.002)[:1]


def test_adwin_in_buckets_finds_what_it_finds_in_values_soon_after():
    rng = np.random.default_rng(7)
    values = np.concatenate([rng.normal(0, 1, 400), rng.normal(2, 1, 200)]).tolist()
    (exact, *_), (found, *_) = (adwin(values, clock=1, buckets=most) for most in (1000, 5))
    assert 400 <= exact <= found <= exact + 20


def test_nothing_is_found_in_what_does_not_change():
    same = [0.25] * 500
    assert (cusum(same, h=5.0), page_hinkley(same), adwin(same)) == ([], [], [])
