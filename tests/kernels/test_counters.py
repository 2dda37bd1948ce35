"""The cells in shared memory: both twins against each other, and the C twin under many processes."""

import mmap
import multiprocessing
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import counters
from kernels.counters import _counters_c as c
from kernels.counters import _counters_py as py

TWINS = pytest.mark.parametrize("twin", [py, c], ids=["py", "c"])
words = st.integers(0, 2**64 - 1)
indices = st.one_of(st.integers(-1, 8), st.sampled_from([2**63, -(2**63) - 1]))
some_words = st.one_of(words, st.integers(0, 100), st.integers(2**64 - 100, 2**64 + 10), st.integers(-5, 5))
floats = st.floats(allow_nan=True, allow_infinity=True)


def outcome(function, *arguments):
    """The value or the type of the exception, as one comparable thing."""
    try:
        return function(*arguments)
    except (ValueError, IndexError, OverflowError, TypeError, BufferError) as error:
        return type(error)


def both(size=512):
    a, b = bytearray(size), bytearray(size)
    return (py, a), (c, b)


def test_the_extension_is_what_is_used():
    assert counters.Atomics is c.Atomics
    assert counters.SHARED is True


def test_the_switch_takes_the_specification():
    code = "from kernels import counters; print(counters.Atomics.__module__, counters.SHARED)"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TIDEGATE_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout == "kernels.counters._counters_py False\n"


def test_twins_have_the_same_names():
    for name in ("Counter", "Gauge", "Histogram", "Tally", "Atomics", "Pins"):
        public = {n for n in vars(getattr(py, name)) if not n.startswith("_")}
        assert public == {n for n in vars(getattr(c, name)) if not n.startswith("_")}


@TWINS
@pytest.mark.parametrize("kind", ["Counter", "Gauge"])
@pytest.mark.parametrize("index", [-1, 64, 2**40])
def test_a_cell_out_of_range_is_refused(twin, kind, index):
    with pytest.raises(IndexError):
        getattr(twin, kind)(bytearray(512), index)


@TWINS
def test_buffers_that_cannot_be_cells_are_refused(twin):
    with pytest.raises(BufferError):
        twin.Counter(bytes(64), 0)
    with pytest.raises(ValueError, match="whole number"):
        twin.Atomics(bytearray(63))
    with pytest.raises(TypeError):
        twin.Atomics(None)


@TWINS
def test_the_buffer_stays_exported(twin):
    memory = mmap.mmap(-1, 4096)
    atomics = twin.Atomics(memory)
    with pytest.raises(BufferError):
        memory.close()
    del atomics
    memory.close()


@given(st.lists(floats, max_size=20))
def test_counter_twins_agree(amounts):
    seen = []
    for twin, buffer in both():
        counter = twin.Counter(buffer, 3)
        results = [outcome(counter.inc, amount) for amount in amounts]
        seen.append((results, str(counter.value()), bytes(buffer)))
    assert seen[0] == seen[1]


@given(st.lists(st.tuples(st.sampled_from(["set", "add", "raise_to"]), floats), max_size=20))
def test_gauge_twins_agree(steps):
    seen = []
    for twin, buffer in both():
        gauge = twin.Gauge(buffer, 3)
        for method, value in steps:
            getattr(gauge, method)(value)
        seen.append(str(gauge.value()))
    assert seen[0] == seen[1]


BOUNDS = (-1.0, 0.0, 0.1, 0.5, 2.0)


@given(st.lists(st.one_of(floats, st.sampled_from(BOUNDS)), max_size=30))
def test_histogram_twins_agree(values):
    seen = []
    for twin, buffer in both():
        histogram = twin.Histogram(buffer, 1, BOUNDS)
        for value in values:
            histogram.observe(value)
        view = memoryview(buffer).cast("d")
        seen.append([str(v) for v in view])
        assert sum(view[2:8]) == len(values)
        for i, bound in enumerate(BOUNDS):
            assert sum(view[2 : 3 + i]) == sum(v <= bound for v in values)
    assert seen[0] == seen[1]


@given(st.sampled_from([-5.0, 0.0, 0.3, 7.0, float("nan")]), words, words, words)
def test_exemplar_twins_agree(value, high, low, span):
    seen = []
    for twin, buffer in both():
        histogram = twin.Histogram(buffer, 1, BOUNDS)
        histogram.exemplar(value, high, low, span, 12.5)
        histogram.exemplar(value, high, low, span, 13.5)
        seen.append(bytes(buffer))
        assert memoryview(buffer).cast("Q")[8] == 4
    assert seen[0] == seen[1]


@TWINS
@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0), (float("nan"),), ("x",)])
def test_bad_bounds_are_refused(twin, bounds):
    with pytest.raises(ValueError):
        twin.Histogram(bytearray(1024), 0, bounds)


ATOMIC_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.one_of(st.integers(-1, 9), st.just(2**70))),
        st.tuples(st.just("store"), indices, some_words),
        st.tuples(st.just("add"), indices, st.integers(-(2**63) - 2, 2**63 + 1)),
        st.tuples(st.just("compare_exchange"), st.integers(0, 3), st.integers(0, 3), some_words),
        st.tuples(st.just("gcra_take"), indices, some_words, some_words, some_words),
        st.tuples(st.just("gcra_take"), st.integers(0, 1), *[st.integers(0, 50)] * 3),
        st.tuples(st.just("enter"), indices, indices, indices, some_words),
        st.tuples(st.just("enter"), st.integers(0, 4), *[st.integers(0, 4)] * 3),
        st.tuples(st.just("total"), st.integers(0, 6), st.integers(0, 4)),
        st.tuples(st.just("day_take"), st.integers(4, 5), st.integers(-1, 3), some_words, some_words),
        st.tuples(st.just("day_take"), st.integers(4, 5), st.integers(65530, 65540), *[st.integers(0, 2**49)] * 2),
    ),
    max_size=30,
)


@given(ATOMIC_STEPS)
def test_atomics_twins_agree(steps):
    seen = []
    for twin, buffer in both(64):
        atomics = twin.Atomics(buffer)
        assert len(atomics) == 8
        seen.append(([outcome(getattr(atomics, name), *rest) for name, *rest in steps], bytes(buffer)))
    assert seen[0] == seen[1]


PIN_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.integers(0, 40), st.integers(0, 9)),
        st.tuples(st.just("put"), st.integers(0, 40), st.integers(0, 3), st.integers(0, 9)),
        st.tuples(st.just("put"), some_words, some_words, some_words),
        st.tuples(st.just("drop"), st.integers(0, 40)),
    ),
    max_size=60,
)


@given(PIN_STEPS)
def test_pins_twins_agree(steps):
    seen = []
    for twin, _ in both():
        buffer = bytearray(8 * (2 + py.Pins.cells(16)))
        pins = twin.Pins(buffer, 2, 16)
        seen.append(([outcome(getattr(pins, name), *rest) for name, *rest in steps], bytes(buffer)))
    assert seen[0] == seen[1]


@TWINS
@pytest.mark.parametrize("capacity", [0, 8, 15, 17, 24, -16])
def test_pin_tables_are_powers_of_two(twin, capacity):
    with pytest.raises(ValueError):
        twin.Pins(bytearray(8 * 1024), 0, capacity)


@TWINS
def test_the_pin_unused_for_longest_makes_room(twin):
    pins = twin.Pins(bytearray(8 * py.Pins.cells(16)), 0, 16)
    for key in range(1, 17):
        assert pins.put(key, key * 10, key) == key * 10
    assert pins.get(1, 100) == 10
    assert pins.put(99, 990, 101) == 990
    assert pins.get(2, 102) == 0
    assert [pins.get(key, 103) for key in (1, 3, 16, 99)] == [10, 30, 160, 990]
    assert pins.put(3, 7, 104) == 30
    assert pins.drop(3) is True
    assert pins.drop(3) is False
    assert pins.get(3, 105) == 0


@TWINS
def test_rate_is_exact_and_burst_is_what_was_said(twin):
    atomics = twin.Atomics(bytearray(64))
    emission, burst = 1_000_000, 5 * 1_000_000
    now = 10**12
    assert [atomics.gcra_take(0, now, emission, burst) for _ in range(5)] == [0] * 5
    assert atomics.gcra_take(0, now, emission, burst) == emission
    assert atomics.gcra_take(0, now + emission - 1, emission, burst) == 1
    assert atomics.gcra_take(0, now + emission, emission, burst) == 0
    # A limit that was made smaller, or a clock that began anew, keeps nobody out for long.
    assert atomics.gcra_take(0, 0, emission, burst) == emission


# --- many processes ---


def _mapped(path, size):
    with Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), size)


def _spawn(target, path, *rest, processes=4):
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(processes)
    results = context.Queue()
    workers = [
        context.Process(target=target, args=(str(path), slot, gate, results, *rest)) for slot in range(processes)
    ]
    for worker in workers:
        worker.start()
    got = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return got


@pytest.fixture
def shared(tmp_path):
    path = tmp_path / "cells"
    path.write_bytes(bytes(1 << 16))
    return path


def _add(path, slot, gate, results, rounds):
    atomics = counters.Atomics(_mapped(path, 1 << 16))
    gate.wait()
    for _ in range(rounds):
        atomics.add(0, 1)
        atomics.day_take(1, 20000, 3, 2**48 - 1)
        while not atomics.compare_exchange(2, value := atomics.load(2), value + 1):
            pass
    results.put(slot)


def test_nothing_is_lost_between_four_processes(shared):
    rounds = 50_000
    _spawn(_add, shared, rounds)
    atomics = counters.Atomics(_mapped(shared, 1 << 16))
    assert atomics.load(0) == 4 * rounds
    assert atomics.day_take(1, 20000, 0, 2**48) == 4 * rounds * 3
    assert atomics.load(2) == 4 * rounds


def _take(path, slot, gate, results, emission, burst, seconds):
    atomics = counters.Atomics(_mapped(path, 1 << 16))
    gate.wait()
    end = time.monotonic() + seconds
    taken = 0
    while time.monotonic() < end:
        taken += atomics.gcra_take(0, time.monotonic_ns(), emission, burst) == 0
    results.put(taken)


def test_four_processes_share_one_rate_exactly(shared):
    # A minute's burst, half of it taken at once: it never fills up again, so that no pause of any process
    # loses a token.
    emission, tokens = 200_000, 300_000
    burst = tokens * emission
    atomics = counters.Atomics(_mapped(shared, 1 << 16))
    first = time.monotonic_ns()
    taken = sum(atomics.gcra_take(0, first, emission, burst) == 0 for _ in range(tokens // 2))
    taken += sum(_spawn(_take, shared, emission, burst, 1.0))
    last = time.monotonic_ns()
    while atomics.gcra_take(0, last, emission, burst) == 0:
        taken += 1
    assert taken == tokens + (last - first) // emission


def _enter(path, slot, gate, results, limit, rounds):
    atomics = counters.Atomics(_mapped(path, 1 << 16))
    gate.wait()
    entered = most = 0
    for _ in range(rounds):
        if atomics.enter(8, 4, slot, limit):
            entered += 1
            most = max(most, atomics.add(20, 1))
            atomics.add(20, -1)
            atomics.add(8 + slot, -1)
    results.put((entered, most))


def test_concurrency_never_passes_the_limit(shared):
    got = _spawn(_enter, shared, 2, 50_000)
    assert max(most for _, most in got) <= 2
    assert sum(entered for entered, _ in got) > 50_000
    atomics = counters.Atomics(_mapped(shared, 1 << 16))
    assert atomics.total(8, 4) == 0


def _pin(path, slot, gate, results, keys, rounds):
    pins = counters.Pins(_mapped(path, 1 << 16), 0, 1024)
    gate.wait()
    wrong = 0
    for i in range(rounds):
        key = 1 + (i * 7919 + slot) % keys
        held = pins.put(key, key * 4 + slot, i)
        # Whoever pinned it, it is a pin of this key.
        wrong += held != 0 and held // 4 != key
        value = pins.get(key, i)
        wrong += value != 0 and value // 4 != key
        if i % 5 == 0:
            pins.drop(key)
    results.put(wrong)


@pytest.mark.parametrize("keys", [50, 5000])
def test_pins_of_four_processes_never_mix_up_keys(shared, keys):
    assert _spawn(_pin, shared, keys, 40_000) == [0] * 4


def _pin_once(path, slot, gate, results, keys):
    pins = counters.Pins(_mapped(path, 1 << 16), 0, 1024)
    gate.wait()
    results.put([pins.put(key, slot + 1, 1) for key in range(1, keys)])


def test_processes_that_pin_at_once_agree(shared):
    got = _spawn(_pin_once, shared, 300)
    assert all(len(set(held)) == 1 and 0 not in held for held in zip(*got, strict=True))


@given(st.lists(st.tuples(floats, floats), max_size=5), st.booleans(), st.booleans())
def test_a_tally_counts_what_its_cells_would(requests, upstream, overhead):
    cells = c.Histogram.cells(2)
    buffers = [bytearray(8 * (1 + 3 * cells)) for _ in range(3)]
    tallies = []
    for twin, buffer in zip((py, c, py), buffers, strict=True):
        parts = [twin.Counter(buffer, 0), *(twin.Histogram(buffer, 1 + n * cells, (0.1, 1.0)) for n in range(3))]
        parts[2] = parts[2] if upstream else None
        parts[3] = parts[3] if overhead else None
        tallies.append(parts)
    counted = [py.Tally(*tallies[0]), c.Tally(*tallies[1])]
    assert counted[1].duration is tallies[1][1]
    for seconds, there in requests:
        for tally in counted:
            tally.count(seconds, there)
        one, duration, up, over = tallies[2]
        one.inc()
        duration.observe(seconds)
        if up is not None:
            up.observe(there)
        if over is not None:
            over.observe(seconds - there)
    values = [struct.unpack(f"={len(buffer) // 8}d", buffer) for buffer in buffers]
    assert repr(values[0]) == repr(values[1]) == repr(values[2])
