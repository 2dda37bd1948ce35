"""One pass over a log: the counts are those of a program that remembers everything, and memory has a bound."""

import hashlib
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from compliance_fixture import BEGAN, decisions, entry, log_of
from hypothesis import given
from hypothesis import strategies as st

from governance.audit.record import FIELDS, timestamp
from governance.compliance import scan as scans
from governance.compliance.pack import Check, Duty, Pack, Query, Select, Text
from governance.compliance.times import Period, moment, of_record, short, span, text_of

START = datetime.fromtimestamp(BEGAN, UTC)


def a_pack(queries, checks=()):
    duty = Duty("one", "1", "t", ("w",), "a", "e", ("c",), tuple(queries), checks=tuple(checks))
    return Pack(
        "tidegate.compliance/1", "x", "2026-01-01", "t", "j", Text("c", "https://x", "2026-01-01", "guidance"), queries, (duty,)
    )  # fmt: skip


def scanned(tmp_path, entries, queries, checks=(), period=None):
    folder = log_of(tmp_path, entries)
    return scans.scan(folder, len(entries), period or Period(START, START + timedelta(days=1)), a_pack(queries, checks))


kinds = st.sampled_from(["inference", "control", "policy"])
outcomes = st.sampled_from(["served", "refused", "failed", "shed"])
maybe = st.none() | st.sampled_from(["a", "b"])
records = st.lists(
    st.builds(
        lambda at, **fields: {"at": at, **fields},
        st.integers(-5, 30),
        kind=kinds, outcome=outcomes, action=maybe, status=maybe, rule=st.none() | st.integers(1, 3), version=maybe,
    ),
    max_size=30,
)  # fmt: skip
selects = st.builds(
    Select,
    kind=st.lists(kinds, max_size=2, unique=True).map(tuple),
    outcome=st.lists(outcomes, max_size=2, unique=True).map(tuple),
    action=st.lists(st.sampled_from(["a", "b"]), max_size=1).map(tuple),
    status=st.lists(st.sampled_from(["a", "b"]), max_size=1).map(tuple),
    has=st.lists(st.sampled_from(["rule", "version", "status"]), max_size=2).map(tuple),
    lacks=st.lists(st.sampled_from(["rule", "version"]), max_size=1).map(tuple),
)


def holds(select, record):
    """What a query selects, in the words of the pack's documentation."""
    for key in ("kind", "outcome", "action", "status"):
        if getattr(select, key) and record.get(key) not in getattr(select, key):
            return False
    has = all(record.get(name) is not None for name in select.has)
    return has and all(record.get(name) is None for name in select.lacks)


@given(records, st.lists(selects, min_size=1, max_size=3), st.integers(0, 4))
def test_a_scan_counts_what_a_program_that_remembers_everything_counts(rows, chosen, cite):
    entries = [json.dumps({**row, "time": timestamp((BEGAN + row["at"]) * 10**9)}).encode() for row in rows]
    queries = {f"q{n}": Query("w", one, ("status", "rule"), cite) for n, one in enumerate(chosen)}
    checks = [Check("filled", "s", name, ("version", "rule")) for name in queries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scans, "entries", lambda _folder, size: enumerate(entries[:size]))
        period = Period(START, START + timedelta(seconds=20))
        found = scans.scan(None, len(entries), period, a_pack(queries, checks))
    inside = [(at, row) for at, row in enumerate(rows) if 0 <= row["at"] < 20]
    assert (found.records, found.outside) == (len(inside), len(rows) - len(inside))
    for name, query in queries.items():
        mine = [(at, row) for at, row in inside if holds(query.select, row)]
        one = found.found[name]
        assert one.records == len(mine)
        text = {None: None, 1: "1", 2: "2", 3: "3"}
        assert one.cells == Counter((row["status"], text[row["rule"]]) for _, row in mine)
        by_hash = sorted(mine, key=lambda item: hashlib.sha256(b"\0" + entries[item[0]]).digest())
        assert {hashlib.sha256(b"\0" + entries[at]).digest() for at in one.cited.indices} == {
            hashlib.sha256(b"\0" + entries[at]).digest() for at, _ in by_hash[:cite]
        }
        lacking = one.lacking["version", "rule"]
        assert lacking.records == sum(row["version"] is None or row["rule"] is None for _, row in mine)


def test_more_combinations_than_are_kept_are_counted_together(tmp_path):
    entries = [entry(n, model=f"model-{n}" * (40 if n % 2 else 1)) for n in range(scans.MOST_CELLS + 20)]
    one = scanned(tmp_path, entries, {"all": Query("w", Select(), ("model",), 3)}).found["all"]
    assert (len(one.cells), one.other, one.records) == (scans.MOST_CELLS, 20, len(entries))
    assert max(len(cell[0]) for cell in one.cells) == 200
    assert len(one.cited.indices) == 3


def test_entries_that_are_no_records_are_counted_apart(tmp_path):
    entries = [*decisions(3), b"not json", b"[1]", b'{"kind": 5}', b"\xff", b'{"time": "yesterday"}', b"{}"]
    found = scanned(tmp_path, entries, {"all": Query("w")})
    assert (found.records, found.unreadable, found.untimed) == (3, 4, 2)


def test_a_period_begins_with_its_first_moment_and_ends_before_its_last(tmp_path):
    entries = decisions(10)
    period = Period(START + timedelta(seconds=3), START + timedelta(seconds=6))
    found = scanned(tmp_path, entries, {"all": Query("w", Select(), (), 10)}, period=period)
    assert found.found["all"].cited.indices == [3, 4, 5]
    assert found.first == timestamp(BEGAN * 10**9)


@given(st.integers(0, 7_258_118_400_000_000))
def test_the_order_of_times_is_that_of_their_texts(microseconds):
    time = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
    text = text_of(time)
    assert len(text) == 30
    assert moment(text[:26] + "Z") == time
    assert text < text_of(time + timedelta(microseconds=1))
    assert short(of_record(text)) == text[:19] + "Z"


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-30", "2026-11-30T00:00:00Z"),
        ("2026-11-30T12:00:00+02:00", "2026-11-30T10:00:00Z"),
        ("2026-11-30T10:00Z", "2026-11-30T10:00:00Z"),
    ],
)
def test_times(text, time):
    assert short(moment(text)) == time


@pytest.mark.parametrize(
    "text",
    [
        "",
        "today",
        "2026-13-01",
        "2026-11-30T12:00:00",
        "1969-12-31",
        "0001-01-01T00:00:00+14:00",
        "2026-11-30T25:00:00Z",
    ],
)
def test_no_times(text):
    with pytest.raises(ValueError, match="write a day"):
        moment(text)


def test_durations():
    assert [span(text) for text in ("90s", "15m", "2h", "3d")] == [
        timedelta(seconds=90), timedelta(minutes=15), timedelta(hours=2), timedelta(days=3)
    ]  # fmt: skip
    for text in ("", "0s", "-1h", "1", "1w", "1.5h", "9999999d"):
        with pytest.raises(ValueError, match="is no duration"):
            span(text)


def test_what_is_always_asked_for_is_in_every_record():
    assert set(scans._ALWAYS) <= set(FIELDS)
