"""The sections of the suite, in the order in which they run and stand on the page."""

from importlib.util import find_spec

from bench.section import Section

_ALL = (
    Section("http", "HTTP", "bench.proxies:http", (330, 55), "CPU, rate, latency and memory against nginx and Envoy"),
    Section("grpc", "gRPC", "bench.proxies:grpc", (230, 35), "the same for ModelInfer over gRPC"),
    Section("json", "JSON tensors", "bench.json_tensors:run", (150, 15), "JSON in and out against Triton itself"),
    Section("large", "Large tensors", "bench.large_tensors:run", (150, 15), "FP32[1,150528] against direct and nginx"),
)


def sections() -> list[Section]:
    """Those whose module is in this checkout."""
    return [one for one in _ALL if find_spec(one.run.partition(":")[0]) is not None]
