"""How a running gateway samples, where it sends, and that nothing happens when nobody is there to take it."""

import importlib.util
import shutil
import subprocess
import threading
import time
from collections import Counter

import pytest
from otlp_receiver import attributes, grpc_receiver, http_receiver
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from traced_calls import QUICK, Caller, by_name, grpc_unary, http_json, wait_for
from triton_fixture import free_ports

from gateway import telemetry as t

UPSTREAM = "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
SERVER = "POST /v2/models/{model}/infer"
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0"}


def wait_until(true, seconds=60.0):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not become true"
        time.sleep(0.05)


def test_ratio_one_begins_a_trace_for_every_request(gateway):
    with http_receiver() as received:
        front = gateway(
            f"{UPSTREAM}telemetry: {{traces: {{endpoint: '{received.endpoint}', sample_ratio: 1}}}}\n", env=QUICK
        )
        for _ in range(10):
            http_json(front, {})
            grpc_unary(front, {})
        http_json(front, Caller(sampled=False).headers)  # the caller's decision is followed
        received.wait_for_spans(20 * 5)
        time.sleep(0.3)
        spans = received.spans()
        roots = [span for span in spans if not span.parent_span_id]
        assert Counter(span.name for span in roots) == {
            SERVER: 10,
            "inference.GRPCInferenceService/ModelInfer": 10,
        }
        assert len({span.trace_id for span in roots}) == 20
        assert len(spans) == 20 * 5
        assert front.stop() == 0


def test_a_share_of_the_requests_is_sampled(gateway):
    with http_receiver() as received:
        front = gateway(
            f"{UPSTREAM}telemetry: {{traces: {{endpoint: '{received.endpoint}', sample_ratio: 0.5}}}}\n", env=QUICK
        )
        for _ in range(200):
            http_json(front, {})
        assert front.stop() == 0  # what waits is exported at the end
        sampled = sum(span.name == SERVER for span in received.spans())
        assert 60 <= sampled <= 140  # 5.6 standard deviations


def test_the_variants_that_were_tried_are_told_on_the_span(gateway):
    """Nothing listens at the first's server; the second takes other inputs."""
    (port,) = free_ports(1)
    with http_receiver() as received:
        text = f"""upstreams:
  triton: {{http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}
  away: {{http: '127.0.0.1:{port}'}}
routes:
  identity_fp32:
    variants: [{{name: gone, model: m, upstream: away}}, {{name: other, model: income, weight: 0}},
      {{name: good, model: identity_fp32, weight: 0}}]
    fallback: [other, good]
telemetry: {{traces: {{endpoint: '{received.endpoint}'}}}}
"""
        front = gateway(text, env=QUICK)
        caller = Caller()
        http_json(front, caller.headers)
        wait_for(received, caller.trace_id, {SERVER, "forward"})
        found = by_name(received, caller.trace_id)
        (root,) = found[SERVER]
        assert attributes(root.attributes)[t.FELL_BACK] == "other,good"
        assert attributes(root.attributes)[t.VARIANT] == "good"
        assert front.stop() == 0


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_environment_says_where_and_how(gateway, protocol):
    with (http_receiver if protocol == "http/protobuf" else grpc_receiver)() as received:
        env = {
            **QUICK,
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-backend=acme",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_SERVICE_NAME": "front-door",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        front = gateway(UPSTREAM, env=env)
        caller = Caller()
        http_json(front, caller.headers)
        wait_for(received, caller.trace_id, {SERVER, "forward"})
        assert received.headers[0]["x-backend"] == "acme"
        if protocol == "http/protobuf":
            assert received.headers[0]["content-encoding"] == "gzip"
        resource = received.resource()
        assert resource["service.name"] == "front-door"
        assert resource["deployment.environment.name"] == "test"
        assert front.stop() == 0


def test_an_endpoint_that_is_away_harms_nobody_and_comes_back(gateway):
    (port,) = free_ports(1)
    front = gateway(
        f"""{UPSTREAM}
telemetry:
  traces: {{endpoint: 'http://127.0.0.1:{port}', sample_ratio: 1}}
  metrics: {{endpoint: 'http://127.0.0.1:{port}', interval: 500ms}}
""",
        env={**QUICK, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"},
    )
    slowest = 0.0
    for _ in range(50):
        began = time.monotonic()
        http_json(front, {})
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1.0  # nobody waits for the exporter's second
    wait_until(lambda: front.metric("tidegate_export_failures_total", signal="traces") >= 1)
    wait_until(lambda: front.metric("tidegate_export_failures_total", signal="metrics") >= 1)
    lost = front.metric("tidegate_spans_dropped_total", reason="export")
    assert lost >= 5
    lines = [line for line in front.log_lines() if line["logger"].startswith(("tidegate.otlp", "opentelemetry"))]
    assert 1 <= len(lines) <= 4, lines
    assert not any("Traceback" in line.get("exception", "") for line in lines)
    with http_receiver(port) as received:
        caller = Caller()
        deadline = time.monotonic() + 60
        while SERVER not in by_name(received, caller.trace_id):
            assert time.monotonic() < deadline, "nothing arrives at the endpoint that came back"
            http_json(front, caller.headers)
            time.sleep(0.2)
        wait_until(lambda: received.metrics)
    began = time.monotonic()
    assert front.stop() == 0  # and the endpoint is away again
    assert time.monotonic() - began < 30


def flat(page: str, parse=parse_text):
    """{(sample name, labels): value} of a Prometheus page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(page)
        for sample in family.samples
    }


def pushed(metrics) -> dict:
    """The same of one worker's newest OTLP export, under the Prometheus names."""
    declared = {}
    for metric in t.METRICS:
        name = "tidegate." + metric.name.removeprefix("tidegate_").removesuffix("_total")
        declared[name.removesuffix("_seconds").removesuffix("_bytes")] = metric
    values = {}
    for name, metric in metrics.items():
        known = declared[name]
        for point in metric.sum.data_points or metric.gauge.data_points:
            values[known.name, tuple(sorted(attributes(point.attributes).items()))] = point.as_double
        for point in metric.histogram.data_points:
            labels = tuple(sorted(attributes(point.attributes).items()))
            values[f"{known.name}_count", labels] = float(point.count)
            values[f"{known.name}_sum", labels] = point.sum
            below = 0
            for bound, count in zip([*map(str, known.bounds), "+Inf"], point.bucket_counts, strict=True):
                below += count
                values[f"{known.name}_bucket", tuple(sorted((*labels, ("le", bound))))] = float(below)
    return values


def newest_of_each(received) -> dict[str, dict]:
    """`service.instance.id` to its newest export."""
    newest = {}
    for request in received.metrics:
        (resource,) = request.resource_metrics
        (scope,) = resource.scope_metrics
        identity = attributes(resource.resource.attributes)
        newest[identity["service.instance.id"]] = {metric.name: metric for metric in scope.metrics}
    return newest


def senders(received) -> dict[str, dict]:
    """`service.instance.id` to the resource, of everyone who has sent spans."""
    resources = [
        attributes(resource.resource.attributes) for request in received.traces for resource in request.resource_spans
    ]
    return {resource["service.instance.id"]: resource for resource in resources}


def test_three_workers_push_what_the_page_shows(gateway):
    with grpc_receiver() as received:
        front = gateway(
            f"""{UPSTREAM}
workers: 3
telemetry:
  traces: {{endpoint: '{received.endpoint}', protocol: grpc, sample_ratio: 1}}
  metrics: {{endpoint: '{received.endpoint}', protocol: grpc, interval: 300ms}}
""",
            env=QUICK,
        )
        rounds = 0
        while len(senders(received)) < 3:  # a worker that starts late serves the second round
            rounds += 1
            assert rounds <= 10, "not every worker serves"
            threads = [
                threading.Thread(target=lambda: [(http_json(front, {}), grpc_unary(front, {})) for _ in range(5)])
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            received.wait_for_spans(rounds * 40 * 5)
        assert front.post("/v2/models/nowhere/infer", {"inputs": []}).status == 404
        page = flat(front.get("/metrics").body.decode())
        wanted = {
            key: value
            for key, value in page.items()
            if key[0].startswith(("tidegate_request", "tidegate_upstream_duration", "tidegate_overhead"))
        }
        requests = sum(value for key, value in wanted.items() if key[0] == "tidegate_requests_total")
        assert requests == rounds * 40 + 1
        time.sleep(0.7)  # two intervals: every worker has pushed since

        total: Counter = Counter()
        for export in newest_of_each(received).values():
            total.update(pushed(export))
        for key, value in wanted.items():
            assert total[key] == pytest.approx(value), key

        sent_spans = senders(received)
        assert set(sent_spans) == set(newest_of_each(received))
        assert sorted(sent["tidegate.worker"] for sent in sent_spans.values()) == [0, 1, 2]
        assert len({sent["process.pid"] for sent in sent_spans.values()}) == 3
        assert front.stop() == 0


def test_the_page_in_both_forms_with_exemplars(gateway):
    with http_receiver() as received:
        front = gateway(f"{UPSTREAM}telemetry: {{traces: {{endpoint: '{received.endpoint}'}}}}\n", env=QUICK)
        caller = Caller()
        http_json(front, caller.headers)
        grpc_unary(front, {})
        text, rich = front.get("/metrics"), front.get("/metrics", OPENMETRICS)
        assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert rich.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        plain = flat(text.body.decode())
        families = list(parse_openmetrics(rich.body.decode()))
        assert {family.name for family in families} >= {
            "tidegate_requests",
            "tidegate_request_duration_seconds",
            "tidegate_upstream_duration_seconds",
            "tidegate_overhead_seconds",
            "tidegate_upstream_ready",
        }
        labels = (("protocol", "http"), ("route", "identity_fp32"), ("variant", "default"))
        assert plain["tidegate_request_duration_seconds_count", labels] == 1
        assert plain["tidegate_upstream_ready", (("upstream", "triton"),)] == 1
        exemplars = [s.exemplar for family in families for s in family.samples if s.exemplar is not None]
        assert [exemplar.labels["trace_id"] for exemplar in exemplars] == [caller.trace_id]
        server = wait_for(received, caller.trace_id, {SERVER})[SERVER][0]
        assert exemplars[0].labels["span_id"] == server.span_id.hex()
        assert front.stop() == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not there")
def test_promtool_finds_nothing_wrong_with_a_page_that_has_traffic(gateway):
    front = gateway(UPSTREAM)
    http_json(front, {})
    grpc_unary(front, {})
    front.post("/v2/models/nowhere/infer", {"inputs": []})
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=front.get("/metrics").body, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.skipif(importlib.util.find_spec("rotel") is None, reason="the package rotel is not installed")
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_third_partys_collector_hands_a_gateways_traces_and_metrics_on(gateway, tmp_path, protocol):
    from rotel_collector import running_rotel

    with http_receiver() as received, running_rotel(tmp_path, received.endpoint) as addresses:
        endpoint = addresses[protocol]
        front = gateway(
            f"""{UPSTREAM}
telemetry:
  traces: {{endpoint: '{endpoint}', protocol: {protocol}}}
  metrics: {{endpoint: '{endpoint}', protocol: {protocol}, interval: 300ms}}
""",
            env=QUICK,
        )
        caller = Caller()
        grpc_unary(front, caller.headers)
        name = "inference.GRPCInferenceService/ModelInfer"
        spans = wait_for(received, caller.trace_id, {name, "policy", "route", "transform", "forward"})
        assert spans["forward"][0].parent_span_id == spans[name][0].span_id
        assert spans[name][0].parent_span_id.hex() == caller.span_id
        wait_until(lambda: received.metrics and "tidegate.requests" in received.newest_metrics())
        assert front.metric("tidegate_export_failures_total") == 0
        assert front.stop() == 0
