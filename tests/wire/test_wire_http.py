"""wire.http against tables, byte by byte, and there and back."""

from __future__ import annotations

import contextlib
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_tensors import answers, body_of, calls, head_of, pack, plain

from gateway.errors import BadGateway, BadRequest
from gateway.wire import http
from gateway.wire.tensors import data_of
from gateway.wire.types import InferAnswer, InferCall, InputTensor, OutputRequest, OutputTensor, SharedMemory


def request(text: bytes | dict, *tail: bytes, ihcl: int | None = -1) -> InferCall:
    head = text if isinstance(text, bytes) else json.dumps(text).encode()
    body = head + b"".join(tail)
    return http.decode_request(body, (len(head) if tail else None) if ihcl == -1 else ihcl, "m", "")


def fp32(**more) -> dict:
    return {"name": "A", "datatype": "FP32", "shape": [2], **more}


def refusal(function, *arguments, **named) -> str:
    with pytest.raises(BadRequest) as caught:
        function(*arguments, **named)
    return caught.value.message


def in_tritons_words(message: str) -> str:
    """Without the tensor's name, which Triton leaves out where it stands in brackets here."""
    return message.removesuffix(" (input 'A')")


def test_a_request_is_read_without_copying_a_tensor():
    raw = struct.pack("<2f", 1, 2)
    head = json.dumps({"id": "x", "inputs": [fp32(parameters={"binary_data_size": 8, "k": 1})]}).encode()
    body = head + raw
    call = http.decode_request(body, len(head), "m", "3")
    assert (call.model, call.version, call.id, call.raw, call.binary_data_output) == (
        "m",
        "3",
        "x",
        False,
        False,
    )
    (tensor,) = call.inputs
    assert isinstance(tensor.data, memoryview)
    assert tensor.data.obj is body
    assert (tensor.name, tensor.datatype, tensor.shape, tensor.parameters) == ("A", "FP32", [2], {"k": 1})
    ihcl, parts = http.encode_request(call)
    assert any(part is tensor.data for part in parts)
    assert ihcl == len(parts[0])


def test_json_and_binary_inputs_mix_in_json_order():
    call = request(
        {
            "inputs": [
                fp32(name="J", data=[[1], [2]]),
                fp32(name="B", parameters={"binary_data_size": 8}),
                {"name": "Z", "datatype": "INT8", "shape": [0], "parameters": {"binary_data_size": 0}},
                {"name": "S", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
            ]
        },
        struct.pack("<2f", 3, 4),
        pack([b"x"]),
    )
    assert [bytes(data_of(t)) for t in call.inputs] == [
        struct.pack("<2f", 1, 2),
        struct.pack("<2f", 3, 4),
        b"",
        pack([b"x"]),
    ]


def test_nonfinite_literals_may_stand_in_data():
    call = request(b'{"inputs":[{"name":"A","datatype":"FP64","shape":[3],"data":[NaN,-Infinity,Inf]}]}')
    assert struct.unpack("<3d", data_of(call.inputs[0]))[1:] == (float("-inf"), float("inf"))


@pytest.mark.parametrize("ihcl", [0, None])
def test_a_raw_request(ihcl):
    body = b"" if ihcl is None else b"abcd"
    call = http.decode_request(body, ihcl, "m", "")
    assert call.raw
    assert call.binary_data_output
    assert bytes(call.inputs[0].data) == body


@pytest.mark.parametrize(
    ("text", "size", "value"),
    [
        (None, 5, None),
        ("0", 5, 0),
        ("5", 5, 5),
        ("007", 9, 7),
        ("0" * 5000 + "1", 9, 1),
        ("2147483647", 2**31, 2**31 - 1),
    ],
)
def test_header_length_is_a_plain_number_within_the_body(text, size, value):
    assert http.parse_header_length(text, size) == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("-1", "inference header size should be in range (0, 100), got: -1"),
        ("101", "inference header size should be in range (0, 100), got: 101"),
        ("2147483648", "inference header size should be in range (0, 100), got: 2147483648"),
        ("9" * 5000, f"inference header size should be in range (0, 100), got: {'9' * 40}"),
        ("", "Unable to parse Inference-Header-Content-Length, got: ''"),
        ("12x", "Unable to parse Inference-Header-Content-Length, got: '12x'"),
        ("+5", "Unable to parse Inference-Header-Content-Length, got: '+5'"),
        (" 5", "Unable to parse Inference-Header-Content-Length, got: ' 5'"),
        ("5.0", "Unable to parse Inference-Header-Content-Length, got: '5.0'"),
        ("\u0665", "Unable to parse Inference-Header-Content-Length, got: '\u0665'"),
        ("\u00b2", "Unable to parse Inference-Header-Content-Length, got: '\u00b2'"),
        ("--5", "Unable to parse Inference-Header-Content-Length, got: '--5'"),
    ],
)
def test_other_header_lengths_are_refused(text, fault):
    assert refusal(http.parse_header_length, text, 100) == fault


def test_a_header_length_beyond_int32_is_refused_even_within_the_body():
    assert "2147483648" in refusal(http.parse_header_length, "2147483648", 2**32)


JSON_FAULT = "failed to parse the request JSON buffer: "
UNSIGNED = "attempt to access JSON non-unsigned-integer as unsigned-integer"
ONLY_ONE = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But"
)
SOUND = b'{"inputs":[{"name":"A","datatype":"FP32","shape":[1],"data":[1]}]'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"x", JSON_FAULT + "Invalid value. at 0"),
        (b"{} x", JSON_FAULT + "The document root must not be followed by other values. at 3"),
        (b'{"inputs":[],"inputs":[]}', JSON_FAULT + "Duplicate name of an object member. at 13"),
        (SOUND + b',"id":"\xff"}', JSON_FAULT + f"Invalid encoding in string. at {len(SOUND) + 6}"),
        (
            SOUND + b',"id":"\\ud800"}',
            JSON_FAULT + f"The surrogate pair in string is invalid. at {len(SOUND) + 6}",
        ),
        (
            SOUND + b',"x":' + b"[" * 100 + b"]" * 100 + b"}",
            JSON_FAULT + f"Nested deeper than 100. at {len(SOUND) + 5 + 99}",
        ),
        (b"{}", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        (b"[]", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        (b'{"inputs":5}', "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        (b'{"inputs":[5]}', f"{ONLY_ONE} no field is set"),
        (b'{"inputs":[{}]}', f"{ONLY_ONE} no field is set"),
        (
            b'{"inputs":[{"data":[1]}]}',
            "Unable to parse 'name': attempt to access non-existing object member 'name'",
        ),
        (
            b'{"inputs":[{"name":5,"datatype":"FP32","shape":[1],"data":[1]}]}',
            "Unable to parse 'name': attempt to access JSON non-string as string",
        ),
        (
            b'{"inputs":[{"name":"A","data":[1]}]}',
            "Unable to parse 'datatype': attempt to access non-existing object member 'datatype'",
        ),
        (
            b'{"inputs":[{"name":"A","datatype":"FP32","data":[1]}]}',
            "Unable to parse 'shape': attempt to access non-existing object member 'shape'",
        ),
        (
            b'{"inputs":[{"name":"A","datatype":"FP32","shape":1,"data":[1]}]}',
            "Unable to parse 'shape': attempt to access JSON non-array as array",
        ),
        *(
            (
                b'{"inputs":[{"name":"A","datatype":"FP32","shape":[%s],"data":[1]}]}' % dim,
                f"Unable to parse 'shape': {UNSIGNED}",
            )
            for dim in (b"-1", b"1.0", b'"1"', b"true", b"null", b"1e0")
        ),
        (b'{"inputs":[{"name":"A","datatype":"F","shape":[1],"data":[1]}]}', "invalid datatype for input A"),
        (b'{"inputs":[{"name":"A","datatype":"FP32","shape":[1]}]}', f"{ONLY_ONE} no field is set"),
        (
            b'{"inputs":[{"name":"A","datatype":"FP32","shape":[1],"data":[1],"parameters":{"binary_data_size":4}}]}',
            f"{ONLY_ONE} set 'data' 'binary_data_size'",
        ),
        (
            b'{"inputs":[{"name":"A","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4,'
            b'"shared_memory_region":"r"}}]}',
            f"{ONLY_ONE} set 'binary_data_size' 'shared_memory_region'",
        ),
        (
            b'{"inputs":[{"name":"A","datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":5}}]}',
            "Unable to parse 'shared_memory_region': attempt to access JSON non-string as string",
        ),
        (
            b'{"inputs":[{"name":"A","datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":"r",'
            b'"shared_memory_offset":-1}}]}',
            f"Unable to parse 'shared_memory_offset': {UNSIGNED}",
        ),
        (SOUND + b',"id":5}', "Unable to parse 'id': attempt to access JSON non-string as string"),
        (SOUND + b',"id":null}', "Unable to parse 'id': attempt to access JSON non-string as string"),
        (SOUND + b',"outputs":null}', "Unable to parse 'outputs': attempt to access JSON non-array as array"),
        (
            SOUND + b',"outputs":["x"]}',
            "Unable to parse 'name': attempt to access non-existing object member 'name'",
        ),
        (SOUND + b',"parameters":5}', "failed to get request params.: attempt to get members for non-object"),
        *(
            (
                SOUND + b',"parameters":{"a":%s}}' % value,
                "parameter 'a' has invalid type. It should be either 'int', 'bool', or 'string'.",
            )
            for value in (b"null", b"[1]", b"{}")
        ),
        (
            SOUND + b',"parameters":{"triton_x":1}}',
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
        ),
        *(
            (
                SOUND + b',"parameters":{"%s":1}}' % key,
                f"Unable to parse '{key.decode()}': attempt to access JSON non-boolean as boolean",
            )
            for key in (b"sequence_start", b"sequence_end", b"binary_data_output")
        ),
        *(
            (
                SOUND + b',"parameters":{"%s":%s}}' % (key, value),
                f"Unable to parse '{key.decode()}': {UNSIGNED}",
            )
            for key in (b"priority", b"timeout")
            for value in (b"-1", b"1.5", b'"1"', b"true", b"18446744073709551616")
        ),
        *(
            (
                SOUND + b',"parameters":{"sequence_id":%s}}' % value,
                "Unable to parse 'sequence_id': attempt to access JSON non-string as string",
            )
            for value in (b"-1", b"1.5", b"true")
        ),
        (
            SOUND + b',"outputs":[{"name":"O","parameters":{"classification":-1}}]}',
            f"Unable to set 'classification': {UNSIGNED}",
        ),
        (
            SOUND + b',"outputs":[{"name":"O","parameters":{"binary_data":1}}]}',
            "Unable to parse 'binary_data': attempt to access JSON non-boolean as boolean",
        ),
        (
            SOUND + b',"outputs":[{"name":"O","parameters":{"shared_memory_region":"r","binary_data":true}}]}',
            "Output can't set both 'shared_memory_region' and 'binary_data'",
        ),
        (
            SOUND + b',"outputs":[{"name":"O","parameters":{"shared_memory_region":"r","classification":1}}]}',
            "Output can't set both 'shared_memory_region' and 'classification'",
        ),
    ],
)
def test_bad_requests_are_refused_in_tritons_words(text: bytes, fault: str):
    assert in_tritons_words(refusal(request, text)) == fault


@pytest.mark.parametrize(
    ("size", "tail", "fault"),
    [
        (9, b"x" * 8, "unexpected size for input 'A', expecting 1 additional bytes for model 'm'"),
        (8, b"", "unexpected size for input 'A', expecting 8 additional bytes for model 'm'"),
        (8, b"x" * 9, "unexpected additional input data for model 'm'"),
        (2**64, b"x", f"unexpected size for input 'A', expecting {2**64 - 1} additional bytes for model 'm'"),
        (-8, b"x" * 8, f"Unable to parse 'binary_data_size': {UNSIGNED}"),
        ("8", b"x" * 8, f"Unable to parse 'binary_data_size': {UNSIGNED}"),
        (8.0, b"x" * 8, f"Unable to parse 'binary_data_size': {UNSIGNED}"),
        (True, b"x" * 8, f"Unable to parse 'binary_data_size': {UNSIGNED}"),
    ],
)
def test_binary_sizes_must_be_true(size, tail: bytes, fault: str):
    message = refusal(request, {"inputs": [fp32(parameters={"binary_data_size": size})]}, tail)
    assert in_tritons_words(message) == fault
    assert "'A'" in message or "additional" in message, "every refusal of a tensor names it"


def test_every_truncation_of_a_request_is_a_bad_request():
    head = json.dumps(
        {
            "id": "\u00e9",
            "parameters": {"sequence_id": 1, "binary_data_output": True},
            "inputs": [fp32(parameters={"binary_data_size": 8}), fp32(name="B", data=[1.5, -2e-3])],
            "outputs": [{"name": "O", "parameters": {"classification": 2}}],
        },
        ensure_ascii=False,
    ).encode()
    body = head + b"\0" * 8
    assert len(http.decode_request(body, len(head), "m", "").inputs) == 2
    for end in range(1, len(body)):
        assert refusal(http.decode_request, body[:end], min(end, len(head)), "m", "")
    for end in range(1, len(head)):  # the header that claims less than the JSON
        assert refusal(http.decode_request, body, end, "m", "")
        assert refusal(http.decode_request, memoryview(body)[:end], None, "m", "")


def test_every_truncation_of_an_answer_is_a_bad_gateway():
    head = (
        b'{"id":"1","model_name":"m","model_version":"1","parameters":{"a":1.5},"outputs":[{"name":"O","datatype":'
        b'"FP32","shape":[2],"parameters":{"binary_data_size":8}},{"name":"P","datatype":"FP64","shape":[1],"data":[NaN]}]}'
    )
    body = head + b"\0" * 8
    assert [bytes(data_of(o))[:6] for o in http.decode_response(body, len(head)).outputs] == [b"\0" * 6] * 2
    for end in range(len(body)):
        with pytest.raises(BadGateway):
            http.decode_response(body[:end], min(end, len(head)))
        with pytest.raises(BadGateway):
            http.decode_response(body[:end], len(head))
    with pytest.raises(BadGateway):
        http.decode_response(body + b"\0", len(head))


@pytest.mark.parametrize(
    ("default", "wanted", "binary"),
    [
        (False, None, False),
        (True, None, True),
        (False, True, True),
        (True, False, False),
        (True, True, True),
        (False, False, False),
    ],
)
def test_output_form_is_the_outputs_wish_then_the_requests_then_json(default, wanted, binary):
    call = InferCall(model="m", outputs=[OutputRequest("O", binary=wanted)], binary_data_output=default)
    answer = InferAnswer("m", "1", outputs=[OutputTensor("O", "INT8", [2], data=b"\1\2")])
    ihcl, content_type, parts = http.encode_response(answer, call)
    if binary:
        assert content_type == "application/octet-stream"
        assert body_of(parts)[ihcl:] == b"\1\2"
        assert head_of(ihcl, parts)["outputs"][0]["parameters"] == {"binary_data_size": 2}
    else:
        assert (ihcl, content_type) == (None, "application/json")
        assert head_of(ihcl, parts)["outputs"][0]["data"] == [1, 2]


def test_an_answer_reads_like_tritons():
    answer = InferAnswer(
        "income", "2", outputs=[OutputTensor("O", "FP32", [1, 2], data=struct.pack("<2f", 1, float("nan")))]
    )
    _, _, parts = http.encode_response(answer, InferCall(model="income"))
    assert body_of(parts) == (
        b'{"model_name":"income","model_version":"2","outputs":'
        b'[{"name":"O","datatype":"FP32","shape":[1,2],"data":[1.0,NaN]}]}'
    )


def test_empty_id_is_left_out_and_another_echoed():
    for request_id in ("", "x\u00e9"):
        _, _, parts = http.encode_response(InferAnswer("m", "1", request_id), InferCall(model="m"))
        assert head_of(None, parts).get("id", "") == request_id
        assert (b'"id"' in body_of(parts)) == bool(request_id)


def test_binary_outputs_without_bytes_need_no_header():
    answer = InferAnswer("m", "1", outputs=[OutputTensor("O", "FP32", [0], data=b"")])
    ihcl, content_type, parts = http.encode_response(answer, InferCall(model="m", binary_data_output=True))
    assert (ihcl, content_type) == (None, "application/json")
    assert head_of(None, parts)["outputs"][0]["parameters"] == {"binary_data_size": 0}


@pytest.mark.parametrize(
    ("shape", "data", "complaint"),
    [
        ("[2]", "[1,,2]", "element 1: attempt to access JSON non-number as double"),
        ("[2]", "[1 2]", "Missing a comma or ']' after an array element. at 3"),
        ("[2]", "[1.,2]", "Miss fraction part in number. at 1"),
        ("[3]", "[[1],[2],]", "element 2: attempt to access JSON non-number as double"),
        ("[0]", "[1,,2]", "Invalid value. at 3"),
        ("[0,5]", "[01]", "Missing a comma or ']' after an array element. at 2"),
    ],
)
def test_numbers_are_judged_when_they_are_read_and_before_they_are_sent_on(shape, data, complaint):
    text = '{"inputs":[{"name":"A","datatype":"FP32","shape":%s,"data":%s}]}' % (shape, data)  # noqa: UP031 # braces
    for function in (data_of, lambda tensor: http.encode_request(InferCall(model="m", inputs=[tensor]))):
        call = http.decode_request(text.encode(), None, "m", "")
        assert refusal(function, call.inputs[0]) == f"Unable to parse 'data' of input 'A': {complaint}"


@pytest.mark.parametrize("data", ["{}", "[{}]", '["a"]', "null", "[[]]", "[true,-Inf]", '"x"'])
def test_data_of_an_empty_tensor_may_be_any_json(data):
    text = '{"inputs":[{"name":"A","datatype":"FP32","shape":[0],"data":%s}]}' % data  # noqa: UP031 # braces
    assert data_of(http.decode_request(text.encode(), None, "m", "").inputs[0]) == b""


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_have_no_json_form_either_way(datatype):
    answer = InferAnswer("m", "1", outputs=[OutputTensor("O", datatype, [1], data=b"\0\0")])
    assert f"sending {datatype} data via JSON is not supported" in refusal(
        http.encode_response, answer, InferCall(model="m")
    )
    call = request({"inputs": [{"name": "A", "datatype": datatype, "shape": [1], "data": [1.0]}]})
    assert refusal(data_of, call.inputs[0]) == (
        f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input A"
    )
    call = InferCall(model="m", inputs=[InputTensor("A", datatype, [1], data=b"\0\0")])
    assert "'A'" in refusal(http.encode_request, call, binary_input=False)


def test_bytes_that_are_no_utf8_have_no_json_form():
    answer = InferAnswer("m", "1", outputs=[OutputTensor("O", "BYTES", [1], data=pack([b"\xff"]))])
    assert "'O' cannot be written as JSON" in refusal(http.encode_response, answer, InferCall(model="m"))
    ihcl, _, parts = http.encode_response(answer, InferCall(model="m", binary_data_output=True))
    assert body_of(parts)[ihcl:] == pack([b"\xff"])


def test_shared_memory_passes_both_ways():
    call = request(
        {
            "inputs": [fp32(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8, "x": 1})],
            "outputs": [
                {
                    "name": "O",
                    "parameters": {
                        "shared_memory_region": "s",
                        "shared_memory_byte_size": 4,
                        "shared_memory_offset": 2,
                    },
                }
            ],
        }
    )
    assert call.inputs[0].shm == SharedMemory("r", 8)
    assert call.inputs[0].parameters == {"x": 1}
    assert call.outputs[0].shm == SharedMemory("s", 4, 2)
    ihcl, parts = http.encode_request(call)
    assert ihcl is None
    sent = head_of(None, parts)
    assert sent["inputs"][0]["parameters"] == {
        "x": 1,
        "shared_memory_region": "r",
        "shared_memory_byte_size": 8,
    }
    assert sent["outputs"][0]["parameters"] == {
        "shared_memory_region": "s",
        "shared_memory_byte_size": 4,
        "shared_memory_offset": 2,
    }
    # Triton answers such an output with name, datatype and shape alone.
    text = b'{"model_name":"m","model_version":"1","outputs":[{"name":"O","datatype":"INT8","shape":[4]}]}'
    answer = http.decode_response(text, None)
    assert answer.outputs[0].shm is not None
    assert body_of(http.encode_response(answer, call)[2]) == text


def test_requests_ask_for_all_outputs_as_binary_unless_told_otherwise():
    call = InferCall(
        model="m",
        parameters={"triton_enable_empty_final_response": True, "binary_data_output": True, "k": 1},
        inputs=[InputTensor("A", "BYTES", [1], data=pack([b"x"]))],
    )
    ihcl, parts = http.encode_request(call)
    assert head_of(ihcl, parts)["parameters"] == {"k": 1, "binary_data_output": True}
    call.outputs = [OutputRequest("O"), OutputRequest("C", classification=3, binary=False)]
    ihcl, parts = http.encode_request(call)
    assert head_of(ihcl, parts)["parameters"] == {"k": 1}
    assert head_of(ihcl, parts)["outputs"] == [
        {"name": "O", "parameters": {"binary_data": True}},
        {"name": "C", "parameters": {"classification": 3, "binary_data": True}},
    ]
    ihcl, parts = http.encode_request(call, want_binary=False, binary_input=False)
    assert ihcl is None
    assert head_of(None, parts)["inputs"][0] == {
        "name": "A",
        "datatype": "BYTES",
        "shape": [1],
        "data": ["x"],
    }
    assert head_of(None, parts)["outputs"] == [
        {"name": "O"},
        {"name": "C", "parameters": {"classification": 3}},
    ]


def test_a_binary_input_without_bytes_still_sends_the_header_length():
    call = InferCall(model="m", inputs=[InputTensor("A", "FP32", [0], data=b"")])
    ihcl, parts = http.encode_request(call)
    assert ihcl == len(body_of(parts))


def test_answers_of_other_servers_are_understood():
    answer = http.decode_response(
        b'{"model_name":"m","model_version":null,"id":null,"parameters":{"content_type":null,"a":1,"h":{}},"outputs":'
        b'[{"name":"O","shape":[2],"datatype":"FP32","data":[[1],[2.5]],"parameters":{"content_type":"np","x":null}}]}',
        None,
    )
    assert (answer.model_version, answer.id, answer.parameters) == ("", "", {"a": 1})
    assert answer.outputs[0].parameters == {"content_type": "np"}
    assert bytes(data_of(answer.outputs[0])) == struct.pack("<2f", 1, 2.5)
    assert http.decode_response(b'{"model_name":"m","model_version":3,"outputs":[]}', None).model_version == "3"


@pytest.mark.parametrize(
    ("text", "ihcl"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"outputs":5}', None),
        (b'{"outputs":[{"name":"O","datatype":"FP32"}]}', None),
        (
            b'{"outputs":[{"name":"O","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":-4}}]}',
            None,
        ),
        (
            b'{"outputs":[{"name":"O","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":"4"}}]}',
            None,
        ),
        (b'{"outputs":[{"name":"O","datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":4}}]}', None),
        (b'{"outputs":[{"name":"O","datatype":"FP32","shape":[1],"d\\u0061ta":7,"data":7}]}', 74),
        (b'{"outputs":[]}', 0),
        (b'{"outputs":[]}', 15),
        (b'{"outputs":[]}', -1),
    ],
)
def test_bad_answers_are_the_servers_fault(text: bytes, ihcl):
    with pytest.raises(BadGateway):
        http.decode_response(text, ihcl)
    bad_data = http.decode_response(
        b'{"model_name":"m","outputs":[{"name":"O","datatype":"FP32","shape":[2],"data":[1]}]}', None
    )
    with pytest.raises(BadGateway):
        data_of(bad_data.outputs[0])


@settings(max_examples=250, deadline=None)
@given(calls(), st.booleans())
def test_a_request_survives_the_wire(call: InferCall, as_view: bool):
    ihcl, parts = http.encode_request(call, want_binary=False)
    body = body_of(parts)
    again = http.decode_request(memoryview(body) if as_view else body, ihcl, call.model, call.version)
    assert plain(again) == call


@settings(max_examples=250, deadline=None)
@given(answers(), st.booleans())
def test_an_answer_survives_the_wire_in_binary(answer: InferAnswer, as_view: bool):
    ihcl, _, parts = http.encode_response(answer, InferCall(model="m", binary_data_output=True))
    body = body_of(parts)
    assert plain(http.decode_response(memoryview(body) if as_view else body, ihcl)) == answer


@settings(max_examples=250, deadline=None)
@given(answers(datatypes=("BOOL", "UINT8", "INT64", "UINT64", "INT16", "BYTES")))
def test_an_answer_survives_the_wire_in_json(answer: InferAnswer):
    _, _, parts = http.encode_response(answer, InferCall(model="m"))
    again = http.decode_response(body_of(parts), None)
    for tensor in again.outputs:
        tensor.data, tensor.json = bytes(data_of(tensor)), None
    assert again == answer


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60), st.one_of(st.none(), st.integers(0, 60)))
def test_arbitrary_bytes_are_a_bad_request_or_a_request(body: bytes, ihcl):
    if ihcl is not None and ihcl > len(body):
        return
    with contextlib.suppress(BadRequest):
        http.decode_request(body, ihcl, "m", "")
    with contextlib.suppress(BadGateway):
        http.decode_response(body, ihcl)
