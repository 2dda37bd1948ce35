"""wire.generate: bodies, events split anywhere, and names rewritten without touching the rest."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadGateway, BadRequest
from gateway.wire import generate
from gateway.wire.generate import EventReader, GenerateCall
from gateway.wire.validate import ModelSignature


@pytest.mark.parametrize(
    ("text", "call"),
    [
        (b"{}", GenerateCall()),
        (
            b'{"id":"x","text_input":"hi","IN":[1,NaN],"temperature":0.5,"parameters":{"max_tokens":5,"stop":["a"]}}',
            GenerateCall("x", {"text_input": "hi", "temperature": 0.5, "max_tokens": 5}),
        ),
        (b'{"a":1,"parameters":{"a":2}}', GenerateCall("", {"a": 2})),
    ],
)
def test_generate_requests_are_read(text, call):
    read = generate.decode_request(text)
    assert (read.id, read.parameters) == (call.id, call.parameters)
    assert generate.decode_request(memoryview(text)) == read


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "failed to parse the request JSON buffer: The document is empty. at 0"),
        (b"[]", "attempt to get members for non-object"),
        (
            b'{"a":1,"a":2}',
            "failed to parse the request JSON buffer: Duplicate name of an object member. at 7",
        ),
        (
            b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
            "failed to parse the request JSON buffer: Nested deeper than 100. at 104",
        ),
        (b'{"id":5}', "Unable to parse 'id': attempt to access JSON non-string as string"),
        (b'{"parameters":5}', "Expected JSON object for keyword: 'parameters'"),
        (
            b'{"parameters":{"triton_x":5}}',
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
        ),
    ],
)
def test_bad_generate_requests(text, fault):
    with pytest.raises(BadRequest) as caught:
        generate.decode_request(text)
    assert caught.value.message == fault


STREAM = (
    b'\xef\xbb\xbfdata: {"a":1}\n\n: comment\nevent: x\nid: 4\nretry: 5\ndata:two\ndata:  lines\n\n'
    b"data: cr\r\rdata: crlf\r\n\r\n\n\nignored\ndata\n\ndata: never ended"
)
EVENTS = [b'{"a":1}', b"two\n lines", b"cr", b"crlf", b""]


def read(chunks) -> list[bytes]:
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def test_events_are_read_whole_and_split_at_every_byte_and_in_two():
    assert read([STREAM]) == EVENTS
    assert read([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS
    for cut in range(len(STREAM) + 1):
        assert read([STREAM[:cut], b"", memoryview(STREAM)[cut:]]) == EVENTS


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 400), max_size=6))
def test_events_survive_writing_and_any_split(events, cuts):
    stream = b"".join(map(generate.event, events))
    edges = sorted({0, len(stream), *(min(c, len(stream)) for c in cuts)})
    expected = [e.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for e in events]
    assert read([stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]) == expected


def test_an_endless_event_is_the_servers_fault(monkeypatch):
    monkeypatch.setattr(generate, "MAX_EVENT", 1000)
    for chunk in (b"data: " + b"x" * 100, b"data: " + b"x" * 100 + b"\n"):
        reader = EventReader()
        with pytest.raises(BadGateway):
            for _ in range(20):
                reader.feed(chunk)


def test_names_are_rewritten_at_the_root_alone():
    text = (
        b'{"a\\"model_name":"x", "t":"\\"model_name\\":\\"y\\"","n":{"model_name":"deep"},"v":[NaN,1e5,"model_name"],'
        b'"model_name" : "old","model_version":"1","k":"model_name"}'
    )
    assert generate.rename(text, 'new"\u00e9', "2") == text.replace(
        b'"model_name" : "old","model_version":"1"',
        '"model_name" : "new\\"\u00e9","model_version":"2"'.encode(),
    )
    assert generate.rename(text, "old") == text
    assert generate.rename(b'{"error":"model_name"}', "new", "1") == b'{"error":"model_name"}'


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["model_name", "model_version", "x", 'q"', "\\"]),
        st.one_of(st.text(), st.lists(st.text()), st.dictionaries(st.just("model_name"), st.text())),
    )
)
def test_renaming_changes_two_values_and_nothing_else(root):
    renamed = json.loads(generate.rename(json.dumps(root).encode(), "new", "9"))
    names = {"model_name": "new", "model_version": "9"}
    assert renamed == {k: names.get(k, v) if isinstance(v, str) else v for k, v in root.items()}


WRITER = ModelSignature.from_triton(
    {
        "name": "writer",
        "inputs": [
            {"name": "text_input", "datatype": "BYTES", "shape": [1]},
            {"name": "max_tokens", "datatype": "INT32", "shape": [1]},
            {"name": "temperature", "datatype": "FP32", "shape": [1]},
            {"name": "stream", "datatype": "BOOL", "shape": [1]},
        ],
        "outputs": [],
    },
    {"input": [{"name": name, "optional": True} for name in ("max_tokens", "temperature", "stream")]},
)


@pytest.mark.parametrize(
    "text",
    [
        b'{"text_input":"a"}',
        b'{"text_input":["a"],"max_tokens":2147483647,"temperature":0,"stream":true}',
        b'{"text_input":"a","parameters":{"max_tokens":[5]},"other":{"x":1}}',
    ],
)
def test_members_that_fit_the_model(text):
    generate.check(generate.decode_request(text), WRITER, "writer")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"{}", "text_input"),
        (b'{"text_input":5}', "text_input"),
        (b'{"text_input":null}', "text_input"),
        (b'{"text_input":{}}', "text_input"),
        (b'{"text_input":"a","max_tokens":"x"}', "max_tokens"),
        (b'{"text_input":"a","max_tokens":1.5}', "max_tokens"),
        (b'{"text_input":"a","max_tokens":true}', "max_tokens"),
        (b'{"text_input":"a","max_tokens":2147483648}', "max_tokens"),
        (b'{"text_input":"a","max_tokens":-2147483649}', "max_tokens"),
        (b'{"text_input":"a","temperature":"hot"}', "temperature"),
        (b'{"text_input":"a","stream":"yes"}', "stream"),
        (b'{"text_input":"a","parameters":{"stream":[1]}}', "stream"),
    ],
)
def test_members_that_do_not_fit_are_refused_by_name(text, name):
    with pytest.raises(BadRequest, match=f"'{name}'"):
        generate.check(generate.decode_request(text), WRITER, "writer")
