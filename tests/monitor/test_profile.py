"""Profiles: built, read back strictly, and live reports equal to those of tables."""

import contextlib
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli import main
from governance import tables
from governance.errors import DataError
from governance.monitor import live, profile, significance
from governance.monitor.report import compare
from governance.tables import Column, Table
from kernels import drift


def command(*arguments):
    """The command in this process: starting one for each case takes longer than all of them."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["profile", *map(str, arguments)])
    return status, out.getvalue(), err.getvalue()


def table_of(path, **columns):
    rows = len(next(iter(columns.values())))
    found = {name: Column(list(values), written=False) for name, values in columns.items()}
    return Table(path, rows, found, range(1, rows + 1))


def packed(values):
    texts = ["" if value is None else value for value in values]
    return b"".join(len(one.encode()).to_bytes(4, "little") + one.encode() for one in texts)


def tensor(name, values):
    """A column as a client sends it."""
    if any(isinstance(value, bool) for value in values):
        return SimpleNamespace(name=name, datatype="BOOL", shape=[len(values)], data=bytes(map(int, values)))
    if any(isinstance(value, str) for value in values):
        return SimpleNamespace(name=name, datatype="BYTES", shape=[len(values), 1], data=packed(values))
    numbers = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    return SimpleNamespace(name=name, datatype="FP64", shape=[len(values), 1], data=numbers.tobytes())


def live_report(made, *batches, min_rows=2):
    """The report of calls, each a mapping of column to values."""
    columns = live.counted(made)
    buffer = bytearray(drift.nbytes(columns))
    shard = drift.Shard(buffer, columns, *drift.tensors_of([column.name for column in made.columns]))
    for batch in batches:
        assert shard.count([tensor(*one) for one in batch.items()]) >= 0
    return live.report(made, drift.merge(columns, [bytes(buffer)]), min_rows=min_rows)


def same(found, expected):
    """A live column is the report's, but for what needs the values."""
    for one, other in zip(found.columns, expected.columns, strict=True):
        fields = ("name", "kind", "status", "n_reference", "n_current", "missing_reference", "missing_current", "bins")
        assert [getattr(one, field) for field in fields] == [getattr(other, field) for field in fields]
        for name in ("psi", "js", "hellinger", "kl", "chi2"):
            assert one.statistics[name] == other.statistics[name], name
        assert one.p_values["chi2"] == other.p_values["chi2"]
        assert one.statistics["wasserstein"] is one.statistics["cvm"] is one.p_values["ks"] is None
        if other.statistics["ks"] is not None:
            assert one.statistics["ks"] <= other.statistics["ks"] + 1e-12
            assert one.bounds == {"ks": "lower"}
    assert found.rows == expected.rows


numbers = st.one_of(st.none(), st.integers(-5, 5).map(float), st.floats(allow_nan=False, width=64), st.just(math.nan))
names = st.one_of(st.none(), st.sampled_from(["a", "b", "é", "1", "", "  ", "NaN", "A"]), st.text("abc1 ", max_size=3))


@given(
    st.lists(st.tuples(numbers, names), min_size=1, max_size=60),
    st.lists(st.tuples(numbers, names), min_size=1, max_size=60),
)
@settings(deadline=None, max_examples=80)
def test_a_live_report_is_that_of_the_rows_as_tables(tmp_path_factory, reference, current):
    path = tmp_path_factory.getbasetemp() / "profile-data"
    path.touch()
    (x, y), (u, v) = (zip(*rows, strict=True) for rows in (reference, current))
    a, b = table_of(path, x=x, y=y), table_of(path, x=u, y=v)
    # What JSON rows of None alone are is not what a tensor says: it has a datatype.
    if not any(isinstance(value, str) for value in y) or not any(isinstance(value, str) for value in v):
        return
    if all(value is None or math.isnan(value) for value in x):
        return
    expected = compare(a, b, min_rows=2)
    same(live_report(profile.build(a), {"x": u, "y": v}), expected)
    half = len(u) // 2
    if any(isinstance(value, str) for value in v[:half]) and any(isinstance(value, str) for value in v[half:]):
        parts = {"x": u[:half], "y": v[:half]}, {"x": u[half:], "y": v[half:]}
        same(live_report(profile.build(a), *parts), expected)


def test_rare_categories_truth_values_and_numbers_that_are_names(tmp_path):
    path = tmp_path / "a"
    path.touch()
    many = [f"c{at:03}" for at in range(150)]
    a = table_of(path, x=many, t=[True, False] * 75, code=[at % 3 for at in range(150)])
    b = table_of(path, x=[*many[:149], "new"], t=[True] * 150, code=[float(at % 4) for at in range(150)])
    made = profile.build(a, categorical=["code"])
    rows = {name: column.values for name, column in b.columns.items()}
    same(live_report(made, rows), compare(a, b, min_rows=2, categorical=["code"]))


def test_what_was_never_sent_is_absent_and_what_was_left_out_is_missing(tmp_path):
    path = tmp_path / "a"
    path.touch()
    made = profile.build(table_of(path, x=[1.0] * 40, y=[2.0] * 40, z=[3.0] * 40))
    found = live_report(made, {"x": [1.0] * 30, "y": [2.0] * 30}, {"x": [1.0] * 10}, min_rows=30)
    assert found.rows == {"reference": 40, "current": 40}
    status = [(one.status, one.n_current, one.missing_current) for one in found.columns]
    assert status == [("ok", 40, 0), ("ok", 30, 10), ("absent", 0, 40)]
    assert [one.status for one in live_report(made).columns] == ["insufficient"] * 3


def test_moments(tmp_path):
    rng = np.random.default_rng(5)
    path = tmp_path / "a"
    path.touch()
    a, b = rng.normal(1e6, 3.0, 500), rng.normal(1e6 + 1, 5.0, 400)
    (column,) = live_report(profile.build(table_of(path, x=a.tolist())), {"x": b.tolist()}).columns
    reference, current = column.moments["reference"], column.moments["current"]
    assert (reference.mean, reference.std) == (pytest.approx(a.mean(), rel=1e-12), pytest.approx(a.std(), rel=1e-9))
    assert (current.mean, current.std) == (pytest.approx(b.mean(), rel=1e-10), pytest.approx(b.std(), rel=1e-4))
    assert (current.low, current.high) == (b.min(), b.max())
    (empty,) = live_report(profile.build(table_of(path, x=[math.inf, -math.inf])), {"x": [math.inf]}).columns
    for side in empty.moments.values():
        assert (side.mean, side.std, side.low, side.high) == (None, None, None, None)


@given(st.floats(0, 1e4), st.integers(1, 200))
@settings(deadline=None)
def test_the_tail_of_chi_square_is_scipys(x, df):
    from scipy import stats

    assert significance.chi2_tail(x, df) == pytest.approx(stats.chi2.sf(x, df), rel=1e-10, abs=1e-290)


def csv_of(path, **columns):
    rows = zip(*columns.values(), strict=True)
    path.write_text(",".join(columns) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def made(tmp_path, **options):
    data = csv_of(
        tmp_path / "train.csv", age=[*range(99), ""], job=["a", "b"] * 50, day=["2024-01-01"] * 100, label=[0, 1] * 50
    )
    return profile.build(tables.read(data), without=["label"], **options)


def test_a_profile_reads_back_as_it_was(tmp_path):
    for one in (made(tmp_path), made(tmp_path, route="credit")):
        assert profile.decode(profile.encode(one), tmp_path) == one
        assert len(one.hash) == 64
    assert made(tmp_path).hash != made(tmp_path, route="credit").hash


def lines_of(one):
    return [json.loads(line) for line in profile.encode(one).splitlines()]


def written(lines):
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def test_blanks_and_key_order_are_no_change(tmp_path):
    one = made(tmp_path)
    turned = [dict(reversed(line.items())) for line in lines_of(one)]
    assert profile.decode(b"\n" + written(turned).replace(b"\n", b"  \n\n"), tmp_path) == one


@pytest.mark.parametrize(
    ("line", "change", "says"),
    [
        (0, {"schema": "tidegate.profile/2"}, r"p:1: not a line of a profile .*tidegate profile build"),
        (0, {"extra": 1}, r"p:1: .*unknown field"),
        (0, {"columns": 7}, r"3 columns where the first line says 7"),
        (0, {"rows": 7}, r"p:2: column 'age': values and missing ones are not the rows"),
        (0, {"data": "0" * 64}, r"p:1: its content is not what `sha256` says; build it again"),
        (1, {"edges": [1.0]}, r"p:2: column 'age': the counts do not add up"),
        (1, {"edges": [9.0, 1.0, *range(2, 9)]}, r"p:2: column 'age': edges do not ascend"),
        (1, {"n": "x"}, r"p:2: not a line of a profile \(Expected `int`"),
        (1, {"std": -1.0}, r"p:2: column 'age': a moment is impossible"),
        (1, {"mean": 5.0}, r"p:1: its content is not"),
        (1, {"kind": "tensor"}, r"p:2: not a line"),
        (1, {"name": ""}, r"p:2: column '': it has no name"),
        (2, {"name": "age"}, r"p:3: column 'age': the name is that of line 2"),
        (2, {"counts": [100, 0, 0]}, r"p:3: column 'job': the counts do not add up"),
        (2, {"categories": ["a", "a"]}, r"p:3: column 'job': a category is there twice"),
        (2, {"others": ["c"]}, r"p:3: column 'job': `others` and `other` contradict"),
        (2, {"counts": [101, -1]}, r"p:3: column 'job': a count is below 0"),
        (3, {"missing": 1}, r"p:4: column 'day': values and missing"),
    ],
)
def test_a_profile_that_was_edited_is_refused_with_its_line(tmp_path, line, change, says):
    lines = lines_of(made(tmp_path))
    lines[line] |= change
    with pytest.raises(DataError, match=says):
        profile.decode(written(lines), tmp_path / "p")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "p:1: empty"),
        (b"{}\n", "p:1: not a line of a profile"),
        (b"\xff\n", "p:1: not a line of a profile"),
        (b"a,b\n1,2\n", "p:1: not a line of a profile"),
        (None, "p: cannot be read (No such file or directory): check the path"),
    ],
)
def test_what_is_no_profile_is_one_line(tmp_path, content, says):
    path = tmp_path / "p"
    if content is not None:
        path.write_bytes(content)
    status, out, err = command("show", path)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_a_head_alone_is_no_profile(tmp_path):
    head = lines_of(made(tmp_path))[0]
    with pytest.raises(DataError, match=r"0 columns"):
        profile.decode(written([head | {"columns": 0}]), tmp_path / "p")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--without", "lable"], "there is no column 'lable'"),
        (["--categorical", "x"], "there is no column 'x'"),
        (["--without", "age", "--without", "job"], "0 columns; a profile has 1 to"),
        (["--output", "missing/p"], "missing/p: cannot be written (No such file or directory)"),
    ],
)
def test_what_cannot_be_built_is_one_line(tmp_path, arguments, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    csv_of(tmp_path / "a.csv", age=[1, 2], job=["a", "b"])
    status, out, err = command("build", "a.csv", *(() if "--output" in arguments else ("--output", "p")), *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not (tmp_path / "p").exists()


def test_a_table_without_rows_and_one_of_identifiers_make_no_profile(tmp_path):
    path = tmp_path / "a"
    path.touch()
    with pytest.raises(DataError, match=r"no rows"):
        profile.build(Table(path, 0, {"x": Column([], written=False)}, []))
    with pytest.raises(DataError, match=r"leave it out with --without id"):
        profile.build(table_of(path, id=[f"u{at}" for at in range(profile.MOST_NAMES + 1)]))


def test_the_command(tmp_path):
    data = csv_of(tmp_path / "train.csv", age=range(100), job=["a", "b"] * 50, day=["2024-01-01"] * 100)
    target = tmp_path / "p.profile"
    status, out, err = command("build", data, "--output", target, "--route", "credit", "--format", "json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert result == {
        "output": str(target),
        "sha256": profile.load(target).hash,
        "rows": 100,
        "columns": ["age", "job", "day"],
    }
    status, out, _ = command("show", target)
    assert status == 0
    assert "for route credit" in out
    assert "10 bins; mean 49.5" in out
    assert "2 categories: a, b" in out
    assert "counted, not compared" in out
    status, out, _ = command("show", target, "--format", "json")
    assert json.loads(out)["columns"][0]["edges"] == [9.0, 19.0, 29.0, 39.0, 49.0, 59.0, 69.0, 79.0, 89.0]
