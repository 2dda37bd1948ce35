"""kernels.tensors: decimal text and floats, to the last bit, where readers and writers go wrong."""

from __future__ import annotations

import random
import sys
import threading
import time
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_twins import FAST, PLAIN, outcome

FLOATS = {"FP32": ("<f4", "<u4", 23, 8), "FP64": ("<f8", "<u8", 52, 11)}
BLANKS = b" " * 100
floats = pytest.mark.parametrize("datatype", FLOATS)


def bits_to_text(datatype: str, bits: list[int] | np.ndarray) -> bytes:
    return FAST.format_array(np.asarray(bits, FLOATS[datatype][1]).tobytes(), datatype)


def exact(value: Fraction) -> str:
    """The decimal of a fraction whose denominator is a power of two, all digits."""
    with localcontext() as context:
        context.prec = 2000
        return str(Decimal(value.numerator) / Decimal(value.denominator))


def fraction_of(datatype: str, bits: int) -> Fraction:
    """Of the float with these bits, which is positive and finite; the next larger one of the largest is 2^128 (2^1024)."""
    _, _, mantissa_bits, exponent_bits = FLOATS[datatype]
    exponent, mantissa = bits >> mantissa_bits, bits & ((1 << mantissa_bits) - 1)
    scale = (exponent or 1) - 2 ** (exponent_bits - 1) + 2 - 1 - mantissa_bits
    whole = mantissa + (1 << mantissa_bits if exponent else 0)
    return Fraction(whole) * Fraction(2) ** scale


def read(datatype: str, token: str) -> int | str:
    """The bits; the quick and the plain reader, of both twins, say the same."""
    found = set()
    for twin in (FAST, PLAIN):
        for blanks in (b"", BLANKS):
            raw = outcome(twin.parse_array, b"[" + token.encode() + b"]" + blanks, datatype, 1)
            found.add(int.from_bytes(raw, "little") if isinstance(raw, bytes) else raw)
    (one,) = found
    return one


def edges(datatype: str) -> list[int]:
    """Bits of positive floats: subnormals, powers of two and their neighbours, the largest."""
    _, _, mantissa_bits, exponent_bits = FLOATS[datatype]
    largest = ((2**exponent_bits - 1) << mantissa_bits) - 1
    step = 1 if datatype == "FP32" else 16
    powers = [e << mantissa_bits for e in range(1, 2**exponent_bits - 1, step)]
    around = [p + d for p in powers for d in (-1, 0, 1)]
    return [1, 2, 3, (1 << mantissa_bits) - 1, largest - 1, largest, *around]


@floats
def test_the_middle_between_two_floats_goes_to_the_even_one_and_a_hair_decides(datatype):
    rng = random.Random(7)
    chosen = [*rng.sample(edges(datatype), 150), 1, 2]
    for bits in chosen:
        low, high = fraction_of(datatype, bits), fraction_of(datatype, bits + 1)
        middle = (low + high) / 2
        even = bits if bits % 2 == 0 else bits + 1
        token = exact(middle)
        assert read(datatype, token) == even, token
        # More than 19 digits, that differ far behind.
        with localcontext() as context:
            context.prec = 1200
            above = str(Decimal(token) * (1 + Decimal("1e-900")))
            below = str(Decimal(token) * (1 - Decimal("1e-900")))
        assert (read(datatype, below), read(datatype, above)) == (bits, bits + 1), token


@floats
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_middle_cut_to_some_digits_is_read_as_the_specification_reads_it(datatype, data):
    _, _, mantissa_bits, exponent_bits = FLOATS[datatype]
    bits = data.draw(st.integers(1, ((2**exponent_bits - 1) << mantissa_bits) - 2))
    digits = data.draw(st.integers(1, 25))
    middle = Decimal(exact((fraction_of(datatype, bits) + fraction_of(datatype, bits + 1)) / 2))
    form = data.draw(st.sampled_from(["e", "f"])) if abs(middle.adjusted()) < 30 else "e"
    token = f"{middle:.{digits}{form}}"
    assert read(datatype, token) in {bits, bits + 1} or digits < 18 or form == "f"
    read(datatype, "-" + token.replace("e+", data.draw(st.sampled_from(["e", "E", "e+", "E+000"]))))


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 10**22), st.integers(-360, 330), st.booleans(), st.integers(0, 30))
def test_any_digits_and_exponent_are_read_alike(whole: int, exponent: int, minus: bool, zeros: int):
    for token in (f"{whole}e{exponent}", f"0.{'0' * zeros}{whole}e{exponent}", f"{whole}.{'0' * zeros}{whole}"):
        for datatype in FLOATS:
            read(datatype, "-" * minus + token)


@pytest.mark.parametrize(
    ("token", "bits"),
    [
        # Rounded to a double first, then to a float32, each of these would be another.
        ("1.00000017881393432617187499", 0x3F800001),
        ("1.00000017881393421514957253748434595763683319091796875001", 0x3F800001),
        ("1.00000017881393432617187501", 0x3F800002),
        (
            "0.000000000000000000000000000000000000011754943508222875079687365372222456778186655567720875215087517062784172594547271728515625",
            0x00800000,
        ),
        ("7.0064923216240853546186479164495806564013097093825788587853e-46", 0),
        ("7.0064923216240853546186479164495806564013097093825788587854e-46", 1),
        ("3.4028235677973366163753939545814256e38", 0x7F7FFFFF),
        ("3.4028235677973366163753939545814257e38", 0x7F800000),
        ("9007199791611905", 0x5A000001),
        ("16777216.99999999999999999999999", 0x4B800000),
        ("16777217.00000000000000000000001", 0x4B800001),
        ("00", "Missing a comma or ']' after an array element. at 2"),
        ("1.5.5", "Missing a comma or ']' after an array element. at 4"),
        ("1e5e5", "Missing a comma or ']' after an array element. at 4"),
        ("0x1", "Missing a comma or ']' after an array element. at 2"),
        ("1_0", "Missing a comma or ']' after an array element. at 2"),
        ("-", "Invalid value. at 1"),
        ("--1", "Invalid value. at 1"),
        ("1.e5", "Miss fraction part in number. at 1"),
        ("1e", "Miss exponent in number. at 1"),
        ("1e99999999999999999999", "element 0: Number too big to be stored in double."),
        ("0e99999999999999999999", 0),
        ("1e-99999999999999999999", 0),
        ("0." + "0" * 400 + "1e401", 0x3F800000),
        ("1" + "0" * 400 + "e-400", 0x3F800000),
        ("1" + "0" * 400 + "e-91", "element 0: Number too big to be stored in double."),
        ("0." + "0" * 400 + "1e40", 0),
    ],
)
def test_traps_of_float32(token: str, bits: int | str):
    assert read("FP32", token) == (bits if isinstance(bits, int) else f"ValueError: {bits}")


@floats
def test_what_is_written_is_what_the_specification_writes(datatype):
    _, unsigned, _, _ = FLOATS[datatype]
    rng = np.random.default_rng(3)
    some = rng.integers(0, np.iinfo(unsigned).max, 3000, unsigned, endpoint=True)
    form = FLOATS[datatype][0]
    few_digits = [w * 10.0**e for e in range(-12, 20) for w in (1, 7, 12, 99, 123456, 1234567)]
    raw = some.tobytes() + np.array(edges(datatype), unsigned).tobytes() + np.array(few_digits, form).tobytes()
    text = FAST.format_array(raw, datatype)
    assert text == PLAIN.format_array(raw, datatype)
    if datatype == "FP64":
        names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
        expected = (names.get(repr(v), repr(v)) for v in np.frombuffer(raw, form).tolist())
        assert text.decode()[1:-1].split(",") == list(expected)


def same_after_both_ways(datatype: str, bits: np.ndarray) -> None:
    raw = bits.tobytes()
    back = FAST.parse_array(FAST.format_array(raw, datatype), datatype, bits.size)
    values = np.frombuffer(raw, FLOATS[datatype][0])
    again = np.frombuffer(back, bits.dtype)
    wrong = np.flatnonzero((again != bits) & ~np.isnan(values))
    assert not wrong.size, [(hex(bits[i]), bits_to_text(datatype, bits[i : i + 1])) for i in wrong[:5]]
    assert np.isnan(np.frombuffer(back, values.dtype)[np.isnan(values)]).all()


@floats
def test_a_million_random_bit_patterns_come_back(datatype):
    _, unsigned, _, _ = FLOATS[datatype]
    rng = np.random.default_rng(11)
    same_after_both_ways(datatype, rng.integers(0, np.iinfo(unsigned).max, 1_000_000, unsigned, endpoint=True))


@pytest.mark.slow
@floats
def test_ten_million_bit_patterns_of_every_exponent_come_back(datatype):
    _, unsigned, mantissa_bits, exponent_bits = FLOATS[datatype]
    rng = np.random.default_rng(13)
    strata = 2 ** (exponent_bits + 1)
    for prefix in range(strata):
        mantissas = rng.integers(0, 2**mantissa_bits, 10_000_000 // strata, unsigned)
        same_after_both_ways(datatype, mantissas + np.array(prefix << mantissa_bits, unsigned))


@pytest.mark.parametrize("datatype", ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"])
def test_integers_of_every_length(datatype):
    form = {"U": "u", "I": "i"}[datatype[0]]
    info = np.iinfo(f"<{form}{int(datatype.removeprefix('U').removeprefix('INT')) // 8}")
    powers = [s * (10**k + d) for k in range(21) for d in (-1, 0, 1) for s in (1, -1)]
    wanted = [int(info.min), int(info.max), *(v for v in powers if info.min <= v <= info.max)]
    raw = np.array(wanted, info.dtype).tobytes()
    text = FAST.format_array(raw, datatype)
    assert text == PLAIN.format_array(raw, datatype) == f"{wanted}".replace(" ", "").encode()
    assert FAST.parse_array(text + BLANKS, datatype, len(wanted)) == raw
    for beyond in (int(info.min) - 1, int(info.max) + 1, 10**30, -(10**30)):
        one = b"[%d]" % beyond
        for tail in (b"", BLANKS):
            refused = f"ValueError: element 0: {beyond} is out of range for {datatype}"
            assert outcome(FAST.parse_array, one + tail, datatype, 1) == refused


def test_other_threads_run_beside_large_tensors():
    """With a switch interval that never ends, the other thread gets on only when the kernel lets go of the GIL."""
    raw = np.random.default_rng(1).random(400_000, dtype="f4").tobytes()
    text = FAST.format_array(raw, "FP32")
    turns, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            turns[0] += 1
            time.sleep(0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    other = threading.Thread(target=count)
    other.start()
    try:
        for work in (lambda: FAST.parse_array(text, "FP32", 400_000), lambda: FAST.format_array(raw, "FP32")):
            for _ in range(200):
                seen = turns[0]
                work()
                if turns[0] > seen:
                    break
            else:
                raise AssertionError("nobody else ran")
    finally:
        stop.set()
        sys.setswitchinterval(before)
        other.join()
