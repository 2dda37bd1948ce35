"""The sections of the suite, in the order in which they run and stand on the page."""

from importlib.util import find_spec

from bench.section import Section

_ALL = (
    Section("http", "HTTP", "bench.proxies:http", (330, 40), "CPU, rate, latency and memory of every proxy"),
    Section("grpc", "gRPC", "bench.proxies:grpc", (230, 25), "the same for ModelInfer over gRPC"),
    Section("json", "JSON tensors", "bench.tensors:json", (150, 10), "JSON in and out against Triton itself"),
    Section("large", "Large tensors", "bench.tensors:large", (150, 10), "FP32[1,150528] against direct and nginx"),
    Section("streams", "Streams", "bench.streams:run", (150, 22), "ModelStreamInfer and generate_stream, by message"),
    Section(
        "null", "The gateway alone", "bench.alone:null", (230, 20), "requests/s of a core; added p99.9 at half load"
    ),
    Section(
        "scaling", "Workers, connections", "bench.alone:scaling", (130, 12), "1 and 2 workers, 1 to 64 connections"
    ),
    Section("steps", "Steps of the pipeline", "bench.costs:steps", (90, 10), "what each costs: instructions and time"),
    Section("kernels", "Kernels", "bench.costs:kernels", (70, 10), "counters, JSON tensors, and their twins in Python"),
    Section("policy", "Policy sizes", "bench.costs:policy", (150, 10), "10, 1,000 and 11,000 rules; pycasbin"),
    Section("audit", "Audit log", "bench.audit:run", (240, 25), "a record's cost, records/s, strict against async"),
    Section("memory", "Memory and start", "bench.memory:run", (120, 12), "an idle worker, a start, growth under load"),
)
_NEEDS = {"json": "bench.json_tensors", "large": "bench.large_tensors"}


def sections() -> list[Section]:
    """Those whose module is in this checkout."""
    return [one for one in _ALL if one.name not in _NEEDS or find_spec(_NEEDS[one.name]) is not None]
