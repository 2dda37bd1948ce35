"""Feature programs: the C twin against its specification, on random programs and rows."""

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.features import (
    COLUMN_DATATYPES,
    DATATYPES,
    FUNCTIONS,
    PERIODS,
    Input,
    Instruction,
    Refused,
    Tensor,
    _features_c,
    _features_py,
    _numbers_py,
)

TWINS = {"c": _features_c, "python": _features_py}
INPUTS = (
    Input("n", "number", 0),
    Input("m", "number", 1),
    Input("b", "boolean", 2),
    Input("t", "timestamp", 3),
    Input("s", "string", 0),
    Input("u", "string", 1),
)
TENSORS = (Tensor("x", "FP32", 3), Tensor("y", "FP64", 4), Tensor("i", "INT64", 2), Tensor("j", "INT32", 1))
NUMBERS, TEXTS = 7, 4
special = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, math.inf, -math.inf, math.nan, 1e300, -1e-300, 3.0])
values = special | st.floats(width=64) | st.floats(-100, 100)
words = st.sampled_from(["", "a", "b", "ab", "été", "longer than eight", "x" * 40]) | st.text(max_size=4)
register = st.integers(0, NUMBERS - 1)
text_register = st.integers(0, TEXTS - 1)


def some(op, numbers=0, integers=(), texts=0, *, a=register, dst=register, b=None):
    return st.builds(
        Instruction,
        op=st.just(op),
        dst=dst,
        a=a,
        b=st.just(-1) if b is None else b,
        column=st.integers(0, len(INPUTS) - 1),
        numbers=st.lists(values, min_size=numbers, max_size=numbers).map(tuple),
        integers=st.tuples(*integers),
        texts=st.lists(words, min_size=texts, max_size=texts).map(tuple),
    )


ascending = st.lists(st.floats(-50, 50), min_size=1, max_size=6, unique=True).map(sorted)


@st.composite
def quantile(draw):
    one = draw(some("quantile"))
    xs = draw(st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 40.0]), min_size=1, max_size=6).map(sorted))
    ys = [at / max(1, len(xs) - 1) for at in range(len(xs))]
    return one._replace(numbers=(*xs, *ys), integers=(len(xs), draw(st.integers(0, 1))))


@st.composite
def lookup(draw, *, text):
    refuse = (draw(st.integers(0, 1)), draw(st.integers(0, 1)))
    if text:
        one = draw(some("lookup_text", a=text_register))
        keys = draw(st.lists(words, max_size=5, unique=True))
        found = draw(st.lists(values, min_size=len(keys) + 2, max_size=len(keys) + 2))
        return one._replace(texts=tuple(keys), numbers=tuple(found), integers=refuse)
    one = draw(some("lookup_number"))
    keys = draw(ascending)
    found = draw(st.lists(values, min_size=len(keys) + 2, max_size=len(keys) + 2))
    return one._replace(numbers=(*keys, *found), integers=(*refuse, len(keys)))


@st.composite
def put(draw, op):
    tensor = draw(st.integers(0, len(TENSORS) - 1))
    width = TENSORS[tensor].width
    if op == "store":
        return draw(some("store", integers=(st.just(tensor), st.integers(0, width - 1))))
    columns = draw(st.lists(st.integers(-1, width - 1), max_size=4))
    one = draw(some("scatter", b=register | st.just(-1)))
    return one._replace(integers=(tensor, *columns))


@st.composite
def splines(draw):
    one = draw(some("spline"))
    degree = draw(st.integers(1, 4))
    knots = sorted(draw(st.lists(st.floats(-50, 50), min_size=2 * degree + 2, max_size=14, unique=True)))
    functions = len(knots) - degree - 1
    columns = draw(st.sampled_from([functions, max(1, functions - degree)]))
    ends = draw(st.lists(values, min_size=4, max_size=4))
    shape = (degree, draw(st.integers(0, columns - 1)), columns, draw(st.integers(0, 2)))
    return one._replace(numbers=(*knots, *ends), integers=shape)


instructions = st.one_of(
    some("fill", 1), some("fill_value", 2), some("is_missing"), some("equals", 1),
    some("check", integers=(st.integers(0, 7),)), some("subtract_divide", 2), some("multiply_add", 2), some("clip", 2),
    some("function", integers=(st.integers(0, len(FUNCTIONS) - 1),)),
    some("bucket").flatmap(lambda one: ascending.map(lambda edges: one._replace(numbers=tuple(edges)))),
    some("yeo_johnson", 1), some("box_cox", 1), quantile(), lookup(text=False), lookup(text=True),
    *(some(op, b=register) for op in ("add", "subtract", "multiply", "divide", "power")),
    some("constant", 1), some("phase", integers=(st.integers(0, len(PERIODS) - 1),)),
    some("text_fill", texts=1, a=text_register, dst=text_register),
    some("text_fill_value", texts=2, a=text_register, dst=text_register),
    some("text_is_missing", a=text_register), some("text_equals", texts=1, a=text_register),
    some("bucket_of_text", integers=(st.integers(1, 9),), a=text_register), some("sign_of_text", a=text_register),
    put("store"), put("scatter"), some("text_check", a=text_register),
    some("add_scaled", 1, b=register), some("maximum", b=register), some("replace_below", 2), some("check_range", 2),
    splines(),
    some("text_length", a=text_register),
)  # fmt: skip
SET = [
    *(Instruction("constant", dst=at, numbers=(at / 3,)) for at in range(4, NUMBERS)),
    *(Instruction("text_fill", dst=at, a=at - 2, texts=("a",)) for at in range(2, TEXTS)),
]
programs = st.lists(instructions, max_size=12).flatmap(
    lambda code: st.lists(put("store"), min_size=1, max_size=6).map(lambda stores: [*SET, *code, *stores])
)
times = st.datetimes().map(lambda at: at.isoformat()) | st.sampled_from(
    [
        "2024-02-29",
        "2023-02-29",
        "1969-12-31T23:59:59.5Z",
        "2020-01-01 10:00+05:30",
        "",
        "x",
        "0001-01-01",
        "9999-12-31T23:59:59-23:59",
    ]
)
rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "n": values | st.none() | st.integers(-(10**20), 10**20) | st.sampled_from([True, "1", 10**400]),
            "m": values | st.none(),
            "b": st.booleans() | st.none() | st.just(1),
            "t": times | st.none() | st.just(5),
            "s": words | st.none() | st.sampled_from([7, "\ud800"]),
            "u": words | st.none(),
            "other": st.just(1),
        },
    ),
    max_size=5,
)


def outcome(twin, code, act):
    try:
        return act(twin.Program(INPUTS, TENSORS, code, NUMBERS, TEXTS))
    except Refused as refused:
        return refused.row, refused.column, refused.reason
    except (ValueError, TypeError) as error:
        return type(error), str(error)


def same(one, other):
    """Equal, with any NaN for any NaN: which one comes out of arithmetic is the machine's choice."""
    if not isinstance(one, list) or not isinstance(other, list):
        return one == other
    for tensor, a, b in zip(TENSORS, one, other, strict=True):
        form = {"FP32": "f", "FP64": "d", "INT64": "q", "INT32": "i"}[tensor.datatype]
        size = len(a) // struct.calcsize(form)
        for x, y in zip(struct.unpack(f"<{size}{form}", a), struct.unpack(f"<{size}{form}", b), strict=True):
            if not (x == y and math.copysign(1, x) == math.copysign(1, y)) and not (math.isnan(x) and math.isnan(y)):
                return False
    return True


@settings(max_examples=150, deadline=None)
@given(programs, rows, st.booleans())
def test_rows_are_the_specifications(code, given_rows, empty_is_missing):
    run = lambda program: program.rows(given_rows, empty_is_missing=empty_is_missing)  # noqa: E731
    found = outcome(_features_c, code, run)
    assert same(found, outcome(_features_py, code, run)), code


def texts(items):
    raw = [item if isinstance(item, bytes) else item.encode() for item in items]
    return "BYTES", b"".join(len(item).to_bytes(4, "little") + item for item in raw)


@st.composite
def columns(draw):
    count = draw(st.integers(0, 4))
    found = []
    for one in INPUTS:
        kind = draw(st.sampled_from((*COLUMN_DATATYPES[:10], "FP16"))) if one.kind == "number" else None
        if draw(st.booleans()):
            found.append(None)
        elif one.kind == "boolean":
            found.append(("BOOL", bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))))
        elif kind is not None:
            size = {"FP64": 8, "INT64": 8, "UINT64": 8, "FP32": 4, "INT32": 4, "UINT32": 4}.get(kind, 0) or (
                1 if kind.endswith("8") else 2
            )
            found.append((kind, draw(st.binary(min_size=size * count, max_size=size * count))))
        else:
            items = times if one.kind == "timestamp" else words | st.binary(max_size=3)
            found.append(texts(draw(st.lists(items, min_size=count, max_size=count))))
    if draw(st.integers(0, 9)) == 0:  # cut or grown
        at = draw(st.integers(0, len(found) - 1))
        if found[at] is not None:
            kind, data = found[at]
            found[at] = kind, data[:-1] if draw(st.booleans()) else data + b"\0"
    return count, found


@settings(max_examples=120, deadline=None)
@given(programs, columns())
def test_columns_are_the_specifications(code, sent):
    count, found = sent
    run = lambda program: program.columns(count, found)  # noqa: E731
    one, other = outcome(_features_c, code, run), outcome(_features_py, code, run)
    if not isinstance(one, list) and not isinstance(other, list) and "another number of values" in str(other[1]):
        return  # texts that are cut or grown, and a row that is refused: which is told first is nobody's promise
    assert same(one, other), code


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_many_rows_are_taken_as_one_by_one(twin):
    code = [
        Instruction("fill", dst=0, a=0, numbers=(7.0,)),
        Instruction(
            "lookup_text", dst=1, a=0, column=4, numbers=(0.0, 1.0, -1.0, -1.0), integers=(0, 0), texts=("a", "b")
        ),
        Instruction("store", a=0, integers=(0, 0)),
        Instruction("scatter", a=1, integers=(0, 1, 2)),
    ]
    program = twin.Program(INPUTS, TENSORS, code, NUMBERS, TEXTS)
    sent = [{"n": None if at % 5 == 0 else at / 3, "s": "abc"[at % 3]} for at in range(1000)]
    alone = b"".join(program.rows([row])[0] for row in sent)
    assert program.rows(sent)[0] == alone
    assert program.rows([list(row.values()) for row in sent], (0, -1, -1, -1, 1, -1))[0] == alone
    numbers = struct.pack("<1000d", *(math.nan if row["n"] is None else row["n"] for row in sent))
    assert (
        program.columns(1000, [("FP64", numbers), None, None, None, texts([row["s"] for row in sent]), None])[0]
        == alone
    )


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_the_first_row_is_the_one_refused(twin):
    code = [
        Instruction("check", a=0, column=0, integers=(2,)),
        Instruction("store", a=1, integers=(2, 0), column=1),
    ]
    program = twin.Program(INPUTS, TENSORS, code, NUMBERS, TEXTS)
    good = [{"n": 1, "m": 2}] * 300
    for late, row, column, reason in [
        ([{"n": 1, "m": 0.5}, {"m": 1}], 300, "m", "range"),
        ([{"m": 0.5}, {"n": "x"}], 300, "n", "missing"),
        ([{"n": 1, "m": 3}, {"n": 1, "m": 2, "nn": 1}], 301, "nn", "column"),
    ]:
        with pytest.raises(Refused) as caught:
            program.rows(good + late)
        assert (caught.value.row, caught.value.column, caught.value.reason) == (row, column, reason)
        assert str(caught.value).startswith(f"row {row + 1}: '{column}' ")


WRONG = [
    Instruction("nothing"),
    Instruction("fill", dst=0, a=NUMBERS, numbers=(1.0,)),
    Instruction("fill", dst=-1, a=0, numbers=(1.0,)),
    Instruction("fill", dst=0, a=0),
    Instruction("store", a=0, integers=(0, 3)),
    Instruction("store", a=0, integers=(4, 0)),
    Instruction("scatter", a=0, b=NUMBERS, integers=(0, 1)),
    Instruction("scatter", a=0, integers=(0, 9)),
    Instruction("function", dst=0, a=0, integers=(len(FUNCTIONS),)),
    Instruction("phase", dst=0, a=0, integers=(-1,)),
    Instruction("quantile", dst=0, a=0, integers=(2, 0), numbers=(1.0,)),
    Instruction("lookup_text", dst=0, a=0, integers=(0, 0), texts=("a",), numbers=(1.0, 2.0)),
    Instruction("lookup_number", dst=0, a=0, integers=(0, 0, 3), numbers=(1.0, 2.0)),
    Instruction("bucket_of_text", dst=0, a=0, integers=(0,)),
    Instruction("spline", dst=0, a=0, integers=(1, 0, 2, 0), numbers=(0, 1, 2, 2, 0, 0, 0, 0)),
    Instruction("spline", dst=0, a=0, integers=(1, 3, 3, 0), numbers=(0, 1, 2, 3, 4, 0, 0, 0, 0)),
    Instruction("add_scaled", dst=0, a=0, numbers=(1.0,)),
    Instruction("ngrams", a=0, integers=(0, 2, 0, 1, 1, 7, 2, 0)),
    Instruction("ngrams", a=0, integers=(0, 1, 0, 2, 1, 7, 2, 0)),
    Instruction("ngrams", a=0, integers=(0, 1, 0, 1, 1, 7, 2, 3)),
    Instruction("ngrams", a=TEXTS, integers=(0, 1, 0, 1, 1, 7, 2, 0)),
    Instruction("fill", dst=0, a=0, column=len(INPUTS), numbers=(1.0,)),
    Instruction("store", a=5, integers=(0, 0)),
    Instruction("text_is_missing", dst=0, a=3),
]


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
@pytest.mark.parametrize("one", WRONG, ids=lambda one: one.op)
def test_what_refers_to_nothing_is_no_program(twin, one):
    with pytest.raises(ValueError):
        twin.Program(INPUTS, TENSORS, [one], NUMBERS, TEXTS)


def test_hashes_are_the_published_ones():
    # Test vectors of MurmurHash3_x86_32 with seed 0.
    for data, expected in [
        (b"", 0),
        (b"test", 0xBA6BD213),
        (b"Hello, world!", 0xC0363E43),
        (b"The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ]:
        assert _numbers_py.murmur3(data) % 2**32 == expected


def test_the_extension_is_what_runs():
    import kernels.features

    assert kernels.features.Program is _features_c.Program
    assert DATATYPES[0] == "FP32"
