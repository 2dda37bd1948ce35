"""The drift shard: both twins against each other, against numpy, and merged shards against one."""

import struct
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernels import drift
from kernels.drift import Names, Numbers, Times, _plan
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
NAMED = Names(("a", "true", "1", "0.1", "é", "-3"), ("rare", "7"), (None, None, 1.0, 0.1, None, -3.0, None, 7.0), False)
TRUTHS = Names(("false", "true"), (), (None, None), True)
finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        ["a", "true", " TRUE\u2003", "rare", "7", "", " ", "\xa0\u3000", "NaN", "\tnan\x85", "é", "false"]
    ).map(str.encode),
)


def tensor(name, datatype, shape, data):
    return SimpleNamespace(name=name, datatype=datatype, shape=shape, data=data)


def packed(elements) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in elements)


def shard(twin, columns, tensors=None, *, outputs=False):
    buffer = bytearray(_plan.nbytes(columns))
    names = [f"x_{at}" for at in range(len(columns))]
    both = drift.tensors_of(names, ["x_0"] if outputs else []) if tensors is None else (tensors, {})
    return twin.Shard(buffer, columns, *both), buffer


def words(buffer, column, columns):
    """A column's cells, and the word behind them (missing); what follows are moments."""
    found = np.frombuffer(bytes(buffer), np.uint64)
    at, size = drift.places(columns)[column], columns[column].cells
    return found[at : at + size].tolist(), int(found[at + size]), found[at + size + 1 :]


numbers = st.builds(
    lambda edges, centre, power: Numbers(tuple(sorted(edges)), centre, 2.0**power),
    st.lists(finite, max_size=drift.BINS - 1),
    st.floats(-1e300, 1e300),
    st.integers(-1000, 1000),
)
kinds = st.one_of(numbers, st.just(NAMED), st.just(TRUTHS), st.just(Times()))


def test_the_extension_is_what_is_used():
    assert drift.Shard is c.Shard
    assert drift.snapshot is c.snapshot


@given(st.data(), st.sampled_from([*TYPES, "BYTES"]), st.integers(1, 4), st.integers(0, 5), st.booleans())
@settings(deadline=None, max_examples=500)
def test_the_twins_agree_on_every_word(data, datatype, width, rows, outputs):
    columns = data.draw(st.lists(kinds, min_size=width, max_size=width))
    if datatype == "BYTES":
        raw = packed(data.draw(st.lists(texts, min_size=rows * width, max_size=rows * width)))
    else:
        raw = data.draw(hnp.arrays(np.dtype(TYPES[datatype]), (rows, width))).tobytes()
    calls = [
        [tensor("x", datatype, [rows, width], raw)],
        [tensor("other", datatype, [rows, width], raw)],  # alone: all columns in their order
        [tensor("y", "FP32", [rows], b""), tensor("z", "FP32", [rows], b"")],
        [tensor("x", datatype, [rows, width], raw), tensor("x_0", "INT8", [2, 1], b"ab")],
        [],
    ]
    found = []
    for twin in (py, c):
        one, buffer = shard(twin, columns, outputs=outputs)
        found.append(([one.count(call, calls[0]) for call in calls], bytes(buffer)))
        assert twin.snapshot(buffer) == bytes(buffer)
    assert found[0] == found[1]


@TWINS
@given(hnp.arrays(np.float64, st.integers(0, 40)), st.lists(st.floats(-100, 100), max_size=15))
@settings(deadline=None)
def test_bins_are_those_of_searchsorted(twin, values, edges):
    columns = [Numbers(tuple(sorted(edges)), 0.0, 1.0)]
    one, buffer = shard(twin, columns)
    assert one.count([tensor("x", "FP64", [len(values), 1], values)]) == len(values)
    cells, missing, moments = words(buffer, 0, columns)
    plain = values[~np.isnan(values)]
    assert cells == np.bincount(np.searchsorted(sorted(edges), plain, side="left"), minlength=drift.BINS).tolist()
    assert missing == np.isnan(values).sum()
    small = [x for x in plain[np.isfinite(plain)] if abs(np.rint(x)) <= 2**31 - 1]
    k = [int(np.rint(x)) for x in small]
    assert moments[drift.SUM].astype(np.int64) == sum(k)
    assert int(moments[drift.SQUARES_LOW]) + (int(moments[drift.SQUARES_HIGH]) << 64) == sum(x * x for x in k)
    assert moments[drift.CLIPPED] == len(plain) - len(small)
    finite_ones = [x for x in values if np.isfinite(x)]
    if finite_ones:
        assert number_of(int(moments[drift.HIGHEST]) - 1) == max(finite_ones)
        assert number_of(2**64 - int(moments[drift.LOWEST])) == min(finite_ones)
    else:
        assert moments[drift.HIGHEST] == moments[drift.LOWEST] == 0


def number_of(key: int) -> float:
    """The float64 of a key."""
    return struct.unpack("=d", struct.pack("=Q", key ^ (1 << 63 if key >> 63 else 2**64 - 1)))[0]


@TWINS
@pytest.mark.parametrize(("datatype", "kind"), [("FP64", np.float64), ("FP32", np.float32), ("FP16", np.float16)])
def test_a_value_that_is_an_edge_stays_one_in_the_tensors_own_precision(twin, datatype, kind):
    edges = (0.1, 0.3, 0.7, 1.1)
    columns = [Numbers(edges, 0.0, 1.0)]
    one, buffer = shard(twin, columns)
    one.count([tensor("x", datatype, [4], np.array(edges, dtype=kind))])
    assert words(buffer, 0, columns)[0][:6] == [1, 1, 1, 1, 0, 0]


@given(finite)
def test_bfloat16_is_rounded_to_the_nearest(value):
    with np.errstate(over="ignore"):
        single = np.float32(value)
    if not np.isfinite(single):
        return
    got = np.float32(_plan.rounded(value, _plan.BRAIN))
    low = np.array([single]).view(np.uint32) & np.uint32(0xFFFF0000)
    both = np.concatenate([low, low + np.uint32(0x10000)]).view(np.float32).astype(np.float64)
    if np.isfinite(both).all():
        assert abs(float(got) - float(single)) == np.abs(both - float(single)).min()
        assert got in both


@TWINS
def test_categories(twin):
    columns = [NAMED]
    one, buffer = shard(twin, columns)
    elements = [b"a", b"A", b"rare", b"1", b"1.0", "é".encode(), b" ", b"NaN", b"true", b"\xff"]
    one.count([tensor("x", "BYTES", [10, 1], packed(elements))])
    # a, true, 1, 0.1, é, -3, OTHER, UNSEEN
    assert words(buffer, 0, columns)[:2] == ([1, 1, 1, 0, 1, 0, 1, 3], 2)
    one.count([tensor("x", "FP32", [5], np.array([0.1, 1, 7, 8, np.nan], dtype=np.float32))])
    one.count([tensor("x", "INT8", [1], b"\xfd")])
    one.count([tensor("x", "BOOL", [2], b"\x01\x00")])
    assert words(buffer, 0, columns)[:2] == ([1, 2, 2, 1, 1, 1, 2, 5], 3)


@TWINS
def test_truth_values_and_times(twin):
    columns = [TRUTHS, Times(), Numbers((), 0.0, 1.0)]
    one, buffer = shard(twin, columns)
    one.count([tensor("x", "BYTES", [2, 3], packed([b" True", b"2024-01-01", b"5", b"1", b"", b"6"]))])
    one.count([tensor("x", "BOOL", [1, 3], b"\x00\x01\x01")])
    assert words(buffer, 0, columns)[:2] == ([1, 1, 0, 1], 0)
    assert words(buffer, 1, columns)[:2] == ([1], 2)
    cells, missing, _ = words(buffer, 2, columns)
    assert (cells[0], missing) == (1, 2)


blocks = st.lists(st.integers(0, 30), min_size=3, max_size=3).map(sorted)


@given(hnp.arrays(np.float64, (30, 3)), blocks)
@settings(deadline=None)
def test_shards_of_several_workers_add_up_to_one(values, cuts):
    columns = [Numbers((-1.0, 0.0, 1.0), 0.0, 65536.0), NAMED, Numbers((5.0,), 1e9, 2.0**-8)]
    whole, buffer = shard(c, columns)
    parts = []
    for start, end in zip([0, *cuts], [*cuts, 30], strict=True):
        rows = values[start:end]
        call = [tensor("x", "FP64", [len(rows), 3], rows.tobytes())]
        one, part = shard(c, columns)
        one.count(call)
        whole.count(call)
        parts.append(bytes(part))
    expected = np.frombuffer(bytes(buffer), np.uint64)[1:]
    assert drift.merge(columns, parts)[1:].tolist() == expected.tolist()
    assert not drift.merge(columns, []).any()
    with pytest.raises(ValueError, match=r"other columns"):
        drift.merge(columns[:1], parts)


@given(hnp.arrays(np.float64, (20, 3)), st.integers(0, 20))
@settings(deadline=None)
def test_a_window_is_what_was_counted_in_it(values, cut):
    columns = [Numbers((-1.0, 0.0, 1.0), 0.0, 65536.0), NAMED, Numbers((5.0,), 1e9, 2.0**-8)]
    whole, buffer = shard(c, columns)
    alone, expected = shard(c, columns)
    whole.count([tensor("x", "FP64", [cut, 3], values[:cut].tobytes())])
    before = drift.merge(columns, [bytes(buffer)])
    for one in (whole, alone):
        one.count([tensor("x", "FP64", [20 - cut, 3], values[cut:].tobytes())])
    found = drift.since(columns, drift.merge(columns, [bytes(buffer)]), before)
    wanted = drift.merge(columns, [bytes(expected)])
    for place, column in zip(drift.places(columns), columns, strict=False):
        if isinstance(column, Numbers):
            extremes = [place + drift.BINS + 1 + word for word in (drift.HIGHEST, drift.LOWEST)]
            wanted[extremes] = 0
    assert found.tolist() == wanted.tolist()


def test_which_columns_a_tensor_carries():
    names = ["age", "x_1", "x_0", "x_3", "y_0"]
    found, outputs = drift.tensors_of(names)
    assert outputs == {}
    assert found == {
        "x": (2, 1),
        "y": (4,),
        "age": (0,),
        "x_1": (1,),
        "x_0": (2,),
        "x_3": (3,),
        "y_0": (4,),
        "": (0, 1, 2, 3, 4),
    }


def test_outputs_are_columns_of_their_own():
    names = ["age", "x_1", "x_0", "x_3", "y_0"]
    found, outputs = drift.tensors_of(names, ["x", "nope"])
    assert outputs == {"x": (2, 1)}
    assert found == {"age": (0,), "x_3": (3,), "y": (4,), "y_0": (4,), "": (0, 3, 4)}
    assert "" not in drift.tensors_of(["p"], ["p"])[0]


@TWINS
@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (("x_0", "FP32", [2, 1], bytes(8)), 2),
        (("x_0", "FP32", [3, 1], bytes(12)), 0),  # not one value a row
        (("x_0", "FP32", [2, 1], None), 0),
        (("x_0", "WHAT", [2, 1], b""), 0),
        (("x_0", "BYTES", [2, 1], b"\x09"), 0),
        (("other", "FP32", [2, 1], bytes(8)), 0),
    ],
)
def test_outputs_count_where_they_have_a_value_a_row(twin, answer, counted):
    columns = [Numbers((0.0,), 0.0, 1.0)] * 2
    one, buffer = shard(twin, columns, outputs=True)
    asked = [tensor("x_1", "INT8", [2], b"\x01\x02")]
    assert one.count(asked, [tensor(*answer)]) == 2
    assert sum(words(buffer, 0, columns)[0]) == counted
    assert sum(words(buffer, 1, columns)[0]) == 2
    # An input of that name is none.
    one.count([*asked, tensor("x_0", "INT8", [2], b"\x01\x02")])
    assert sum(words(buffer, 0, columns)[0]) == counted


@TWINS
@pytest.mark.parametrize(
    ("inputs", "rows", "unseen"),
    [
        ([("x", "FP32", [2, 2], bytes(16))], 2, 0),
        ([("x", "FP32", [2], bytes(8))], 1, 0),  # a model that does not batch
        ([("x", "FP32", [1, 2, 1], bytes(8))], 1, 0),
        ([("x", "FP32", [0, 2], b"")], 0, 0),
        ([("x_0", "INT8", [3], b"abc"), ("x_1", "INT8", [3, 1], b"abc")], 3, 0),
        ([("x_0", "INT8", [], b"a")], 1, 0),
        ([("x_0", "INT8", [3], b"abc"), ("u", "WHAT", [1], None)], 3, 0),  # nobody looks at it
        ([("u", "WHAT", [4, 9], None), ("v", "FP32", [1], bytes(4))], 4, 0),
        ([("u", "FP32", [4, 0], b""), ("v", "FP32", [1], bytes(4))], 0, 0),
        ([("u", "FP32", [], bytes(4)), ("v", "FP32", [1], bytes(4))], 1, 0),
        ([("x_0", "INT8", [3], b"abc"), ("x_1", "INT8", [2], b"ab")], -1, 1),
        ([("x", "FP32", [4, 1], bytes(16))], -1, 1),
        ([("x", "FP32", [2, 2], None)], -1, 1),  # in shared memory
        ([("x", "WHAT", [2, 2], bytes(16))], -1, 1),
        ([("x", "FP32", [2, 2], bytes(15))], -1, 1),
        ([("x", "BYTES", [1, 2], b"\x01\0\0\0a\x02\0\0\0b")], -1, 1),
        ([("x", "BYTES", [1, 2], b"\x01\0\0\0a\x02")], -1, 1),
        ([("u", "FP32", [1, 3], bytes(12))], -1, 1),  # alone, and not as wide as there are columns
        ([("x_0", "INT8", [-1], b"")], -1, 1),
        ([], 1, 0),
    ],
)
def test_what_a_row_is(twin, inputs, rows, unseen):
    columns = [Numbers((0.0,), 0.0, 1.0)] * 2
    one, buffer = shard(twin, columns)
    assert one.count([tensor(*each) for each in inputs]) == rows
    header = np.frombuffer(bytes(buffer), np.uint64)
    assert header[drift.UNSEEN] == unseen
    assert header[drift.ROWS] == max(0, rows)
    assert header[drift.CALLS] == (1 if rows >= 0 else 0)
    if unseen:
        assert not header[8:].any()


@TWINS
def test_a_block_is_continued_and_one_left_amid_a_call_too(twin):
    columns = [Numbers((0.0,), 0.0, 1.0)]
    one, buffer = shard(twin, columns)
    call = [tensor("x", "INT8", [1], b"\x05")]
    one.count(call)
    buffer[0] |= 1
    assert len(twin.snapshot(buffer)) == len(buffer)  # the writer is gone: as it is
    again = twin.Shard(buffer, columns, {"x": [0]})
    again.count(call)
    assert not buffer[0] & 1
    assert words(buffer, 0, columns)[0][1] == 2


def test_a_snapshot_is_never_amid_a_call():
    columns = [Numbers((0.0,), 0.0, 1.0)] * 64
    one, buffer = shard(c, columns)
    call = [tensor("x", "FP32", [512, 64], np.ones((512, 64), np.float32))]  # lets go of the GIL
    stop = threading.Event()

    def write():
        while not stop.is_set():
            one.count(call)
            time.sleep(0.0005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            found = np.frombuffer(c.snapshot(buffer), np.uint64)
            for place in drift.places(columns)[:-1]:
                assert found[place + 1] == found[drift.ROWS]
    finally:
        stop.set()
        writer.join()


@TWINS
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"buffer": bytearray(10)}, ValueError),
        ({"buffer": bytes(_plan.nbytes([Numbers((), 0.0, 1.0)]))}, BufferError),
        ({"columns": []}, ValueError),
        ({"columns": [Numbers((1.0, 0.0), 0.0, 1.0)]}, ValueError),
        ({"columns": [Numbers((np.nan,), 0.0, 1.0)]}, ValueError),
        ({"columns": [Numbers((0.0,) * drift.BINS, 0.0, 1.0)]}, ValueError),
        ({"columns": [Numbers((), np.nan, 1.0)]}, ValueError),
        ({"columns": [Numbers((), 0.0, 0.0)]}, ValueError),
        ({"columns": [Numbers((), 0.0, np.inf)]}, ValueError),
        ({"columns": [Names(("a",), (), (), False)]}, ValueError),
        ({"tensors": {"x": [1]}}, ValueError),
        ({"tensors": {"x": [-1]}}, ValueError),
        ({"tensors": {"x": []}}, ValueError),
    ],
)
def test_what_does_not_fit_is_refused(twin, change, error):
    columns = [Numbers((), 0.0, 1.0)]
    good = {"buffer": bytearray(_plan.nbytes(columns)), "columns": columns, "tensors": {"x": [0]}}
    twin.Shard(**good)
    with pytest.raises(error):
        twin.Shard(**(good | change))


@TWINS
def test_more_tensors_than_fit_on_the_stack(twin):
    columns = [Numbers((0.0,), 0.0, 1.0)] * 40
    one, buffer = shard(twin, columns)
    call = [tensor(f"x_{at}", "INT8", [2, 1], b"\x01\x02") for at in range(40)]
    assert one.count(call) == 2
    assert all(words(buffer, at, columns)[0][1] == 2 for at in range(40))
