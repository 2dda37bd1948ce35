"""Entries of one form: both twins against the encoder of whole records."""

from __future__ import annotations

import msgspec
import pytest
from audit_fixture import a_record, records_of
from hypothesis import given
from hypothesis import strategies as st

from governance.audit import _entry_c, _entry_py
from governance.audit.entry import SMALL, form_of
from governance.audit.log import AuditLog
from governance.audit.record import MOST_INTEGER, Record, encode, timestamp
from governance.errors import AuditUnavailable
from kernels.hashing import _hmac_c, _hmac_py

TWINS = [(_entry_py.Form, _hmac_py.HmacSha256(b"key"))]
if _hmac_c.available():
    TWINS.append((_entry_c.Form, _hmac_c.HmacSha256(b"key")))
each_twin = pytest.mark.parametrize(("twin", "mac"), TWINS, ids=["py", "c"][: len(TWINS)])
texts = st.none() | st.text(max_size=40) | st.sampled_from(['"id":null,"input_digest":null,', '"time":""', "\udc80"])
plain = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"\\'), min_size=1, max_size=128
)
bodies = st.none() | st.lists(st.binary(max_size=200) | st.binary(max_size=9).map(memoryview), max_size=3)


def entry_of(record: Record, mac, id_, latency, time_ns, inputs, outputs) -> bytes:
    """As the specification has it: the whole record, encoded."""
    whole = msgspec.structs.replace(record, id=id_, latency_us=latency, time=timestamp(time_ns))
    whole.input_digest = None if inputs is None else mac.hexdigest(inputs)
    whole.output_digest = None if outputs is None else mac.hexdigest(outputs)
    return encode(whole, mac.hex)


@each_twin
@given(
    st.fixed_dictionaries(
        dict.fromkeys(("model", "object", "policy", "snapshot", "subject", "tenant", "version"), texts)
    ),
    st.none() | st.lists(st.text(max_size=9), max_size=2),
    plain,
    st.integers(0, MOST_INTEGER),
    st.integers(0, 4 * 10**18),
    bodies,
    bodies,
)
def test_it_is_the_encoders(twin, mac, said, roles, id_, latency, time_ns, inputs, outputs):
    record = Record(kind="inference", outcome="served", roles=roles, rule=3, **said)
    form = form_of(msgspec.structs.replace(record), mac)
    assert type(form) is twin
    found = form.entry(id_, latency, time_ns, inputs, outputs)
    assert found == entry_of(record, mac, id_, latency, time_ns, inputs, outputs)


@each_twin
@pytest.mark.parametrize("id_", ["", 'a"b', "a\\b", "a\nb", "ä", "x" * 129, "\x7f", "\udc80"])
def test_ids_that_json_writes_otherwise_are_not_of_the_form(twin, mac, id_):
    form = form_of(a_record(), mac)
    assert type(form) is twin
    assert form.entry(id_, 1, 1, None, None) is None


@each_twin
def test_bodies_that_are_not_small_are_not(twin, mac):
    form = form_of(a_record(), mac)
    assert type(form) is twin
    assert form.entry("a", 1, 1, [b"x" * (SMALL - 1)], [b"y"]) is not None
    assert form.entry("a", 1, 1, [b"x" * SMALL], [b"y"]) is None
    assert form.entry("a", -1, 1, None, None) is None
    assert form.entry("a", MOST_INTEGER + 1, 1, None, None) is None


@each_twin
def test_the_second_may_change_either_way(twin, mac):
    form = form_of(a_record(), mac)
    assert type(form) is twin
    for time_ns in (5 * 10**9, 5 * 10**9 + 1, 4 * 10**9 - 1, 0, 10**18 + 999_999_999):
        assert timestamp(time_ns).encode() in form.entry("a", 1, time_ns, None, None)


def test_records_with_details_or_beyond_a_page_have_none():
    mac = TWINS[0][1]
    assert form_of(a_record(details={"a": 1}), mac) is None
    assert form_of(a_record(model="m" * 9000), mac) is None


@pytest.mark.parametrize("pseudonyms", [False, True])
def test_a_log_writes_the_same_either_way(tmp_path, pseudonyms):
    log = AuditLog(tmp_path, mode="async", pseudonyms=pseudonyms)
    try:
        form = log.form(a_record())
        assert form is not None
        assert log.record_as(form, "request-0", 7, [b"in"], [b"out"])
        log.record(a_record(latency_us=7), [b"in"], [b"out"])
        assert not log.record_as(form, "no\tid", 7, None, None)
    finally:
        log.close()
    first, second = records_of(tmp_path)
    assert {**first, "time": ""} == {**second, "time": ""}


def test_who_can_be_forgotten_or_is_waited_for_has_none(tmp_path):
    for number, options in enumerate(({"mode": "async", "erasure": True}, {"mode": "strict"})):
        log = AuditLog(tmp_path / str(number), **options)
        try:
            assert log.form(a_record()) is None
        finally:
            log.close()


@pytest.mark.parametrize("on_failure", ["refuse", "serve"])
def test_a_full_queue_is_told_as_from_record(tmp_path, monkeypatch, on_failure):
    log = AuditLog(tmp_path, mode="async", on_failure=on_failure)

    def full(_):
        raise AuditUnavailable("full")

    try:
        form = log.form(a_record())
        monkeypatch.setattr(log._journal, "put", full)
        if on_failure == "refuse":
            with pytest.raises(AuditUnavailable):
                log.record_as(form, "a", 1, None, None)
        else:
            assert log.record_as(form, "a", 1, None, None)
            assert log.dropped == 1
    finally:
        log.close()
