"""Every HTTP page and form of `/v2`, asked of Triton and of the gateway: the answers are the same.

Compared: status, content type, body (JSON by value, binary byte by byte). `DIFFERS` is the one table of what is
otherwise on purpose; everything that it does not name is Triton's own answer.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from gateway_fixture import Answer
from sides import ask, joined, raw, tensors

from gateway.wire.types import OWN_REGIONS

DIFFERS = {
    "health-body": "KServe's client reads a JSON body on the health pages; Triton's is empty",
    "health-type": "as above: with the body goes its content type",
    "400-for-500": "a fault of the client that Triton 2.51 answers with 500 is 400 and names the tensor",
    "404-for-400": "a model or version that is not there is 404 on every page; Triton says 400 on some",
    "stricter-json": "a duplicate key, nesting beyond 100 or a number out of range is refused; Triton takes it",
    "stricter-name": "blank names and ways out of the repository are refused before the model server sees them",
    "decoupled-http": "with Accept: text/event-stream a decoupled model answers events; Triton answers 501",
    "escapes": "percent escapes in a name are read, as RFC 3986 asks; Triton takes them for the name itself",
    "float-text": "FP32 is written as the shortest text that reads back as the same FP32 (0.1); Triton writes the "
    "double next to it (0.10000000149011612)",
}


@dataclass(frozen=True)
class Case:
    id: str
    method: str
    target: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    differs: str = ""
    status: int | None = None
    """What the gateway answers where that differs."""
    says: str = ""
    """A pattern of its error there."""


def js(document: Any) -> bytes:
    return json.dumps(document).encode()


FP32 = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3.5]}
IDENTITY = "/v2/models/identity_fp32/infer"


def infer(*inputs: dict[str, Any], **more: Any) -> bytes:
    return js({"inputs": list(inputs), **more})


STRICT = {"differs": "stricter-json", "status": 400}
FIVE = {"differs": "400-for-500", "status": 400}

PAGES = [
    Case("live", "GET", "/v2/health/live", differs="health-body"),
    Case("ready", "GET", "/v2/health/ready", differs="health-body"),
    Case("live-post", "POST", "/v2/health/live"),
    Case("live-unknown", "GET", "/v2/health/lively"),
    Case("server", "GET", "/v2"),
    Case("server-slash", "GET", "/v2/"),
    Case("server-post", "POST", "/v2"),
    Case("server-put", "PUT", "/v2", b""),
    Case("models", "GET", "/v2/models"),
    Case("metadata", "GET", "/v2/models/income"),
    Case("metadata-version", "GET", "/v2/models/income/versions/2"),
    Case("metadata-version-unknown", "GET", "/v2/models/income/versions/9"),
    Case("metadata-version-word", "GET", "/v2/models/income/versions/v10"),
    Case("metadata-unknown", "GET", "/v2/models/nothing"),
    Case("metadata-post", "POST", "/v2/models/income"),
    Case("metadata-delete", "DELETE", "/v2/models/income"),
    Case("metadata-escaped", "GET", "/v2/models/%69ncome", differs="escapes", status=200),
    Case("metadata-slash", "GET", "/v2/models/income/"),
    Case("config", "GET", "/v2/models/income/config"),
    Case("config-version", "GET", "/v2/models/digits/versions/1/config"),
    Case("config-unknown", "GET", "/v2/models/nothing/config"),
    Case("config-post", "POST", "/v2/models/income/config"),
    Case("model-ready", "GET", "/v2/models/income/ready", differs="health-body"),
    Case("model-ready-version", "GET", "/v2/models/income/versions/3/ready", differs="health-body"),
    Case("model-ready-version-unknown", "GET", "/v2/models/income/versions/9/ready"),
    Case("model-ready-unknown", "GET", "/v2/models/nothing/ready", differs="404-for-400", status=404),
    Case("model-ready-post", "POST", "/v2/models/income/ready"),
    Case("stats", "GET", "/v2/models/sequence_string/stats"),
    Case("stats-version", "GET", "/v2/models/sequence_string/versions/1/stats"),
    Case("stats-version-unknown", "GET", "/v2/models/income/versions/9/stats", differs="404-for-400", status=404),
    Case("stats-unknown", "GET", "/v2/models/nothing/stats", differs="404-for-400", status=404),
    Case("stats-post", "POST", "/v2/models/income/stats"),
    Case("page-unknown", "GET", "/v2/models/income/nothing"),
    Case("page-deep", "GET", "/v2/models/income/infer/more"),
    Case("infer-get", "GET", IDENTITY),
    Case("infer-put", "PUT", IDENTITY, infer(FP32)),
    Case("index", "POST", "/v2/repository/index"),
    Case("index-ready", "POST", "/v2/repository/index", js({"ready": True})),
    Case("index-not-ready", "POST", "/v2/repository/index", js({"ready": False})),
    Case("index-broken", "POST", "/v2/repository/index", b"{", **FIVE),
    Case("index-ready-word", "POST", "/v2/repository/index", js({"ready": "yes"}), **FIVE),
    Case("index-get", "GET", "/v2/repository/index"),
    Case("index-named", "POST", "/v2/repository/mine/index"),
    Case("load-unknown", "POST", "/v2/repository/models/nothing/load"),
    Case("load-get", "GET", "/v2/repository/models/income/load"),
    Case("load-named", "POST", "/v2/repository/mine/models/batched/load"),
    Case("load-broken", "POST", "/v2/repository/models/batched/load", b"{", **FIVE),
    Case("load-config-broken", "POST", "/v2/repository/models/batched/load", js({"parameters": {"config": "{"}})),
    Case("load-parameter", "POST", "/v2/repository/models/batched/load", js({"parameters": {"nothing": "x"}})),
    Case("unload-unknown", "POST", "/v2/repository/models/nothing/unload"),
    Case("load-blank", "POST", "/v2/repository/models/%20/load", differs="stricter-name", status=400, says="blank"),
    Case("load-up", "POST", "/v2/repository/models/..%2Fx/load", differs="stricter-name", status=400, says="path"),
    Case("trace", "GET", "/v2/trace/setting"),
    Case("trace-model", "GET", "/v2/models/income/trace/setting"),
    Case("trace-model-unknown", "GET", "/v2/models/nothing/trace/setting"),
    Case("trace-broken", "POST", "/v2/trace/setting", b"{"),
    Case("trace-unknown", "POST", "/v2/trace/setting", js({"nothing": 1})),
    Case("trace-put", "PUT", "/v2/trace/setting", b"{}"),
    Case("logging", "GET", "/v2/logging"),
    Case("logging-unknown", "POST", "/v2/logging", js({"nothing": 1})),
    Case("logging-wrong", "POST", "/v2/logging", js({"log_info": "x"})),
    Case("logging-put", "PUT", "/v2/logging", b"{}"),
    Case("shm-status", "GET", "/v2/systemsharedmemory/status"),
    Case("shm-region-unknown", "GET", "/v2/systemsharedmemory/region/nothing/status"),
    Case("shm-register-nameless", "POST", "/v2/systemsharedmemory/register", b"{}"),
    Case("shm-register-empty", "POST", "/v2/systemsharedmemory/region/r/register"),
    Case("shm-register-keyless", "POST", "/v2/systemsharedmemory/region/r/register", js({"byte_size": 4})),
    Case(
        "shm-register-missing",
        "POST",
        "/v2/systemsharedmemory/region/r/register",
        js({"key": "/no_such_key", "offset": 0, "byte_size": 4}),
    ),
    Case("shm-unregister", "POST", "/v2/systemsharedmemory/unregister"),
    Case("shm-unregister-unknown", "POST", "/v2/systemsharedmemory/region/nothing/unregister"),
    Case("shm-status-post", "POST", "/v2/systemsharedmemory/status"),
    Case("shm-unknown", "GET", "/v2/systemsharedmemory/nothing"),
    Case("cuda-status", "GET", "/v2/cudasharedmemory/status"),
    Case(
        "cuda-register",
        "POST",
        "/v2/cudasharedmemory/region/r/register",
        js({"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 4}),
    ),
    Case("cuda-unregister", "POST", "/v2/cudasharedmemory/unregister"),
    Case("cuda-region-unknown", "GET", "/v2/cudasharedmemory/region/nothing/status"),
]


def tensor(name: str, datatype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 1, 255],
    "UINT16": [0, 1, 65535],
    "UINT32": [0, 1, 2**32 - 1],
    "UINT64": [0, 1, 2**64 - 1],
    "INT8": [-128, 0, 127],
    "INT16": [-(2**15), 0, 2**15 - 1],
    "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 0, 2**63 - 1],
    "FP16": [0.5, -2.0, 65504.0],
    "FP32": [0.1, -2.5, 3e38],
    "FP64": [0.1, -2.5, 1e308],
    "BYTES": ["", "a\u00e9\u20ac", 'quote"\\\n'],
}
JSON_TYPES = [datatype for datatype in SAMPLES if datatype != "FP16"]
ALL = "/v2/models/identity_all/infer"


def every_type(how: str) -> list[Case]:
    cases = []
    for datatype, items in SAMPLES.items():
        blob = raw(datatype, items)
        binary_in, binary_out = how in ("binary", "in"), how in ("binary", "out")
        item = tensor(f"INPUT_{datatype}", datatype, [3])
        head: dict[str, Any] = {"inputs": [item], "id": "t"}
        if binary_in:
            item["parameters"] = {"binary_data_size": len(blob)}
        else:
            item["data"] = items
        head["outputs"] = [{"name": f"OUTPUT_{datatype}", "parameters": {"binary_data": binary_out}}]
        body, headers = joined(head, blob) if binary_in else (js(head), {})
        cases.append(Case(f"{how}-{datatype}", "POST", ALL, body, headers))
    return cases


BINARY_HEAD = {"inputs": [tensor("INPUT0", "FP32", [1, 3], parameters={"binary_data_size": 12})]}
BINARY_BODY, BINARY_HEADERS = joined(BINARY_HEAD, raw("FP32", [1, 2, 3.5]))
MIXED_BODY, MIXED_HEADERS = joined(
    {
        "id": "mixed",
        "inputs": [
            tensor("INPUT_INT32", "INT32", [2], parameters={"binary_data_size": 8}),
            tensor("INPUT_BYTES", "BYTES", [2], data=["x", "yz"]),
            tensor("INPUT_FP16", "FP16", [1], parameters={"binary_data_size": 2}),
            tensor("INPUT_BOOL", "BOOL", [0], parameters={"binary_data_size": 0}),
        ],
        "outputs": [
            {"name": "OUTPUT_INT32"},
            {"name": "OUTPUT_BYTES", "parameters": {"binary_data": True}},
            {"name": "OUTPUT_FP16", "parameters": {"binary_data": True}},
            {"name": "OUTPUT_BOOL", "parameters": {"binary_data": True}},
        ],
    },
    raw("INT32", [7, 8]),
    raw("FP16", [1.5]),
)
DEEP = tensor("INPUT_INT32", "INT32", [1])
DIGIT = tensor("image", "FP32", [2, 8, 8], data=[float(i % 17) for i in range(128)])
ECHO = "/v2/models/params_echo/infer"
WORD = tensor("INPUT0", "BYTES", [1], data=["word"])

FORMS = [
    Case("json", "POST", IDENTITY, infer(FP32, id="7")),
    Case("json-nested", "POST", IDENTITY, infer({**FP32, "shape": [2, 2], "data": [[1, 2], [3, 4]]})),
    Case("json-nan", "POST", IDENTITY, infer({**FP32, "data": [float("nan"), float("inf"), -float("inf")]})),
    Case("json-output", "POST", IDENTITY, infer(FP32, outputs=[{"name": "OUTPUT0"}])),
    Case("json-chunked", "POST", IDENTITY, [infer(FP32)[:20], infer(FP32)[20:]]),
    Case("json-version", "POST", "/v2/models/identity_fp32/versions/1/infer", infer(FP32)),
    Case("json-utf8-id", "POST", IDENTITY, infer(FP32, id="\u00e9\u20ac")),
    Case("json-ihcl-whole", "POST", IDENTITY, infer(FP32), {"inference-header-content-length": str(len(infer(FP32)))}),
    Case("json-ask-binary", "POST", IDENTITY, infer(FP32, parameters={"binary_data_output": True})),
    Case("json-empty-tensor", "POST", IDENTITY, infer({**FP32, "shape": [0, 3], "data": []})),
    Case("binary", "POST", IDENTITY, BINARY_BODY, BINARY_HEADERS),
    Case("mixed", "POST", ALL, MIXED_BODY, MIXED_HEADERS),
    Case("raw", "POST", "/v2/models/slow/infer", raw("INT32", [0]), {"inference-header-content-length": "0"}),
    Case("raw-two-unknown", "POST", IDENTITY, raw("FP32", [0]), {"inference-header-content-length": "0"}),
    Case("raw-bytes", "POST", ECHO, b"whole body", {"inference-header-content-length": "0"}),
    Case("raw-many-inputs", "POST", ALL, b"1234", {"inference-header-content-length": "0"}),
    Case("gzip", "POST", IDENTITY, gzip.compress(infer(FP32)), {"content-encoding": "gzip"}),
    Case("deflate", "POST", IDENTITY, zlib.compress(infer(FP32)), {"content-encoding": "deflate"}),
    Case("gzip-binary", "POST", IDENTITY, gzip.compress(BINARY_BODY), {**BINARY_HEADERS, "content-encoding": "gzip"}),
    Case("identity-encoding", "POST", IDENTITY, infer(FP32), {"content-encoding": "identity"}),
    Case("brotli", "POST", IDENTITY, infer(FP32), {"content-encoding": "br"}),
    Case("gzip-broken", "POST", IDENTITY, b"no gzip at all", {"content-encoding": "gzip"}),
    Case("accept-gzip", "POST", IDENTITY, infer(FP32), {"accept-encoding": "gzip"}),
    Case("accept-deflate", "POST", IDENTITY, infer(FP32), {"accept-encoding": "deflate"}),
    Case("accept-both", "POST", IDENTITY, infer(FP32), {"accept-encoding": "gzip, deflate"}),
    Case("accept-none", "POST", IDENTITY, infer(FP32), {"accept-encoding": "br"}),
    Case("accept-gzip-binary", "POST", IDENTITY, BINARY_BODY, {**BINARY_HEADERS, "accept-encoding": "gzip"}),
    Case(
        "classes",
        "POST",
        "/v2/models/digits/infer",
        infer(DIGIT, outputs=[{"name": "scores", "parameters": {"classification": 3}}]),
    ),
    Case(
        "classes-binary",
        "POST",
        "/v2/models/digits/infer",
        infer(DIGIT, outputs=[{"name": "scores", "parameters": {"classification": 12, "binary_data": True}}]),
    ),
    Case(
        "parameters",
        "POST",
        ECHO,
        infer(WORD, id="p", parameters={"s": "x", "i": 3, "b": True, "d": 1.5, "priority": 0, "timeout": 9000000}),
    ),
    Case("headers-forwarded", "POST", ECHO, infer(WORD), {"x-fwd-one": "1", "X-Fwd-Two_Score": "2", "x-other": "3"}),
    Case("two-outputs", "POST", ECHO, infer(WORD, outputs=[{"name": "OUTPUT0"}, {"name": "SEEN"}])),
    Case("optional-absent", "POST", "/v2/models/writer/infer", infer(tensor("text_input", "BYTES", [1], data=["a"]))),
    Case("fails", "POST", "/v2/models/fails/infer", infer(tensor("HOW", "BYTES", [1], data=["raise"]))),
    *(
        Case(
            f"fails-{code}",
            "POST",
            "/v2/models/fails/infer",
            infer(tensor("HOW", "BYTES", [1], data=["error:" + code])),
        )
        for code in ("INVALID_ARG", "NOT_FOUND", "UNAVAILABLE", "UNSUPPORTED", "INTERNAL", "UNKNOWN", "CANCELLED")
    ),
]

BROKEN = [
    Case("not-json", "POST", IDENTITY, b"{", **FIVE),
    Case("empty", "POST", IDENTITY, b"{}", **FIVE),
    Case("array", "POST", IDENTITY, b"[]", **FIVE),
    Case("no-body", "POST", IDENTITY),
    Case("no-inputs", "POST", IDENTITY, infer()),
    Case("no-data", "POST", IDENTITY, infer(tensor("INPUT0", "FP32", [1, 3]))),
    Case("two-contents", "POST", IDENTITY, infer({**FP32, "parameters": {"shared_memory_region": "r"}})),
    Case("unknown-input", "POST", IDENTITY, infer({**FP32, "name": "X"})),
    Case("unknown-output", "POST", IDENTITY, infer(FP32, outputs=[{"name": "X"}])),
    Case("wrong-type", "POST", IDENTITY, infer({**FP32, "datatype": "INT32"}), **FIVE),
    Case("no-such-type", "POST", IDENTITY, infer({**FP32, "datatype": "FP33"})),
    Case("too-few", "POST", IDENTITY, infer({**FP32, "data": [1]}), **FIVE),
    Case("too-many", "POST", IDENTITY, infer({**FP32, "data": [1, 2, 3, 4]}), **FIVE),
    Case("words", "POST", IDENTITY, infer({**FP32, "data": ["a", "b", "c"]}), **FIVE),
    Case("rank", "POST", IDENTITY, infer({**FP32, "shape": [3]})),
    Case("negative", "POST", IDENTITY, infer({**FP32, "shape": [-1, 3]}), **FIVE),
    Case("twice", "POST", IDENTITY, infer(FP32, FP32)),
    Case("batch-too-large", "POST", "/v2/models/batched/infer", infer(tensor("INPUT0", "FP32", [9, 4], data=[0] * 36))),
    Case("fp16-json", "POST", ALL, infer(tensor("INPUT_FP16", "FP16", [1], data=[1]))),
    Case(
        "fp16-json-out",
        "POST",
        ALL,
        *joined({"inputs": [tensor("INPUT_FP16", "FP16", [1], parameters={"binary_data_size": 2})]}, b"12"),
    ),
    Case("reserved", "POST", IDENTITY, infer(FP32, parameters={"triton_x": 1})),
    Case("priority-word", "POST", IDENTITY, infer(FP32, parameters={"priority": "x"}), **FIVE),
    Case("id-number", "POST", IDENTITY, infer(FP32, id=7), **FIVE),
    Case("unknown-model", "POST", "/v2/models/nothing/infer", infer(FP32)),
    Case("unknown-version", "POST", "/v2/models/income/versions/9/infer", infer(FP32)),
    Case("ihcl-negative", "POST", IDENTITY, infer(FP32), {"inference-header-content-length": "-1"}),
    Case("ihcl-large", "POST", IDENTITY, infer(FP32), {"inference-header-content-length": "9999"}),
    Case("ihcl-beyond-int32", "POST", IDENTITY, infer(FP32), {"inference-header-content-length": str(2**31)}),
    Case("ihcl-word", "POST", IDENTITY, infer(FP32), {"inference-header-content-length": "x"}),
    Case("binary-short", "POST", IDENTITY, BINARY_BODY[:-1], BINARY_HEADERS),
    Case("binary-long", "POST", IDENTITY, BINARY_BODY + b"x", BINARY_HEADERS),
    Case("binary-no-ihcl", "POST", IDENTITY, BINARY_BODY),
    Case(
        "shm-unknown",
        "POST",
        IDENTITY,
        infer(
            tensor("INPUT0", "FP32", [1, 3], parameters={"shared_memory_region": "r", "shared_memory_byte_size": 12})
        ),
    ),
    Case(
        "int-range", "POST", ALL, infer(tensor("INPUT_UINT8", "UINT8", [1], data=[300])), **STRICT, says="INPUT_UINT8"
    ),
    Case("key-twice", "POST", IDENTITY, b'{"id":"a","id":"b",' + infer(FP32)[1:], **STRICT, says="Duplicate"),
    Case(
        "deep",
        "POST",
        ALL,
        js({"inputs": [{**DEEP, "data": "DEEP"}]}).replace(b'"DEEP"', b"[" * 200 + b"1" + b"]" * 200),
        **STRICT,
    ),
    Case("output-twice", "POST", IDENTITY, infer(FP32, outputs=[{"name": "OUTPUT0"}] * 2), **STRICT, says="OUTPUT0"),
    Case(
        "decoupled",
        "POST",
        "/v2/models/repeat_int32/infer",
        infer(
            tensor("IN", "INT32", [1], data=[1]),
            tensor("DELAY", "UINT32", [1], data=[0]),
            tensor("WAIT", "UINT32", [1], data=[0]),
        ),
    ),
    Case(
        "sequence-no-start",
        "POST",
        "/v2/models/sequence_accumulate/infer",
        infer(tensor("INPUT", "INT32", [1, 1], data=[1]), parameters={"sequence_id": 987654}),
    ),
    Case(
        "sequence-no-id",
        "POST",
        "/v2/models/sequence_accumulate/infer",
        infer(tensor("INPUT", "INT32", [1, 1], data=[1])),
    ),
]

CASES = [*PAGES, *every_type("json"), *every_type("binary"), *every_type("in"), *every_type("out"), *FORMS, *BROKEN]


def plain(reply: Answer) -> Answer:
    coding = reply.headers.get("content-encoding")
    if coding:
        reply.body = gzip.decompress(reply.body) if coding == "gzip" else zlib.decompress(reply.body)
    return reply


def comparable(reply: Answer) -> Any:
    """The body by value."""
    if not reply.body:
        return b""
    if reply.headers.get("content-type") == "application/octet-stream":
        return tensors(reply)
    return tidy(json.loads(reply.body))


FP32_MAX = float(np.finfo(np.float32).max)
CHANGING = re.compile(
    r"last_inference|inference_count|execution_count|inference_stats|batch_stats|memory_usage|response_stats"
)


def tidy(value: Any) -> Any:
    """Without what differs from one call to the next; NaN made equal to itself."""
    if isinstance(value, dict):
        return {k: None if CHANGING.fullmatch(k) else tidy(v) for k, v in value.items()}
    if isinstance(value, list):
        return [tidy(v) for v in value]
    if isinstance(value, float) and abs(value) < FP32_MAX:
        return float(np.float32(value))  # DIFFERS["float-text"]
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_same_as_triton(triton, shared_gateway, case):
    theirs = plain(ask(triton.http, case.method, case.target, case.body, case.headers))
    ours = plain(ask(shared_gateway.http, case.method, case.target, case.body, case.headers))
    assert ours.headers["x-request-id"]
    if case.differs == "health-body":
        assert ours.status == theirs.status == 200
        assert not theirs.body, DIFFERS[case.differs]
        word = "live" if case.target.endswith("live") else "ready"
        assert ours.json() == {word: True}
        return
    if case.differs:
        assert case.differs in DIFFERS
        assert (ours.status, theirs.status) != (theirs.status, ours.status), "no difference: take it out of the table"
        assert ours.status == case.status, (theirs.status, theirs.body, ours.body)
        assert ours.status == 200 or case.says in ours.error
        return
    seen = (ours.status, ours.body[:300], theirs.status, theirs.body[:300])
    assert ours.status == theirs.status, seen
    if ours.status != 200:
        assert ours.error, seen  # the shape and the type
        if theirs.body:
            assert list(theirs.json()) == ["error"]
        return
    assert ours.headers.get("content-type") == theirs.headers.get("content-type"), seen
    for name in ("content-encoding",):
        assert ours.headers.get(name) == theirs.headers.get(name), (ours.headers, theirs.headers)
    wanted = comparable(theirs)
    if case.id == "shm-status":  # the gateway keeps its own regions to itself
        wanted = [row for row in wanted if not row["name"].startswith(OWN_REGIONS)]
    assert comparable(ours) == wanted, seen
    if case.body and "/infer" in case.target:
        assert list(comparable(ours)) == list(comparable(theirs)), "members in the same order"
