"""`ModelStreamInfer`, server-sent events and the generate extension, against Triton's own behaviour."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_fixture import start_gateway
from sides import ask
from tritonclient.grpc import service_pb2 as pb

EMPTY_FINAL = "triton_enable_empty_final_response"
METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(scope="module")
def routed(tmp_path_factory, triton):
    """Routes with a split, a shadow and a short timeout, besides every model under its own name."""
    gateway = start_gateway(
        tmp_path_factory.mktemp("streams"),
        f"""
upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}
passthrough: true
routes:
  credit:
    variants:
      - {{name: champion, model: income, version: "1", weight: 80}}
      - {{name: challenger, model: income, version: "2", weight: 20}}
  credit-by-id:
    assign_by: id
    variants:
      - {{name: champion, model: income, version: "1", weight: 80}}
      - {{name: challenger, model: income, version: "2", weight: 20}}
  sums:
    variants:
      - {{name: one, model: sequence_accumulate}}
      - {{name: two, model: sequence_string}}
  hasty: {{variants: [{{name: only, model: slow}}], timeout: 300ms}}
  broken:
    variants: [{{name: bad, model: fails}}, {{name: good, model: params_echo, weight: 0}}]
    fallback: [good]
""",
    )
    yield gateway
    assert gateway.stop() == 0
    assert "never retrieved" not in gateway.log.read_text()
    assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()


def message(model: str, call_id: str = "", version: str = "", **parameters: Any) -> Any:
    made = pb.ModelInferRequest(model_name=model, model_version=version, id=call_id)
    for key, value in parameters.items():
        field = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(made.parameters[key], field, value)
    return made


def add(made: Any, name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    item = made.inputs.add(name=name, datatype=datatype, shape=shape)
    for key, items in contents.items():
        getattr(item.contents, key).extend(items)
    return made


def repeat(values: list[int], delay_ms: int = 0, call_id: str = "", **parameters: Any) -> Any:
    made = message("repeat_int32", call_id, **parameters)
    add(made, "IN", "INT32", [len(values)], int_contents=values)
    add(made, "DELAY", "UINT32", [len(values)], uint_contents=[delay_ms] * len(values))
    return add(made, "WAIT", "UINT32", [1], uint_contents=[0])


def word(text: str, call_id: str = "", model: str = "params_echo", **parameters: Any) -> Any:
    return add(message(model, call_id, **parameters), "INPUT0", "BYTES", [1], bytes_contents=[text.encode()])


def slow(milliseconds: int, call_id: str = "", model: str = "slow") -> Any:
    return add(message(model, call_id), "MILLISECONDS", "INT32", [1, 1], int_contents=[milliseconds])


def fails(how: str, call_id: str = "", model: str = "fails") -> Any:
    return add(message(model, call_id), "HOW", "BYTES", [1], bytes_contents=[how.encode()])


def stream(
    address: str, messages: Iterable[Any], metadata: Any = (), timeout: float = 30
) -> tuple[list[Any], str, Any]:
    """(answers, code, initial metadata) of a stream that is half-closed after its messages."""
    answers: list[Any] = []
    with grpc.insecure_channel(address) as channel:
        method = channel.stream_stream(
            METHOD,
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        rpc = method(iter(messages), timeout=timeout, metadata=metadata)
        with contextlib.suppress(grpc.RpcError):
            answers.extend(rpc)
        return answers, rpc.code().name, dict(rpc.initial_metadata() or ())


def seen(answers: list[Any]) -> list[Any]:
    """What a client reads of the answers: id, error or first output, final flag."""
    found = []
    for answer in answers:
        response = answer.infer_response
        found.append(
            (
                response.id,
                answer.error_message,
                [bytes(r) for r in response.raw_output_contents],
                {k: v.bool_param for k, v in response.parameters.items()},
            )
        )
    return found


BOTH = [
    ("one", [word("a", "1")]),
    ("many-in-order", [word(str(i), str(i)) for i in range(50)]),
    ("same-id", [repeat([1], call_id="1"), repeat([1], call_id="1")]),
    ("plain-in-order", [slow(300, "slow"), *(word(str(i), f"w{i}") for i in range(3))]),
    ("refusals-in-order", [slow(300, "1"), word("a", "2", model="nothing"), fails("x", "3", model="params_echo"), word("b", "4"), fails("error:INTERNAL", "5"), word("c", "6")]),
    ("no-id", [repeat([1]), repeat([2])]),
    ("decoupled", [repeat([7, 8, 9], call_id="d")]),
    ("decoupled-final", [repeat([7, 8, 9], call_id="d", **{EMPTY_FINAL: True})]),
    ("decoupled-nothing", [repeat([], call_id="d")]),
    ("decoupled-nothing-final", [repeat([], call_id="d", **{EMPTY_FINAL: True})]),
    ("plain-final", [word("a", "1", **{EMPTY_FINAL: True})]),
    ("unknown-model", [word("a", "1", model="nothing"), word("b", "2")]),
    ("wrong-input", [fails("x", "1", model="params_echo"), word("b", "2")]),
    ("model-error", [fails("error:INTERNAL", "1"), word("b", "2")]),
    ("decoupled-error", [add(add(add(message("repeat_int32", "e"), "IN", "INT32", [2], int_contents=[1, 2]), "DELAY", "UINT32", [1], uint_contents=[0]), "WAIT", "UINT32", [1], uint_contents=[0])]),
    ("nothing", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "messages"), BOTH, ids=lambda v: v if isinstance(v, str) else "")
def test_same_as_triton(triton, routed, name, messages):
    """Answers, their order, ids, final flags and the status; error texts are compared by presence."""
    theirs, their_code, _ = stream(triton.grpc, messages)
    ours, our_code, initial = stream(routed.grpc, messages)

    def shape(answers: list[Any]) -> list[Any]:
        # The final flag of an error: Triton leaves it out of those it made before the model was asked.
        rows = [(i, bool(e), () if "SEEN" in name else raws, {} if e else p) for i, e, raws, p in seen(answers)]
        # Models of one stream are not ordered among each other.
        return rows if name.endswith("in-order") else sorted(rows, key=repr)

    assert shape(ours) == shape(theirs), (seen(ours), seen(theirs))
    assert our_code == their_code == "OK"
    assert initial["x-request-id"]


@pytest.mark.parametrize(
    "bad",
    [fails("error:INTERNAL", "1"), word("a", "1", model="nothing"), b"\xff\xff"],
    ids=["model", "unknown", "garbage"],
)
def test_triton_grpc_error_ends_the_stream(routed, bad):
    """With `triton_grpc_error: true` the first error is the stream's status, with metadata all the same."""
    messages: Iterator[Any] = iter([bad])
    answers, code, initial = stream(routed.grpc, messages, metadata=(("triton_grpc_error", "true"),))
    assert not answers
    assert code == {"fails": "INTERNAL", "nothing": "NOT_FOUND"}.get(getattr(bad, "model_name", ""), "INVALID_ARGUMENT")
    assert initial["x-request-id"]


def test_first_error_that_ends_the_stream_waits_for_the_answers_before_it(routed):
    """What was asked before the call that failed has been answered when the stream ends."""
    messages = iter([slow(300, "1"), word("a", "2", model="nothing"), word("b", "3")])
    answers, code, _ = stream(routed.grpc, messages, metadata=(("triton_grpc_error", "true"),))
    assert [answer.infer_response.id for answer in answers] == ["1"]
    assert code == "NOT_FOUND"


def test_garbage_keeps_its_place(routed):
    """A message that cannot be read is answered after the calls before it and before those after it."""
    answers, code, _ = stream(routed.grpc, [slow(300, "1"), b"\xff\xff", word("b", "2")])
    assert [(answer.infer_response.id, bool(answer.error_message)) for answer in answers] == [
        ("1", False),
        ("", True),
        ("2", False),
    ]
    assert code == "OK"


def test_garbage_is_one_message_only(routed):
    """A message that cannot be read is answered and counted, and the stream goes on."""
    labels = {"protocol": "grpc", "code": "INVALID_ARGUMENT", "route": ""}
    before = routed.metric("tidegate_requests_total", **labels)
    answers, code, _ = stream(routed.grpc, [b"\xff\xff", word("b", "2")])
    assert code == "OK"
    assert [bool(answer.error_message) for answer in answers] == [True, False]
    assert routed.metric("tidegate_requests_total", **labels) == before + 1


def test_variant_and_request_id_lead_the_stream(routed):
    made = add(message("credit", "c"), "features", "FP32", [1, 14], fp32_contents=[0.0] * 14)
    answers, _, initial = stream(routed.grpc, [made], metadata=(("x-request-id", "mine-1"),))
    assert initial["x-request-id"] == "mine-1"
    assert initial["x-tidegate-variant"] in ("champion", "challenger")
    response = answers[0].infer_response
    assert (response.model_name, response.model_version) == (
        "credit",
        {"champion": "1", "challenger": "2"}[initial["x-tidegate-variant"]],
    )


def test_split_on_one_stream(routed):
    """Each message is assigned alone, by the pinned formula: 1,000 ids on one stream."""
    calls = [
        add(message("credit-by-id", str(i)), "features", "FP32", [1, 14], fp32_contents=[0.0] * 14) for i in range(1000)
    ]
    answers, code, _ = stream(routed.grpc, calls)
    assert code == "OK"
    assert {answer.infer_response.model_name for answer in answers} == {"credit-by-id"}
    got = {answer.infer_response.id: answer.infer_response.model_version for answer in answers}
    assert got == {str(i): "1" if share("credit-by-id", str(i)) < 0.8 else "2" for i in range(1000)}


def share(salt: str, unit: str) -> float:
    """The u of the assignment formula."""
    return int.from_bytes(hashlib.sha256(f"{salt}\0{unit}".encode()).digest()[:8], "big") / 2**64


def test_calls_without_a_unit_draw_once_a_stream(routed):
    """Calls of one stream stay together; over 60 streams both variants serve (P(miss) < 2e-6)."""
    one = add(message("credit"), "features", "FP32", [1, 14], fp32_contents=[0.0] * 14)
    served = []
    for _ in range(60):
        answers, _, _ = stream(routed.grpc, [one] * 3)
        versions = {answer.infer_response.model_version for answer in answers}
        assert len(versions) == 1
        served += versions
    assert set(served) == {"1", "2"}


def test_sequences_stay_on_their_variant(routed):
    """Interleaved sequences on one stream: each goes to one variant whole, so that its sum is right."""
    messages = []
    for step in range(5):
        for sequence in range(1, 9):
            made = message(
                "sums",
                f"{sequence}-{step}",
                sequence_id=900 + sequence,
                sequence_start=step == 0,
                sequence_end=step == 4,
            )
            # The two models differ in their batch dimension; a call that went to the wrong one would be refused.
            shape = [1]
            messages.append(add(made, "INPUT", "INT32", shape, int_contents=[sequence]))
    # `sequence_accumulate` takes [b, 1]: ask which one a sequence is on by its first answer.
    answers, code, _ = stream(routed.grpc, messages)
    assert code == "OK"
    by_sequence: dict[str, list[bool]] = {}
    for answer in answers:
        by_sequence.setdefault(answer.infer_response.id.split("-")[0], []).append(not answer.error_message)
    assert all(len(set(found)) == 1 for found in by_sequence.values()), by_sequence
    for sequence, found in by_sequence.items():
        if found[0]:
            sums = [
                int.from_bytes(a.infer_response.raw_output_contents[0], "little")
                for a in answers
                if a.infer_response.id.startswith(f"{sequence}-")
            ]
            assert sums == [int(sequence) * (step + 1) for step in range(5)]


def test_many_routes_on_one_stream(routed):
    """Calls of different models: every call gets its own answers; decoupled ones wait for nobody."""
    messages = [slow(1000, "slow"), *(word(str(i), f"w{i}") for i in range(5)), repeat([1, 2, 3], 10, call_id="r")]
    answers, code, _ = stream(routed.grpc, messages)
    assert code == "OK"
    ids = [answer.infer_response.id for answer in answers]
    assert [i for i in ids if i != "r"] == ["slow", *(f"w{i}" for i in range(5))]
    assert ids[:3] == ["r"] * 3
    assert not any(answer.error_message for answer in answers)


def test_timeout_of_one_call(routed):
    """A call beyond its route's timeout gets an error; the stream and the other calls go on."""
    began = time.monotonic()
    answers, code, _ = stream(routed.grpc, [word("a", "ok"), slow(6000, "late", model="hasty")])
    assert code == "OK"
    by_id = {answer.infer_response.id: answer.error_message for answer in answers}
    assert by_id["ok"] == ""
    assert "time" in by_id["late"], by_id
    assert time.monotonic() - began < 5.5, "the client waited for an answer that it was told not to wait for"


def test_fallback_on_a_stream(routed):
    """The chosen variant's model fails: the fallback answers under the route's name, though it takes other inputs."""
    before = routed.metric("tidegate_fallbacks_total", route="broken")
    answers, _, _ = stream(routed.grpc, [fails("error:INTERNAL", "f", model="broken")])
    assert len(answers) == 1
    assert routed.metric("tidegate_fallbacks_total", route="broken") == before + 1


def test_deadline_of_the_stream(routed):
    began = time.monotonic()
    answers, code, _ = stream(routed.grpc, [slow(20_000, "late")], timeout=0.5)
    assert (answers, code) == ([], "DEADLINE_EXCEEDED")
    assert time.monotonic() - began < 15


def test_client_leaves_early_and_triton_survives(triton, routed):
    """Decoupled answers under way, the client cancels, many times over: Triton goes on."""

    def leave(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            method = channel.stream_stream(
                METHOD,
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            rpc = method(iter([repeat(list(range(30)), 5, call_id=str(i)) for i in range(4)]))
            next(rpc)
            rpc.cancel()

    for _ in range(3):
        threads = [threading.Thread(target=leave, args=(routed.grpc,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    os.kill(triton.pid, 0)
    answers, code, _ = stream(routed.grpc, [repeat([1, 2, 3], call_id="after")])
    assert (len(answers), code) == (3, "OK")
    assert routed.metric("tidegate_upstream_events_total", event="detach") >= 20


def test_half_close_waits_for_every_answer(routed):
    """The client sends no more before the first answer; all of them still come."""
    answers, code, _ = stream(routed.grpc, [repeat(list(range(20)), 10, call_id="r"), slow(300, "s")])
    assert code == "OK"
    assert len(answers) == 21


def test_slow_reader_holds_up_only_itself(routed):
    """A client that does not read: the gateway's memory stays, and others are served meanwhile."""
    megabyte = bytes(1024 * 1024)
    made = message("identity_fp32", "big")
    made.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 256 * 1024])
    made.raw_input_contents.append(megabyte)
    data = made.SerializeToString()
    sent = 0
    stopped = threading.Event()

    def requests() -> Iterator[bytes]:
        nonlocal sent
        while sent < 300 and not stopped.is_set():
            sent += 1
            yield data

    before = resident(routed.process.pid)
    with grpc.insecure_channel(
        routed.grpc, options=[("grpc.max_receive_message_length", -1), ("grpc.http2.lookahead_bytes", 65536)]
    ) as channel:
        rpc = channel.stream_stream(METHOD)(requests())
        time.sleep(1.5)
        other, code, _ = stream(routed.grpc, [word("a", "1")])
        assert (len(other), code) == (1, "OK")
        grown = resident(routed.process.pid) - before
        assert sent < 300, "the gateway read on although nobody took the answers"
        assert grown < 200 * 1024, f"{grown} KiB after {sent} MiB"
        first = pb.ModelStreamInferResponse.FromString(next(rpc))
        assert first.infer_response.raw_output_contents[0] == megabyte
        stopped.set()
        rpc.cancel()


def resident(pid: int) -> int:
    """KiB of all processes of a gateway."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if pid in (int(entry.name), parent):
                    total += int((entry / "statm").read_text().split()[1]) * 4
    return total


# -- server-sent events ----------------------------------------------------------------------------------------

EVENTS = {"accept": "text/event-stream"}
REPEAT = {
    "id": "r",
    "inputs": [
        {"name": "IN", "datatype": "INT32", "shape": [3], "data": [4, 5, 6]},
        {"name": "DELAY", "datatype": "UINT32", "shape": [3], "data": [1, 1, 1]},
        {"name": "WAIT", "datatype": "UINT32", "shape": [1], "data": [0]},
    ],
}


def js(document: Any) -> bytes:
    return json.dumps(document).encode()


def events(body: bytes) -> list[Any]:
    assert body.endswith(b"\n\n")
    return [json.loads(event.removeprefix(b"data: ")) for event in body.split(b"\n\n")[:-1]]


def test_decoupled_over_http(routed):
    """`POST infer` with `Accept: text/event-stream`: OIP answers as events, of decoupled models, too."""
    reply = ask(routed.http, "POST", "/v2/models/repeat_int32/infer", js(REPEAT), EVENTS)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-request-id"]
    assert reply.headers["x-tidegate-variant"] == "default"
    found = events(reply.body)
    assert [event["outputs"][0]["data"] for event in found] == [[4], [5], [6]]
    assert {event["id"] for event in found} == {"r"}
    assert {event["model_name"] for event in found} == {"repeat_int32"}


def test_plain_model_as_events(routed):
    document = {"inputs": [{"name": "INPUT0", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}
    reply = ask(routed.http, "POST", "/v2/models/params_echo/infer", js(document), EVENTS)
    assert reply.status == 200
    assert len(events(reply.body)) == 1


def test_error_before_the_first_event_is_an_answer(routed):
    wrong = {**REPEAT, "inputs": REPEAT["inputs"][:2]}
    reply = ask(routed.http, "POST", "/v2/models/repeat_int32/infer", js(wrong), EVENTS)
    assert reply.status == 400
    assert "WAIT" in reply.error
    assert reply.headers["x-request-id"]
    unequal = json.loads(js(REPEAT))
    unequal["inputs"][1].update(shape=[1], data=[1])
    reply = ask(routed.http, "POST", "/v2/models/repeat_int32/infer", js(unequal), EVENTS)
    assert reply.status >= 400
    assert "elements" in reply.error


def test_no_answer_at_all(routed):
    """A decoupled model that answers nothing: an empty stream of events, which is what it said."""
    nothing = json.loads(js(REPEAT))
    for item in nothing["inputs"][:2]:
        item.update(shape=[0], data=[])
    reply = ask(routed.http, "POST", "/v2/models/repeat_int32/infer", js(nothing), EVENTS)
    assert (reply.status, reply.body) == (200, b"")


def test_binary_as_events_is_refused(routed):
    reply = ask(
        routed.http,
        "POST",
        "/v2/models/repeat_int32/infer",
        js({**REPEAT, "parameters": {"binary_data_output": True}}),
        EVENTS,
    )
    assert reply.status == 400
    assert "binary" in reply.error


def test_http_client_leaves_its_events(triton, routed):
    """Many times over; Triton survives, and the gateway counts what it read for nobody."""
    long = json.loads(js(REPEAT))
    long["inputs"][0].update(shape=[50], data=list(range(50)))
    long["inputs"][1].update(shape=[50], data=[10] * 50)
    for _ in range(10):
        connection = http.client.HTTPConnection(routed.http, timeout=60)
        connection.request("POST", "/v2/models/repeat_int32/infer", js(long), EVENTS)
        response = connection.getresponse()
        assert response.read(10).startswith(b"data: ")
        connection.sock.close() if connection.sock else response.close()
        connection.close()
    time.sleep(0.2)
    os.kill(triton.pid, 0)
    assert ask(routed.http, "POST", "/v2/models/repeat_int32/infer", js(REPEAT), EVENTS).status == 200


# -- generate --------------------------------------------------------------------------------------------------

WRITE = {"text_input": "The ", "max_tokens": 6, "temperature": 0.0, "seed": 1, "stream": True}
GENERATE = [
    ("plain", {**WRITE, "stream": False}, {}),
    ("parameters", {**WRITE, "stream": False, "parameters": {"more": "x", "n": 3}}, {}),
    ("id", {**WRITE, "stream": False, "id": "g"}, {}),
    ("pieces", WRITE, {}),  # of `generate` more than one answer is an error
    ("not-json", b"{", {}),
    ("no-text", {"max_tokens": 3}, {}),
    ("unknown-input", {**WRITE, "stream": False, "nothing": [1]}, {}),
    ("compressed", b"\x1f\x8b", {"content-encoding": "gzip"}),
]


@pytest.mark.parametrize(("name", "document", "headers"), GENERATE, ids=[row[0] for row in GENERATE])
@pytest.mark.parametrize("page", ["generate", "generate_stream"])
def test_generate_same_as_triton(triton, routed, page, name, document, headers):
    body = document if isinstance(document, bytes) else js(document)
    theirs = ask(triton.http, "POST", f"/v2/models/writer/{page}", body, headers)
    ours = ask(routed.http, "POST", f"/v2/models/writer/{page}", body, headers)
    if name in ("not-json", "compressed"):
        assert ours.status == 400  # Triton: 500 for the first
        assert ours.error
        return
    assert ours.status == theirs.status, (ours.body, theirs.body)
    if ours.status == 200:
        assert ours.headers["content-type"] == theirs.headers["content-type"]
        assert ours.body == theirs.body
        assert ours.headers["x-tidegate-variant"] == "default"
    else:
        assert ours.error


def test_generate_stream_pieces(triton, routed):
    theirs = ask(triton.http, "POST", "/v2/models/writer/versions/1/generate_stream", js(WRITE))
    ours = ask(routed.http, "POST", "/v2/models/writer/versions/1/generate_stream", js(WRITE))
    assert ours.body == theirs.body
    assert len(events(ours.body)) > 1


@pytest.mark.parametrize("page", ["generate", "generate_stream"])
def test_generate_takes_a_compressed_request_which_triton_does_not(triton, routed, page):
    """Triton takes them for `infer` alone; a client has no reason to know that. docs/clients.md says so."""
    path, coded = f"/v2/models/writer/{page}", {"content-encoding": "gzip"}
    document = js({**WRITE, "stream": False})
    theirs = ask(triton.http, "POST", path, gzip.compress(document), coded)
    assert theirs.status == 400
    plain = ask(routed.http, "POST", path, document)
    assert plain.status == 200
    ours = ask(routed.http, "POST", path, gzip.compress(document), coded)
    assert (ours.status, ours.body) == (plain.status, plain.body)


def test_generate_unknown(routed):
    for page in ("generate", "generate_stream"):
        assert "nothing" in ask(routed.http, "POST", f"/v2/models/nothing/{page}", js(WRITE)).error
        assert ask(routed.http, "GET", f"/v2/models/writer/{page}").status == 405
