"""The canonical record: RFC 8785 to the byte, whatever is in it, and never too long."""

import json
import re
from pathlib import Path

import pytest
import rfc8785
from audit_fixture import a_record
from hypothesis import given
from hypothesis import strategies as st

from governance.audit import record_docs
from governance.audit.record import FIELDS, MOST_INTEGER, Record, RecordError, check_details, decode, encode, timestamp
from governance.audit.tiles import MOST_ENTRY
from kernels.hashing import HmacSha256 as Mac

MAC = Mac(bytes(32))
texts = st.text()
leaves = st.one_of(st.none(), st.booleans(), st.integers(-MOST_INTEGER, MOST_INTEGER), texts)
names = st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=8)
details = st.dictionaries(
    names,
    st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)),
    max_size=4,
)
records = st.builds(
    Record,
    kind=st.sampled_from(["inference", "control", "policy", "registry", "settings", "approval", "erasure"]),
    outcome=st.sampled_from(["served", "refused", "shed", "failed", "cancelled"]),
    details=st.none() | details,
    latency_us=st.none() | st.integers(0, MOST_INTEGER),
    rule=st.none() | st.integers(1, 10**6),
    roles=st.none() | st.lists(texts, max_size=4),
    **{
        name: st.none() | texts
        for name in (
            "action",
            "id",
            "model",
            "object",
            "policy",
            "snapshot",
            "status",
            "subject",
            "tenant",
            "trace",
            "upstream",
            "variant",
            "version",
        )
    },
)


@given(records)
def test_every_record_is_canonical(record):
    """The oracle is another implementation of RFC 8785."""
    entry = encode(record, MAC.hex)
    value = json.loads(entry)
    assert rfc8785.dumps(value) == entry
    assert tuple(value) == FIELDS
    assert decode(entry) == value


def test_the_fields_stand_in_the_order_of_the_rfc():
    assert list(FIELDS) == sorted(FIELDS, key=lambda name: name.encode("utf-16-be"))


def test_the_fields_are_those_that_others_rely_on():
    promised = [
        "schema",
        "kind",
        "id",
        "time",
        "subject",
        "tenant",
        "action",
        "object",
        "model",
        "variant",
        "version",
        "upstream",
        "snapshot",
        "policy",
        "rule",
        "outcome",
        "status",
        "latency_us",
        "input_digest",
        "output_digest",
        "trace",
        "roles",
        "sealed",
    ]
    assert set(promised) <= set(FIELDS)
    assert set(FIELDS) - set(promised) == {"allowed", "cut", "details", "phase"}


def test_header_bytes_that_are_no_text_are_replaced():
    value = decode(encode(a_record(id="a\udcffb", details={"x": ["\ud800"]}), MAC.hex))
    assert value["id"] == "a?b"
    assert value["details"] == {"x": ["?"]}


@pytest.mark.parametrize(
    "value",
    [1.5, float("nan"), 2**53, -(2**53), {"é": 1}, {1: 2}, b"bytes", [[{"a": 0.0}]], object()],
)
def test_what_has_no_canonical_form_is_a_defect(value):
    with pytest.raises(RecordError):
        encode(a_record(details={"x": value}), MAC.hex)
    with pytest.raises(RecordError):
        check_details(value)


@pytest.mark.parametrize("latency", [-1, 2**53])
def test_latencies_are_such(latency):
    with pytest.raises(RecordError, match="latency"):
        encode(a_record(latency_us=latency), MAC.hex)


@given(
    st.fixed_dictionaries(
        {}, optional={name: st.integers(0, 70_000) for name in ("id", "model", "subject", "tenant", "version")}
    ),
    st.sampled_from(["x", "\x00", "é", "😀"]),
    st.integers(0, 40),
    st.integers(0, 70_000),
)
def test_no_record_is_too_long(lengths, char, roles, detail):
    record = a_record(**{name: char * length for name, length in lengths.items()})
    record.roles = [char * 1000] * roles
    record.details = {"text": char * detail}
    entry = encode(record, MAC.hex)
    assert len(entry) <= MOST_ENTRY
    assert rfc8785.dumps(json.loads(entry)) == entry


def test_every_text_at_its_worst_fits():
    worst = {
        name: "\x01" * 256
        for name in FIELDS
        if name not in {"cut", "details", "kind", "latency_us", "outcome", "phase", "roles", "rule", "schema"}
    }
    record = Record(
        kind="inference", outcome="served", roles=["\x01" * 256] * 100, details={"x": "\x01" * 100_000}, **worst
    )
    assert len(encode(record, MAC.hex)) <= MOST_ENTRY


def test_what_is_cut_says_so_and_can_be_checked():
    model = "m" * 70_000
    value = decode(encode(a_record(model=model, roles=["r"] * 20), MAC.hex))
    assert value["cut"] == ["model", "roles"]
    assert value["model"] == f"{'m' * 64}... (70000 bytes, hmac-sha256 {MAC.hex(model.encode())})"
    assert len(value["roles"]) == 17
    assert (
        value["roles"][-1]
        == f"... (20 in all, hmac-sha256 {MAC.hex(json.dumps(['r'] * 20, separators=(',', ':')).encode())})"
    )
    assert decode(encode(a_record(), MAC.hex))["cut"] is None


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
    ],
)
def test_times_have_nanoseconds(nanoseconds, text):
    assert timestamp(nanoseconds) == text


@pytest.mark.parametrize("entry", [b"", b"[]", b"{", b"\xff", b'"text"', b"null"])
def test_entries_that_are_no_records(entry):
    with pytest.raises(ValueError, match="not a JSON object"):
        decode(entry)


def test_the_page_of_the_schema_is_what_the_code_says():
    page = Path(__file__).parents[2] / "docs/audit-record.md"
    assert page.read_text() == record_docs.render(), "python -m governance.audit.record_docs > docs/audit-record.md"
    assert re.findall(r"^\| `(\w+)` \|", page.read_text(), re.MULTILINE) == list(FIELDS)
