"""The sections of the suite, in the order in which they run and stand on the page."""

from importlib.util import find_spec

from bench.section import Section

_ALL = (
    Section("http", "HTTP", "bench.proxies:http", (330, 55), "CPU, rate, latency and memory against nginx and Envoy"),
    Section("grpc", "gRPC", "bench.proxies:grpc", (230, 35), "the same for ModelInfer over gRPC"),
    Section(
        "null", "The gateway alone", "bench.alone:null", (230, 35), "requests/s of a core; added p99.9 at half load"
    ),
    Section(
        "scaling", "Workers and connections", "bench.alone:scaling", (130, 30), "1 and 2 workers, 1 to 64 connections"
    ),
    Section(
        "steps", "Steps of the pipeline", "bench.costs:steps", (90, 12), "what each step costs: instructions and time"
    ),
    Section(
        "kernels", "Kernels", "bench.costs:kernels", (70, 12), "counters in shared memory, JSON tensors; the twins"
    ),
    Section("policy", "Policy sizes", "bench.costs:policy", (150, 25), "10, 1,000 and 11,000 rules; pycasbin"),
    Section("json", "JSON tensors", "bench.json_tensors:run", (150, 15), "JSON in and out against Triton itself"),
    Section("large", "Large tensors", "bench.large_tensors:run", (150, 15), "FP32[1,150528] against direct and nginx"),
)


def sections() -> list[Section]:
    """Those whose module is in this checkout."""
    return [one for one in _ALL if find_spec(one.run.partition(":")[0]) is not None]
