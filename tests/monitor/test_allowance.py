"""What CUSUM allows for the reference's own chance, against simulation."""

import numpy as np
import pytest

from governance.monitor.allowance import allowance
from governance.monitor.scores import LOCATION, MISSING, SHAPE
from governance.monitor.sequential import cusum, cusum_threshold


def test_a_reference_without_end_needs_none():
    for score in (LOCATION, SHAPE, MISSING):
        assert allowance(10_000.0, 0.5, 1e-12, score, 9.0) == pytest.approx(0.5, abs=1e-3)


def test_the_smaller_the_reference_the_more():
    for score in (LOCATION, SHAPE):
        found = [allowance(10_000.0, 0.5, ratio, score, 9.0) for ratio in (0.01, 0.1, 1.0, 10.0)]
        assert found == sorted(found)
        assert found[0] < 0.6
    assert allowance(10_000.0, 0.5, 1.0, SHAPE, 0.0) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_over_many_references_a_cusum_is_wrong_as_often_as_it_says(ratio):
    # Once in 100 windows, so that a simulation of 200,000 of them sees it.
    k = allowance(100.0, 0.5, ratio, LOCATION, 9.0)
    h = cusum_threshold(100.0, 0.5)
    rng = np.random.default_rng(1)
    offsets = rng.normal(size=1000) * np.sqrt(ratio)
    found = sum(len(cusum(rng.normal(offset, 1, 200), k=k, h=h)) for offset in offsets)
    assert 200_000 / found == pytest.approx(100, rel=0.25)


def test_shape_is_chi_square_about_shares_that_were_drawn():
    # Ten cells: windows of 1000 against references of 1000, by multinomial draws; a change in 100 windows at most.
    k = allowance(100.0, 0.5, 1.0, SHAPE, 9.0)
    h = cusum_threshold(100.0, 0.5)
    rng = np.random.default_rng(2)
    even, found = np.full(10, 0.1), 0
    for _ in range(500):
        expected = (rng.multinomial(1000, even) + 0.5) / 1005 * 1000
        chi2 = ((rng.multinomial(1000, even, size=100) - expected) ** 2 / expected).sum(axis=1)
        found += len(cusum((np.cbrt(chi2 / 9) - (1 - 2 / 81)) / np.sqrt(2 / 81), k=k, h=h))
    assert 60 <= 50_000 / found <= 200
