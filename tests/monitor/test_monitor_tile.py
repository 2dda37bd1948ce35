"""Tiles: what is merged of parts is what one worker would have counted, bit for bit."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.monitor import tile
from kernels import drift

COLUMNS = (
    drift.Numbers((0.0, 1.0), 0.5, 2.0**20),
    drift.Names(("a", "b"), ("c",), (None, None, None), fold=False),
    drift.Numbers((-1e300, 0.0, 1e300), 0.0, 2.0**-900),
    drift.Times(),
    drift.Numbers((), 0.0, 1.0),
)
NAMES = ("x", "n", "y", "t", "z")
FORMAT = tile.Format(COLUMNS)
COUNTERS = np.array([drift.ROWS, drift.CALLS, drift.UNSEEN])

numbers = st.lists(st.floats() | st.sampled_from([0.0, -0.0, 1.0, np.inf]), min_size=1, max_size=4)
calls = st.lists(
    st.tuples(st.sampled_from("xyz"), numbers)
    | st.tuples(st.sampled_from("nt"), st.lists(st.sampled_from(["a", "b", "c", "d", "", "2020-01-01"]), min_size=1)),
    max_size=5,
)


def block_of(made, before=b""):
    """A worker's block, after the calls."""
    block = bytearray(before or drift.nbytes(COLUMNS))
    shard = drift.Shard(block, COLUMNS, *drift.tensors_of(NAMES))
    for name, values in made:
        if name in "xyz":
            tensor = ("FP64", np.array(values).tobytes())
        else:
            tensor = ("BYTES", b"".join(len(v).to_bytes(4, "little") + v.encode() for v in values))
        shard.count([SimpleNamespace(name=name, datatype=tensor[0], shape=[len(values)], data=tensor[1])])
    return bytes(block)


def whole(*blocks):
    return drift.merge(COLUMNS, blocks)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(calls, min_size=1, max_size=4), min_size=1, max_size=4), st.randoms())
def test_all_tiles_of_all_workers_are_the_block_of_one_that_saw_everything(workers, random):
    """Each worker's minutes are differences of what it has counted so far; one worker sees all calls, in any order."""
    tiles = []
    for minutes in workers:
        block, before = b"", whole()
        for made in minutes:
            block = block_of(made, block)
            now = whole(block)
            tiles.append(FORMAT.encode(FORMAT.difference(now, before)))
            before = now
    everything = [call for minutes in workers for made in minutes for call in made]
    random.shuffle(tiles)
    random.shuffle(everything)
    expected = whole(block_of(everything))
    assert (FORMAT.decode(tile.merge(tiles)) == expected).all()
    # In whatever order, and in however many steps.
    at = random.randrange(len(tiles))
    parts = [tile.merge(part) for part in (tiles[:at], tiles[at:]) if part]
    assert tile.merge(parts) == tile.merge(tiles) == FORMAT.encode(expected)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50))
def test_numbers_are_leb128(values):
    def leb128(value):
        octets = []
        while True:
            value, low = value >> 7, value & 127
            octets.append(low | (128 if value else 0))
            if not value:
                return bytes(octets)

    data = b"".join(map(leb128, values))
    assert tile._leb128(np.array(values, dtype=np.uint64)) == data
    assert tile._numbers(data).tolist() == values


@given(st.lists(st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=1), min_size=1, max_size=40))
def test_sums_of_squares_carry(squares):
    columns = (drift.Numbers((), 0.0, 1.0),)
    form = tile.Format(columns)
    blocks = []
    at = drift.places(columns)[0] + drift.BINS + 1
    for (square,) in squares:
        block = np.zeros(drift.nbytes(columns) // 8, np.uint64)
        block[at + drift.SQUARES_LOW], block[at + drift.SQUARES_HIGH] = square % 2**64, square >> 64
        blocks.append(block)
    merged = form.decode(tile.merge([form.encode(block) for block in blocks]))
    assert (merged == drift.merge(columns, [block.tobytes() for block in blocks])).all()


def test_the_format_is_what_its_docstring_says():
    import zlib

    block = block_of([("x", [0.5, -1.0]), ("n", ["b"])])
    made = FORMAT.encode(whole(block))
    assert made[0] == 1
    plain = list(zlib.decompress(made[1:], -15))
    cells = drift.BINS
    assert plain[:16] == [5, 1, 0, cells, 1, 1, 4, 1, 0, cells, 1, 2, 1, 1, 0, cells]
    assert plain[16:19] == [3, 2, 0]  # rows, calls, unseen
    x = plain[19:]
    assert x[: cells + 2] == [1, 1] + [0] * (cells - 2) + [0, 0]  # bins, missing, clipped
    # One value is the centre; -1.0 is 1.5 * 2^20 steps below it.
    zigzag, squares = 2 * 3 * 2**19 - 1, (3 * 2**19) ** 2
    assert bytes(x[cells + 2 :]).startswith(bytes(tile._leb128(np.array([zigzag, squares, 0], np.uint64))))


def test_a_worker_whose_counts_were_taken_away_is_no_negative_tile():
    one, other = block_of([("x", [1.0])]), block_of([("x", [2.0]), ("z", [2.0])])
    assert FORMAT.difference(whole(other), whole(one, other)) is None
    assert FORMAT.difference(whole(one, other), whole(other)) is not None
    assert not FORMAT.difference(whole(one), whole(one)).any()


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        (lambda t: b"", "another version"),
        (lambda t: b"\x02" + t[1:], "another version"),
        (lambda t: t[:-1], "cut short"),
        (lambda t: t + b"x", "too long"),
        (lambda t: t[:1] + b"\xff" + t[2:], "damaged"),
        (lambda t: deflated(plain(t) + b"\0"), "too long"),
        (lambda t: deflated(plain(t)[:-1]), "cut short"),
        (lambda t: deflated(plain(t)[:-1] + b"\x80"), "cut short"),
        (lambda t: deflated(b"\xff" * 9 + b"\x01"), "too many|cut short"),
        (lambda t: deflated(b"\x01\x01\x03\x01" + bytes(8)), "columns that there are not"),
        (lambda t: deflated(b"\x01\xff\xff\x3f\x00\x10" + bytes(8)), "columns that there are not"),
        (lambda t: deflated(plain(t)[:-2] + b"\x80\x00\x00"), "shortest form"),
        (lambda t: deflated(plain(t)[:-2] + b"\xff" * 9 + b"\x02\x00"), "shortest form"),
        (lambda t: tile.Format(COLUMNS[:2]).encode(np.zeros(drift.nbytes(COLUMNS[:2]) // 8, np.uint64)), "other columns"),
    ],
)  # fmt: skip
def test_what_is_no_tile_is_refused(damaged, why):
    made = FORMAT.encode(whole(block_of([("x", [1.0])])))
    with pytest.raises(ValueError, match=why):
        FORMAT.decode(damaged(made))
    with pytest.raises(ValueError):
        tile.merge([made, damaged(made)])


def plain(made):
    import zlib

    return zlib.decompress(made[1:], -15)


def deflated(content):
    import zlib

    pressed = zlib.compressobj(6, zlib.DEFLATED, -15)
    return b"\x01" + pressed.compress(content) + pressed.flush()
