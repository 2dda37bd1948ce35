"""Trace context and sampling, and what reaches an OTLP endpoint."""

import logging
import re
import sys
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from otlp_receiver import attributes, grpc_receiver, http_receiver

from gateway import otlp, settings
from gateway import telemetry as t
from gateway.errors import BadGateway, Forbidden, Unreachable
from gateway.metrics import Reader, Registry
from gateway.otlp import OtlpSpans, endpoint_of, resource_of, span_sink
from gateway.otlp_metrics import metrics_push
from gateway.tracecontext import format_parent, parse, parse_state
from gateway.tracing import MOST_STEPS, SampledTrace, Tracing, http_server, rpc_server

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"


class Sink:
    def __init__(self) -> None:
        self.traces = []

    def emit(self, trace):
        self.traces.append(trace)


# --- W3C trace context ---


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"0x-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-what",
        f"01-{TRACE}-{SPAN}-01x",
        f"00-{TRACE}-{SPAN}-zz",
        f"{SAMPLED},{SAMPLED}",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE[:-1]}é-{SPAN}-01",
    ],
)
def test_a_malformed_traceparent_is_none(text):
    assert parse(text) is None


def test_traceparent_is_read():
    context = parse(SAMPLED, "vendor=value")
    assert f"{context.trace_id:032x}" == TRACE
    assert f"{context.span_id:016x}" == SPAN
    assert context.sampled
    assert context.state == "vendor=value"
    assert not parse(UNSAMPLED).sampled
    assert parse(f" {SAMPLED}\t").sampled
    # Later versions are read as far as they are understood; unknown flags are dropped, Level 2's is kept.
    assert parse(f"cc-{TRACE}-{SPAN}-01-what-the-future-holds").sampled
    assert parse(f"cc-{TRACE}-{SPAN}-01").sampled
    assert parse(f"00-{TRACE}-{SPAN}-ff").flags == 3
    assert parse(None) is None


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 3))
def test_what_is_written_is_read_back(trace_id, span_id, flags):
    context = parse(format_parent(trace_id, span_id, flags))
    assert (context.trace_id, context.span_id, context.flags) == (trace_id, span_id, flags)


@given(st.text(max_size=80))
def test_any_text_is_survived(text):
    parse(text, text)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (None, ""),
        ("", ""),
        ("a=1", "a=1"),
        (" a=1 , ,\tb=2", "a=1,b=2"),
        ("tenant@system=x y", "tenant@system=x y"),
        ("A=1", ""),
        ("a", ""),
        ("a=", ""),
        ("a=1,a=2", ""),
        ("a=1=2", ""),
        ("a=é", ""),
        (",".join(f"k{i}=v" for i in range(33)), ""),
        (",".join(f"k{i}=v" for i in range(32)), ",".join(f"k{i}=v" for i in range(32))),
        ("a=" + "x" * 256, "a=" + "x" * 256),
        ("a=" + "x" * 257, ""),
        ("a=1," + ",".join(f"k{i}={'x' * 200}" for i in range(4)), "a=1"),
        (",".join(f"k{i}={'x' * 100}" for i in range(6)), ",".join(f"k{i}={'x' * 100}" for i in range(4))),
    ],
)
def test_tracestate_is_whole_or_nothing(text, state):
    assert parse_state(text) == state


# --- sampling and propagation ---


def test_a_callers_flag_is_followed():
    sink = Sink()
    tracing = Tracing(sink, 0.0)
    assert tracing.start({"traceparent": SAMPLED}).sampled
    assert not Tracing(sink, 1.0).start({"traceparent": UNSAMPLED}).sampled
    assert tracing.start({"traceparent": UNSAMPLED}).id == TRACE
    assert not tracing.start({}).sampled
    assert Tracing(sink, 1.0).start({"traceparent": "nonsense"}).sampled


def test_the_ratio_is_kept():
    tracing = Tracing(Sink(), 0.25)
    sampled = sum(tracing.start({}).sampled for _ in range(20_000))
    # Five standard deviations around 5,000.
    assert abs(sampled - 5_000) < 310


def test_unsampled_requests_send_no_context_upstream():
    trace = Tracing(Sink(), 0.0).start({"traceparent": UNSAMPLED, "tracestate": "a=1"})
    with trace.span(t.SPAN_FORWARD) as step:
        step.set("x", 1)
    assert trace.propagation() == ()
    trace.end("x", {})
    assert re.fullmatch("[0-9a-f]{32}", Tracing().start({}).id)


def test_sampled_requests_name_the_forward_span_as_parent():
    sink = Sink()
    trace = Tracing(sink, 0.0).start({"traceparent": SAMPLED, "tracestate": "a=1"})
    seen = []
    for _ in range(2):
        (name, parent), state = trace.propagation()
        assert (name, state) == ("traceparent", ("tracestate", "a=1"))
        seen.append(parse(parent))
        with trace.span(t.SPAN_FORWARD):
            pass
    trace.end("x", {})
    assert [context.span_id for context in seen] == [step.span_id for step in trace.steps]
    assert len({SPAN, *(step.span_id for step in trace.steps), trace.root.span_id}) == 4
    assert all(f"{context.trace_id:032x}" == TRACE and context.sampled for context in seen)


def test_without_an_exporter_a_sampled_callers_context_passes_as_it_came():
    tracing = Tracing()
    trace = tracing.start({"traceparent": SAMPLED, "tracestate": "a=1"})
    assert not trace.sampled
    assert trace.propagation() == (("traceparent", SAMPLED), ("tracestate", "a=1"))
    assert tracing.start({"traceparent": UNSAMPLED}).propagation() == ()


def test_unsampled_requests_touch_no_sdk(monkeypatch):
    code = (
        "import sys; from gateway.tracing import Tracing; x = Tracing(None, 1.0).start({});"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    out = __import__("subprocess").run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_long_streams_keep_a_bounded_trace():
    sink = Sink()
    trace = Tracing(sink, 1.0).start({})
    for _ in range(MOST_STEPS + 5):
        with trace.span(t.SPAN_FORWARD):
            pass
    trace.end("x", {})
    trace.end("x", {})
    with trace.span("late"):
        pass
    assert len(trace.steps) == MOST_STEPS
    assert trace.root.attributes[t.STEPS_OMITTED] == 5
    assert len(sink.traces) == 1


def test_deciding_is_cheap():
    tracing = Tracing(Sink(), 0.01)
    started = time.process_time()
    for _ in range(50_000):
        tracing.start({"a": "b"})
    # Some 0.5 us; the bound only catches a change of kind (the SDK's sampler takes 6 us).
    assert (time.process_time() - started) / 50_000 < 5e-6


# --- what reaches an endpoint ---


@pytest.fixture
def registry(tmp_path):
    made = Registry(tmp_path, 3)
    yield made
    made.close()


@pytest.fixture(params=["http/protobuf", "grpc"])
def receiver(request):
    with (http_receiver if request.param == "http/protobuf" else grpc_receiver)() as received:
        received.protocol = request.param
        yield received


def section(received, **more):
    traces = settings.Traces(endpoint=received.endpoint, protocol=received.protocol)
    metrics = settings.OtlpMetrics(endpoint=received.endpoint, protocol=received.protocol, **more)
    return settings.Telemetry(traces=traces, metrics=metrics)


def serve(tracing, headers=None, error=None):
    """One request as the pipeline runs it; the error is the forward step's."""
    trace = tracing.start(headers or {})
    with trace.span(t.SPAN_POLICY) as step:
        step.set(t.POLICY_LINE, 7)
    with trace.span(t.SPAN_ROUTE):
        pass
    sent = trace.propagation()
    try:
        with trace.span(t.SPAN_FORWARD) as step:
            step.set(t.TRITON_MODEL, "income")
            if error is not None:
                raise error
    except type(error or KeyError):
        pass
    name, attributes = http_server("POST", "/v2/models/{model}/infer", "/v2/models/credit/infer", 200)
    trace.end(name, {**attributes, t.ROUTE: "credit"}, error)
    return trace, sent


def test_a_request_is_one_tree_of_spans(receiver, registry):
    sink = span_sink(section(receiver), registry, version="1.2.3", environ={})
    before = time.time_ns()
    _, sent = serve(Tracing(sink, 0.0), {"traceparent": SAMPLED, "tracestate": "a=1"})
    sink.flush()
    spans = {span.name: span for span in receiver.wait_for_spans(4)}
    assert set(spans) == {"POST /v2/models/{model}/infer", "policy", "route", "forward"}
    server = spans["POST /v2/models/{model}/infer"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert {span.trace_state for span in spans.values()} == {"a=1"}
    assert server.parent_span_id.hex() == SPAN
    assert server.kind == server.SPAN_KIND_SERVER
    for name in ("policy", "route", "forward"):
        assert spans[name].parent_span_id == server.span_id
        assert server.start_time_unix_nano <= spans[name].start_time_unix_nano
        assert spans[name].end_time_unix_nano <= server.end_time_unix_nano
        assert spans[name].kind == (server.SPAN_KIND_CLIENT if name == "forward" else server.SPAN_KIND_INTERNAL)
    assert spans["policy"].end_time_unix_nano <= spans["route"].start_time_unix_nano
    assert spans["forward"].span_id.hex() == dict(sent)["traceparent"].split("-")[2]
    assert before <= server.start_time_unix_nano <= server.end_time_unix_nano <= time.time_ns()
    assert attributes(server.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "url.path": "/v2/models/credit/infer",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "tidegate.route": "credit",
    }
    assert attributes(spans["policy"].attributes) == {"tidegate.policy.line": 7}
    assert attributes(spans["forward"].attributes) == {"triton.model_name": "income"}
    resource = receiver.resource()
    assert resource["service.name"] == "tidegate"
    assert resource["service.version"] == "1.2.3"
    assert resource["tidegate.worker"] == 3
    assert resource["service.instance.id"]
    assert receiver.traces[0].resource_spans[0].scope_spans[0].schema_url == ""
    assert receiver.traces[0].resource_spans[0].schema_url == t.SCHEMA_URL
    sink.shutdown()
    merged = Reader(registry.path.parent).collect()
    assert merged["tidegate_spans_exported_total"] == {(): 4.0}


def test_errors_are_the_servers_alone(registry):
    with http_receiver() as received:
        received.protocol = "http/protobuf"
        sink = span_sink(section(received), registry, version="1", environ={})
        tracing = Tracing(sink, 1.0)
        serve(tracing, error=Unreachable("upstream is away", detail="connection refused"))
        serve(tracing, error=Forbidden("the policy says no"))
        sink.flush()
        spans = received.wait_for_spans(8)
        sink.shutdown()
    by_error = {}
    for span in spans:
        kind = attributes(span.attributes).get("error.type")
        if kind:
            by_error.setdefault(kind, set()).add((span.name, span.status.code, span.status.message))
    text = "upstream is away (connection refused)"
    server = "POST /v2/models/{model}/infer"
    assert by_error == {
        "Unreachable": {("forward", 2, text), (server, 2, text)},
        "Forbidden": {("forward", 0, ""), (server, 0, "")},
    }
    assert not any(span.events for span in spans)


def test_grpc_server_spans_have_the_rpc_conventions_names():
    name, attributes = rpc_server("inference.GRPCInferenceService/ModelInfer", "OK")
    assert name == "inference.GRPCInferenceService/ModelInfer"
    assert attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
    }


def test_http_export_is_compressed_and_authorised_as_the_environment_says(registry, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=acme")
    with http_receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.endpoint)
        sink = span_sink(settings.Telemetry(), registry, version="1")
        serve(Tracing(sink, 1.0))
        sink.flush()
        received.wait_for_spans(4)
        sink.shutdown()
        assert received.headers[0]["content-encoding"] == "gzip"
        assert received.headers[0]["x-tenant"] == "acme"


@pytest.mark.parametrize(
    ("endpoint", "protocol", "environ", "expected"),
    [
        (None, "http/protobuf", {}, None),
        ("http://h:4318", "http/protobuf", {}, ("http://h:4318/v1/traces", "http/protobuf")),
        ("http://h:4318/", "http/protobuf", {}, ("http://h:4318/v1/traces", "http/protobuf")),
        ("http://h/x/v1/traces", "http/protobuf", {}, ("http://h/x/v1/traces", "http/protobuf")),
        ("h:4317", "grpc", {}, ("http://h:4317", "grpc")),
        ("h:4317", "grpc", {"OTEL_SDK_DISABLED": "true"}, ("http://h:4317", "grpc")),
        (None, "http/protobuf", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://e"}, (None, "http/protobuf")),
        (None, "grpc", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://e"}, (None, "grpc")),
        (
            None,
            "http/protobuf",
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://e", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            (None, "grpc"),
        ),
        (
            None,
            "grpc",
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://e", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            (None, "grpc"),
        ),
        (None, "grpc", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://e", "OTEL_SDK_DISABLED": "TRUE"}, None),
        (None, "grpc", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://e", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_settings_win_over_the_environment(endpoint, protocol, environ, expected):
    assert endpoint_of("traces", endpoint, protocol, environ) == expected


def test_the_services_name_follows_settings_then_environment(registry):
    environ = {"OTEL_SERVICE_NAME": "front"}
    assert resource_of("tidegate", "1", registry, environ).attributes["service.name"] == "front"
    assert resource_of("mine", "1", registry, environ).attributes["service.name"] == "mine"
    assert resource_of("tidegate", "1", registry, {}).attributes["service.name"] == "tidegate"


def test_an_endpoint_that_is_away_costs_nothing_but_a_line(registry, caplog, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")
    monkeypatch.setattr(logging.getLogger("opentelemetry"), "handlers", [])
    away = settings.Telemetry(traces=settings.Traces(endpoint="http://user:secret@127.0.0.1:9"))
    with caplog.at_level(logging.WARNING):
        sink = span_sink(away, registry, version="1", environ={})
        tracing = Tracing(sink, 1.0)
        slowest = 0.0
        for _ in range(2000):
            started = time.perf_counter()
            serve(tracing)
            slowest = max(slowest, time.perf_counter() - started)
        started = time.monotonic()
        sink.shutdown(1.0)
        assert time.monotonic() - started < 8, "the exporter itself would take 10 s"
    # A request that waited for the exporter would have waited for its 10 s.
    assert slowest < 2
    merged = Reader(registry.path.parent).collect()
    dropped = merged["tidegate_spans_dropped_total"]
    assert dropped["queue_full",] >= 8000 - 2048 - 8 * 128
    assert sum(dropped.values()) <= 8000
    assert merged["tidegate_export_failures_total"]["traces",] >= 1
    lines = [record.getMessage() for record in caplog.records if record.name == "tidegate.otlp"]
    assert len(lines) == 1
    assert "secret" not in caplog.text


def test_an_endpoint_that_comes_back_gets_the_next_spans(registry, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with http_receiver() as received:
        received.protocol = "http/protobuf"
        received.status = 400
        sink = span_sink(section(received), registry, version="1", environ={})
        tracing = Tracing(sink, 1.0)
        serve(tracing)
        sink.flush()
        received.status = 200
        serve(tracing)
        sink.flush()
        received.wait_for_spans(4)
        sink.shutdown()
    merged = Reader(registry.path.parent).collect()
    assert merged["tidegate_spans_dropped_total"] == {("queue_full",): 0.0, ("export",): 4.0}
    assert merged["tidegate_spans_exported_total"] == {(): 4.0}


def test_an_exporter_that_raises_ends_nothing(registry, caplog):
    class Broken:
        def export(self, spans):
            raise RuntimeError("token=secret")

        def shutdown(self):
            pass

    with caplog.at_level(logging.WARNING):
        sink = OtlpSpans(Broken(), resource_of("tidegate", "1", registry, {}), registry)
        serve(Tracing(sink, 1.0))
        sink.flush()
        sink.shutdown()
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
    assert Reader(registry.path.parent).collect()["tidegate_spans_dropped_total"]["export",] == 4.0


def test_bad_batch_variables_are_told_and_passed_over(registry, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64")
    assert otlp._number("OTEL_BSP_MAX_QUEUE_SIZE", 2048) == 2048
    assert otlp._number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 128) == 64
    assert "OTEL_BSP_MAX_QUEUE_SIZE is no positive integer; 2048 is used" in caplog.text


def test_metrics_arrive_cumulative_with_exemplars(receiver, registry):
    duration = registry.histogram(t.REQUEST_DURATION).labels("credit", "champion", "http")
    duration.observe(0.0003)
    duration.observe(100.0)
    duration.exemplar(0.0003, *SampledTrace(int(TRACE, 16), 1, None, Sink()).exemplar(), 1700000000.0)
    registry.counter(t.REQUESTS).labels("credit", "champion", "http", "200", "acme").inc(5)
    registry.gauge(t.IN_FLIGHT).labels("grpc").set(2)
    registry.info(t.BUILD_INFO, "1.2.3")
    push = metrics_push(section(receiver, interval=0.1), registry, version="1.2.3", environ={})
    deadline = time.monotonic() + 60
    while len(receiver.metrics) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    registry.counter(t.REQUESTS).labels("credit", "champion", "http", "200", "acme").inc(1)
    push.shutdown()
    metrics = receiver.newest_metrics()
    (requests,) = metrics["tidegate.requests"].sum.data_points
    assert metrics["tidegate.requests"].sum.is_monotonic
    assert metrics["tidegate.requests"].sum.aggregation_temporality == 2
    assert requests.as_double == 6.0
    assert requests.start_time_unix_nano == registry.created_ns()
    assert attributes(requests.attributes) == {
        "route": "credit",
        "variant": "champion",
        "protocol": "http",
        "code": "200",
        "tenant": "acme",
    }
    (point,) = metrics["tidegate.request_duration"].histogram.data_points
    assert metrics["tidegate.request_duration"].unit == "s"
    assert tuple(point.explicit_bounds) == t.LATENCY_BOUNDS
    assert list(point.bucket_counts) == [0, 0, 1, *[0] * 15, 1]
    assert (point.count, point.sum) == (2, pytest.approx(100.0003))
    assert not point.HasField("min")
    (exemplar,) = point.exemplars
    assert exemplar.trace_id.hex() == TRACE
    assert exemplar.as_double == 0.0003
    (in_flight,) = metrics["tidegate.requests_in_flight"].gauge.data_points
    assert in_flight.as_double == 2.0
    assert attributes(metrics["tidegate.build_info"].gauge.data_points[0].attributes) == {"version": "1.2.3"}


def test_metrics_go_nowhere_without_an_endpoint(registry):
    assert metrics_push(settings.Telemetry(), registry, version="1", environ={}) is None
    assert span_sink(settings.Telemetry(), registry, version="1", environ={}) is None


def test_metrics_that_fail_to_leave_are_counted(registry, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    away = settings.Telemetry(metrics=settings.OtlpMetrics(endpoint="http://127.0.0.1:9", interval=60.0))
    push = metrics_push(away, registry, version="1", environ={})
    started = time.monotonic()
    push.shutdown(2.0)
    assert time.monotonic() - started < 30
    assert Reader(registry.path.parent).collect()["tidegate_export_failures_total"]["metrics",] == 1.0


def test_span_ids_differ():
    tracing = Tracing(Sink(), 1.0)
    ids = Counter(tracing.start({}).root.span_id for _ in range(10_000))
    assert max(ids.values()) == 1


def test_an_answer_that_was_not_understood_is_the_servers_fault():
    trace = Tracing(Sink(), 1.0).start({})
    trace.end("x", {}, BadGateway("no JSON"))
    assert trace.root.error == "no JSON"
