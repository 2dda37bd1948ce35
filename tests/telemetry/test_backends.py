"""Slow tier: the gateway's and Triton's spans in one trace of real backends, and a real Prometheus.

MLflow (OTLP/HTTP, takes Triton's JSON), Arize Phoenix (OTLP over gRPC and HTTP; it refuses JSON, so Triton's
spans come through the collector rotel) from their own environments (`tests/venv_fixture.py`); Prometheus from
Debian. First run: installs (6 minutes). Afterwards: MLflow 40 s, Phoenix 35 s, Prometheus 20 s on two cores.
"""

import importlib.util
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from gateway_fixture import start_gateway
from traced_calls import (
    KINDS,
    QUICK,
    Caller,
    grpc_unary,
    http_json,
    traced_triton,
)
from triton_fixture import free_ports
from venv_fixture import environment, server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def get(url):
    with urlopen(url, timeout=20) as answer:
        return json.load(answer)


@contextmanager
def fronted(folder, triton, endpoint, protocol="http/protobuf", env=None):
    text = f"""
upstreams: {{triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}}}
telemetry: {{traces: {{endpoint: '{endpoint}', protocol: {protocol}, sample_ratio: 0}}}}
"""
    # A backend that others keep busy may take its time; ten seconds and the exporter gives a batch up.
    gateway = start_gateway(folder, text, env={**QUICK, "OTEL_EXPORTER_OTLP_TIMEOUT": "120", **(env or {})})
    try:
        yield gateway
    finally:
        assert gateway.stop() == 0, gateway.log.read_text()


def whole_trace(gateway, send, spans_of):
    """Send until a trace has the gateway's spans and Triton's three; {name: (span id, parent id)}.

    More than once because Triton 2.51 itself loses the spans of one request in some fifty.
    """
    name, model = KINDS[send]
    wanted = {name, "policy", "route", "forward", "InferRequest", "compute", model}
    seen = {}
    for _ in range(6):
        caller = Caller()
        send(gateway, caller.headers)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            seen = spans_of(caller.trace_id)
            if wanted <= set(seen):
                assert seen[name][1] == caller.span_id
                assert seen["forward"][1] == seen[name][0]
                assert seen["InferRequest"][1] == seen["forward"][0]
                assert seen["compute"][1] == seen[model][0]
                assert seen[model][1] == seen["InferRequest"][0]
                return seen
            time.sleep(0.3)
    raise AssertionError(f"of {sorted(wanted)} the backend has {sorted(seen)}")


def test_mlflow_shows_gateway_and_triton_in_one_trace(tmp_path, monkeypatch):
    """40 s."""
    began = time.monotonic()
    (port,) = free_ports(1)
    mlflow = f"http://127.0.0.1:{port}"
    command = [environment("mlflow") / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    # MLflow has to be told the experiment; both exporters read this variable.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-mlflow-experiment-id=0")

    def spans_of(trace_id):
        try:
            found = get(f"{mlflow}/api/3.0/mlflow/traces/get?trace_id=tr-{trace_id}")
        except OSError:  # 404 until the first span is there
            return {}
        spans = found["trace"].get("spans", [])
        return {span["name"]: (hexed(span["span_id"]), hexed(span.get("parent_span_id", ""))) for span in spans}

    with (
        server(command, ready=f"{mlflow}/health", log=tmp_path / "mlflow.log", seconds=500, env=quiet, cwd=tmp_path),
        traced_triton(tmp_path, mlflow) as triton,
        fronted(tmp_path / "front", triton, mlflow) as gateway,
    ):
        print(f"MLflow and Triton up after {time.monotonic() - began:.0f} s")
        for send in KINDS:
            spans = whole_trace(gateway, send, spans_of)
            print(f"MLflow, {send.__name__}: {len(spans)} spans: {', '.join(sorted(spans))}")
        assert gateway.metric("tidegate_spans_dropped_total") == 0
    print(f"{time.monotonic() - began:.0f} s in all")


def hexed(text):
    """OTLP/JSON's ids in hex; MLflow answers protobuf's JSON, which has them in base64."""
    import base64

    return text if len(text) in {0, 16} and not text.endswith("=") else base64.b64decode(text).hex()


@pytest.mark.skipif(importlib.util.find_spec("rotel") is None, reason="the package rotel is not installed")
def test_phoenix_shows_gateway_and_triton_in_one_trace(tmp_path):
    """35 s."""
    from rotel_collector import running_rotel

    began = time.monotonic()
    http_port, grpc_port = free_ports(2)
    phoenix = f"http://127.0.0.1:{http_port}"
    env = {
        "PHOENIX_WORKING_DIR": str(tmp_path / "phoenix"),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(http_port),
        "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
    }

    def spans_of(trace_id):
        found = get(f"{phoenix}/v1/projects/default/spans?limit=1000&trace_id={trace_id}")["data"]
        assert all(span["context"]["trace_id"] == trace_id for span in found)
        return {span["name"]: (span["context"]["span_id"], span["parent_id"]) for span in found}

    command = [environment("phoenix") / "phoenix", "serve"]
    with (
        server(command, ready=f"{phoenix}/healthz", log=tmp_path / "phoenix.log", seconds=500, env=env),
        running_rotel(tmp_path, phoenix) as collector,
        traced_triton(tmp_path, collector["http/protobuf"]) as triton,
    ):
        print(f"Phoenix and Triton up after {time.monotonic() - began:.0f} s")
        endpoints = {"grpc": f"http://127.0.0.1:{grpc_port}", "http/protobuf": phoenix}
        for protocol, endpoint in endpoints.items():
            with fronted(tmp_path / protocol[:4], triton, endpoint, protocol) as gateway:
                for send in KINDS:
                    spans = whole_trace(gateway, send, spans_of)
                    print(f"Phoenix by {protocol}, {send.__name__}: {len(spans)} spans: {', '.join(sorted(spans))}")
                assert gateway.metric("tidegate_spans_dropped_total") == 0
    print(f"{time.monotonic() - began:.0f} s in all")


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus (Debian: prometheus) is not there")
def test_prometheus_scrapes_and_answers_promql(tmp_path, gateway):
    """20 s: a real server scrapes three workers' page; quantiles, rates and exemplars come out of PromQL."""
    began = time.monotonic()
    front = gateway(
        "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
        "workers: 3\n"
        # Nobody needs to take the spans: exemplars come from sampled requests, exported or not.
        "telemetry: {traces: {endpoint: 'http://127.0.0.1:9', sample_ratio: 1}}\n",
        env={"OTEL_EXPORTER_OTLP_TIMEOUT": "1"},
    )
    (port,) = free_ports(1)
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: tidegate, static_configs: [{{targets: ['{front.http}']}}]}}]\n"
    )
    if shutil.which("promtool"):
        subprocess.run(["promtool", "check", "config", config], check=True, capture_output=True)
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"]
    prometheus = f"http://127.0.0.1:{port}"

    def query(expression):
        answer = get(f"{prometheus}/api/v1/query?query={quote(expression)}")
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def value(expression):
        (result,) = query(expression)
        return float(result["value"][1])

    with server(command, ready=f"{prometheus}/-/ready", log=tmp_path / "prometheus.log", seconds=60):
        until = time.monotonic() + 12
        sent = 0
        while time.monotonic() < until:
            http_json(front, {})
            grpc_unary(front, {})
            sent += 1
            time.sleep(0.05)
        time.sleep(2.5)  # two scrapes
        assert value('up{job="tidegate"}') == 1
        assert value('sum(tidegate_requests_total{protocol="http",code="200"})') == sent
        assert value('sum(tidegate_requests_total{protocol="grpc",code="OK"})') == sent
        rate = value('sum(rate(tidegate_requests_total{protocol="http"}[10s]))')
        assert 0.2 * sent / 12 < rate < 2 * sent / 12
        found = {}
        for family in ("request_duration", "upstream_duration", "overhead"):
            for q in (0.5, 0.99):
                by_le = f"sum by (le) (tidegate_{family}_seconds_bucket)"
                found[family, q] = value(f"histogram_quantile({q}, {by_le})")
        assert all(0 < seconds < 5 for seconds in found.values()), found
        assert found["overhead", 0.5] <= found["request_duration", 0.5]
        assert found["upstream_duration", 0.5] <= found["request_duration", 0.5]
        count = value("sum(tidegate_request_duration_seconds_count)")
        assert value('sum(tidegate_request_duration_seconds_bucket{le="+Inf"})') == count == 2 * sent
        assert value("tidegate_workers") == 3
        assert len(query("tidegate_worker_resident_memory_bytes")) == 3
        start, end = time.time() - 60, time.time() + 1
        page = f"{prometheus}/api/v1/query_exemplars?query=tidegate_request_duration_seconds_bucket&start={start}&end={end}"
        exemplars = [e for series in get(page)["data"] for e in series["exemplars"]]
        assert exemplars
        assert all(len(e["labels"]["trace_id"]) == 32 for e in exemplars)
        target = get(f"{prometheus}/api/v1/targets")["data"]["activeTargets"][0]
        assert target["lastError"] == ""
        print(
            f"Prometheus: {2 * sent} requests; p50/p99 in ms:",
            {name: round(seconds * 1000, 3) for name, seconds in found.items()},
            f"{len(exemplars)} exemplars; scrape {float(target['lastScrapeDuration']) * 1000:.1f} ms;",
            f"{time.monotonic() - began:.0f} s in all",
        )
