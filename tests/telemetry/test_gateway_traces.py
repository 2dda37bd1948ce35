"""Traces of a running gateway in front of a real Triton, end to end, over both protocols of OTLP.

The gateway samples nothing by itself here (ratio 0), so that every trace is one that a caller asked for.
"""

import time

import pytest
from gateway_fixture import start_gateway
from otlp_receiver import attributes, grpc_receiver, http_receiver
from traced_calls import (
    KINDS,
    QUICK,
    TRITON_SPANS,
    Caller,
    by_name,
    generate,
    generate_stream,
    grpc_unary,
    http_json,
    infer_request,
    joined,
    repeat_request,
    resource_of,
    stub,
    traced_triton,
    wait_for,
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A Triton and its spans."""
    folder = tmp_path_factory.mktemp("stage")
    with http_receiver() as received, traced_triton(folder, received.endpoint) as triton:
        yield triton, received


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def front(request, stage, tmp_path_factory):
    """A gateway before it, the gateway's spans, and Triton's."""
    triton, triton_spans = stage
    with (http_receiver if request.param == "http/protobuf" else grpc_receiver)() as received:
        text = f"""
upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}
routes:
  split:
    variants: [{{name: only, model: identity_fp32, version: "1"}}]
passthrough: true
telemetry:
  service_name: front
  traces: {{endpoint: '{received.endpoint}', protocol: {request.param}, sample_ratio: 0}}
log: {{access: true}}
"""
        gateway = start_gateway(tmp_path_factory.mktemp("front"), text, env=QUICK)
        try:
            yield gateway, received, triton_spans
        finally:
            assert gateway.stop() == 0, gateway.log.read_text()


@pytest.mark.parametrize("send", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_request_is_one_server_span_with_its_steps(front, send):
    gateway, received, triton_spans = front
    name, model = KINDS[send]
    caller, theirs = joined(send, gateway, triton_spans, model)
    steps = {"policy", "route", "forward"} | ({"transform"} if send not in {generate, generate_stream} else set())
    spans = wait_for(received, caller.trace_id, {name, *steps})
    server = spans[name][0]
    ours = {key: group for key, group in spans.items() if key not in TRITON_SPANS and key != model}
    assert {key: len(group) for key, group in ours.items()} == dict.fromkeys({name, *steps}, 1)
    # The caller is the parent, and all that happened hangs below the one server span.
    assert server.parent_span_id.hex() == caller.span_id
    assert server.kind == server.SPAN_KIND_SERVER
    assert server.trace_state == caller.state
    assert all(spans[step][0].parent_span_id == server.span_id for step in steps)
    assert spans["forward"][0].kind == server.SPAN_KIND_CLIENT
    assert all(server.start_time_unix_nano <= spans[step][0].start_time_unix_nano for step in steps)
    assert all(spans[step][0].end_time_unix_nano <= server.end_time_unix_nano for step in steps)
    order = sorted(steps, key=lambda step: spans[step][0].start_time_unix_nano)
    assert order == [step for step in ("policy", "route", "transform", "forward") if step in steps]
    said = attributes(server.attributes)
    assert (said["tidegate.route"], said["tidegate.variant"], said["tidegate.upstream"]) == (model, "default", "triton")
    assert said["triton.model_name"] == model
    assert said["tidegate.request.bytes"] > 0
    assert said["tidegate.response.bytes"] > 0
    if name.startswith("POST"):
        assert said["http.response.status_code"] == 200
        assert said["http.route"] == name.removeprefix("POST ")
    else:
        assert said["rpc.response.status_code"] == "OK"
        assert said["rpc.method"] == name
    assert resource_of(received, name)["service.name"] == "front"

    # Triton's three spans of the same request hang under our forward span.
    assert theirs["InferRequest"][0].parent_span_id == spans["forward"][0].span_id
    assert theirs[model][0].parent_span_id == theirs["InferRequest"][0].span_id


@pytest.mark.parametrize("send", KINDS, ids=lambda kind: kind.__name__)
def test_a_caller_that_does_not_sample_is_followed_and_triton_records_nothing(front, send):
    gateway, received, triton_spans = front
    name, model = KINDS[send]
    quiet = Caller(sampled=False)
    send(gateway, quiet.headers)
    # What comes after has arrived: what came before is not on its way any more.
    loud, _ = joined(send, gateway, triton_spans, model)
    wait_for(received, loud.trace_id, {name})
    assert by_name(received, quiet.trace_id) == {}
    assert by_name(triton_spans, quiet.trace_id) == {}


def test_without_a_context_ratio_zero_records_nothing(front):
    gateway, received, triton_spans = front
    marker = Caller().span_id
    for _ in range(20):
        http_json(gateway, {"x-request-id": marker})
        grpc_unary(gateway, {"x-request-id": marker})
    loud, _ = joined(http_json, gateway, triton_spans, "identity_fp32")
    wait_for(received, loud.trace_id, {"forward"})
    assert not [s for s in received.spans() if attributes(s.attributes).get("tidegate.request_id") == marker]
    assert all(span.parent_span_id for span in triton_spans.spans())


def test_calls_of_one_stream_are_spans_of_their_own(front):
    gateway, received, triton_spans = front

    def four_calls(_, headers):
        requests = [infer_request("identity_fp32", call_id=str(i)) for i in range(3)] + [repeat_request()]
        with stub(gateway.grpc) as client:
            answers = list(client.ModelStreamInfer(iter(requests), metadata=tuple(headers.items()), timeout=20))
        assert [answer.error_message for answer in answers] == [""] * 6

    caller, theirs = joined(four_calls, gateway, triton_spans, "identity_fp32")
    name = "inference.GRPCInferenceService/ModelStreamInfer"
    until = time.monotonic() + 60
    while len(by_name(received, caller.trace_id).get(name, ())) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    spans = by_name(received, caller.trace_id)
    assert [len(spans[key]) for key in (name, "policy", "route", "transform", "forward")] == [4] * 5
    assert {span.parent_span_id.hex() for span in spans[name]} == {caller.span_id}
    assert {span.parent_span_id for span in spans["forward"]} == {span.span_id for span in spans[name]}
    # gRPC has one metadata a stream: Triton hangs a stream's calls under the forward span that opened it.
    forwards = {span.span_id for span in spans["forward"]}
    assert {span.parent_span_id for span in theirs["InferRequest"]} <= forwards


@pytest.mark.parametrize(
    ("path", "document", "status", "kind", "fault", "last"),
    [
        ("nowhere", None, 404, "NotFound", False, "policy"),
        ("split", {"inputs": [{"name": "NO", "datatype": "FP32", "shape": [1], "data": [1]}]}, 400, "BadRequest", False, "transform"),
        ("fails", {"inputs": [{"name": "HOW", "datatype": "BYTES", "shape": [1], "data": ["error:UNAVAILABLE"]}]}, 503, "UpstreamAnswered", True, "forward"),
        ("fails", {"inputs": [{"name": "HOW", "datatype": "BYTES", "shape": [1], "data": ["error:INVALID_ARG"]}]}, 400, "UpstreamAnswered", False, "forward"),
    ],
    ids=["unknown model", "wrong tensor", "model unavailable", "model refuses"],
)  # fmt: skip
def test_errors_are_told_and_only_the_servers_own_are_errors_of_the_span(
    front, path, document, status, kind, fault, last
):
    gateway, received, _ = front
    caller = Caller()
    answer = gateway.post(f"/v2/models/{path}/infer", document or {"inputs": []}, caller.headers)
    assert answer.status == status, answer.body
    name = "POST /v2/models/{model}/infer"
    spans = wait_for(received, caller.trace_id, {name, last})
    server = spans[name][0]
    said = attributes(server.attributes)
    assert said["error.type"] == kind
    assert said["http.response.status_code"] == status
    assert server.status.code == (2 if fault else 0)
    assert server.status.message == (answer.error if fault else "")
    if last != "policy":
        step = spans[last][0]
        assert attributes(step.attributes)["error.type"] == kind
        assert step.status.code == (2 if fault else 0)
    assert not any(span.events for group in spans.values() for span in group)


def test_a_refused_grpc_call_has_its_status(front):
    gateway, received, _ = front
    caller = Caller()
    with stub(gateway.grpc) as client:
        call = client.ModelInfer.future(infer_request("nowhere"), metadata=tuple(caller.headers.items()), timeout=20)
        assert call.code().name == "NOT_FOUND"
    name = "inference.GRPCInferenceService/ModelInfer"
    said = attributes(wait_for(received, caller.trace_id, {name})[name][0].attributes)
    assert (said["rpc.response.status_code"], said["error.type"]) == ("NOT_FOUND", "NotFound")


def test_the_log_carries_the_traces_id(front):
    gateway, received, _ = front
    caller = Caller()
    http_json(gateway, {**caller.headers, "x-request-id": caller.span_id})
    grpc_unary(gateway, {"x-request-id": caller.span_id + "g"})
    wait_for(received, caller.trace_id, {"forward"})
    until = time.monotonic() + 60
    lines = {}
    while len(lines) < 2 and time.monotonic() < until:
        lines = {
            line["request_id"]: line
            for line in gateway.log_lines()
            if line.get("request_id", "").startswith(caller.span_id)
        }
    assert lines[caller.span_id]["trace_id"] == caller.trace_id
    assert lines[caller.span_id]["logger"] == "tidegate.access"
    server = by_name(received, caller.trace_id)["POST /v2/models/{model}/infer"][0]
    assert attributes(server.attributes)["tidegate.request_id"] == caller.span_id
    assert not lines[caller.span_id + "g"].get("trace_id")


@pytest.mark.parametrize(
    "bad",
    [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        "nonsense",
    ],
)
def test_a_malformed_context_is_as_good_as_none(front, bad):
    gateway, received, triton_spans = front
    marker = Caller().span_id
    http_json(gateway, {"traceparent": bad, "x-request-id": marker})
    grpc_unary(gateway, {"traceparent": bad, "x-request-id": marker})
    loud, _ = joined(http_json, gateway, triton_spans, "identity_fp32")  # so what came before has arrived
    wait_for(received, loud.trace_id, {"forward"})
    assert not [s for s in received.spans() if attributes(s.attributes).get("tidegate.request_id") == marker]
    assert not [s for s in triton_spans.spans() if s.trace_id.hex() in bad.lower()]
    assert all(span.parent_span_id for span in triton_spans.spans())  # it began no trace of its own
