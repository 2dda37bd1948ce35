"""Plans: what each step does, what is wrong with a file and where, tables in and tensors out, the commands."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import struct
import xml.etree.ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import cli
from governance.features import expression
from governance.features.reading import parse
from governance.features.writing import text_of
from kernels.features import Refused

HEAD = "schema_version: tidegate.features/1\ninputs: {x: number, y: number, b: boolean, s: string, t: timestamp}\n"
OUT = "outputs: {f: {columns: [%s]}}\n"


def plan_of(steps, columns, head=HEAD):
    loaded, findings = parse((head + steps + OUT % ", ".join(columns)).encode(), "plan.yaml")
    assert loaded is not None, findings
    return loaded


def row_of(steps, columns, **values):
    program = plan_of(f"steps: {steps}\n", columns).compiled.program
    return list(struct.unpack(f"<{program.tensors[0].width}f", program.rows([values])[0]))


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


NAN = math.nan
DAY, NOON = "2024-02-29T00:00:00Z", "2024-02-29T12:00:00+00:00"
STEPS = [
    ("impute", "[{impute: {x: {fill: 2.5}}}]", ["x"], {}, [2.5]),
    ("impute a marker", "[{impute: {x: {fill: 2.5, value: -1}}}]", ["x"], {"x": -1}, [2.5]),
    ("impute text", "[{impute: {s: {fill: a}}}, {one_hot: {s: {categories: [a]}}}]", ["s"], {}, [1]),
    ("impute a marked text", '[{impute: {s: {fill: a, value: "?"}}}, {one_hot: {s: {categories: [a]}}}]', ["s"], {"s": "?"}, [1]),
    ("impute a boolean", "[{impute: {b: {fill: true}}}]", ["b"], {}, [1]),
    ("impute a time", f'[{{impute: {{t: {{fill: "{DAY}"}}}}}}, {{compute: {{h: t / 3600}}}}]', ["h"], {}, [f32(1709164800 / 3600)]),
    ("indicator", "[{missing_indicator: {x: {into: m}, s: {into: n}}}]", ["m", "n", "x"], {"s": "v"}, [1, 0, NAN]),
    ("indicator of a marker", "[{missing_indicator: {x: {into: m, value: 0}}}]", ["m"], {"x": 0}, [1]),
    ("standardise", "[{standardise: {x: {mean: 1, scale: 4}}}]", ["x"], {"x": 3}, [0.5]),
    ("robust into", "[{robust: {x: {centre: 1, scale: 2, into: z}}}]", ["x", "z"], {"x": 3}, [3, 1]),
    ("min-max", "[{min_max: {x: {scale: 2, offset: 1}}}]", ["x"], {"x": 3}, [7]),
    ("clip", "[{clip: {x: {low: 0, high: 1}, y: {high: 5}}}]", ["x", "y"], {"x": -3, "y": 9}, [0, 5]),
    ("clip keeps missing", "[{clip: {x: {low: 0}}}]", ["x"], {}, [NAN]),
    ("function", "[{function: {x: log1p, y: {name: sqrt, into: r}}}]", ["x", "r"], {"x": 0, "y": 9}, [0, 3]),
    ("function out of its domain", "[{function: {x: log, y: sqrt}}]", ["x", "y"], {"x": 0, "y": -1}, [-math.inf, NAN]),
    ("bucketise", "[{bucketise: {x: {edges: [0, 1, 2]}}}]", ["x"], {"x": 1}, [2]),
    ("one-hot", "[{one_hot: {s: {categories: [a, b]}}}]", ["s", "s_b"], {"s": "b"}, [0, 1, 1]),
    ("one-hot ignores", "[{one_hot: {s: {categories: [a, b], unknown: ignore}}}]", ["s"], {"s": "c"}, [0, 0]),
    ("one-hot of missing", "[{one_hot: {s: {categories: [a], missing: category}}}]", ["s_missing", "s_a"], {}, [1, 0]),
    ("one-hot infrequent", "[{one_hot: {s: {categories: [a], infrequent: [b], unknown: infrequent}}}]", ["s"], {"s": "?"}, [0, 1]),
    ("one-hot dropped", "[{one_hot: {s: {categories: [a, b], drop: a}}}]", ["s"], {"s": "a"}, [0]),
    ("one-hot named", "[{one_hot: {s: {categories: [a, b], names: [p, q]}}}]", ["q"], {"s": "b"}, [1]),
    ("one-hot numbers", "[{one_hot: {x: {categories: [3, 1.5]}}}]", ["x_1.5", "x_3"], {"x": 3}, [0, 1]),
    ("one-hot booleans", "[{one_hot: {b: {categories: [false, true]}}}]", ["b"], {"b": True}, [0, 1]),
    ("one-hot and on", "[{one_hot: {s: {categories: [a, b]}}}, {standardise: {s_a: {mean: 3}}}]", ["s"], {"s": "a"}, [-2, 0]),
    ("ordinal", "[{ordinal: {s: {categories: [a, b], unknown: -1, missing: missing}}}]", ["s"], {"s": "b"}, [1]),
    ("ordinal unknown", "[{ordinal: {s: {categories: [a, b], unknown: -1, missing: missing}}}]", ["s"], {"s": "?"}, [-1]),
    ("ordinal missing", "[{ordinal: {s: {categories: [a, b], unknown: -1, missing: missing}}}]", ["s"], {}, [NAN]),
    ("lookup", '[{lookup: {x: {values: {"1": 10, "2.5": 20}, unknown: 0}}}]', ["x"], {"x": 2.5}, [20]),
    ("target", "[{target: {s: {values: {a: 0.25}, unknown: 0.5}}}]", ["s"], {"s": None}, [0.5]),
    ("yeo-johnson", "[{power: {x: {method: yeo-johnson, lambda: 0}}}]", ["x"], {"x": math.e - 1}, [1]),
    ("box-cox", "[{power: {x: {method: box-cox, lambda: 2}}}]", ["x"], {"x": 3}, [4]),
    ("quantile", "[{quantile: {x: {quantiles: [0, 10, 20]}}}]", ["x"], {"x": 5}, [0.25]),
    ("quantile normal", "[{quantile: {x: {quantiles: [0, 10, 20], distribution: normal}}}]", ["x"], {"x": 10}, [0]),
    ("hashed", "[{hashed: {s: {buckets: 3, signed: false}}}]", ["s"], {"s": "test"}, [0, 1, 0]),
    ("hashed missing", "[{hashed: {s: {buckets: 2}}}]", ["s"], {}, [0, 0]),
    ("polynomial", "[{polynomial: {columns: [x, y], degree: 2, least: 0, into: p}}]", ["p"], {"x": 2, "y": 5}, [1, 2, 5, 4, 10, 25]),
    ("interactions", "[{polynomial: {columns: [x, y], degree: 2, least: 2, interaction_only: true, into: p}}]", ["p"], {"x": 2, "y": 5}, [10]),
    ("n-grams", "[{ngrams: {s: {buckets: 3, signed: false, norm: none}}}]", ["s"], {"s": "Test a test"}, [0, 2, 0]),
    ("n-grams normed", "[{ngrams: {s: {buckets: 3, norm: l1, into: g}}}, {length: {s: {}}}]", ["g", "s"], {"s": "test Test"}, [0, -1, 0, 9]),
    ("n-grams twice", "[{ngrams: {s: {buckets: 3, norm: none}}}]", ["s_1", "s_1", "x"], {"s": "test", "x": 5}, [-1, -1, 5]),
    ("n-grams of missing", "[{ngrams: {s: {buckets: 2}}}]", ["s"], {}, [0, 0]),
    ("n-grams without stop words", "[{ngrams: {s: {buckets: 1, stop_words: [the], norm: none, signed: false}}}]", ["s"], {"s": "The end of the"}, [2]),
    ("length", "[{length: {s: {into: n}}}]", ["n"], {"s": "\u00e9t\u00e9\U0001f600"}, [4]),
    ("length of missing", "[{length: {s: {into: n}}}]", ["n"], {}, [NAN]),
    ("spline", "[{spline: {x: {knots: [-1, 0, 1, 2, 3], degree: 1}}}]", ["x"], {"x": 0.25}, [0.75, 0.25, 0]),
    ("spline without bias", "[{spline: {x: {knots: [-1, 0, 1, 2, 3], degree: 1, bias: false, into: z}}}]", ["z", "x"], {"x": 9}, [0, 0, 9]),
    ("spline linear", "[{spline: {x: {knots: [-1, 0, 1, 2, 3], degree: 1, extrapolation: linear}}}]", ["x"], {"x": 4}, [0, -2, 3]),
    ("spline periodic", "[{spline: {x: {knots: [-1, 0, 1, 2, 3], degree: 1, extrapolation: periodic}}}]", ["x"], {"x": -0.25}, [0.75, 0.25]),
    ("spline missing", "[{spline: {x: {knots: [-1, 0, 1, 2], degree: 1}}}]", ["x"], {}, [NAN, NAN]),
    ("spline missing zeros", "[{spline: {x: {knots: [-1, 0, 1, 2], degree: 1, missing: zeros}}}]", ["x"], {}, [0, 0]),
    ("normalise", "[{normalise: {columns: [x, y], into: u}}]", ["u", "u_y"], {"x": 3, "y": -4}, [f32(0.6), f32(-0.8), f32(-0.8)]),
    ("normalise l1", "[{normalise: {columns: [x, y], norm: l1, into: u}}]", ["u"], {"x": 3, "y": -1}, [0.75, -0.25]),
    ("normalise max", "[{normalise: {columns: [x, y], norm: max, into: u}}]", ["u"], {"x": 3, "y": -4}, [0.75, -1]),
    ("normalise nothing", "[{normalise: {columns: [x, y], into: u}}]", ["u"], {"x": 0, "y": 0}, [0, 0]),
    ("normalise missing", "[{normalise: {columns: [x, y], norm: max, into: u}}]", ["u"], {"x": 1}, [NAN, NAN]),
    ("project", "[{project: {columns: [x, y], weights: [[1, 2], [0, -1]], into: u}}]", ["u"], {"x": 3, "y": 4}, [11, -4]),
    ("project centred", "[{project: {columns: [x, y], weights: [[1, 2]], centre: [1], scale: [4], into: u}}]", ["u_0"], {"x": 3, "y": 4}, [2.5]),
    ("cyclic day", "[{cyclic: {t: {period: day}}}]", ["t"], {"t": "2024-02-29T06:00:00Z"}, [1, f32(math.cos(math.pi / 2))]),
    ("cyclic week", "[{cyclic: {t: {period: week, into: w}}}]", ["w_cos"], {"t": "2024-02-26"}, [1]),
    ("cyclic month", "[{cyclic: {t: {period: month}}}]", ["t_sin"], {"t": "2024-02-08T06:00:00Z"}, [1]),
    ("cyclic year", "[{cyclic: {t: {period: year}}}]", ["t_cos"], {"t": "2024-07-02T00:00:00Z"}, [-1]),
    ("compute", "[{compute: {z: x / (y + 1) - 2 ** 3, x: -x}}]", ["z", "x"], {"x": 6, "y": 2}, [-6, -6]),
    ("compute functions", "[{compute: {z: log1p(x) * 2}}]", ["z"], {"x": 0}, [0]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "columns", "values", "wanted"), [case[1:] for case in STEPS], ids=[case[0] for case in STEPS]
)
def test_steps(steps, columns, values, wanted):
    assert row_of(steps, columns, **values) == pytest.approx(wanted, abs=1e-7, nan_ok=True)


REFUSED = [
    ("[{require: {x: {present: true}}}]", ["x"], {}, "missing"),
    ("[{function: {x: log}}, {require: {x: {finite: true}}}]", ["x"], {"x": 0}, "infinite"),
    ("[{require: {x: {positive: true}}}]", ["x"], {"x": 0}, "not_positive"),
    ("[{power: {x: {method: box-cox, lambda: 1}}}]", ["x"], {"x": -1}, "not_positive"),
    ("[{one_hot: {s: {categories: [a]}}}]", ["s"], {"s": "b"}, "unknown"),
    ("[{one_hot: {s: {categories: [a]}}}]", ["s"], {}, "missing"),
    ("[{one_hot: {s: {categories: [a], missing: refuse, unknown: ignore}}}]", ["s"], {}, "missing"),
    ("[{lookup: {s: {values: {a: 1}}}}]", ["s"], {"s": "b"}, "unknown"),
    ("[{spline: {x: {knots: [-1, 0, 1, 2], degree: 1, extrapolation: refuse}}}]", ["x"], {"x": 1.5}, "outside"),
    ("[]", ["x"], {"x": math.inf}, "infinite"),
    ("[]", ["x"], {"x": "1"}, "number"),
    ("[]", ["x"], {"x": 1, "t": "today"}, "time"),
    ("[]", ["x"], {"z": 1}, "column"),
]


@pytest.mark.parametrize(("steps", "columns", "values", "reason"), REFUSED)
def test_refused_rows(steps, columns, values, reason):
    with pytest.raises(Refused) as refused:
        row_of(steps, columns, **values)
    assert refused.value.reason == reason


BAD = [
    ("inputs: {x: numbr}", 2, "wrong-value", "`number`"),
    ("inputs: {}", 2, "wrong-value", "at least 1"),
    ("steps: [{standardize: {x: {mean: 1}}}]", 3, "unknown-key", "`standardise`"),
    ("steps: [{standardise: {x: {means: 1}}}]", 3, "unknown-key", "`mean`"),
    ("steps:\n- {}\n", 4, "wrong-step", "one key"),
    ("steps:\n- {impute: {x: {fill: 1}}, clip: {x: {low: 1}}}\n", 4, "wrong-step", "begin another"),
    ("steps:\n- standardise:\n    xx: {scale: 1}\n", 5, "unknown-column", "`x`"),
    ("steps:\n- standardise:\n    x: {scale: 0}\n", 5, "wrong-step", "not be 0"),
    ("steps:\n- standardise:\n    s: {scale: 2}\n", 5, "wrong-step", "this is text"),
    ("steps: [{impute: {x: {fill: a}}}]", 3, "wrong-step", "without quotes"),
    ("steps: [{impute: {s: {fill: 1}}}]", 3, "wrong-step", 'write "1"'),
    ("steps: [{impute: {t: {fill: soon}}}]", 3, "wrong-step", "ISO 8601"),
    ("steps: [{clip: {x: {}}}]", 3, "wrong-step", "no bound"),
    ("steps: [{clip: {x: {low: 2, high: 1}}}]", 3, "wrong-step", "below low"),
    ("steps: [{function: {x: lg}}]", 3, "wrong-value", "`log`"),
    ("steps: [{bucketise: {x: {edges: [1, 1]}}}]", 3, "wrong-step", "ascend"),
    ("steps: [{one_hot: {s: {categories: [1]}}}]", 3, "wrong-step", 'write "1" in quotes'),
    ("steps: [{one_hot: {x: {categories: [a]}}}]", 3, "wrong-step", "numbers, without quotes"),
    ("steps: [{one_hot: {b: {categories: [1]}}}]", 3, "wrong-step", "true and false"),
    ("steps: [{one_hot: {s: {categories: [a, a]}}}]", 3, "wrong-step", "twice"),
    ("steps: [{one_hot: {s: {categories: [a], drop: b}}}]", 3, "wrong-step", "none of the categories"),
    ("steps: [{one_hot: {s: {categories: [a], names: [p, q]}}}]", 3, "wrong-step", "there are 1 columns"),
    ("steps: [{one_hot: {s: {categories: [a], names: [y]}}}]", 3, "duplicate-name", "`y`"),
    ("steps: [{ordinal: {s: {categories: [a], unknown: refus}}}]", 3, "wrong-step", "`refuse`"),
    ("steps: [{lookup: {x: {values: {a: 1}}}}]", 3, "wrong-step", "is none"),
    ("steps: [{power: {x: {method: yeo, lambda: 1}}}]", 3, "wrong-value", "yeo-johnson"),
    ("steps: [{quantile: {x: {quantiles: [2, 1]}}}]", 3, "wrong-step", "descend"),
    ("steps: [{quantile: {x: {quantiles: [1, 2], references: [0]}}}]", 3, "wrong-step", "are 1"),
    ("steps: [{hashed: {x: {buckets: 2}}}]", 3, "wrong-step", "only text"),
    ("steps: [{cyclic: {x: {period: day}}}]", 3, "wrong-step", "only times"),
    ("steps: [{polynomial: {columns: [x], degree: 1, least: 2, into: p}}]", 3, "wrong-step", "degree 1"),
    ("steps: [{polynomial: {columns: [q], degree: 1, into: p}}]", 3, "unknown-column", "`q`"),
    ("steps: [{ngrams: {x: {buckets: 2}}}]", 3, "wrong-step", "only text"),
    ("steps: [{ngrams: {s: {buckets: 2, least: 2}}}]", 3, "wrong-step", "more than most"),
    ("steps: [{ngrams: {s: {buckets: 0}}}]", 3, "wrong-value", "1"),
    ("steps: [{ngrams: {s: {buckets: 2, analyzer: char, stop_words: [a]}}}]", 3, "wrong-step", "characters"),
    ("steps: [{ngrams: {s: {buckets: 2}}}, {clip: {s_0: {low: 1}}}]", 3, "wrong-step", "as they are"),
    ("steps: [{length: {x: {}}}]", 3, "wrong-step", "only text"),
    ("steps: [{spline: {x: {knots: [0, 1, 1, 2], degree: 1}}}]", 3, "wrong-step", "ascend"),
    ("steps: [{spline: {x: {knots: [0, 1, 2]}}}]", 3, "wrong-step", "too few"),
    ("steps: [{spline: {s: {knots: [0, 1, 2, 3], degree: 1}}}]", 3, "wrong-step", "this is text"),
    ("steps: [{normalise: {columns: [s], into: p}}]", 3, "text-output", "encode it"),
    ("steps: [{normalise: {columns: [q], into: p}}]", 3, "unknown-column", "`q`"),
    ("steps: [{normalise: {columns: [x], norm: l3, into: p}}]", 3, "wrong-value", "`l1`"),
    ("steps: [{project: {columns: [x, y], weights: [[1]], into: p}}]", 3, "wrong-step", "in list 1"),
    ("steps: [{project: {columns: [x], weights: [[1]], centre: [1, 2], into: p}}]", 3, "wrong-step", "are 2"),
    ("steps: [{project: {columns: [x], weights: [[1]], scale: [0], into: p}}]", 3, "wrong-step", "not be 0"),
    ("steps: [{compute: {z: x +}}]", 3, "wrong-step", "no expression"),
    ("steps: [{compute: {z: x.y}}]", 3, "wrong-step", "has more in it"),
    ("steps: [{compute: {z: __import__(x)}}]", 3, "wrong-step", "no function"),
    ("steps: [{compute: {z: q * 2}}]", 3, "unknown-column", "`q`"),
    ('steps: [{compute: {z: "1"}}]', 3, "wrong-step", "the same for every row"),
    ("outputs: {f: {columns: [s]}}", 3, "text-output", "encode it"),
    ("outputs: {f: {columns: [t]}}", 3, "time-output", "cyclic"),
    ("outputs: {f: {columns: []}}", 3, "wrong-value", "at least 1"),
    ("outputs: {f: {columns: [z]}}", 3, "unknown-column", "`z`"),
    ("outputs: {f: {datatype: FP16, columns: [x]}}", 3, "wrong-value", "`FP"),
    ("schema_version: tidegate.features/2", 1, "wrong-value", "tidegate.features/1"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "line", "code", "words"), BAD, ids=[case[0][:60] for case in BAD])
def test_what_is_wrong_with_a_plan_is_said_where_it_stands(change, line, code, words):
    key = change.partition(":")[0]
    parts = dict(
        zip(["schema_version", "inputs", "steps", "outputs"], [*HEAD.splitlines(), "", OUT.strip() % "x"], strict=True)
    )
    parts[key] = change
    loaded, findings = parse("\n".join(part for part in parts.values() if part).encode(), "plan.yaml")
    assert loaded is None
    errors = [finding for finding in findings if finding.severity == "error"]
    assert (errors[0].line, errors[0].code) == (line, code), findings
    assert words in errors[0].message
    assert str(errors[0]).startswith(f"plan.yaml:{line}:")


def test_what_may_be_a_slip_is_a_warning():
    _, findings = parse((HEAD + OUT % "x").encode(), "plan.yaml")
    assert {finding.code for finding in findings} == {"unused-column", "missing-output"}
    assert {finding.severity for finding in findings} == {"warning"}


trees = st.recursive(
    st.sampled_from(["x", "y", "2", "0.5", "1e3"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "**"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda one: f"-{one}"),
        st.tuples(st.sampled_from(expression.CALLABLE), inner).map(lambda t: f"{t[0]}({t[1]})"),
    ),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(trees, st.floats(-10, 10), st.floats(-10, 10))
def test_expressions_are_what_numpy_makes_of_them(text, x, y):
    if not expression.columns_of(expression.parse(text)):
        return
    program = plan_of(f'steps: [{{compute: {{z: "{text}"}}}}]\n', ["z"]).compiled.program
    (found,) = struct.unpack("<f", program.rows([{"x": x, "y": y}])[0])
    names = {name: getattr(np, name) for name in expression.CALLABLE}
    with np.errstate(all="ignore"):
        # Every number as NumPy's, whose arithmetic has infinities in place of exceptions.
        numbers = re.sub(r"\b(1e3|0\.5|2)\b", r"N(\1)", text)
        wanted = eval(numbers, {**names, "N": np.float64, "x": np.float64(x), "y": np.float64(y)})
        assert found == pytest.approx(float(np.float32(wanted)), rel=1e-6, nan_ok=True)


scalars = st.text(max_size=6) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3, unique=True),
)
def test_what_is_written_is_read_back(words, numbers):
    document = {
        "schema_version": "tidegate.features/1",
        "inputs": {"s": "string", "x y": {"type": "number", "missing": "refuse"}},
        "steps": [{"ordinal": {"s": {"categories": words}, "x y": {"categories": numbers}}}],
        "outputs": {"f": {"datatype": "FP32", "columns": ["s", "x y"]}},
    }
    loaded, findings = parse(text_of(document, "a\ncomment").encode(), "plan.yaml")
    assert loaded is not None, findings
    step = loaded.plan.steps[0].ordinal
    assert step["s"].categories == tuple(words)
    assert step["x y"].categories == tuple(numbers)


# -- tables and commands

PLAN = """\
schema_version: tidegate.features/1
inputs: {age: {type: number, missing: refuse}, job: string, old: boolean, at: timestamp, zip: string}
steps:
  - one_hot: {job: {categories: [clerk, cook], unknown: ignore}, zip: {categories: ["01", "1"], missing: category, unknown: ignore}}
  - impute: {old: {fill: false}}
  - cyclic: {at: {period: day}}
outputs: {f: {columns: [age, job, old, at_cos, zip]}}
"""
CSV = 'zip,at,unused,old,age,job\n01,2024-01-01,?,TRUE,31,cook\n1,,?,,1e1,"NaN"\n,2024-01-01T12:00:00Z,?,false, 7 ,clerk\n'
ROWS = [[31, 0, 1, 1, 1, 1, 0, 0], [10, 0, 0, 0, NAN, 0, 1, 0], [7, 1, 0, 0, -1, 0, 0, 1]]


def run(*arguments):
    return cli.main([str(one) for one in arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_tables_of_every_form_make_the_same_tensors(folder, capsys):
    (folder / "t.csv").write_text(CSV)
    records = [
        {"zip": "01", "at": "2024-01-01", "old": True, "age": 31, "job": "cook"},
        {"zip": "1", "age": 10.0, "job": None},
        {"at": "2024-01-01T12:00:00Z", "old": False, "age": 7, "job": "clerk", "more": 1},
    ]
    (folder / "t.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    columns = {name: [one.get(name) for one in records] for name in ("zip", "old", "age", "job")}
    moments = pa.array(
        [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), None, dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)],
        pa.timestamp("us", "UTC"),
    )
    pq.write_table(pa.table({**columns, "at": moments}), folder / "t.parquet")
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        assert (
            run("features", "run", "--plan", "plan.yaml", "--input", name, "--output", "r.npz", "--format", "json") == 0
        )
        assert json.loads(capsys.readouterr().out) == {"tensors": {"f": [3, 8]}}
        with np.load("r.npz") as saved:
            assert saved.files == ["f"]
            assert saved["f"].dtype == np.float32
            np.testing.assert_allclose(saved["f"], ROWS, atol=1e-7)
    assert run("features", "run", "--plan", "plan.yaml", "--input", "t.csv", "--output", "r.csv") == 0
    lines = (folder / "r.csv").read_text().splitlines()
    assert lines[0] == "age,job_clerk,job_cook,old,at_cos,zip_01,zip_1,zip_missing"
    assert lines[2] == "10.0,0.0,0.0,0.0,nan,0.0,1.0,0.0"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", CSV.replace("31", "old"), "t.csv:2: 'age' must be a number"),
        ("t.csv", CSV.replace("31", "1_0"), "t.csv:2: 'age' must be a number"),
        ("t.csv", CSV.replace("1e1", ""), "t.csv:3: 'age' is missing"),
        ("t.csv", CSV.replace("31", "inf"), "t.csv:2: 'age' is infinite"),
        ("t.csv", CSV.replace("TRUE", "yes"), "t.csv:2: 'old' must be true or false"),
        ("t.csv", CSV.replace("2024-01-01,", "2024-13-01,"), "t.csv:2: 'at' is no time"),
        ("t.csv", CSV.replace("age", "agee"), "no column 'age', which the plan takes: did you mean `agee`?"),
        ("t.jsonl", '{"age": 1, "job": 3, "zip": "", "old": null, "at": null}\n', "t.jsonl:1: 'job' must be text"),
        ("t.txt", "", "not a table"),
        ("none.csv", None, "No such file"),
    ],
)
def test_rows_that_are_refused_are_named(folder, capsys, name, content, words):
    if content is not None:
        (folder / name).write_text(content)
    assert run("features", "run", "--plan", "plan.yaml", "--input", name, "--output", "r.npz") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert not (folder / "r.npz").exists()


def test_output_has_a_known_name(folder, capsys):
    (folder / "t.csv").write_text(CSV)
    assert run("features", "run", "--plan", "plan.yaml", "--input", "t.csv", "--output", "r.txt") == 2
    assert "*.npz or *.csv" in capsys.readouterr().err


def test_check(folder, capsys):
    assert run("features", "check", "plan.yaml", "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert [one["code"] for one in found["findings"]] == ["missing-output"]
    (folder / "plan.yaml").write_text(PLAN.replace("fill: false", "fill: no"))
    assert run("features", "check", "plan.yaml") == 1
    assert "plan.yaml:5:" in capsys.readouterr().out
    assert run("features", "check", "nowhere.yaml") == 2
    assert run("features", "run", "--plan", "plan.yaml", "--input", "t.csv", "--output", "r.npz") == 2
    assert "plan.yaml:5:" in capsys.readouterr().err


def test_show(folder, capsys):
    assert run("features", "show", "plan.yaml", "--svg", "plan.svg") == 0
    shown = capsys.readouterr().out
    assert "one_hot       job  (2 categories, unknown ignore)" in shown
    assert "f  FP32 [n, 8]" in shown
    picture = ET.parse(folder / "plan.svg").getroot()
    words = " ".join(text.strip() for text in picture.itertext())
    assert all(name in words for name in ("age", "one_hot", "cyclic", "[n, 8]"))
    assert run("features", "show", "plan.yaml", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["outputs"][0]["columns"][0] == "age"
