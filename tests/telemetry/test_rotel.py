"""A third party's OTLP collector (rotel) takes what we send and passes it on to our receiver."""

import importlib.util
import socket
import subprocess
import time
from pathlib import Path

import pytest
from otlp_receiver import attributes, http_receiver

from gateway import settings
from gateway import telemetry as t
from gateway.metrics import Reader, Registry
from gateway.otlp import span_sink
from gateway.otlp_metrics import metrics_push
from gateway.tracing import Tracing, rpc_server

rotel = importlib.util.find_spec("rotel")
pytestmark = pytest.mark.skipif(rotel is None, reason="the package rotel is not installed")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def collector(tmp_path):
    """rotel on free ports, handing on to the receiver that is yielded with its two addresses."""
    grpc_address, http_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with http_receiver() as received:
        command = [
            *(Path(rotel.origin).with_name("rotel-agent"), "start"),
            *("--otlp-grpc-endpoint", grpc_address, "--otlp-http-endpoint", http_address),
            *("--pid-file", tmp_path / "pid", "--log-file", tmp_path / "log", "--batch-timeout", "100ms"),
            *("--exporter", "otlp", "--otlp-exporter-protocol", "http"),
            *("--otlp-exporter-endpoint", received.endpoint, "--otlp-exporter-compression", "gzip"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    host, port = grpc_address.split(":")
                    socket.create_connection((host, int(port)), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, "rotel ended"
                    assert time.monotonic() < deadline, "rotel does not listen"
                    time.sleep(0.05)
            yield received, {"grpc": grpc_address, "http/protobuf": http_address}
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_rotel_understands_traces_and_metrics(collector, tmp_path, protocol):
    received, addresses = collector
    endpoint = "http://" + addresses[protocol]
    section = settings.Telemetry(
        traces=settings.Traces(endpoint=endpoint, protocol=protocol),
        metrics=settings.OtlpMetrics(endpoint=endpoint, protocol=protocol, interval=3600.0),
    )
    registry = Registry(tmp_path, 0)
    sink = span_sink(section, registry, version="1.2.3", environ={})
    trace = Tracing(sink, 1.0).start({"tracestate": "ignored=without-traceparent"})
    with trace.span(t.SPAN_FORWARD) as step:
        step.set(t.TRITON_MODEL, "income")
    trace.end(*rpc_server("inference.GRPCInferenceService/ModelInfer", "OK"))
    sink.shutdown()
    forward, server = sorted(received.wait_for_spans(2), key=lambda span: span.name)
    assert server.name == "inference.GRPCInferenceService/ModelInfer"
    assert server.trace_id.hex() == forward.trace_id.hex() == trace.id
    assert forward.parent_span_id == server.span_id
    assert server.parent_span_id == b""
    assert attributes(forward.attributes)["triton.model_name"] == "income"
    assert received.resource()["service.name"] == "tidegate"

    registry.counter(t.RETRIES).labels("credit").inc(3)
    registry.histogram(t.OVERHEAD).labels("credit", "http").observe(0.0001)
    metrics_push(section, registry, version="1.2.3", environ={}).shutdown()
    deadline = time.monotonic() + 60
    while not received.metrics and time.monotonic() < deadline:
        time.sleep(0.05)
    metrics = received.newest_metrics()
    assert metrics["tidegate.retries"].sum.data_points[0].as_double == 3.0
    assert metrics["tidegate.overhead"].histogram.data_points[0].count == 1
    assert Reader(tmp_path).collect()["tidegate_export_failures_total"] == {
        ("traces",): 0.0,
        ("metrics",): 0.0,
    }
