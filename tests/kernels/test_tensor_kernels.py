"""kernels.tensors: both twins meet the same table, and agree on whatever Hypothesis makes of it."""

from __future__ import annotations

import importlib.machinery
import json
import os
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_twins import COMPILED, FAST, NAMES, PLAIN, TWINS, outcome

from kernels.tensors import NUMBER_TYPES

twin = pytest.mark.parametrize("twin", TWINS, ids=["py", "c"])


def test_the_extensions_are_compiled_and_chosen():
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    assert all(module.__file__.endswith(suffixes) for module in COMPILED)
    program = f"import kernels.tensors as t; print(*(getattr(t, n).__module__ for n in {NAMES}))"
    run = [sys.executable, "-c", program]
    for switch, twin in (("", "c"), ("0", "c"), ("1", "py")):
        environment = {
            **os.environ,
            "TIDEGATE_NO_EXTENSIONS": switch,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        said = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
        assert said.split() == [f"kernels.tensors._{kind}_{twin}" for kind in ("format", "format", "parse", "scan")]


@twin
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "The document is empty. at 0"),
        (b" \n", "The document is empty. at 2"),
        (b"{", "Missing a name for object member. at 1"),
        (b"[1", "Missing a comma or ']' after an array element. at 2"),
        (b"[1,]", "Invalid value. at 3"),
        (b"[,1]", "Invalid value. at 1"),
        (b'{"a":1,}', "Missing a name for object member. at 7"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at 5"),
        (b'{"a":1 "b":2}', "Missing a comma or '}' after an object member. at 7"),
        (b'{"a":1]', "Missing a comma or '}' after an object member. at 6"),
        (b"[1}", "Missing a comma or ']' after an array element. at 2"),
        (b"[] []", "The document root must not be followed by other values. at 3"),
        (b"[01]", "Missing a comma or ']' after an array element. at 2"),
        (b"[1.]", "Miss fraction part in number. at 1"),
        (b"[1e+]", "Miss exponent in number. at 1"),
        (b"[+1]", "Invalid value. at 1"),
        (b"[.5]", "Invalid value. at 1"),
        (b"[nan]", "Invalid value. at 1"),
        (b"[tru]", "Invalid value. at 1"),
        (b'"abc', "Missing a closing quotation mark in string. at 0"),
        (b'"a\x01"', "Invalid encoding in string. at 0"),
        (b'"\xff"', "Invalid encoding in string. at 0"),
        (b'"\xc0\xaf"', "Invalid encoding in string. at 0"),
        (b'"\xed\xa0\x80"', "Invalid encoding in string. at 0"),
        (b'"\xf4\x90\x80\x80"', "Invalid encoding in string. at 0"),
        (b'"\xe2\x82"', "Invalid encoding in string. at 0"),
        (b'"\\x"', "Invalid escape character in string. at 0"),
        (b'"\\u12g4"', "Incorrect hex digit after \\u escape in string. at 0"),
        (b'"\\ud800"', "The surrogate pair in string is invalid. at 0"),
        (b'"\\ud800\\u0041"', "The surrogate pair in string is invalid. at 0"),
        (b'"\\udc00"', "The surrogate pair in string is invalid. at 0"),
        (b'{"a":1,"a":2}', "Duplicate name of an object member. at 7"),
        (b'{"a":1,"\\u0061":2}', "Duplicate name of an object member. at 7"),
        (b'[{"b":{"a":1,"a":2}}]', "Duplicate name of an object member. at 13"),
        (b"[[[[[1]]]]]", "Nested deeper than 4. at 4"),
        (b"/**/[]", "Invalid value. at 0"),
    ],
)
def test_what_is_no_json_is_refused_with_place(twin: SimpleNamespace, text: bytes, fault: str):
    assert outcome(twin.scan_json, text, 4) == f"ValueError: {fault}"


@twin
@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b" [ ] ",
        b'{"":0}',
        b"[-0,1.5e-3,NaN,-NaN,Infinity,-Infinity,Inf,-Inf,true,false,null]",
        '"\u00e9\u20ac\U0001f600"'.encode(),
        b'"\\ud83d\\ude00\\n\\/"',
        b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}',
        b"[[[[1]]]]",
    ],
)
def test_json_with_nonfinite_literals_is_taken(twin: SimpleNamespace, text: bytes):
    assert twin.scan_json(text, 4) == []


@twin
def test_many_names_in_one_object(twin: SimpleNamespace):
    names = {f"name {i}": i for i in range(500)}
    text = json.dumps(names).encode()
    assert twin.scan_json(text, 4) == []
    again = text[:-1] + b',"name 7":0}'
    assert outcome(twin.scan_json, again, 4).startswith("ValueError: Duplicate name")


@twin
def test_the_tensor_data_is_found_and_nothing_else(twin: SimpleNamespace):
    text = (
        b'{"data":[0],"inputs":[{"name":"a","data":[1,[2,NaN]]},{"x":{"data":[3]},"d\\u0061ta":"s"},[{"data":4}],'
        b'{"data":{"data":5}}, {"data" : [ ] }],"outputs":[{"data":[6]}]}'
    )
    spans = twin.scan_json(text, 100, b"inputs")
    assert [text[a:b] for a, b in spans] == [b"[1,[2,NaN]]", b'"s"', b'{"data":5}', b"[ ]"]
    assert [text[a:b] for a, b in twin.scan_json(text, 100, b"outputs")] == [b"[6]"]
    assert twin.scan_json(text, 100) == []


@twin
def test_depth_of_tensor_data_is_counted_from_its_start(twin: SimpleNamespace):
    def with_levels(levels: int) -> bytes:
        return b'{"inputs":[{"data":' + b"[" * levels + b"]" * levels + b"}]}"

    assert len(twin.scan_json(with_levels(99), 100, b"inputs")) == 1
    assert outcome(twin.scan_json, with_levels(100), 100, b"inputs").startswith("ValueError: Nested deeper than 100.")
    assert twin.scan_json(b"[" * 100 + b"]" * 100, 100) == []
    assert "Nested deeper" in outcome(twin.scan_json, b"[" * 101 + b"]" * 101, 100)
    assert "Nested deeper" in outcome(twin.scan_json, b"[" * 1_000_000, 100)
    assert "max_depth" in outcome(twin.scan_json, b"[]", 0)
    assert "max_depth" in outcome(twin.scan_json, b"[]", 1001)


@twin
def test_skimmed_numbers_are_left_to_others_and_nothing_else_is(twin: SimpleNamespace):
    def spans(data: bytes, depth: int = 100) -> list[bytes] | str:
        text = b'{"inputs":[{"data":' + data + b',"name":"a"}]}'
        found = outcome(twin.scan_json, text, depth, b"inputs", skim=True)
        return found if isinstance(found, str) else [text[a:b] for a, b in found]

    for data in (b"[]", b"[1.,,e]", b"[[1 2],[\xff\x00]]", b"[nul" + b"1" * 40 + b"]", b"[ [ [ ] ] ]"):
        assert spans(data) == [data]
    for data in (b"1.", b'["a",01]', b'[1,"]",,]', b"[{},1 2]", b"[1", b"[1}]", b"{}1"):
        strict = outcome(twin.scan_json, b'{"inputs":[{"data":' + data + b',"name":"a"}]}', 100, b"inputs")
        assert isinstance(strict, str)
        assert spans(data) == strict
    assert spans(b"[[1 2]]", 3) == [b"[[1 2]]"]
    assert spans(b"[[[1]]]", 3) == "ValueError: Nested deeper than 3. at 21"
    elsewhere = b'{"inputs":[{"data":[1]}],"outputs":[{"data":[1.]}]}'
    assert outcome(twin.scan_json, elsewhere, 100, b"inputs", skim=True).startswith("ValueError: Miss fraction")


@twin
@pytest.mark.parametrize(
    ("datatype", "text", "raw"),
    [
        ("BOOL", b"[true,false]", b"\x01\x00"),
        ("UINT8", b"[0,255,-0]", b"\x00\xff\x00"),
        ("INT8", b"[-128,127]", b"\x80\x7f"),
        ("UINT16", b"[65535]", b"\xff\xff"),
        ("INT16", b"[-32768]", b"\x00\x80"),
        ("UINT32", b"[4294967295]", b"\xff" * 4),
        ("INT32", b"[-2147483648,[[1]],[2]]", struct.pack("<3i", -(2**31), 1, 2)),
        ("UINT64", b"[18446744073709551615]", b"\xff" * 8),
        ("INT64", b"[-9223372036854775808]", struct.pack("<q", -(2**63))),
        ("FP32", b"[1,0.1,1e39,-1e39]", struct.pack("<4f", 1, 0.1, float("inf"), float("-inf"))),
        # Halfway between two float32 as a double, above it as a decimal: rounding twice would go down.
        ("FP32", b"[16777217.00000000001]", struct.pack("<f", 16777218)),
        ("FP32", b"[16777217]", struct.pack("<f", 16777216)),
        ("FP32", b"[3.4028235677973366e38]", struct.pack("<f", 3.4028234663852886e38)),
        ("FP32", b"[1e-46,1e-400,-0.0]", struct.pack("<3f", 0, 0, -0.0)),
        ("FP64", b"[1e308,5e-324,1e-400]", struct.pack("<3d", 1e308, 5e-324, 0)),
        ("FP64", b"[Infinity,-Inf]", struct.pack("<2d", float("inf"), float("-inf"))),
        (
            "BYTES",
            b'["","a\\u00e9", ["\\ud83d\\ude00"]]',
            b"\0\0\0\0\3\0\0\0a\xc3\xa9\4\0\0\0\xf0\x9f\x98\x80",
        ),
    ],
)
def test_json_arrays_become_raw_bytes(twin: SimpleNamespace, datatype: str, text: bytes, raw: bytes):
    count = {"BYTES": 3}.get(datatype) or len(raw) // np.dtype(NUMBER_TYPES[datatype]).itemsize
    assert twin.parse_array(text, datatype, count) == raw
    assert twin.parse_array(memoryview(text), datatype, count) == raw


@twin
@pytest.mark.parametrize(
    ("datatype", "text", "expected", "fault"),
    [
        ("INT32", b"5", 1, "attempt to access JSON non-array as array"),
        ("INT32", b"", 1, "attempt to access JSON non-array as array"),
        (
            "INT32",
            b"[1,2]",
            3,
            "Shape does not match true shape of 'data' field: expecting 3 elements, got 2",
        ),
        ("INT32", b"[1,2]", 1, "Shape does not match true shape of 'data' field: more than 1 elements"),
        (
            "INT32",
            b"[]",
            2**62,
            f"Shape does not match true shape of 'data' field: expecting {2**62} elements, got 0",
        ),
        ("INT32", b"[1.0]", 1, "element 0: attempt to access JSON non-signed-integer as signed-integer"),
        ("INT32", b'[1,"1"]', 2, "element 1: attempt to access JSON non-signed-integer as signed-integer"),
        ("UINT8", b"[1e0]", 1, "element 0: attempt to access JSON non-unsigned-integer as unsigned-integer"),
        ("UINT8", b"[7,[300]]", 2, "element 1: 300 is out of range for UINT8"),
        ("UINT8", b"[-1]", 1, "element 0: -1 is out of range for UINT8"),
        ("INT8", b"[128]", 1, "element 0: 128 is out of range for INT8"),
        ("INT64", b"[9223372036854775808]", 1, "element 0: 9223372036854775808 is out of range for INT64"),
        (
            "UINT64",
            b"[18446744073709551616]",
            1,
            "element 0: 18446744073709551616 is out of range for UINT64",
        ),
        ("BOOL", b"[1]", 1, "element 0: attempt to access JSON non-boolean as boolean"),
        ("FP32", b"[true]", 1, "element 0: attempt to access JSON non-number as double"),
        ("FP32", b"[null]", 1, "element 0: attempt to access JSON non-number as double"),
        ("FP64", b'["1"]', 1, "element 0: attempt to access JSON non-number as double"),
        ("FP32", b"[1e400]", 1, "element 0: Number too big to be stored in double."),
        ("FP64", b"[-1e400]", 1, "element 0: Number too big to be stored in double."),
        ("FP64", b"[{}]", 1, "element 0: attempt to access JSON non-number as double"),
        ("BYTES", b"[1]", 1, "element 0: attempt to access JSON non-string as string"),
        ("BYTES", b'["\xff"]', 1, "Invalid encoding in string. at 1"),
        ("FP16", b"[1]", 1, "no JSON form for FP16"),
        ("BF16", b"[1]", 1, "no JSON form for BF16"),
        ("FP32", b"[1] ]", 1, "The document root must not be followed by other values. at 4"),
        ("FP32", b"[1 2]", 2, "Missing a comma or ']' after an array element. at 3"),
        ("FP32", b"[1", 1, "Missing a comma or ']' after an array element. at 2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_element(twin, datatype, text, expected, fault):
    assert outcome(twin.parse_array, text, datatype, expected) == f"ValueError: {fault}"


@twin
def test_a_claimed_size_takes_no_memory(twin: SimpleNamespace):
    assert "got 1" in outcome(twin.parse_array, b"[1]", "FP64", 2**60)


@twin
@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", 0),
        (b"\0\0\0\0", 1),
        (b"\1\0\0\0a\2\0\0\0bc", 2),
        (
            b"\1\0\0",
            "ValueError: incomplete string length indicator, expecting 4 bytes but only 3 bytes available",
        ),
        (
            b"\2\0\0\0a",
            "ValueError: incomplete string data, expecting string of length 2 but only 1 bytes available",
        ),
        (
            b"\xff\xff\xff\xff",
            "ValueError: incomplete string data, expecting string of length 4294967295 but only 0 bytes available",
        ),
    ],
)
def test_bytes_elements_are_counted(twin: SimpleNamespace, raw: bytes, found: int | str):
    assert outcome(twin.count_bytes_elements, raw) == found
    assert outcome(twin.count_bytes_elements, memoryview(raw)) == found


@twin
def test_formatting(twin: SimpleNamespace):
    def text(datatype: str, values: list) -> bytes:
        return twin.format_array(np.array(values, NUMBER_TYPES[datatype]).tobytes(), datatype)

    assert text("BOOL", [True, False]) == b"[true,false]"
    assert twin.format_array(b"\x02\x00", "BOOL") == b"[true,false]"
    assert text("INT8", [-128, 0, 127]) == b"[-128,0,127]"
    assert text("UINT64", [2**64 - 1]) == b"[18446744073709551615]"
    assert text("INT64", [-(2**63)]) == b"[-9223372036854775808]"
    assert text("FP32", [0.1, -0.0, 1, float("nan"), float("inf"), float("-inf")]) == (
        b"[0.1,-0.0,1.0,NaN,Infinity,-Infinity]"
    )
    assert text("FP64", []) == b"[]"
    assert twin.format_array(b'\4\0\0\0a"\\\n\1\0\0\0\x01\2\0\0\0\xc3\xa9', "BYTES") == (
        b'["a\\"\\\\\\n","\\u0001","\xc3\xa9"]'
    )
    assert "UTF-8" in outcome(twin.format_array, b"\1\0\0\0\xff", "BYTES")
    assert "whole number" in outcome(twin.format_array, b"\0" * 5, "FP32")
    assert "no JSON form" in outcome(twin.format_array, b"\0\0", "FP16")
    assert "incomplete" in outcome(twin.format_array, b"\1\0\0\0", "BYTES")


BLANKS = b" " * 100
SNIPPETS = st.sampled_from(
    [
        *rb"""{ } [ ] , : "a" "data" "inputs" "d\u0061ta" 1 -0 2.5e3 1e 01 1. NaN -Infinity Inf true null " \ - """.split(),
        *rb""" "\ud83d\ude00" "\ud800" "\u12" 1e999 300 16777217.0000000001 """.split(),
        b" ",
        b'"\xff"',
        b'"\xc3\xa9"',
        b"\x00",
    ]
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["a", "data", "inputs", "é"]), inner, max_size=4),
    ),
    max_leaves=12,
)


@st.composite
def broken_json(draw):
    """JSON with a snippet put in, in place of some bytes."""
    text = json.dumps(draw(VALUES), ensure_ascii=draw(st.booleans())).encode()
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(SNIPPETS) + text[at + draw(st.integers(0, 3)) :]


@settings(max_examples=1500, deadline=None)
@given(
    st.one_of(broken_json(), st.lists(SNIPPETS, max_size=12).map(b"".join), st.binary(max_size=12)),
    st.sampled_from([1, 2, 4, 100]),
)
def test_twins_scan_alike(text: bytes, depth: int):
    within = b'{"inputs":[{"data":' + text + b"}]}"
    for document, skim in ((text, False), (text, True), (within, False), (within, True)):
        expected = outcome(PLAIN.scan_json, document, depth, b"inputs", skim=skim)
        assert outcome(FAST.scan_json, document, depth, b"inputs", skim=skim) == expected


@settings(max_examples=500, deadline=None)
@given(VALUES)
def test_all_that_json_writes_is_taken(value):
    assert outcome(FAST.scan_json, json.dumps(value).encode(), 100) == []


@pytest.mark.parametrize(
    "text", [b"[1,[]]", b"[1, []]", b"[1,[2]]", b"[[1],2,[3,[4]]]", b"[1,[", b"[1,[]", b"[1,[,2]]"]
)
def test_arrays_behind_plain_elements(text: bytes):
    """Nested unevenly, and so long that the quick readers take part."""
    for datatype in NUMBER_TYPES:
        for expected in range(5):
            assert outcome(FAST.parse_array, text + BLANKS, datatype, expected) == outcome(
                PLAIN.parse_array, text + BLANKS, datatype, expected
            )


@settings(max_examples=1500, deadline=None)
@given(st.lists(SNIPPETS, max_size=8), st.sampled_from([*NUMBER_TYPES, "BYTES"]), st.integers(0, 5))
def test_twins_parse_alike(snippets: list[bytes], datatype: str, expected: int):
    joined = (b"[" + b",".join(snippets) + b"]", b"[" + b"".join(snippets))
    # With blanks behind the quick readers see what else is too near to the end for them.
    for text in (*joined, *(one + BLANKS for one in joined)):
        assert outcome(FAST.parse_array, text, datatype, expected) == outcome(
            PLAIN.parse_array, text, datatype, expected
        )


@settings(max_examples=1500, deadline=None)
@given(st.one_of(st.floats(), st.floats(width=32), st.decimals(allow_nan=False, allow_infinity=False)))
def test_decimals_become_the_nearest_float(number):
    token = str(number).replace("inf", "Infinity").replace("nan", "NaN").encode()
    for datatype in ("FP32", "FP64"):
        for text in (b"[" + token + b"]", b"[" + token + b"]" + BLANKS):
            assert outcome(FAST.parse_array, text, datatype, 1) == outcome(PLAIN.parse_array, text, datatype, 1)


@st.composite
def raw_tensors(draw):
    datatype = draw(st.sampled_from([*NUMBER_TYPES, "BYTES"]))
    if datatype == "BYTES":
        elements = draw(st.lists(st.one_of(st.binary(max_size=6), st.text(max_size=4).map(str.encode)), max_size=5))
        return datatype, b"".join(struct.pack("<I", len(e)) + e for e in elements), len(elements)
    size = np.dtype(NUMBER_TYPES[datatype]).itemsize
    count = draw(st.integers(0, 6))
    raw = draw(st.binary(min_size=count * size, max_size=count * size))
    return datatype, (bytes(b & 1 for b in raw) if datatype == "BOOL" else raw), count


@settings(max_examples=1000, deadline=None)
@given(raw_tensors())
def test_reading_back_what_was_written_gives_the_same_bytes(tensor):
    datatype, raw, count = tensor
    texts = [outcome(module.format_array, raw, datatype) for module in TWINS]
    if isinstance(texts[0], str):
        assert texts[0] == texts[1]
        return
    assert texts[0] == texts[1]
    for text in texts:
        again = FAST.parse_array(text, datatype, count)
        assert PLAIN.parse_array(text, datatype, count) == again
        if datatype in {"FP32", "FP64"}:
            form = NUMBER_TYPES[datatype]
            np.testing.assert_array_equal(np.frombuffer(again, form), np.frombuffer(raw, form))
        else:
            assert again == raw
        json.loads(text)
