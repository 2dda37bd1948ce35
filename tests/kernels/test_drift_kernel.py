"""The drift shard: both twins against each other, against numpy, and merged shards against one."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernels import drift
from kernels.drift import _drift_c as c
from kernels.drift import _drift_py as py

TWINS = pytest.mark.parametrize("twin", [py, c], ids=["py", "c"])
TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": np.uint16,
}
floats32 = st.floats(width=32, allow_nan=True, allow_infinity=True)


def edges_of(*rows) -> np.ndarray:
    """Padded with infinity."""
    found = np.full((len(rows), drift.BINS), np.inf, dtype=np.float32)
    for at, row in enumerate(rows):
        found[at, : len(row)] = sorted(np.float32(x) for x in row)
    return found


def shard(twin, edges, centre=None, scale=None):
    features = len(edges)
    buffer = bytearray(twin.nbytes(features))
    centre = np.zeros(features) if centre is None else np.asarray(centre, dtype=float)
    scale = np.ones(features) if scale is None else np.asarray(scale, dtype=float)
    return twin.Shard(buffer, edges, centre, scale), buffer


def parts(one, which=0):
    """Counts [d][COUNTS] and moments [d][MOMENTS] of a half."""
    half, d = one.half(which), one.features
    counts = np.frombuffer(half, np.uint32, d * drift.COUNTS).reshape(d, drift.COUNTS)
    return counts, np.frombuffer(half, np.uint64, offset=d * drift.COUNTS * 4).reshape(d, drift.MOMENTS)


def test_the_extension_is_what_is_used():
    assert drift.Shard is c.Shard


def test_the_twins_have_the_same_constants():
    names = [name for name in drift.__all__ if name not in ("Shard", "nbytes")]
    assert {name: getattr(py, name) for name in names} == {name: getattr(c, name) for name in names}


@given(st.data(), st.sampled_from(drift.DATATYPES), st.integers(1, 3), st.integers(0, 5))
@settings(deadline=None, max_examples=400)
def test_the_twins_agree_on_every_cell(data, datatype, width, rows):
    kind = np.dtype(TYPES[datatype])
    values = data.draw(hnp.arrays(kind, (rows, width)))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    edges = edges_of(*(data.draw(st.lists(finite, max_size=31)) for _ in range(width + 1)))
    centre = data.draw(st.lists(st.floats(-1e300, 1e300), min_size=width + 1, max_size=width + 1))
    scale = data.draw(st.lists(st.floats(1e-300, 1e300), min_size=width + 1, max_size=width + 1))
    found = []
    for twin in (py, c):
        one, buffer = shard(twin, edges, centre, scale)
        assert one.update(1, width, datatype, values) == rows
        one.missing(0, 3)
        assert one.swap() == 0
        one.update(0, width, datatype, values)
        found.append(bytes(buffer))
    assert found[0] == found[1]


@TWINS
@given(
    hnp.arrays(np.float32, st.integers(0, 40), elements=floats32), st.lists(st.floats(-100, 100, width=32), max_size=31)
)
@settings(deadline=None)
def test_bins_are_those_of_searchsorted(twin, values, edges):
    row = edges_of(edges)
    one, _ = shard(twin, row)
    one.update(0, 1, "FP32", values)
    counts, moments = parts(one)
    plain = values[~np.isnan(values)]
    expected = np.bincount(np.searchsorted(row[0], plain, side="left"), minlength=drift.BINS)
    # +inf lies behind the last finite edge, where searchsorted says the same: no edge is below itself.
    assert counts[0, : drift.BINS].tolist() == expected.tolist()
    assert counts[0, drift.NAN] == np.isnan(values).sum()
    finite = plain[np.isfinite(plain)]
    small = finite[np.abs(np.rint(finite.astype(float))) <= 2**31 - 1]
    k = [int(np.rint(x)) for x in small.astype(float)]
    assert moments[0, drift.SUM].astype(np.int64) == sum(k)
    assert int(moments[0, drift.SQUARES_LOW]) + (int(moments[0, drift.SQUARES_HIGH]) << 64) == sum(x * x for x in k)
    assert moments[0, drift.CLIPPED] == len(plain) - len(small)


def number_of(key: int) -> float:
    """The float32 of a key."""
    bits = key ^ (0x80000000 if key >> 31 else 0xFFFFFFFF)
    return struct.unpack("=f", struct.pack("=I", bits))[0]


@TWINS
@given(st.lists(floats32, max_size=20))
@settings(deadline=None)
def test_extremes_are_those_of_the_finite_values(twin, values):
    one, _ = shard(twin, edges_of([0.0]))
    one.update(0, 1, "FP32", np.array(values, dtype=np.float32))
    _, moments = parts(one)
    highest, lowest = int(moments[0, drift.HIGHEST]), int(moments[0, drift.LOWEST])
    finite = [x for x in values if np.isfinite(x)]
    if finite:
        assert number_of(highest - 1) == max(finite)
        assert number_of(2**32 - lowest) == min(finite)
    else:
        assert highest == lowest == 0


@given(hnp.arrays(np.float32, (30, 4), elements=floats32), st.integers(0, 30), st.integers(0, 30))
@settings(deadline=None)
def test_shards_of_several_workers_add_up_to_one(values, one_end, other_end):
    edges = edges_of(*[[-1.0, 0.0, 1.0]] * 4)
    whole, _ = shard(c, edges, scale=[65536.0] * 4)
    whole.update(0, 4, "FP32", values)
    a, b = sorted((one_end, other_end))
    counts, moments = np.zeros((4, drift.COUNTS), np.int64), [[0] * drift.MOMENTS for _ in range(4)]
    for part in (values[:a], values[a:b], values[b:]):
        one, _ = shard(c, edges, scale=[65536.0] * 4)
        one.update(0, 4, "FP32", part)
        more_counts, more = parts(one)
        counts += more_counts
        for feature, row in enumerate(more.tolist()):
            into = moments[feature]
            for cell in (drift.HIGHEST, drift.LOWEST):
                into[cell] = max(into[cell], row[cell])
            for cell in (drift.CLIPPED, drift.SUM):
                into[cell] = (into[cell] + row[cell]) % 2**64
            squares = (into[drift.SQUARES_HIGH] + row[drift.SQUARES_HIGH] << 64) + into[drift.SQUARES_LOW]
            squares += row[drift.SQUARES_LOW]
            into[drift.SQUARES_LOW], into[drift.SQUARES_HIGH] = squares % 2**64, squares >> 64
    expected_counts, expected = parts(whole)
    assert counts.tolist() == expected_counts.tolist()
    assert moments == expected.tolist()


@TWINS
def test_a_reader_has_the_other_half_for_itself(twin):
    one, buffer = shard(twin, edges_of([0.0], [0.0]))
    row = np.array([[1.0, -1.0]], dtype=np.float32)
    one.update(0, 2, "FP32", row)
    idle = one.swap()
    assert (idle, one.active) == (0, 1)
    one.update(0, 2, "FP32", row)
    one.update(0, 2, "FP32", row)
    assert parts(one, idle)[0][:, :2].tolist() == [[0, 1], [1, 0]]
    one.clear(idle)
    assert not any(one.half(idle))
    assert parts(one, 1)[0][:, :2].tolist() == [[0, 2], [2, 0]]
    # Who opens the same buffer later goes on where it was left.
    again = twin.Shard(buffer, edges_of([0.0], [0.0]), np.zeros(2), np.ones(2))
    assert again.active == 1
    assert again.half(1) == one.half(1)


@TWINS
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"buffer": bytearray(10)}, ValueError),
        ({"buffer": bytes(py.nbytes(2))}, BufferError),
        ({"edges": np.zeros((2, drift.BINS), np.float32)}, ValueError),
        ({"edges": edges_of([0.0])}, ValueError),
        ({"edges": np.full((2, drift.BINS), np.nan, np.float32)}, ValueError),
        ({"edges": edges_of([1.0], [2.0])[:, ::-1].copy()}, ValueError),
        ({"edges": np.full((2, 2 * drift.BINS), np.inf, np.float32)[:, ::2]}, (BufferError, ValueError)),
        ({"centre": np.array([0.0, np.nan])}, ValueError),
        ({"centre": np.zeros(1)}, ValueError),
        ({"scale": np.array([1.0, 0.0])}, ValueError),
        ({"scale": np.array([1.0, np.inf])}, ValueError),
        ({"scale": np.zeros(0)}, ValueError),
    ],
)
def test_what_does_not_fit_is_refused(twin, change, error):
    good = {
        "buffer": bytearray(py.nbytes(2)),
        "edges": edges_of([0.0], [1.0]),
        "centre": np.zeros(2),
        "scale": np.ones(2),
    }
    twin.Shard(**good)
    with pytest.raises(error):
        twin.Shard(**(good | change))


@TWINS
def test_calls_that_do_not_fit_are_refused_and_change_nothing(twin):
    one, buffer = shard(twin, edges_of([0.0], [0.0]))
    for first, width, datatype, values in [
        (0, 1, "BYTES", b"1234"),
        (-1, 1, "FP32", bytes(4)),
        (0, 3, "FP32", bytes(12)),
        (1, 2, "FP32", bytes(8)),
        (0, 0, "FP32", b""),
        (0, 2, "FP32", bytes(12)),
        (0, 1, "FP64", bytes(4)),
    ]:
        with pytest.raises(ValueError, match=r"."):
            one.update(first, width, datatype, values)
    for feature, count in ((2, 1), (-1, 1), (0, -1), (0, 2**32)):
        with pytest.raises(ValueError, match=r"out of range"):
            one.missing(feature, count)
    for which in (2, -1):
        with pytest.raises(ValueError, match=r"halves"):
            one.half(which)
    for features in (0, 2**20 + 1):
        with pytest.raises(ValueError, match=r"features"):
            twin.nbytes(features)
    assert not any(buffer)
