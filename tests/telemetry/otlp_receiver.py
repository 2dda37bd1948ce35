"""An OTLP endpoint of our own: HTTP (protobuf, JSON, gzip) and gRPC, on free loopback ports."""

import base64
import gzip
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Received:
    """What arrived, and how the endpoint behaves."""

    def __init__(self) -> None:
        self.traces = []
        self.metrics = []
        self.headers = []
        self.status = 200
        self.endpoint = ""

    def spans(self):
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resource(self):
        return attributes(self.traces[0].resource_spans[0].resource.attributes)

    def wait_for_spans(self, count, seconds=60):
        end = time.monotonic() + seconds
        while len(self.spans()) < count and time.monotonic() < end:
            time.sleep(0.02)
        assert len(self.spans()) >= count, f"{len(self.spans())} of {count} spans arrived"
        return self.spans()

    def newest_metrics(self):
        """The last export: name to metric."""
        (resource,) = self.metrics[-1].resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}


def attributes(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _read_json(body):
    """OTLP/JSON is protobuf's, but for ids: they are in hex, not base64."""

    def based(value):
        if isinstance(value, list):
            return [based(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name: base64.b64encode(bytes.fromhex(item)).decode()
            if name in {"traceId", "spanId", "parentSpanId"}
            else based(item)
            for name, item in value.items()
        }

    message = trace_service_pb2.ExportTraceServiceRequest()
    return json_format.ParseDict(based(json.loads(body)), message, ignore_unknown_fields=True)


@contextmanager
def http_receiver(port=0):
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.headers.append({name.lower(): value for name, value in self.headers.items()})
            if received.status != 200:
                self.send_error(received.status)
                return
            if self.path == "/v1/traces":
                as_json = "json" in self.headers["content-type"]
                read = _read_json if as_json else trace_service_pb2.ExportTraceServiceRequest.FromString
                received.traces.append(read(body))
            elif self.path == "/v1/metrics":
                received.metrics.append(metrics_service_pb2.ExportMetricsServiceRequest.FromString(body))
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    received.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def grpc_receiver():
    received = Received()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802 - gRPC calls it so
            received.headers.append(dict(context.invocation_metadata()))
            received.traces.append(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request, context):  # noqa: N802 - gRPC calls it so
            received.headers.append(dict(context.invocation_metadata()))
            received.metrics.append(request)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    received.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield received
    finally:
        server.stop(0)
