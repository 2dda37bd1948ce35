"""What clients are told of a route: the versions that it has, a model's own NOT_FOUND, which failure of several.

One gateway before the real Triton, by HTTP, by gRPC and on streams.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request

import pytest
from driving import STREAM, RawUpstream, ask, channel, fp32, http_answer, message, pages, word
from gateway_fixture import start_gateway
from tritonclient.grpc import service_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
ROUTES = """
  unpinned: {variants: [{name: a, model: identity_fp32}, {name: b, model: identity_fp32}]}
  mixed:
    variants:
      - {name: pinned, model: income, version: "1"}
      - {name: open, model: income}
      - {name: dark, model: income, version: "2", weight: 0}
      - {name: picked, model: income, version: "3", weight: 0}
    match: [{headers: {x-pick: "yes"}, variant: picked}]
  own: {variants: [{name: only, model: fails}, {name: spare, model: params_echo, weight: 0}], fallback: [spare]}
  own_grpc: {variants: [{name: only, model: fails, upstream: wired}]}
  absent: {variants: [{name: only, model: no_such_model}]}
  no_version: {variants: [{name: only, model: identity_fp32, version: "9"}]}
  unlike: {variants: [{name: bad, model: fails}, {name: other, model: identity_fp32, weight: 0}], fallback: [other]}
  chain:
    variants: [{name: bad, model: m, upstream: failing}, {name: other, model: income, weight: 0},
      {name: good, model: identity_fp32, weight: 0}]
    fallback: [other, good]
"""


@pytest.fixture(scope="module")
def front(tmp_path_factory, triton):
    broken = pages(lambda one: one.sendall(http_answer(b'{"error":"out of memory"}', "500 Internal Server Error")))
    with contextlib.ExitStack() as stack:
        failing = stack.enter_context(RawUpstream(broken)).address
        servers = f"""
  triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}
  wired: {{http: '{triton.http}', grpc: '{triton.grpc}', unary: grpc}}
  failing: {{http: '{failing}'}}"""
        gateway = start_gateway(tmp_path_factory.mktemp("told"), f"upstreams:{servers}\nroutes:{ROUTES}")
        yield gateway
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()


@pytest.fixture(scope="module")
def wire(front):
    with channel(front.grpc) as made:
        yield made


def metadata(wire, route: str) -> list[str]:
    call = wire.unary_unary(
        SERVICE + "ModelMetadata", lambda m: m.SerializeToString(), pb.ModelMetadataResponse.FromString
    )
    return list(call(pb.ModelMetadataRequest(name=route)).versions)


def streamed(wire, asked) -> pb.ModelStreamInferResponse:
    stub = wire.stream_stream(STREAM, lambda m: m.SerializeToString(), pb.ModelStreamInferResponse.FromString)
    (answer,) = stub(iter([asked]))
    return answer


def test_metadata_names_the_versions_that_can_be_asked_for(front, wire):
    """As OIP has it: `versions` may be explicitly requested. A variant without a version has the server's choice."""
    row = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 14], "data": [0.0] * 14}]}
    for route, document, headers, versions in (
        ("unpinned", fp32(), {}, []),
        ("mixed", row, {"x-pick": "yes"}, ["1", "3"]),
    ):
        assert front.get(f"/v2/models/{route}").json()["versions"] == versions == metadata(wire, route)
        for version in ("1", "2", "3"):
            status = 200 if version in versions else 404
            page = f"/v2/models/{route}/versions/{version}"
            picked = headers if version == "3" else {}
            assert front.post(f"{page}/infer", document, picked).status == status, (route, version)
            told = ask(wire, message(route, document, version=version), picked)
            assert told.code == ("OK" if status == 200 else "NOT_FOUND"), (route, version)
    # Pages about a version are there for each that a variant has, and statistics are that variant's alone.
    assert front.get("/v2/models/unpinned/versions/1/stats").status == 404
    rows = front.get("/v2/models/mixed/versions/2/stats").json()["model_stats"]
    assert [(row["name"], row["version"]) for row in rows] == [("mixed", "2")]


def test_a_models_own_not_found_is_the_answer(front, wire):
    """A model that did not find what it was asked for is there: Triton's status and words, and no fallback."""
    asked = word("error:NOT_FOUND", tensor="HOW")
    before = front.metric("tidegate_fallbacks_total", route="own")
    for route in ("own", "own_grpc"):
        answer = front.post(f"/v2/models/{route}/infer", asked)
        assert (answer.status, answer.headers["x-tidegate-variant"]) == (404, "only"), answer
        assert "asked to fail with NOT_FOUND" in answer.error
        told = ask(wire, message(route, asked))
        assert (told.code, told.variant) == ("NOT_FOUND", "only")
    assert front.metric("tidegate_fallbacks_total", route="own") == before


def test_a_model_or_version_that_is_not_there_is_the_routes_mistake(front, wire, triton):
    # Triton's words are what tells it from a model's own.
    for page, named in (("no_such_model", ""), ("identity_fp32/versions/9", "")):
        request = urllib.request.Request(
            f"http://{triton.http}/v2/models/{page}/infer", json.dumps(fp32()).encode(), method="POST"
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        with refused.value as answer:
            name = page.partition("/")[0]
            assert json.load(answer)["error"].startswith(f"Request for unknown model: '{name}'"), named
    for route in ("absent", "no_version"):
        answer = front.post(f"/v2/models/{route}/infer", fp32())
        assert (answer.status, answer.error) == (503, "the model server does not have what serves this route")
        assert ask(wire, message(route, fp32())).code == "UNAVAILABLE"


def test_a_fallback_that_takes_other_inputs_hides_no_failure(front, wire):
    asked = word("error:INTERNAL", tensor="HOW")
    answer = front.post("/v2/models/unlike/infer", asked)
    assert (answer.status, answer.headers["x-tidegate-variant"]) == (500, "bad"), answer
    assert "asked to fail with INTERNAL" in answer.error
    told = ask(wire, message("unlike", asked))
    assert (told.code, told.variant) == ("INTERNAL", "bad")
    assert "asked to fail with INTERNAL" in streamed(wire, message("unlike", asked)).error_message
    assert front.metric("tidegate_fallbacks_total", route="unlike", variant="other") == 3
    assert front.metric("tidegate_requests_total", route="unlike", variant="bad", code="500") == 1
    assert front.metric("tidegate_requests_total", route="unlike", variant="bad", code="INTERNAL") == 2


def test_the_fallbacks_behind_it_are_tried(front, wire):
    answer = front.post("/v2/models/chain/infer", fp32())
    assert (answer.status, answer.headers["x-tidegate-variant"]) == (200, "good"), answer
    told = ask(wire, message("chain", fp32()))
    assert (told.code, told.variant) == ("OK", "good")
