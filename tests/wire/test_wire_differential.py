"""The codecs and the validation against a real Triton, over thousands of generated requests, valid and broken.

Each request goes to Triton as it is, and through decode, check, encode, Triton, decode, encode. Where the gateway
takes it, so does Triton, and the answers are equal in names, datatypes, shapes and values; where it refuses it,
so does Triton, except for what `STRICTER` lists. Status codes inside a class are not compared: Triton answers
several faults of the client with 500 where the gateway answers 400.

Requests are drawn from seeds, so that a failure is reproducible; dimensions stay small, because a large one ends
the server.
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Iterator
from http.client import HTTPConnection

import grpc as grpcio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from wire_tensors import body_of, pack

from gateway.errors import BadRequest
from gateway.wire import grpc, http
from gateway.wire.tensors import NUMPY, SIZES, data_of
from gateway.wire.types import InferAnswer
from gateway.wire.validate import ModelSignature, check

DATATYPES = [name for name in SIZES if name != "BF16"]  # the Python backend has no BF16
STRICTER = re.compile(
    r"Duplicate name of an object member"  # Triton takes the first
    r"|Invalid encoding in string"  # Triton passes bytes that are no UTF-8 through
    r"|is out of range for"  # Triton keeps the low bytes
    r"|^output '.*' already exists in request"  # Triton answers it once
    r"|^parameter '.*' has invalid type"  # Triton ignores such parameters of a tensor
    r"|^Unable to parse 'parameters' of"  # likewise when they are no object
    r"|Unable to parse Inference-Header-Content-Length"  # Triton reads the digits it finds
    r"|^invalid datatype for input"  # gRPC: Triton looks at it only when it needs to
    r"|^unexpected additional input data for model '.*': no input takes"  # gRPC: Triton ignores the rest
    r"|^Unable to set 'classification'"  # Triton cuts it to 32 bits
)
STRICTER_IN_PARAMETERS = re.compile(rb'"parameters":\{[^}]*(NaN|Inf)')
"""Triton takes NaN for a double parameter."""


class Server:
    """The HTTP side of a Triton, and what it says of its models."""

    def __init__(self, address: str) -> None:
        self._connection = HTTPConnection(address, timeout=30)
        self._signatures: dict[str, ModelSignature] = {}

    def ask(self, method: str, path: str, body: bytes = b"", ihcl: object = None) -> tuple[int, bytes, int | None]:
        headers = {} if ihcl is None else {"Inference-Header-Content-Length": str(ihcl)}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        length = response.headers["Inference-Header-Content-Length"]
        return response.status, response.read(), None if length is None else int(length)

    def close(self) -> None:
        self._connection.close()

    def infer(self, model: str, body: bytes, ihcl: object) -> tuple[int, bytes, int | None]:
        return self.ask("POST", f"/v2/models/{model}/infer", body, ihcl)

    def signature(self, model: str) -> ModelSignature:
        if model not in self._signatures:
            metadata = json.loads(self.ask("GET", f"/v2/models/{model}")[1])
            config = json.loads(self.ask("GET", f"/v2/models/{model}/config")[1])
            self._signatures[model] = ModelSignature.from_triton(metadata, config)
        return self._signatures[model]


@pytest.fixture(scope="module")
def server(triton) -> Iterator[Server]:
    server = Server(triton.http)
    yield server
    server.close()


def element(rng: random.Random, datatype: str) -> object:
    """A value that fits, as JSON text writes it."""
    if datatype == "BOOL":
        return rng.random() < 0.5
    if datatype == "BYTES":
        return "".join(rng.choice('ab"\\\n\u00e9\u20ac\U0001f600\0') for _ in range(rng.randrange(4)))
    if datatype.startswith("FP"):
        largest = 6e4 if datatype == "FP16" else 3e38
        return rng.choice([0, 1, -1.5, 0.1, 1e-3, largest, float("nan"), float("inf"), float("-inf"), rng.random()])
    info = np.iinfo(NUMPY[datatype])
    return rng.choice([0, 1, int(info.min), int(info.max), rng.randint(int(info.min), int(info.max))])


def raw(datatype: str, values: list) -> bytes:
    if datatype == "BYTES":
        return pack([v.encode() for v in values])
    return np.array(values, NUMPY[datatype]).tobytes()


def nested(rng: random.Random, values: list) -> list:
    if len(values) < 2 or rng.random() < 0.7:
        return values
    cut = rng.randrange(len(values) + 1)
    return [nested(rng, values[:cut]), nested(rng, values[cut:])]


def tensor(rng: random.Random, name: str, datatype: str, shape: list[int]) -> tuple[dict, bytes]:
    """One input as JSON object and binary part."""
    values = [element(rng, datatype) for _ in range(int(np.prod(shape, dtype=int)))]
    item: dict = {"name": name, "shape": shape, "datatype": datatype}
    if datatype == "FP16" or rng.random() < 0.5:
        blob = raw(datatype, values)
        item["parameters"] = {"binary_data_size": len(blob)}
        return item, blob
    item["data"] = nested(rng, values)
    return item, b""


def valid(rng: random.Random) -> tuple[str, dict, bytes]:
    """A model, a request's JSON and its binary part."""
    model = rng.choice(["identity_all"] * 11 + ["batched"])
    if model == "batched":
        parts = [tensor(rng, "INPUT0", "FP32", [rng.randint(1, 3), 4])]
        outputs = ["OUTPUT0", "BATCH_SIZE"]
    else:
        chosen = rng.sample(DATATYPES, rng.randint(1, 3))
        parts = [tensor(rng, f"INPUT_{d}", d, [rng.randrange(5)]) for d in chosen]
        outputs = [f"OUTPUT_{d}" for d in chosen]
    head: dict = {"inputs": [item for item, _ in parts]}
    if rng.random() < 0.3:
        head["id"] = rng.choice(["", "x", "\u00e9"])
    if rng.random() < 0.7:
        wanted = rng.sample(outputs, rng.randint(1, len(outputs)))
        head["outputs"] = []
        for name in wanted:
            output: dict = {"name": name}
            if "FP16" in name or rng.random() < 0.5:
                output["parameters"] = {"binary_data": True if "FP16" in name else rng.random() < 0.5}
            head["outputs"].append(output)
    if "outputs" not in head:  # listed outputs follow their own wish alone in Triton; see test_output_form
        head["parameters"] = {"binary_data_output": True if "OUTPUT_FP16" in outputs else rng.random() < 0.5}
    if rng.random() < 0.3:
        head.setdefault("parameters", {}).update(
            rng.choice([{"priority": 1}, {"timeout": 10**7}, {"k": "v", "n": 1.5}])
        )
    return model, head, b"".join(blob for _, blob in parts)


ODD_VALUES = [
    None,
    True,
    -1,
    0,
    1,
    2,
    1.0,
    2.5,
    "",
    "x",
    "1",
    [],
    [1],
    {},
    {"a": 1},
    2**63,
    2**64,
    "FP32",
    "INT32",
    [2],
    [[1]],
]


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Paths to every member of a JSON document."""
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


def change_value(rng: random.Random, head: dict) -> None:
    """Replace, remove or double one member somewhere."""
    path = rng.choice(places(head))
    holder = head
    for key in path[:-1]:
        holder = holder[key]
    key = path[-1]
    action = rng.randrange(4)
    if action == 0 and not (len(path) > 1 and path[-2] == "shape"):
        holder[key] = rng.choice(ODD_VALUES)
    elif action == 0:
        holder[key] = rng.choice([0, 1, 2, 3, 7, -1, 1.0, "1", None, True])
    elif action == 1:
        del holder[key]
    elif action == 2 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif isinstance(holder, dict):
        holder[rng.choice(["name", "data", "shape", "parameters", "extra", "sequence_start", "triton_x"])] = rng.choice(
            ODD_VALUES
        )


def large_dimension(text: bytes) -> bool:
    """Whether a shape holds what would end the server."""
    return any(re.search(rb"[0-9]{4,}|[0-9][eE]", shape) for shape in re.findall(rb'"shape"\s*:\s*\[([^\]]*)', text))


def change_bytes(rng: random.Random, text: bytes) -> bytes:
    """Cut, put in or replace a few bytes."""
    at = rng.randrange(len(text))
    patch = rng.choice(
        [
            b"",
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b'"',
            b"1",
            b"-",
            b".",
            b"e",
            b" ",
            b"\\",
            b"\xff",
            b"null",
            b"NaN",
        ]
    )
    return text[:at] + patch + text[at + rng.randrange(3) :]


def compare(direct: InferAnswer, ours: InferAnswer, context: object) -> None:
    assert (ours.model_name, ours.model_version, ours.id) == (
        direct.model_name,
        direct.model_version,
        direct.id,
    ), context
    assert ours.parameters == direct.parameters, context
    assert [o.name for o in ours.outputs] == [o.name for o in direct.outputs], context
    for mine, theirs in zip(ours.outputs, direct.outputs, strict=True):
        assert (mine.datatype, mine.shape, mine.parameters) == (
            theirs.datatype,
            theirs.shape,
            theirs.parameters,
        ), context
        assert (mine.json is None) == (theirs.json is None), context
        if mine.datatype.startswith("FP"):
            form = NUMPY[mine.datatype]
            # Triton reads and writes doubles in JSON to within a unit in the last place.
            np.testing.assert_allclose(
                np.frombuffer(data_of(mine), form),
                np.frombuffer(data_of(theirs), form),
                rtol=4e-16 if form == np.float64 else 0,
                err_msg=str(context),
            )
        elif mine.name != "BATCH_SIZE":
            assert bytes(data_of(mine)) == bytes(data_of(theirs)), context


def judge(server: Server, model: str, body: bytes, ihcl: int | None, *, sound: bool) -> str:
    """Send both ways and compare; what came of it."""
    status, text, length = server.infer(model, body, ihcl)
    context = (model, body, ihcl, status, text[:300])
    try:
        header_length = http.parse_header_length(None if ihcl is None else str(ihcl), len(body))
        call = http.decode_request(body, header_length, model, "")
        check(call, server.signature(model))
    except BadRequest as error:
        assert not sound, (error.message, context)
        stricter = STRICTER.search(error.message) or STRICTER_IN_PARAMETERS.search(body)
        assert status != 200 or stricter, (error.message, context)
        return "stricter" if status == 200 else "refused"
    our_length, parts = http.encode_request(call)
    our_status, our_text, answered = server.infer(model, body_of(parts), our_length)
    if our_status != 200:  # only the model's server can know, and it says the same
        assert status != 200, (our_status, our_text, context)
        return "refused by the server"
    try:
        back_length, _, back = http.encode_response(http.decode_response(our_text, answered), call)
    except BadRequest as error:  # an output without a JSON form
        assert status == 400, (error.message, context)
        return "refused"
    assert status == 200, context
    compare(http.decode_response(text, length), http.decode_response(body_of(back), back_length), context)
    return "served"


def tally(results: list[str]) -> dict[str, int]:
    return {result: results.count(result) for result in sorted(set(results))}


def test_valid_requests_are_answered_alike(server: Server):
    results = []
    for seed in range(900):
        model, head, blob = valid(random.Random(seed))
        text = json.dumps(head, ensure_ascii=seed % 2 == 0).encode()
        has_binary = any("binary_data_size" in item.get("parameters", {}) for item in head["inputs"])
        results.append(judge(server, model, text + blob, len(text) if has_binary else None, sound=True))
    assert tally(results) == {"served": 900}


def test_requests_with_a_wrong_member_are_judged_alike(server: Server):
    results = []
    for seed in range(1600):
        rng = random.Random(seed)
        model, head, blob = valid(rng)
        for _ in range(rng.randint(1, 2)):
            change_value(rng, head)
        text = json.dumps(head).encode()
        if not large_dimension(text):
            results.append(judge(server, model, text + blob, len(text), sound=False))
    seen = tally(results)
    assert seen["refused"] > 700, seen
    assert seen["served"] > 100, seen
    assert seen.get("refused by the server", 0) < 10, seen


def test_requests_with_wrong_bytes_are_judged_alike(server: Server):
    results = []
    for seed in range(1200):
        rng = random.Random(seed)
        model, head, blob = valid(rng)
        text = json.dumps(head).encode()
        ihcl: int | None = len(text)
        kind = rng.randrange(4)
        if kind == 0:
            blob = blob[: rng.randrange(len(blob) + 1)] + rng.choice([b"", b"x"])
        elif kind == 1:
            ihcl = rng.choice(
                [None, max(1, len(text) - 1), len(text) + 1, -1, 10**6, 2**31, rng.randrange(1, len(text))]
            )
        else:
            text = change_bytes(rng, text)
            ihcl = len(text)
        if not large_dimension(text):
            results.append(judge(server, model, text + blob, ihcl, sound=False))
    seen = tally(results)
    assert seen["refused"] > 500, seen


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("batched", bytes(16)),
        ("batched", bytes(15)),
        ("batched", b""),
        ("identity_all", bytes(16)),
        ("identity_fp32", bytes(16)),
        ("params_echo", b"hello"),
        ("params_echo", b""),
    ],
)
def test_raw_requests_are_judged_alike(server: Server, model: str, body: bytes):
    judge(server, model, body, 0, sound=False)


def grpc_request(rng: random.Random) -> service_pb2.ModelInferRequest:
    """A request with raw or typed contents."""
    chosen = rng.sample(DATATYPES, rng.randint(1, 3))
    request = service_pb2.ModelInferRequest(model_name="identity_all", id=rng.choice(["", "x"]))
    typed = rng.random() < 0.5 and "FP16" not in chosen
    for datatype in chosen:
        values = [element(rng, datatype) for _ in range(rng.randrange(5))]
        item = request.inputs.add(name=f"INPUT_{datatype}", datatype=datatype, shape=[len(values)])
        if not typed:
            request.raw_input_contents.append(raw(datatype, values))
            continue
        item.contents.SetInParent()
        field = {
            "BOOL": "bool",
            "BYTES": "bytes",
            "FP32": "fp32",
            "FP64": "fp64",
            "INT64": "int64",
            "UINT64": "uint64",
        }.get(datatype, "uint" if datatype[0] == "U" else "int")
        getattr(item.contents, f"{field}_contents").extend([v.encode() if isinstance(v, str) else v for v in values])
    if rng.random() < 0.4:
        for datatype in rng.sample(chosen, rng.randint(1, len(chosen))):
            request.outputs.add(name=f"OUTPUT_{datatype}")
    if rng.random() < 0.3:
        request.parameters["k"].double_param = 1.5
    return request


def break_grpc(rng: random.Random, request: service_pb2.ModelInferRequest) -> None:
    item = rng.choice(list(request.inputs))
    kind = rng.randrange(12)
    if kind == 0:
        item.name = rng.choice(["", "X", "INPUT_INT8"])
    elif kind == 1:
        item.datatype = rng.choice(["", "INT8", "FP32", "BYTES", "x"])
    elif kind == 2:
        item.shape[:] = rng.choice([[], [1], [2], [-1], [1, 1], [0], [3]])
    elif kind == 3:
        item.contents.fp32_contents.append(1)
    elif kind == 4:
        request.raw_input_contents.append(b"abcd")
    elif kind == 5 and request.raw_input_contents:
        request.raw_input_contents.pop()
    elif kind == 6 and request.raw_input_contents:
        request.raw_input_contents[0] = request.raw_input_contents[0] + rng.choice([b"x", b"\0\0\0\0"])
    elif kind == 7:
        request.parameters[
            rng.choice(["sequence_start", "priority", "timeout", "triton_x", "sequence_id"])
        ].bool_param = True
    elif kind == 8:
        request.parameters["empty"].SetInParent()
    elif kind == 9:
        request.outputs.add(name=rng.choice(["X", "OUTPUT_INT8", ""]))
    elif kind == 10 and item.datatype != "BYTES" and all(i.shape[0] for i in request.inputs):
        # Classes of BYTES, and of an output without elements, end a Triton 2.51.
        request.outputs.add(name=f"OUTPUT_{item.datatype}").parameters["classification"].int64_param = rng.choice(
            [-1, 0, 1]
        )
    else:
        item.parameters[rng.choice(["shared_memory_byte_size", "shared_memory_offset", "k"])].int64_param = 4


def test_grpc_requests_are_judged_alike(triton, server: Server):
    results = []
    with grpcio.insecure_channel(triton.grpc) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda text: text,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        assert service_pb2_grpc.GRPCInferenceServiceStub  # the names come from the client's own stubs
        for seed in range(1200):
            rng = random.Random(seed)
            request = grpc_request(rng)
            if seed % 2:
                break_grpc(rng, request)
            results.append(judge_grpc(infer, server, request, sound=seed % 2 == 0))
    seen = tally(results)
    assert seen["served"] > 550, seen
    assert seen["refused"] > 250, seen
    assert set(seen) <= {"served", "refused", "stricter"}, seen


def judge_grpc(infer, server: Server, request: service_pb2.ModelInferRequest, *, sound: bool) -> str:
    text = request.SerializeToString()
    try:
        direct, code = infer(text), "OK"
    except grpcio.RpcError as error:
        direct, code = None, (error.code().name, error.details())
    context = (request, code)
    try:
        call = grpc.decode_request(text)
        check(call, server.signature("identity_all"))
    except BadRequest as error:
        assert not sound, (error.message, context)
        assert direct is None or STRICTER.search(error.message), (error.message, context)
        return "refused" if direct is None else "stricter"
    assert direct is not None, context
    # Unary calls are forwarded over HTTP, streams over gRPC: the same answer either way.
    length, parts = http.encode_request(call)
    status, answer_text, answered = server.infer("identity_all", body_of(parts), length)
    assert status == 200, (answer_text, context)
    over_http = grpc.encode_response(http.decode_response(answer_text, answered))
    over_grpc = grpc.encode_response(grpc.decode_response(infer(grpc.encode_request(call).SerializeToString())))
    expected = grpc.decode_response(direct)
    for ours in (over_http, over_grpc):
        compare(expected, grpc.decode_response(service_pb2.ModelInferResponse.FromString(ours)), context)
    return "served"


def test_classification_passes_through(server: Server):
    text = json.dumps(
        {
            "inputs": [{"name": "INPUT_FP32", "datatype": "FP32", "shape": [3], "data": [0.5, 2.5, 1.5]}],
            "outputs": [{"name": "OUTPUT_FP32", "parameters": {"classification": 2}}],
        }
    ).encode()
    assert judge(server, "identity_all", text, None, sound=True) == "served"


def test_bf16_passes_through(server: Server):
    head = {
        "inputs": [{"name": "INPUT0", "datatype": "BF16", "shape": [2], "parameters": {"binary_data_size": 4}}],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    assert judge(server, "identity_bf16", text + b"\xc0\x3f\x00\xc0", len(text), sound=True) == "served"


def test_output_form(server: Server):
    """`binary_data_output` is the default of listed outputs, as the extension's text says; Triton 2.51 forgets it."""
    head = {
        "inputs": [{"name": "INPUT_FP32", "datatype": "FP32", "shape": [1], "data": [0.5]}],
        "outputs": [{"name": "OUTPUT_FP32"}],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    status, answer, _ = server.infer("identity_all", text, None)
    assert (status, json.loads(answer)["outputs"][0]["data"]) == (200, [0.5])
    call = http.decode_request(text, None, "identity_all", "")
    check(call, server.signature("identity_all"))
    length, parts = http.encode_request(call)
    _, answer, answered = server.infer("identity_all", body_of(parts), length)
    ihcl, _, back = http.encode_response(http.decode_response(answer, answered), call)
    assert body_of(back)[ihcl:] == struct.pack("<f", 0.5)
