"""Whatever a file holds, it is judged and never crashes the judge."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.settings import Settings
from gateway.settings.check import check
from gateway.settings.file import _FORMS
from gateway.settings.units import READERS
from governance.documents.convert import convert
from governance.documents.nodes import compose, decode

GOOD = """\
upstreams: {triton: {http: 127.0.0.1:8000, grpc: 127.0.0.1:8001}}
routes:
  credit:
    variants: [{name: a, model: m, weight: 1}, {name: b, model: m, weight: 2}]
    match: [{headers: {x: y}, variant: a}]
    fallback: [a]
    timeout: 2s
identity: {anonymous: {}}
limits: {body: 1MiB, tenants: {"*": {rate: 1/s, bytes: 1GiB/day}}}
"""


def judge(data: bytes) -> bool:
    text, findings = decode(data, "f")
    if text is None:
        return bool(findings)
    document, findings = compose(text, "f", {"X": "1"})
    if document is None:
        return bool(findings)
    built, places, more = convert(document, Settings, "f", Path("/nowhere"), _FORMS)
    if built is None:
        return bool(findings + more)
    check(built, "f", places)
    return True


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.text("{}[]:,-*&!#|>'\"%@ \n\t$XaN0.é\ue000", max_size=6))
def test_a_damaged_file(at, cut, put):
    assert judge((GOOD[:at] + put + GOOD[at + cut :]).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data):
    assert judge(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(READERS)), st.text(max_size=30) | st.from_regex(r"-?[0-9.]{1,20}[A-Za-z/]{0,6}"))
def test_forms_give_a_value_or_say_why(form, text):
    try:
        READERS[form][0](text)
    except ValueError as error:
        assert str(error)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Co"]), max_size=20),
    st.sampled_from(["{}", "'{}'", '"{}"']),
)
def test_a_variable_in_quotes_or_not_is_its_text(value, quotes):
    document, findings = compose(f"{{k: {quotes.format('a${X}b')}, l: 1}}", "f", {"X": value})
    assert not findings
    assert document.root.value[0][1].value == f"a{value}b"
    assert len(document.root.value) == 2
