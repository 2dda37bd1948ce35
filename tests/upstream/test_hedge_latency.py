"""The latency estimators: close to the true quantile, bounded, and following what changes."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.hedge import LEAST, LatencyQuantile, Quickness


def test_nothing_is_known_before_enough_came():
    latency = LatencyQuantile(0.95)
    for _ in range(LEAST - 1):
        latency.observe(0.01)
    assert latency.value == math.inf
    latency.observe(0.01)
    assert 0.01 <= latency.value <= 0.01125


@given(st.floats(1e-6, 250.0), st.floats(0.5, 0.99))
def test_a_constant_is_found_within_a_bucket(value, quantile):
    latency = LatencyQuantile(quantile)
    for _ in range(LEAST):
        latency.observe(value)
    assert value <= latency.value <= value * 1.126


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e6])
def test_what_is_beyond_the_buckets_counts_in_the_last(value):
    latency = LatencyQuantile(0.5)
    for _ in range(LEAST):
        latency.observe(value)
    assert math.isfinite(latency.value)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.95, 0.99])
def test_against_the_true_quantile(quantile):
    draw = random.Random(1)
    latency, values = LatencyQuantile(quantile), []
    for _ in range(992):
        values.append(draw.lognormvariate(-4, 1))
        latency.observe(values[-1])
    true = sorted(values)[math.ceil(quantile * len(values)) - 1]
    assert true <= latency.value <= true * 1.126


def test_it_follows_a_change():
    latency = LatencyQuantile(0.95)
    for _ in range(5000):
        latency.observe(0.001)
    for _ in range(2000):
        latency.observe(0.1)
    assert 0.1 <= latency.value <= 0.1126


def test_quick_after_eight_and_slow_after_at_most_twice_as_many():
    quickness = Quickness(0.05)
    for _ in range(7):
        quickness.observe(0.001)
        assert not quickness.quick
    quickness.observe(0.001)
    assert quickness.quick
    for _ in range(7):
        quickness.observe(0.2)
        assert quickness.quick
    quickness.observe(0.2)
    assert not quickness.quick


@given(st.lists(st.booleans(), min_size=16, max_size=200))
def test_a_lasting_majority_decides(slow):
    """Whatever came before, sixteen of one kind make it that kind."""
    quickness = Quickness(0.05)
    for one in slow:
        quickness.observe(0.1 if one else 0.01)
    for _ in range(16):
        quickness.observe(0.01)
    assert quickness.quick
    for _ in range(16):
        quickness.observe(0.1)
    assert not quickness.quick
