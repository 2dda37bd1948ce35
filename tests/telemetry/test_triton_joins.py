"""A real Triton hangs its spans below our forward span, and records nothing for unsampled requests."""

import json
import shutil
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from otlp_receiver import http_receiver

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from triton_fixture import TEST_MODELS, running_triton

from gateway import settings
from gateway import telemetry as t
from gateway.metrics import Registry
from gateway.otlp import span_sink
from gateway.tracing import Tracing, http_server

SOON = ("--trace-config=opentelemetry,bsp_schedule_delay=200",)
"""Triton exports every 200 ms and not every 5 s."""


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A Triton with one model whose spans go to the receiver that is yielded with it."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(TEST_MODELS / "identity_fp32", models / "identity_fp32")
    with (
        http_receiver() as received,
        running_triton([models], models.parent / "triton.log", otlp=received.endpoint, extra=SOON) as server,
    ):
        yield received, server


def infer_http(server, headers):
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [0.0] * 4}
    request = urllib.request.Request(
        f"http://{server.http}/v2/models/identity_fp32/infer",
        json.dumps({"inputs": [tensor]}).encode(),
        headers,
    )
    assert urllib.request.urlopen(request, timeout=10).status == 200


def infer_grpc(server, headers):
    tensor = grpcclient.InferInput("INPUT0", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))
    with grpcclient.InferenceServerClient(server.grpc) as client:
        client.infer("identity_fp32", [tensor], headers=headers)


@pytest.mark.parametrize("infer", [infer_http, infer_grpc])
def test_tritons_spans_join_the_trace(traced, tmp_path, infer):
    received, server = traced
    section = settings.Telemetry(traces=settings.Traces(endpoint=received.endpoint))
    sink = span_sink(section, Registry(tmp_path, 0), version="1", environ={})
    traces = []
    for tracing in (Tracing(sink, 0.0), Tracing(sink, 1.0)):
        trace = tracing.start({})
        headers = dict(trace.propagation())
        with trace.span(t.SPAN_FORWARD):
            infer(server, headers)
        trace.end(*http_server("POST", "/v2/models/{model}/infer", "/v2/models/identity_fp32/infer", 200))
        traces.append(trace)
    sink.shutdown()
    unsampled, sampled = traces

    def of(trace):
        return {span.name: span for span in received.spans() if span.trace_id.hex() == trace.id}

    deadline = time.monotonic() + 15
    while "compute" not in of(sampled) and time.monotonic() < deadline:
        time.sleep(0.05)
    spans = of(sampled)
    assert set(spans) >= {"POST /v2/models/{model}/infer", "forward", "InferRequest", "compute"}
    assert spans["InferRequest"].parent_span_id == spans["forward"].span_id
    assert spans["forward"].parent_span_id == spans["POST /v2/models/{model}/infer"].span_id
    assert of(unsampled) == {}
