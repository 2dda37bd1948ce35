"""Constraints on columns: what is declared, what is found, offline and in a monitor's files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from gateway import cli
from gateway.errors import BadRequest
from gateway.monitors import Board, History, meters
from gateway.settings.routes import Constraint, Quality
from governance import tables
from governance.errors import DataError
from governance.monitor import profile, quality
from governance.monitor.sketch import ERROR, estimate
from kernels import drift
from kernels.drift import _rules as plan


@pytest.fixture
def data(tmp_path):
    rows = [
        "age,job,id,seen",
        *(f"{20 + at % 40},{'clerk' if at % 2 else 'cook'},{at},2026-01-01" for at in range(200)),
    ]
    path = tmp_path / "train.csv"
    path.write_text("\n".join(rows) + "\n", encoding="ascii")
    return path


@pytest.fixture
def made(data):
    return profile.build(tables.read(data))


DECLARED = {
    "age": Constraint(min=18, max=70, missing=0),
    "job": Constraint(values=("clerk", "cook"), missing=0.5),
    "id": Constraint(unique=0.9),
}


def call(ages, jobs, ids=None):
    texts = b"".join(len(job).to_bytes(4, "little") + job.encode() for job in jobs)
    numbers = np.arange(len(ages)) if ids is None else np.array(ids)
    return [
        SimpleNamespace(name="age", datatype="FP64", shape=[len(ages)], data=np.array(ages, float).tobytes()),
        SimpleNamespace(name="job", datatype="BYTES", shape=[len(jobs)], data=texts),
        SimpleNamespace(name="id", datatype="INT64", shape=[len(ages)], data=numbers.astype(np.int64).tobytes()),
    ]


def board_of(tmp_path, made, declared):
    board = Board(tmp_path / "monitors", History(None, tmp_path))
    return board, board.of({"r": made}, None, {"r": declared})["r"]


def found(monitor):
    return {(one.column, one.constraint): one for one in monitor.quality().constraints}


@pytest.mark.parametrize("different", [0, 1, 10, 300, 2000, 30_000, 1_000_000])
def test_distinct_values_are_estimated_within_four_standard_errors(different):
    registers = np.zeros(drift.REGISTERS, np.uint8)
    bits = np.arange(different, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for step in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        bits = (bits ^ bits >> np.uint64(33)) * np.uint64(step)
    bits ^= bits >> np.uint64(33)
    for one in bits[:50].tolist():
        assert plan.sketched(one)[0] == one >> 53
    rest = bits << np.uint64(11) | np.uint64(1024)
    least = 64 - np.floor(np.log2(rest.astype(np.float64))).astype(int)
    np.maximum.at(registers, (bits >> np.uint64(53)).astype(int), least.astype(np.uint8))
    assert estimate(registers) == pytest.approx(different, rel=4 * ERROR, abs=0.5)


def test_what_was_found_is_counted_by_column_and_constraint(tmp_path, made):
    _, one = board_of(tmp_path, made, Quality(columns=DECLARED, schema=True))
    assert not one.refuses
    rows = 100
    ages = [17.0, 71.0, np.nan, *[30.0] * (rows - 3)]
    jobs = ["", *["clerk"] * (rows - 3), "chef", "chef"]
    one.count(call(ages, jobs), [])
    at = found(one)
    assert one.quality().rows == rows
    assert (at["age", "range"].broken, at["age", "range"].status) == (2, "violated")
    assert (at["age", "missing"].broken, at["age", "missing"].status) == (1, "violated")
    assert (at["job", "set"].broken, at["job", "set"].share) == (2, 0.02)
    assert (at["job", "missing"].broken, at["job", "missing"].status) == (1, "ok")
    assert at["id", "unique"].share == pytest.approx(1, abs=4 * ERROR)
    assert at["id", "unique"].status == "ok"
    # The table has a fourth column, which no call has.
    assert (at["seen", "schema"].broken, at["seen", "schema"].declared) == (rows, {"kind": "timestamp"})
    assert (at["age", "schema"].broken, at["age", "schema"].status) == (0, "ok")
    one.count(call([30.0] * 900, ["cook"] * 900, [5] * 900), [])
    assert found(one)["id", "unique"].status == "violated"
    assert found(one)["job", "set"].share == 0.002
    series = {(metric.name, *labels): value for metric, labels, value in meters.samples_of(one.report())}
    assert series["tidegate_quality_broken_rows", "r", "age", "range"] == 2
    assert series["tidegate_quality_violated", "r", "id", "unique"] == 1
    assert series["tidegate_quality_refused_calls", "r", "age", "range"] == 0


def test_nothing_is_said_without_rows(tmp_path, made):
    _, one = board_of(tmp_path, made, Quality(columns=DECLARED))
    assert {each.status for each in one.quality().constraints} == {"insufficient"}
    assert {each.share for each in one.quality().constraints} == {None}
    one.count(call([np.nan] * 3, [""] * 3), [])
    assert found(one)["age", "missing"].status == "violated"  # one is enough
    assert found(one)["job", "missing"].status == "insufficient"


@pytest.mark.parametrize(
    ("ages", "jobs", "says"),
    [
        ([30.0, 17.5], ["cook"] * 2, "row 2: 'age' is outside of 18 to 70 (constraint `range`)"),
        ([30.0, np.nan], ["cook"] * 2, "row 2: 'age' is missing, and constraint `missing` has it in every row"),
        ([30.0], ["secret"], "row 1: 'job' is none of the values that constraint `set` allows"),
    ],
)
def test_a_refusal_names_row_column_and_constraint_and_never_the_value(tmp_path, made, ages, jobs, says):
    _, one = board_of(tmp_path, made, Quality(columns=DECLARED, on_violation="refuse"))
    assert one.refuses
    one.judge(call([30.0], [""]))  # half of the jobs may be missing
    with pytest.raises(BadRequest) as error:
        one.judge(call(ages, jobs))
    assert str(error.value) == says
    assert sum(each.refused for each in one.quality().constraints) == 1
    assert one.quality().rows == 0
    with pytest.raises(BadRequest, match="input 'job': its values cannot be held against the constraints"):
        one.judge([*call([30.0], ["cook"])[:1], SimpleNamespace(name="job", datatype="BYTES", shape=[1], data=None)])
    assert one.quality().unread == 1


def test_other_constraints_go_on_with_the_same_counts_and_begin_anew_themselves(tmp_path, made):
    board, one = board_of(tmp_path, made, Quality(columns=DECLARED))
    board.retain([one])
    one.count(call([10.0] * 3, ["cook"] * 3), [])
    other = board.of({"r": made}, None, {"r": Quality(columns={"age": Constraint(min=5)})})["r"]
    one.count(call([10.0], ["cook"]), [])  # of a request that began before the swap
    other.count(call([4.0], ["cook"]), [])
    board.retain([other])
    assert other.report().rows["current"] == one.report().rows["current"] == 5
    assert [(each.column, each.broken) for each in other.quality().constraints] == [("age", 1)]
    assert other.quality().rows == 1
    none = board.of({"r": made}, None, {"r": None})["r"]
    assert (none.quality(), none.report().quality, none.refuses) == (None, None, False)
    again = board.of({"r": made}, None, {"r": None})["r"]
    assert again is none


def test_two_workers_are_one(tmp_path, made):
    declared = Quality(columns=DECLARED)
    both = [board_of(tmp_path, made, declared)[1] for _ in range(2)]
    for at, one in enumerate(both):
        one.count(call([10.0] * 50, ["cook"] * 50, range(at * 25, at * 25 + 50)), [])
    assert found(both[0])["age", "range"].broken == 100
    assert found(both[0])["id", "unique"].share == pytest.approx(0.75, abs=0.08)
    assert both[0].quality() == both[1].quality()


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"aeg": Constraint(min=1)}, ("aeg", "", "the profile has no such column")),
        ({"age": Constraint()}, ("age", "", "it says nothing: give it `min`, `max`, `values`, `missing` or `unique`")),
        ({"job": Constraint(max=3)}, ("job", "max", "a bound is of numbers, and this column is categorical")),
        ({"age": Constraint(min=3, max=2)}, ("age", "min", "it is above `max`: no value would be allowed")),
        ({"job": Constraint(values=())}, ("job", "values", "the list is empty: no value would be allowed")),
        (
            {"age": Constraint(values=(1.0, "old"))},
            ("age", "values", "the column is numeric, and one of these is no number"),
        ),
        (
            {"seen": Constraint(values=("2026-01-01",))},
            ("seen", "values", "a set of values is of numbers or categories, and this column is timestamp"),
        ),
    ],
)
def test_constraints_that_cannot_be_of_a_column_are_said(made, declared, says):
    assert list(quality.faults(made, declared)) == [says]
    assert list(quality.faults(made, DECLARED)) == []


def test_settings_say_where_a_constraint_is_wrong(tmp_path, made, capsys):
    (tmp_path / "credit.profile").write_bytes(profile.encode(made))
    config = tmp_path / "tidegate.yaml"
    text = (
        "upstreams: {triton: {http: 127.0.0.1:1, grpc: 127.0.0.1:2}}\n"
        "routes: {credit: {monitor: {profile: credit.profile, quality: {columns: {age: {min: 18, values: [20, 30]}, \n"
        "  jbo: {missing: 0}}}}}}\n"
    )
    config.write_text(text)
    assert cli.main(["check", str(config)]) == 1
    said = capsys.readouterr().out
    assert "tidegate.yaml:3:" in said
    assert "`routes.credit.monitor.quality.columns.jbo`: the profile has no such column" in said
    assert "did you mean `job`" in said or "job" in said
    config.write_text(text.replace("jbo", "job"))
    assert cli.main(["check", str(config)]) == 0


def test_the_report_holds_a_table_to_constraints(tmp_path, data, capsys):
    today = tmp_path / "today.csv"
    lines = [f"{10 + at % 30},{'chef' if at == 7 else 'cook'}," for at in range(60)]
    today.write_text("age,job,id\n" + "\n".join(lines) + "\n", encoding="ascii")
    rules = tmp_path / "columns.yaml"
    rules.write_text("schema: true\ncolumns:\n  age: {min: 18}\n  job: {values: [cook, clerk]}\n  id: {missing: 0}\n")
    words = ["drift", "report", "--reference", str(data), "--current", str(today), "--constraints", str(rules)]
    assert cli.main([*words, "--html", str(tmp_path / "page.html")]) == 1
    report = json.loads(capsys.readouterr().out)["quality"]
    got = {(one["column"], one["constraint"]): (one["broken"], one["status"]) for one in report["constraints"]}
    assert got == {
        ("age", "schema"): (0, "ok"),
        ("age", "range"): (16, "violated"),
        ("job", "schema"): (0, "ok"),
        ("job", "set"): (1, "violated"),
        ("id", "missing"): (60, "violated"),
        ("id", "schema"): (0, "ok"),
        ("seen", "schema"): (60, "violated"),
    }
    page = (tmp_path / "page.html").read_text()
    assert "What columns were declared to be" in page
    assert "min 18" in page
    assert cli.main([*words, "--format", "text"]) == 1
    assert "job: set (values cook clerk) violated: 1 of 60 rows, 1.7%" in capsys.readouterr().out
    rules.write_text("columns: {age: {min: 1}}\n")
    assert cli.main(words) == 0
    for text, says in [
        ("columns: {aeg: {min: 1}}\n", "there is no column 'aeg' to hold to a constraint"),
        ("columns: {job: {min: 1}}\n", "'job' `min`: a bound is of numbers"),
        ("columns: {age: {low: 1}}\n", "columns.yaml:1:17"),
        ("columns: [\n", "columns.yaml:"),
    ]:
        rules.write_text(text)
        capsys.readouterr()
        assert cli.main(words) == 2
        assert says in capsys.readouterr().err


def test_a_table_without_any_of_the_columns_breaks_the_schema_in_every_row(tmp_path, data):
    other = tmp_path / "other.csv"
    other.write_text("age2\n" + "1\n" * 5)
    got = quality.of_table(tables.read(data), tables.read(other), {"age": Constraint(min=1)}, schema=True)
    assert [(one.column, one.broken) for one in got.constraints if one.constraint == "schema"] == [
        (name, 5) for name in ("age", "job", "id", "seen")
    ]
    assert got.rows == 5
    nothing = quality.of_table(tables.read(data), tables.read(other), {}, schema=False)
    assert nothing.constraints == []
    with pytest.raises(DataError, match="there is no column 'nope'"):
        quality.of_table(tables.read(data), tables.read(other), {"nope": Constraint(min=1)}, schema=False)
